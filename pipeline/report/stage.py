"""Gather the run's records into `report/audit.json`, and render them as HTML and JUnit XML."""

from __future__ import annotations

import csv
import platform
import sys
from datetime import UTC, datetime

from pipeline.config.load import dump_config
from pipeline.errors import StoreError
from pipeline.workspace.atomic import write_text
from pipeline.workspace.directory import RunDirectory
from pipeline.workspace.hashing import digest_file
from pipeline.workspace.journal import read_journal
from pipeline.workspace.manifest import Manifest
from pipeline.workspace.records import (
    Audit,
    Bias,
    Biases,
    Contest,
    Finding,
    Findings,
    GateResult,
    Health,
    MethodRecord,
    Metric,
    SearchedAgain,
)
from pipeline.workspace.stage import StageContext

from .gate import check_gate
from .html import render
from .junit import junit_xml

ORIGINAL = "model/original.pt"


def run(context: StageContext) -> None:
    """Write the report. The gate's verdict stands in it; the exit code is the caller's."""
    root = context.directory.root
    audit = gather(context)
    context.directory.write_record("report/audit.json", audit)
    page = render(audit, root, samples_per_finding=context.config.report.samples_per_finding)
    write_text(root / "report/index.html", page)
    write_text(root / "report/junit.xml", junit_xml(audit))
    context.reporter.say(f"    {root / 'report/index.html'} ({len(page) / 1e6:.1f} MB), gate: {audit.verdict}")


def gather(context: StageContext) -> Audit:
    """Return everything that the report shows, as one record."""
    directory, config = context.directory, context.config
    revealed = directory.read_record("reveal/findings.json", Findings)
    findings = revealed.findings
    biases = directory.read_record("reveal/biases.json", Biases).biases
    contest = directory.read_record("mitigate/contest.json", Contest)
    methods = [directory.read_record(f"mitigate/{each.id}/method.json", MethodRecord) for each in contest.contestants]
    metrics = read_metrics(context)
    best = contest.recommended
    gate = check_gate(list(config.report.gate), metrics, best)
    manifest = directory.manifest()
    attacked_by = manifest.stages["evaluate"].notes.get("attacked_by") if "evaluate" in manifest.stages else None
    return Audit(
        name=config.name,
        title=config.report.title,
        verdict=_verdict(gate),
        summary=_summary(findings, biases, metrics, best, gate, attacked_by),
        warnings=[*_warnings(context, manifest, attacked_by, biases), *contest.warnings],
        best_correction=best,
        findings=findings,
        detector_pictures=revealed.pictures,
        accept_score=config.reveal.accept_score,
        biases=biases,
        verdicts=read_journal(directory.annotations_path).verdicts,
        methods=methods,
        contest=contest,
        again=_searched_again(context, best),
        health=directory.read_record("precompute/health.json", Health),
        metrics=metrics,
        gate=gate,
        provenance=_provenance(context, manifest),
    )


def _searched_again(context: StageContext, preferred: str | None) -> SearchedAgain | None:
    """Return what was found in the preferred correction, if it was searched."""
    folder = context.directory.root / "again"
    if not context.config.mitigate.search_again or preferred is None or not (folder / "reveal/biases.json").exists():
        return None
    directory = RunDirectory(folder)
    accepted = directory.read_record("reveal/biases.json", Biases).biases
    return SearchedAgain(
        model=preferred,
        findings=directory.read_record("reveal/findings.json", Findings).findings,
        accepted=[bias.id for bias in accepted if bias.earlier is None],
    )


def read_metrics(context: StageContext) -> list[Metric]:
    """Return the rows of `evaluate/metrics.csv`.

    Raises:
        StoreError: the file is missing or has other columns.
    """
    path = context.directory.root / "evaluate/metrics.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [Metric.model_validate(row) for row in csv.DictReader(file)]
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise StoreError(f"{path} cannot be read ({first}). Start evaluate again, with --force.") from None


def _verdict(gate: list[GateResult]) -> str:
    if not gate:
        return "no_gate"
    return "pass" if all(result.status == "pass" for result in gate) else "fail"


def _summary(
    findings: list[Finding],
    biases: list[Bias],
    metrics: list[Metric],
    best: str | None,
    gate: list[GateResult],
    attacked_by: str | None,
) -> list[str]:
    value = {(m.model, m.world, m.metric): m for m in metrics if m.subgroup == "all"}

    def change(world: str, metric: str, name: str, digits: str = ".1%") -> str | None:
        before, after = value.get(("original", world, metric)), value.get((best or "", world, metric))
        if before is None:
            return None
        text = f"{name}: {before.value:{digits}}"
        return f"{text} before, {after.value:{digits}} after {best}." if after else f"{text}; no correction was made."

    how = {
        "planting": "with the artifact planted in every test image",
        "pasting": "with the localized region pasted in",
    }
    attacked = how.get(attacked_by or "", "in the attacked world")
    lines = []
    if findings:
        top = findings[0]
        lines.append(
            f"Most suspicious finding: {len(top.sample_ids)} samples of class {top.class_name} share a reason of "
            f"their own (suspicion {top.score:.2f}, found by {top.detector})."
        )
    if not biases:
        lines.append("Nothing suspicious enough to be taken for a bias was found.")
    lines += [
        change("attacked", "artifact_relevance", "Share of relevance on the artifact"),
        change("attacked", "balanced_accuracy", f"Balanced accuracy {attacked}"),
        change("clean", "balanced_accuracy", "Balanced accuracy on clean test images")
        or change("asis", "balanced_accuracy", "Balanced accuracy on test images"),
        f"Gate: {sum(result.status == 'pass' for result in gate)} of {len(gate)} rules passed." if gate else None,
    ]
    return [line for line in lines if line]


def _warnings(context: StageContext, manifest: Manifest, attacked_by: str | None, biases) -> list[str]:
    warnings = []
    if attacked_by == "pasting":
        warnings.append(
            "No controlled artifact was planted. The attacked world was made by pasting what was localized into every "
            "test image: it tests reliance on that region, and is only as good as the masks."
        )
    if not biases:
        warnings.append("No finding was accepted as a bias, so nothing was localized and only baselines were trained.")
    if manifest.dataset is not None and manifest.dataset.skipped:
        warnings.append(
            f"{len(manifest.dataset.skipped)} unreadable samples were left out; they are listed in the manifest."
        )
    return warnings


def _provenance(context: StageContext, manifest: Manifest) -> dict:
    config = context.config
    stages = [
        {"name": name, "status": entry.status, "key": entry.key, "seconds": entry.seconds}
        for name, entry in manifest.stages.items()
        if name != "report"
    ]
    dataset = manifest.dataset
    evaluated = manifest.stages.get("evaluate")
    trained = manifest.stages.get("train")
    return {
        "config": config.model_dump(mode="json"),
        "config_text": dump_config(config),
        "versions": {"python": platform.python_version(), **(trained.versions if trained else {})},
        "stages": stages,
        "dataset": {
            "fingerprint": dataset.fingerprint if dataset else None,
            "skipped": len(dataset.skipped) if dataset else 0,
            **(trained.notes.get("dataset", {}) if trained else {}),
        },
        "weights_sha256": digest_file(context.directory.root / ORIGINAL, "sha256"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": config.seed,
        "command": " ".join(sys.argv),
        "intended_use": config.report.intended_use,
        "auditor": config.report.auditor,
        "worlds": evaluated.notes.get("worlds", []) if evaluated else [],
        "device": context.device,
        "machine": f"{platform.system()} {platform.machine()}",
    }
