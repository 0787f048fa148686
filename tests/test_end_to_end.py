"""A whole audit, small: every file of the contract, one id per bias, nothing computed twice, nothing lost."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import pytest
import yaml
from commands import NOT_RESULTS, Ended, results, run_command

from pipeline.config import load_config
from pipeline.config.load import dump_config
from pipeline.run import run_audit
from pipeline.run.stages import STAGE_NAMES
from pipeline.workspace.directory import RunDirectory
from pipeline.workspace.masks import MaskSet
from pipeline.workspace.metric_catalogue import METRICS
from pipeline.workspace.records import Audit, Biases, EvaluationPictures, Finding, Findings, MethodRecord, Metric
from pipeline.workspace.tables import read_metrics

PROJECT = Path(__file__).parents[1]
METHODS = ("fine_tune", "rrr", "rr_clarc", "p_clarc", "isnet")
TRAINED = ("fine_tune", "rrr", "rr_clarc", "isnet")
WORLDS = ("asis", "clean", "attacked")
PLANTED_CLASS = "8"
COLUMNS = ["model", "world", "subgroup", "metric", "value", "lower", "upper", "n"]
SETTINGS = {
    "name": "tiny",
    "device": "cpu",
    "data": {
        "kind": "digits",
        "image_size": 16,
        "limit": 80,
        "attack": {"kind": "glyph", "size": 3, "classes": [PLANTED_CLASS], "probability": 0.8},
    },
    "model": {"params": {"width": 8}, "train": {"epochs": 4, "lr": 0.005, "batch_size": 32}},
    "reveal": {
        "detectors": [
            {"kind": "spray", "tsne": False},
            {"kind": "neurons", "per_class": 1},
        ],
        "stability_runs": 1,
        "accept_score": 0.0,
    },
    "mitigate": {"methods": [{"kind": kind} | ({"epochs": 1} if kind in TRAINED else {}) for kind in METHODS]},
    "evaluate": {
        "resamples": 100,
        "relevance_samples": 32,
        "perturbation": {"samples": 8, "grid": 4},
        "sanity_samples": 8,
        "pictured_samples": 2,
    },
}


class Run:
    """A run directory with its configuration; commands work on it."""

    def __init__(self, output_dir: Path):
        self.root = output_dir / SETTINGS["name"]
        self.config = output_dir / "tiny.yaml"
        output_dir.mkdir(parents=True, exist_ok=True)
        self.config.write_text(yaml.safe_dump(SETTINGS | {"output_dir": str(output_dir)}))

    def command(self, *arguments: str, stage: str = "run") -> Ended:
        return run_command(stage, "--config", self.config, *arguments)

    def read(self, relative: str, kind: type) -> Any:
        return RunDirectory(self.root).read_record(relative, kind)

    @property
    def findings(self) -> list[Finding]:
        return self.read("reveal/findings.json", Findings).findings

    @property
    def bias(self):
        (bias,) = self.read("reveal/biases.json", Biases).biases
        return bias

    @property
    def audit(self) -> Audit:
        return self.read("report/audit.json", Audit)

    def method(self, method_id: str) -> MethodRecord:
        return self.read(f"mitigate/{method_id}/method.json", MethodRecord)

    def metrics(self) -> list[Metric]:
        with open(self.root / "evaluate/metrics.csv", newline="") as file:
            return [Metric.model_validate(row) for row in csv.DictReader(file)]

    def value(self, model: str, world: str, metric: str) -> float:
        return next(
            row.value
            for row in self.metrics()
            if (row.model, row.world, row.metric, row.subgroup) == (model, world, metric, "all")
        )

    def judge(self, finding: str, verdict: str) -> bytes:
        """Write a verdict into the journal and return its bytes."""
        entry = {"finding": finding, "verdict": verdict, "by": "A. Auditor", "when": "2026-11-20T10:00:00Z", "why": "y"}
        (self.root / "annotations.json").write_text(json.dumps([entry]))
        return (self.root / "annotations.json").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    """A finished audit. Read it only; `run` is a copy."""
    run = Run(tmp_path_factory.mktemp("finished"))
    ended = run.command()
    assert (ended.code, ended.err) == (0, "")
    assert ended.ran == list(STAGE_NAMES)
    return run


@pytest.fixture
def run(finished, tmp_path) -> Run:
    """A copy of the finished audit."""
    copied = Run(tmp_path)
    shutil.copytree(finished.root, copied.root)
    return copied


# What an audit leaves


def test_every_file_of_the_contract_is_there_and_no_other(finished):
    bias = finished.bias
    entries = MaskSet(finished.root / "localize" / bias.id).index()
    masks = {entry.id for entry in entries if entry.status == "ok"}
    evidence = {path for finding in finished.findings for path in finding.evidence.values()}
    expected = {
        "model/original.pt",
        "model/history.csv",
        "precompute/features.h5",
        "precompute/features.seal.json",
        "precompute/health.json",
        "reveal/findings.json",
        "reveal/biases.json",
        f"reveal/cavs/{bias.id}.npz",
        *(f"reveal/cavs/{bias.id}/{each.layer}--{each.kind}.npz" for each in bias.candidates),
        *evidence,
        *finished.read("reveal/findings.json", Findings).pictures.values(),
        *(f"reveal/{detector}.h5" for detector in ("spray", "neurons")),
        *(f"localize/{bias.id}/{name}" for name in ("index.csv", "metrics.json", "overview.png")),
        *(f"localize/{bias.id}/{kind}/{name}.png" for kind in ("masks", "soft", "foreground") for name in masks),
        *(f"mitigate/{method}/{name}" for method in METHODS for name in ("model.pt", "method.json")),
        *(f"mitigate/{method}/history.csv" for method in TRAINED),
        "mitigate/contest.json",
        *(f"evaluate/{name}" for name in ("metrics.csv", "metrics.parquet", "data.json", "pictures.json")),
        *(each.path for each in finished.read("evaluate/pictures.json", EvaluationPictures).pictures),
        *(f"report/{name}" for name in ("index.html", "audit.json", "junit.xml", "summary.md")),
    }
    assert set(results(finished.root)) == expected
    assert masks >= set(bias.sample_ids)
    assert len(evidence) > 0


def test_architecture_names_the_files_that_are_there(finished):
    text = (PROJECT / "docs/architecture.md").read_text()
    block = text.partition("## Files of a run")[2].split("```")[1]
    named = set(re.findall(r"[a-z]+\.(?:json|yaml|csv|pt|h5|html|xml|png)\b", block))
    there = {path.name for path in finished.root.rglob("*")}
    elsewhere = {"annotations.json", "seal.json"}
    assert named - there == elsewhere, "written by people, and by several processes"
    assert len(named) > 10


def test_feature_store_has_the_documented_groups(finished):
    samples = RunDirectory(finished.root).manifest().stages["train"].notes["dataset"]["samples"]
    with h5py.File(finished.root / "precompute/features.h5") as file:
        assert set(file) == {"layers", "heatmaps", "heatmap_scales", "logits", "labels", "ids"}
        assert set(file["heatmaps"]) == set(file["heatmap_scales"]) == {"label", "predicted"}
        relevance = {f"relevance_{name}" for name in ("label", "predicted", "scale_label", "scale_predicted")}
        kept = {"activation_max", "activation_mean", *relevance}
        assert len(file["layers"]) > 0
        assert all(set(layer) == kept for layer in file["layers"].values())
        assert len(file["ids"]) == len(file["logits"]) == len(file["heatmaps/label"]) == samples > 0


def test_resolved_configuration_gives_the_same_audit(finished):
    assert load_config(finished.root / "config.yaml") == load_config(finished.config)
    assert (finished.root / "config.yaml").read_text() == dump_config(load_config(finished.config))


def test_findings_are_sorted_best_first(finished):
    findings = finished.findings
    assert [finding.rank for finding in findings] == list(range(1, len(findings) + 1))
    assert [finding.score for finding in findings] == sorted((finding.score for finding in findings), reverse=True)
    assert len({finding.id for finding in findings}) == len(findings) > 1


def test_planted_shortcut_is_found_and_every_correction_helps(finished):
    """At chance, the top finding is of the planted class once in ten times."""
    assert finished.bias.class_name == finished.findings[0].class_name == PLANTED_CLASS
    original = finished.value("original", "attacked", "accuracy")
    assert original < finished.value("original", "clean", "accuracy") - 0.1
    assert finished.audit.best_correction in METHODS
    assert finished.value(finished.audit.best_correction, "attacked", "accuracy") > original + 0.05


def test_metrics_have_exactly_the_columns(finished):
    with open(finished.root / "evaluate/metrics.csv", newline="") as file:
        assert next(csv.reader(file)) == COLUMNS


def test_every_model_is_measured_in_all_three_worlds(finished):
    rows = finished.metrics()
    for metric in ("accuracy", "balanced_accuracy", "worst_group_accuracy"):
        measured = {(row.model, row.world) for row in rows if row.metric == metric and row.subgroup == "all"}
        assert measured == {(model, world) for model in ("original", *METHODS) for world in WORLDS}
    for metric in ("flip_rate", "artifact_relevance"):
        measured = {(row.model, row.world) for row in rows if row.metric == metric and row.subgroup == "all"}
        assert measured == {(model, "attacked") for model in ("original", *METHODS)}
    names = [(row.model, row.world, row.subgroup, row.metric) for row in rows]
    assert len(set(names)) == len(names)


def test_every_bias_is_inserted_and_removed_for_every_model(finished):
    rows = [row for row in finished.metrics() if row.world in ("inserted", "removed") and row.model != "pipeline"]
    for metric in ("flip_rate", "flip_rate_elsewhere", "logit_shift", "accuracy_change"):
        measured = {(row.model, row.world, row.subgroup) for row in rows if row.metric == metric}
        wanted = [(model, world) for model in ("original", *METHODS) for world in ("inserted", "removed")]
        assert measured == {(model, world, finished.bias.id) for model, world in wanted}


def test_corrections_are_compared_with_the_original_sample_by_sample(finished):
    rows = {(row.model, row.world, row.metric): row.value for row in finished.metrics() if row.subgroup == "all"}
    for model in METHODS:
        for world in WORLDS:
            gain = rows[model, world, "accuracy"] - rows["original", world, "accuracy"]
            assert rows[model, world, "accuracy_gain"] == pytest.approx(gain)
            assert 0 <= rows[model, world, "mcnemar_p"] <= rows[model, world, "mcnemar_p_adjusted"] <= 1


def test_heatmaps_are_put_on_trial_for_the_original_and_the_preferred_correction(finished):
    rows = [row for row in finished.metrics() if row.metric in ("aopc_gap", "heatmap_randomisation")]
    assert {row.model for row in rows} == {"original", finished.audit.best_correction}


def test_every_metric_is_in_the_catalogue(finished):
    assert {row.metric for row in finished.metrics()} <= METRICS.keys()


def test_parquet_holds_the_rows_of_the_csv_file(finished):
    rows = read_metrics(finished.root / "evaluate/metrics.parquet")
    assert list(map(repr, rows)) == list(map(repr, finished.metrics()))


def test_every_value_lies_in_its_interval(finished):
    for row in finished.metrics():
        assert row.n > 0, row
        assert math.isnan(row.value) or row.lower <= row.value <= row.upper, row
    assert sum(row.lower < row.upper for row in finished.metrics()) > 100


def test_audit_is_strict_json_that_its_record_reads_and_that_holds_what_the_stages_wrote(finished):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads((finished.root / "report/audit.json").read_text(), parse_constant=refuse)
    audit = Audit.model_validate(content)
    schema = json.loads((PROJECT / "docs/schemas/audit.json").read_text())
    assert set(content) == set(schema["properties"])
    assert audit.findings == finished.findings
    assert audit.biases == [finished.bias]
    assert [method.id for method in audit.methods] == list(METHODS)
    # as texts, because NaN differs from itself
    assert list(map(repr, audit.metrics)) == list(map(repr, finished.metrics()))
    assert audit.verdict == "no_gate"
    assert audit.provenance.config_text == (finished.root / "config.yaml").read_text()


class References(HTMLParser):
    """Collects whatever a browser would load, and whatever a reader could click."""

    def __init__(self, page: str):
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            elif name == "href" and tag == "a":
                self.links.append(value)
            elif name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster", "background"):
                self.loaded.append(value)


def test_report_is_self_contained(finished):
    page = (finished.root / "report/index.html").read_text()
    references = References(page)
    assert len(references.loaded) > 2
    assert [each[:80] for each in references.loaded if not each.startswith(("data:", "#"))] == []
    assert [each for each in re.findall(r"url\(\s*['\"]?([^)'\"]+)", page) if not each.startswith(("data:", "#"))] == []
    assert "@import" not in page
    anchors = {each for each in references.links if each.startswith("#")}
    assert {anchor[1:] for anchor in anchors} <= references.ids
    assert [each for each in references.links if not each.startswith(("#", "https://"))] == []


def test_report_names_the_finding_and_every_model(finished):
    page = (finished.root / "report/index.html").read_text()
    for name in (finished.findings[0].id, "original", *METHODS, "unreviewed"):
        assert name in page
    suite = ElementTree.parse(finished.root / "report/junit.xml").getroot()
    assert suite.tag in ("testsuite", "testsuites")


def test_one_id_follows_a_bias_through_all_stages(finished):
    bias = finished.bias
    assert bias.id in {finding.id for finding in finished.findings}
    assert [path.name for path in (finished.root / "localize").iterdir()] == [bias.id]
    assert [finished.method(method).biases for method in METHODS] == [[bias.id]] * len(METHODS)
    about = {
        row.metric: row.subgroup for row in finished.metrics() if row.metric in ("tcav_quotient", "retrieval_auroc")
    }
    assert about == {"tcav_quotient": bias.id, "retrieval_auroc": bias.id}
    assert [each.id for each in finished.audit.biases] == [bias.id]


# Running again


def test_second_run_computes_nothing(run):
    before, manifest = results(run.root), (run.root / "manifest.json").read_bytes()
    ended = run.command()
    assert (ended.code, ended.ran, ended.reused) == (0, [], list(STAGE_NAMES))
    assert results(run.root) == before
    assert (run.root / "manifest.json").read_bytes() == manifest


def test_from_python_the_same_audit_comes_back(run):
    before = (run.root / "manifest.json").read_bytes()
    assert repr(run_audit(run.config)) == repr(run.audit)
    assert repr(run_audit(load_config(run.config))) == repr(run.audit)
    assert (run.root / "manifest.json").read_bytes() == before


def test_changed_weight_refits_only_its_method(run):
    before = results(run.root)
    weight = run.method("rrr").parameters["weight"]
    ended = run.command("--set", "mitigate.methods.1.weight=5")
    assert ended.code == 0
    assert ended.ran == ["mitigate", "evaluate", "report"]
    assert f"mitigate: stale, mitigate.methods.1.weight changed from {weight} to 5.0; running" in ended.out
    kept = [method for method in METHODS if f"    {method}: kept from an earlier run\n" in ended.out]
    assert kept == [method for method in METHODS if method != "rrr"]
    after = results(run.root)
    changed = ("mitigate/rrr/", "mitigate/contest.json", "evaluate/", "report/")
    others = {name for name in before if not name.startswith(changed)}
    assert {name: after[name] for name in others} == {name: before[name] for name in others}
    assert after["mitigate/rrr/model.pt"][1] != before["mitigate/rrr/model.pt"][1]
    assert run.method("rrr").parameters["weight"] == 5
    assert load_config(run.root / "config.yaml").mitigate.methods[1].weight == 5


def test_removed_method_leaves_no_trace(run):
    ended = run.command("--set", "mitigate.methods=[{kind: fine_tune, epochs: 1}, {kind: p_clarc}]")
    assert (ended.code, ended.ran) == (0, ["mitigate", "evaluate", "report"])
    assert sorted(path.name for path in (run.root / "mitigate").iterdir()) == [
        "contest.json",
        "fine_tune",
        "p_clarc",
    ]
    assert {row.model for row in run.metrics()} == {"original", "fine_tune", "p_clarc", "pipeline"}


def test_status_says_what_is_fresh_and_why_not_and_runs_nothing(run):
    before = results(run.root)
    fresh = run.command("--status")
    assert (fresh.code, fresh.err) == (0, "")
    assert [line.split() for line in fresh.out.splitlines()] == [
        ["stage", "state", "why"],
        *([name, "fresh"] for name in STAGE_NAMES),
    ]
    stale = run.command("--status", "--set", "localize.blur=0.1")
    assert [line.split(maxsplit=2) for line in stale.out.splitlines()[1:]] == [
        *([name, "fresh"] for name in STAGE_NAMES[:3]),
        ["localize", "stale", "localize.blur changed from 0.04 to 0.1"],
        *([name, "stale", "localize is stale"] for name in STAGE_NAMES[4:]),
    ]
    assert results(run.root) == before


def test_failed_gate_ends_with_3_and_leaves_everything_written(run):
    rule = "report.gate=[{metric: accuracy, world: attacked, model: best, at_least: 1.5}]"
    ended = run.command("--set", rule)
    assert (ended.code, ended.ran) == (3, ["report"])
    assert "error: the gate failed, 1 of 1 rules did not pass:" in ended.err
    assert f"accuracy of {run.audit.best_correction} (best correction) in world attacked >= 1.50: fail" in ended.err
    assert run.audit.verdict == "fail"
    assert [result.status for result in run.audit.gate] == ["fail"]
    assert len(ElementTree.parse(run.root / "report/junit.xml").findall(".//failure")) == 1
    assert RunDirectory(run.root).manifest().stages["report"].status == "done"
    again = run.command("--set", rule)
    assert (again.code, again.ran) == (3, [])
    passing = run.command("--set", rule.replace("1.5", "0.1"))
    assert (passing.code, passing.ran, passing.err) == (0, ["report"], "")
    assert run.audit.verdict == "pass"


# People's verdicts


def test_finding_called_valid_is_no_longer_corrected(run):
    finding = run.bias.finding
    journal = run.judge(finding, "valid")
    ended = run.command()
    assert ended.code == 0
    assert "reveal: stale, people's verdicts changed (annotations.json); running" in ended.out
    assert ended.reused == ["train", "precompute"]
    assert run.findings[0].id == finding, "it stays a finding"
    assert run.bias.id != finding
    assert [path.name for path in (run.root / "localize").iterdir()] == [run.bias.id]
    assert {tuple(run.method(method).biases) for method in METHODS} == {(run.bias.id,)}
    assert [verdict.verdict for verdict in run.audit.verdicts] == ["valid"]
    assert (run.root / "annotations.json").read_bytes() == journal


def test_finding_called_spurious_becomes_a_reviewed_bias(run):
    bias = run.bias
    assert bias.status == "unreviewed"
    assert {run.method(method).status for method in METHODS} == {"unreviewed"}
    journal = run.judge(bias.finding, "spurious")
    ended = run.command()
    assert ended.code == 0
    assert (run.bias.id, run.bias.status, run.bias.verdict.by) == (bias.id, "reviewed", "A. Auditor")
    assert {run.method(method).status for method in METHODS} == {"reviewed"}
    assert [each.status for each in run.audit.biases] == ["reviewed"]
    assert "A. Auditor" in (run.root / "report/index.html").read_text()
    assert f"accepted as {bias.id}, reviewed" in ended.out
    assert (run.root / "annotations.json").read_bytes() == journal


def test_verdict_on_another_finding_fits_nothing_again(run):
    before = results(run.root)
    last = run.findings[-1].id
    assert last != run.bias.finding
    run.judge(last, "unsure")
    ended = run.command()
    assert (ended.code, ended.ran) == (0, ["reveal", "report"])
    kept = {name for name in before if not name.startswith(("reveal/", "report/"))}
    assert {name: results(run.root)[name] for name in kept} == {name: before[name] for name in kept}
    assert [verdict.finding for verdict in run.audit.verdicts] == [last]


# Interrupted


def test_killed_mitigation_keeps_finished_methods_and_resumes_the_one_at_work(run):
    """kill -9 while ISNet trains: the four methods before it are not fitted again, and ISNet goes on in its epochs."""
    shutil.rmtree(run.root / "mitigate")
    state = run.root / "mitigate/isnet/training_state.pt"
    override = ("--set", "mitigate.methods.4.epochs=15")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.run", "--config", str(run.config), *override],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until = time.monotonic() + 100
        while not state.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
    assert state.exists(), output
    assert not (run.root / "mitigate/isnet/method.json").exists(), "it was to be killed before the end"
    before = results(run.root)
    assert RunDirectory(run.root).manifest().stages["mitigate"].status == "started"
    assert ["mitigate", "failed"] in [line.split()[:2] for line in run.command("--status", *override).out.splitlines()]

    ended = run.command(*override)
    assert ended.code == 0
    assert ended.ran == ["mitigate", "evaluate", "report"]
    assert "mitigate: was started and did not finish; running" in ended.out
    assert [each for each in METHODS if f"    {each}: kept from an earlier run\n" in ended.out] == list(METHODS[:4])
    assert re.search(r"    isnet: resuming after epoch \d+ of 15\n", ended.out)
    after = results(run.root)
    finished_before = {name for name in before if name.startswith(tuple(f"mitigate/{each}/" for each in METHODS[:4]))}
    assert len(finished_before) >= 8
    assert {name: after[name] for name in finished_before} == {name: before[name] for name in finished_before}
    assert not state.exists()


# Data and architecture of the user's own


OWN_MODULE = '''
    """Stripes, and a mark that gives one class away: written against the documented protocol alone."""

    import hashlib

    import numpy as np
    import pandas as pd
    import torch
    from torch import nn

    from pipeline.data.dataset import Sample


    class Stripes:
        classes = ("across", "down")
        shape = (1, 16, 16)

        def __init__(self, per_class, seed):
            generator = np.random.default_rng(seed)
            self.labels = np.arange(2 * per_class) % 2
            self.marked = (self.labels == 1) & (generator.random(2 * per_class) < 0.7)
            images = generator.random((2 * per_class, 16, 16)) * 0.4
            for image, label, marked in zip(images, self.labels, self.marked):
                place = generator.integers(6, 16)
                if label:
                    image[:, place] += 0.3
                else:
                    image[place] += 0.3
                if marked:
                    image[1:5, 1:5] = 1
            self.images = images[:, None].astype(np.float32)
            self.table = pd.DataFrame({"id": [f"s{i}" for i in range(2 * per_class)], "label": self.labels})

        def __len__(self):
            return len(self.labels)

        def __getitem__(self, index):
            return Sample(torch.from_numpy(self.images[index]), int(self.labels[index]), f"s{index}")

        def fingerprint(self):
            return hashlib.sha256(self.images.tobytes()).hexdigest()

        def roi_mask(self, index):
            return None

        def artifact_names(self):
            return ("mark",)

        def artifact_flags(self, name):
            return self.marked.copy()

        def artifact_mask(self, name, index):
            mask = np.zeros((16, 16), bool)
            mask[1:5, 1:5] = True
            return mask if self.marked[index] else None


    def stripes(per_class=90, seed=0):
        return Stripes(per_class, seed)


    def network(classes, channels, width=6):
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * width, classes),
        )
'''


@pytest.fixture
def own(tmp_path, monkeypatch) -> Run:
    """A run on data and a network from a module in the working directory."""
    monkeypatch.chdir(tmp_path)
    # `python -m` has put the place of the tests' start there; the installed command `r2r` puts nothing.
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != ""])
    monkeypatch.setitem(sys.modules, "own_stripes", None)  # so that the module is forgotten after the test
    del sys.modules["own_stripes"]
    (tmp_path / "own_stripes.py").write_text(textwrap.dedent(OWN_MODULE))
    run = Run(tmp_path / "artifacts")
    sections = {
        "data": {"kind": "own_stripes:stripes", "params": {"per_class": 90}},
        "model": {"arch": "own_stripes:network", "train": {"epochs": 3, "lr": 0.01, "batch_size": 32}},
        "mitigate": {"methods": [{"kind": "fine_tune", "epochs": 1}, {"kind": "p_clarc"}]},
        "output_dir": str(tmp_path / "artifacts"),
    }
    run.config.write_text(yaml.safe_dump(SETTINGS | sections))
    return run


def test_data_and_network_of_the_users_own(own):
    ended = own.command()
    assert (ended.code, ended.err) == (0, "")
    assert own.bias.class_name == "down"
    assert {row.world for row in own.metrics()} == {"asis", "attacked", "inserted", "removed"}
    assert {row.model for row in own.metrics()} == {"original", "fine_tune", "p_clarc", "pipeline"}
    assert any(row.subgroup == "artifact=mark" and row.metric == "finding_precision" for row in own.metrics())
    assert any("pasting" in warning for warning in own.audit.warnings)
    assert own.command().ran == []
    ended = own.command("--status", "--set", "data.params.per_class=80")
    assert ended.out.splitlines()[1].split(maxsplit=2)[:2] == ["train", "stale"]
    assert "data.params.per_class changed from 90 to 80" in ended.out
    module = Path("own_stripes.py")
    module.write_text(module.read_text().replace("width=6", "width=7"))
    assert "the module of model.arch changed" in own.command("--status").out


def test_no_file_is_outside_the_lists_of_these_tests(finished):
    """`results` leaves out bookkeeping only."""
    assert {path.name for path in finished.root.iterdir() if path.is_file()} <= NOT_RESULTS
