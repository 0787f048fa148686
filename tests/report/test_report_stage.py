"""The stage over a handmade run directory: what it gathers, that it depends on nothing else, and what it leaves out."""

from __future__ import annotations

import json
import platform
import sys

import pytest
import yaml

from pipeline.config import Config
from pipeline.errors import ConfigError, StoreError
from pipeline.report.stage import gather, run
from pipeline.workspace.directory import RunDirectory
from pipeline.workspace.journal import append
from pipeline.workspace.manifest import DatasetEntry, Manifest, StageEntry
from pipeline.workspace.records import Audit, Biases, EvaluationPictures, Findings
from pipeline.workspace.stage import StageContext

WRITTEN = ("audit.json", "index.html", "junit.xml", "summary.md")
FINISHED = {
    "train": "2026-02-03T11:00:00+00:00",
    "precompute": "2026-02-03T11:00:10+00:00",
    "reveal": "2026-02-03T11:00:20+00:00",
    # an hour later by the clock, but half an hour earlier in time
    "localize": "2026-02-03T13:30:00+02:00",
    "mitigate": "2026-02-03T11:40:00+00:00",
    "evaluate": "2026-02-03T12:00:00+00:00",
    "report": "2027-01-01T00:00:00+00:00",
}
NOTES = {
    "train": {"dataset": {"classes": ["0", "1"], "splits": {"train": {"0": 30, "1": 20}, "test": {"0": 7, "1": 5}}}},
    "evaluate": {"worlds": ["asis", "clean", "attacked"], "attacked_by": "planting", "device": "cuda"},
}


def write_run(root, audit: Audit) -> RunDirectory:
    """Write what the stages before the report leave, with the audit's content."""
    directory = RunDirectory(root)
    directory.write_record("reveal/findings.json", Findings(findings=audit.findings, pictures=audit.detector_pictures))
    directory.write_record("reveal/biases.json", Biases(biases=audit.biases))
    directory.write_record("mitigate/contest.json", audit.contest)
    for method in audit.methods:
        directory.write_record(f"mitigate/{method.id}/method.json", method)
    directory.write_record("precompute/health.json", audit.health)
    directory.write_record("evaluate/data.json", audit.data)
    directory.write_record("evaluate/pictures.json", EvaluationPictures(pictures=audit.pictures))
    fields = ["model", "world", "subgroup", "metric", "value", "lower", "upper", "n"]
    rows = [",".join(str(getattr(row, name)) for name in fields) for row in audit.metrics]
    (root / "evaluate/metrics.csv").write_text("\n".join([",".join(fields), *rows]) + "\n")
    (root / "model").mkdir()
    (root / "model/original.pt").write_bytes(b"weights")
    append(directory.annotations_path, audit.verdicts)
    manifest = Manifest(dataset=DatasetEntry(signature="s", fingerprint="f" * 32, skipped=[("x", "truncated")]))
    for name, finished in FINISHED.items():
        manifest.stages[name] = StageEntry(
            status="done",
            key=f"key of {name}",
            parts={},
            seconds=1.5,
            finished=finished,
            versions={"python": "3.11.7", "torch": "2.9.0"},
            notes=NOTES.get(name, {}),
        )
    manifest.save(directory.manifest_path)
    return directory


@pytest.fixture
def make_context(tmp_path, build_audit, run_dir):
    """Return a function that makes the context of a stage over a run directory, with a section `report`."""
    write_run(run_dir, build_audit())

    def make(**report) -> StageContext:
        config = Config(name="demo", output_dir=str(tmp_path), data={"kind": "digits"}, report=report)
        return StageContext(config, RunDirectory(run_dir), "cpu")

    return make


def read(context) -> Audit:
    return context.directory.read_record("report/audit.json", Audit)


def contents(context) -> dict[str, bytes]:
    return {name: (context.directory.root / "report" / name).read_bytes() for name in WRITTEN}


def test_everything_that_was_found_measured_and_declared_is_gathered(make_context, build_audit):
    known = build_audit()
    audit = gather(make_context(intended_use="triage", reviewer="B. Reviewer", harm={"b-8-glyph": "high"}))
    for name in ("findings", "biases", "methods", "contest", "health", "metrics", "data", "pictures", "verdicts"):
        assert getattr(audit, name) == getattr(known, name), name
    assert audit.declared.model_dump(exclude_defaults=True) == {
        "intended_use": "triage",
        "reviewer": "B. Reviewer",
        "harm": {"b-8-glyph": "high"},
    }
    assert (audit.best_correction, audit.verdict, audit.deidentified) == ("rr_clarc", "no_gate", False)
    assert (audit.min_n, audit.confidence) == (10, 0.95)
    assert audit.summary[0].startswith("No gate was declared")
    assert audit.summary[1].startswith("The model leans on bias b-8-glyph")


def test_provenance_says_what_the_audit_was_made_from(make_context):
    context = make_context()
    found = gather(context).provenance
    assert found.dataset.model_dump() == {
        "fingerprint": "f" * 32,
        "skipped": 1,
        "classes": ["0", "1"],
        "splits": {"train": 50, "test": 12},
    }
    assert found.created == FINISHED["evaluate"]
    assert [stage.name for stage in found.stages] == list(FINISHED)[:-1]
    assert (found.device, found.attacked_by, found.worlds) == ("cuda", "planting", ["asis", "clean", "attacked"])
    assert found.versions == {"python": "3.11.7", "torch": "2.9.0"}
    assert yaml.safe_load(found.config_text)["name"] == "demo"
    config = context.directory.root / "config.yaml"
    assert found.commands == [
        f"python -m pipeline.run --config {config}",
        f"python -m pipeline.run --config {config} --status",
        f"python -m pipeline.report --config {config}",
    ]


