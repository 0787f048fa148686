"""Is a planted artifact the first finding, and how often is there an alarm where nothing was planted?

    python -m benchmarks.detection [--seeds 0 1 ...] [--kinds glyph ...] [--shares 0.1 ...] [--jobs 2] [--output DIR]

Each run trains the demo's network on digits with an artifact in a share of the training images of one class (by seed),
and asks what `reveal` puts first. A finding is the artifact when it is of that class and its samples overlap the truly
planted ones by half (Jaccard). Runs without an artifact say how often the first finding reaches the score that is
accepted by default. Finished runs are kept below DIR and not repeated.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.config import load_config
from pipeline.config.reveal import RevealConfig
from pipeline.data.load import load_dataset
from pipeline.data.worlds import WorldView
from pipeline.run.runner import run_stages
from pipeline.statistics import wilson
from pipeline.workspace.records import Findings

KINDS = {
    "glyph": "kind: glyph, size: 5",
    "text": "kind: text, text: '12:45', height: 0.18",
    "vignette": "kind: vignette, radius: 0.55",
    "tint": "kind: tint, alpha: 0.2",
}
SHARES = (0.1, 0.3, 0.5, 0.7)
SAME = 0.5
CLEAN = "clean"


@dataclass(frozen=True)
class Case:
    kind: str
    share: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.share:.0%}-{self.seed}".replace("%", "")


@dataclass(frozen=True)
class Result:
    kind: str
    share: float
    seed: int
    rank: int | None
    overlap: float
    first_score: float
    score: float | None
    first_detector: str


def cases(kinds: list[str], shares: list[float], seeds: list[int]) -> Iterator[Case]:
    for seed in seeds:
        yield Case(CLEAN, 0.0, seed)
        for kind in kinds:
            for share in shares:
                yield Case(kind, share, seed)


def measure(case: Case, output: Path) -> Result:
    """Return what reveal made of a case; from the file of an earlier run where there is one."""
    path = output / f"{case.name}.json"
    if path.exists():
        return Result(**json.loads(path.read_text()))
    import torch

    torch.set_num_threads(1)
    attack = (
        f"{{{KINDS[case.kind]}, classes: ['{case.seed % 10}'], probability: {case.share}}}" if case.share else "null"
    )
    overrides = [
        f"seed={case.seed}", f"data.split.seed={case.seed}", f"name={case.name}", f"output_dir={output / 'runs'}",
        f"data.attack={attack}", "reveal.pictured=0", "reveal.stability_runs=0",
    ]  # fmt: skip
    config = load_config("demo.yaml", overrides)
    context = run_stages(config, "reveal")
    findings = context.directory.read_record("reveal/findings.json", Findings).findings
    world = WorldView(load_dataset(config.data, seed=config.seed), config.data.attack, "asis", config.seed)
    usable = world.table["split"].to_numpy() != "test"
    planted = set(world.table["id"][usable & world.attacked_flags()])
    overlaps = [
        len(planted & set(each.sample_ids)) / max(len(planted | set(each.sample_ids)), 1)
        if planted and each.class_id == case.seed % 10
        else 0.0
        for each in findings
    ]
    hits = [position for position, overlap in enumerate(overlaps) if overlap >= SAME]
    result = Result(
        case.kind,
        case.share,
        case.seed,
        rank=hits[0] + 1 if hits else None,
        overlap=max(overlaps, default=0.0),
        first_score=findings[0].score if findings else 0.0,
        score=findings[hits[0]].score if hits else None,
        first_detector=findings[0].detector if findings else "",
    )
    path.write_text(json.dumps(asdict(result)))
    shutil.rmtree(context.directory.root)
    return result


def share_of(flags: list[bool]) -> str:
    found = wilson(sum(flags), len(flags))
    return f"{sum(flags)}/{len(flags)} [{found.lower:.2f}, {found.upper:.2f}]"


def table(results: list[Result], accept: float) -> str:
    planted = [each for each in results if each.kind != CLEAN]
    clean = [each.first_score for each in results if each.kind == CLEAN]
    lines = [
        "| artifact | share | first | among the first 3 | accepted by default | median score |",
        "|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(each.kind for each in planted):
        for share in sorted({each.share for each in planted}):
            cell = [each for each in planted if (each.kind, each.share) == (kind, share)]
            known = [each.score for each in cell if each.score is not None]
            lines.append(
                f"| {kind} | {share:.0%} | {share_of([each.rank == 1 for each in cell])} "
                f"| {share_of([each.rank is not None and each.rank <= 3 for each in cell])} "
                f"| {share_of([each.rank == 1 and each.first_score >= accept for each in cell])} "
                f"| {np.median(known):.2f} |" if known else
                f"| {kind} | {share:.0%} | {share_of([False] * len(cell))} | {share_of([False] * len(cell))} "
                f"| {share_of([False] * len(cell))} | not found |"
            )  # fmt: skip
    if clean:
        alarms = share_of([each >= accept for each in clean])
        lines += [
            "",
            f"Without an artifact: the first finding reaches {accept:g} in {alarms} "
            f"runs; its scores lie between {min(clean):.2f} and {max(clean):.2f}, median {np.median(clean):.2f}.",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--kinds", choices=list(KINDS), nargs="+", default=list(KINDS))
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("artifacts/benchmarks/detection"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    wanted = list(cases(arguments.kinds, arguments.shares, arguments.seeds))
    with ProcessPoolExecutor(arguments.jobs) as pool:
        results = []
        for result in pool.map(measure, wanted, [arguments.output] * len(wanted)):
            results.append(result)
            print(f"{len(results)}/{len(wanted)} {result}", flush=True)
    print(table(results, RevealConfig().accept_score))


if __name__ == "__main__":
    main()
