"""Stages and a data set that need no torch: every stage copies its inputs and its part of the configuration."""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.run.freshness import config_slice
from pipeline.run.stages import STAGES
from pipeline.workspace.atomic import write_json
from pipeline.workspace.records import Audit, Contest, DatasetNote, DataSummary, Declared, GateResult, Provenance
from pipeline.workspace.stage import StageContext, StageSpec

MINIMAL = {"name": "trial", "data": {"kind": "digits"}, "device": "cpu"}


@dataclass
class Fake:
    """What the fakes did, and how they shall behave.

    Attributes:
        ran: names of the stages that ran, in order.
        loads: how often the data set was read.
        pixels: content of the data set.
        within: stage -> what it does before it writes its last file.
        verdict: of the gate.
    """

    ran: list[str] = field(default_factory=list)
    loads: int = 0
    pixels: str = "pixels"
    within: dict[str, Callable[[StageContext], None]] = field(default_factory=dict)
    verdict: str = "no_gate"

    def take(self) -> list[str]:
        """Return who ran since the last call."""
        ran, self.ran = self.ran, []
        return ran


class FakeDataset:
    skipped = [("17", "truncated")]

    def __init__(self, pixels: str):
        self.pixels = pixels

    def fingerprint(self) -> str:
        return f"fingerprint of {self.pixels}"


def install(fake: Fake, put: Callable[[dict, str, Any], None] = dict.__setitem__) -> Fake:
    """Replace the stages and the reading of data; `put` is how an entry of `sys.modules` is set."""

    def load_dataset(config, *, seed=0, progress=None):
        fake.loads += 1
        return FakeDataset(fake.pixels)

    for spec in STAGES:
        module = types.ModuleType(f"pipeline.{spec.name}.stage")
        module.run = _stage(spec, fake)
        put(sys.modules, module.__name__, module)
    module = types.ModuleType("pipeline.data.load")
    module.load_dataset = load_dataset
    put(sys.modules, module.__name__, module)
    importlib.invalidate_caches()
    return fake


def _stage(spec: StageSpec, fake: Fake) -> Callable[[StageContext], None]:
    def run(context: StageContext) -> None:
        fake.ran.append(spec.name)
        folder = context.directory.folder(spec.name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "first.txt").write_text(context.key)
        if spec.name in fake.within:
            fake.within[spec.name](context)
        inputs = {name: (context.directory.folder(name) / "result.json").read_text() for name in spec.needs}
        config = config_slice(context.config, spec.sections)
        write_json(folder / "result.json", {"config": config, "inputs": inputs, "pixels": fake.pixels})
        if spec.name == "report":
            context.directory.write_record("report/audit.json", make_audit(fake.verdict))

    return run


def make_audit(verdict: str, **changes: Any) -> Audit:
    blocking = verdict == "fail"
    rules = [
        GateResult(
            rule="accuracy of best >= 0.90",
            status="fail" if blocking else "warn",
            blocking=blocking,
            measured=0.8,
            n=9,
            detail="missed by 0.1000",
        ),
        GateResult(
            rule="auroc of best >= 0.70", status="pass", blocking=False, measured=0.8, n=9, detail="met with 0.1000"
        ),
    ]
    fields: dict[str, Any] = {
        "name": "trial",
        "title": "Bias audit",
        "verdict": verdict,
        "summary": [],
        "warnings": [],
        "best_correction": None,
        "findings": [],
        "biases": [],
        "methods": [],
        "contest": Contest(rule="", original_clean=0.9, original_worst=0.5, contestants=[], recommended=None),
        "health": None,
        "metrics": [],
        "declared": Declared(),
        "data": DataSummary(classes=[]),
        "deidentified": False,
        "min_n": 10,
        "confidence": 0.95,
        "gate": rules if verdict in ("fail", "conditional") else [],
        "provenance": Provenance(
            config_text="",
            arch="local:small_cnn",
            weights_sha256="0",
            dataset=DatasetNote(fingerprint="0", skipped=0, classes=[], splits={}),
            seed=0,
            device="cpu",
            machine="",
            versions={},
            stages=[],
            commands=[],
            worlds=[],
            attacked_by="nothing",
            created="",
        ),
    }
    return Audit(**fields | changes)


def read_result(folder) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())