def test_the_same_run_directory_gives_the_same_bytes(make_context, monkeypatch):
    context = make_context(gate=[{"metric": "accuracy", "at_least": 0.9}])
    run(context)
    first = contents(context)
    # neither the command line nor what this process knows of earlier runs enters
    monkeypatch.setattr(sys, "argv", ["another", "command"])
    manifest = context.directory.manifest()
    manifest.stages["report"] = manifest.stages["report"].model_copy(update={"finished": "2028-01-01T00:00:00+00:00"})
    manifest.save(context.directory.manifest_path)
    run(make_context(gate=[{"metric": "accuracy", "at_least": 0.9}]))
    assert contents(context) == first


def test_every_rendering_has_the_verdict(make_context):
    context = make_context(
        gate=[
            {"metric": "accuracy", "model": "best", "at_least": 0.9},
            {"metric": "accuracy", "model": "original", "at_least": 0.9, "severity": "warning"},
        ]
    )
    run(context)
    assert read(context).verdict == "conditional"
    written = {name: text.decode() for name, text in contents(context).items()}
    assert written["summary.md"].startswith("# Bias audit: CONDITIONAL")
    assert 'name="verdict" value="conditional"' in written["junit.xml"]
    assert "conditional" in written["index.html"].lower()


def test_the_figures_of_small_groups_reach_the_gate_as_not_run(make_context):
    context = make_context(gate=[{"metric": "auroc", "at_least": 0.9, "model": "original"}])
    path = context.directory.root / "evaluate/metrics.csv"
    path.write_text(path.read_text() + "original,attacked,all,auroc,nan,nan,nan,4\n")
    (result,) = gather(context).gate
    assert (result.status, result.n) == ("not_run", 4)
    assert "fewer than 10" in result.detail


def test_an_earlier_audit_is_compared_and_asked_by_the_gate(make_context, build_audit, build_metric, tmp_path):
    earlier = build_audit(
        name="before", metrics=[build_metric("original", value=0.9), build_metric("isnet", value=0.99)],
        best_correction="isnet",
    )  # fmt: skip
    file = tmp_path / "before.json"
    file.write_text(earlier.model_dump_json())
    rule = {"metric": "accuracy", "model": "original", "worse_by_at_most": 0.1}
    audit = gather(make_context(baseline=str(file), gate=[rule]))
    assert [(row.model, row.before, row.after, row.status) for row in audit.baseline.rows] == [
        ("original", 0.9, 0.412, "regressed"),
        ("best", 0.99, 0.951, "regressed"),
    ]
    assert audit.baseline.same_data is False
    assert [result.status for result in audit.gate] == ["fail"]
    assert any("2 of 2 figures are worse than in the earlier audit before" in line for line in audit.warnings)
    assert any("saw other data" in line for line in audit.warnings)
    assert gather(make_context()).baseline is None


def test_an_earlier_audit_that_is_not_there_is_a_configuration_error(make_context, tmp_path):
    with pytest.raises(ConfigError, match="gone.json"):
        gather(make_context(baseline=str(tmp_path / "gone.json")))


def test_what_a_reader_has_to_know_is_a_warning(make_context, build_audit):
    audit = gather(make_context(harm={"b-8-glyf": "low"}))
    for text in (
        "1 unreadable samples were left out",
        "The test split knows samples of the other splits (identical pixels; pairs: 2, test samples: 2)",
        "report.harm names what is no bias of this run: b-8-glyf. Biases: b-8-glyph, b-1-corner.",
    ):
        assert sum(text in line for line in audit.warnings) == 1, text


def test_without_names_and_pictures_nothing_of_them_is_in_any_file(make_context, run_dir):
    context = make_context(deidentify=True, title="Bias audit", auditor="A. Auditor")
    plain = gather(context)
    assert len(plain.findings[0].sample_ids) > 0
    run(context)
    assert read(context).deidentified
    for name, content in contents(context).items():
        text = content.decode()
        assert "digit-0" not in text, name
        assert str(run_dir) not in text, name
        assert "data:image" not in text, name
        assert platform.machine() not in text, name
    assert "A. Auditor" in (run_dir / "report/index.html").read_text()


def test_a_missing_summary_of_the_data_names_its_file(make_context):
    context = make_context()
    (context.directory.root / "evaluate/data.json").unlink()
    with pytest.raises(StoreError, match="evaluate/data.json is missing"):
        gather(context)


def test_the_second_search_is_told(make_context, build_audit):
    context = make_context()
    again = RunDirectory(context.directory.root / "again")
    known = build_audit()
    carried = known.biases[0].model_copy(update={"earlier": str(context.directory.root)})
    again.write_record("reveal/biases.json", Biases(biases=[carried, known.biases[1]]))
    again.write_record("reveal/findings.json", Findings(findings=known.findings[:1]))
    assert gather(context).again is None, "it was not asked for"
    config = context.config.model_copy(
        update={"mitigate": context.config.mitigate.model_copy(update={"search_again": True})}
    )
    audit = gather(StageContext(config, context.directory, "cpu"))
    assert audit.again.accepted == ["b-1-corner"]
    assert audit.summary[-1] == "The detectors searched rr_clarc again and accepted 1 new bias: b-1-corner."


def test_records_are_json_that_every_reader_understands(make_context):
    context = make_context()
    run(context)

    def refuse(constant):
        raise AssertionError(constant)

    json.loads((context.directory.root / "report/audit.json").read_text(), parse_constant=refuse)
