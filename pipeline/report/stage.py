"""Gather the run's records into `report/audit.json`, and render them as HTML, Markdown and JUnit XML.

All that is written follows from the run directory: no clock and no command line enters it, so that reports can be
compared byte by byte.
"""

from __future__ import annotations

import platform
import shlex
from datetime import datetime

from pipeline.config.load import dump_config
from pipeline.config.report import ReportConfig
from pipeline.workspace.atomic import write_text
from pipeline.workspace.directory import STAGE_FOLDERS, RunDirectory
from pipeline.workspace.hashing import digest_file
from pipeline.workspace.journal import read_journal
from pipeline.workspace.manifest import Manifest, StageEntry
from pipeline.workspace.records import (
    Audit,
    BaselineComparison,
    Bias,
    Biases,
    Contest,
    DatasetNote,
    DataSummary,
    Declared,
    EvaluationPictures,
    Findings,
    Health,
    MethodRecord,
    Provenance,
    SearchedAgain,
    StageTime,
)
from pipeline.workspace.stage import StageContext
from pipeline.workspace.tables import METRICS_CSV, read_metrics

from .baseline import compare, read_earlier
from .deidentify import deidentified
from .gate import check_gate, verdict
from .html import render
from .junit import junit_xml
from .markdown import summary_markdown
from .plain_words import summary

ORIGINAL = "model/original.pt"


def run(context: StageContext) -> None:
    """Write the report. The gate's verdict stands in it; the exit code is the caller's."""
    root, config = context.directory.root, context.config.report
    audit = gather(context)
    if config.deidentify:
        audit = deidentified(audit)
    context.directory.write_record("report/audit.json", audit)
    page = render(audit, root, samples_per_finding=config.samples_per_finding, image_budget=config.image_budget)
    write_text(root / "report/index.html", page)
    write_text(root / "report/summary.md", summary_markdown(audit))
    write_text(root / "report/junit.xml", junit_xml(audit))
    context.reporter.say(f"    {root / 'report/index.html'} ({len(page) / 1e6:.1f} MB), gate: {audit.verdict}")


def gather(context: StageContext) -> Audit:
    """Return everything that the report shows, as one record; samples and files by their real names.

    Raises:
        StoreError: a record of an earlier stage is missing or damaged.
        ConfigError: the earlier audit that `report.baseline` names cannot be compared with.
    """
    directory, config = context.directory, context.config
    earlier = read_earlier(config.report.baseline) if config.report.baseline else None
    revealed = directory.read_record("reveal/findings.json", Findings)
    biases = directory.read_record("reveal/biases.json", Biases).biases
    contest = directory.read_record("mitigate/contest.json", Contest)
    data = directory.read_record("evaluate/data.json", DataSummary)
    metrics, best = read_metrics(directory.root / METRICS_CSV), contest.recommended
    before = earlier.audit if earlier else None
    gate = check_gate(
        config.report.gate,
        metrics,
        best,
        bias_ids=[bias.id for bias in biases],
        min_n=config.evaluate.min_n,
        before=before,
    )
    provenance = _provenance(context, directory.manifest())
    baseline = compare(metrics, best, provenance.dataset.fingerprint, earlier) if earlier else None
    again = _searched_again(context, best)
    return Audit(
        name=config.name,
        title=config.report.title,
        verdict=verdict(gate),
        summary=summary(
            gate=gate,
            verdict=verdict(gate),
            findings=revealed.findings,
            biases=biases,
            metrics=metrics,
            best=best,
            attacked_by=provenance.attacked_by,
            confidence=config.evaluate.confidence,
            min_n=config.evaluate.min_n,
            again=again,
        ),
        warnings=[*_warnings(provenance, biases, data, baseline, config.report), *contest.warnings],
        declared=_declared(config.report),
        data=data,
        deidentified=False,
        best_correction=best,
        findings=revealed.findings,
        detector_pictures=revealed.pictures,
        accept_score=config.reveal.accept_score,
        biases=biases,
        verdicts=read_journal(directory.annotations_path).verdicts,
        methods=[
            directory.read_record(f"mitigate/{each.id}/method.json", MethodRecord) for each in contest.contestants
        ],
        contest=contest,
        again=again,
        health=directory.read_record("precompute/health.json", Health),
        metrics=metrics,
        min_n=config.evaluate.min_n,
        confidence=config.evaluate.confidence,
        pictures=directory.read_record("evaluate/pictures.json", EvaluationPictures).pictures,
        gate=gate,
        baseline=baseline,
        provenance=provenance,
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


def _declared(config: ReportConfig) -> Declared:
    """Return what people declare; what they left out is an empty text."""
    values = {name: getattr(config, name) for name in Declared.model_fields}
    return Declared(**{name: "" if value is None else value for name, value in values.items()})


def _warnings(
    provenance: Provenance,
    biases: list[Bias],
    data: DataSummary,
    baseline: BaselineComparison | None,
    config: ReportConfig,
) -> list[str]:
    warnings = []
    if provenance.attacked_by == "pasting":
        warnings.append(
            "No controlled artifact was planted. The attacked world was made by pasting what was localized into every "
            "test image: it tests reliance on that region, and is only as good as the masks."
        )
    if not biases:
        warnings.append("No finding was accepted as a bias, so nothing was localized and only baselines were trained.")
    if provenance.dataset.skipped:
        warnings.append(
            f"{provenance.dataset.skipped} unreadable samples were left out; they are listed in the manifest."
        )
    warnings += [
        f"The test split knows samples of the other splits ({check.check}; pairs: {check.pairs}, test samples: "
        f"{check.test_samples}). Figures on the test split are too good by as much as the model remembers them."
        for check in data.leakage
        if check.status == "leak"
    ]
    known = [bias.id for bias in biases]
    if strange := [name for name in config.harm if name not in known]:
        warnings.append(
            f"report.harm names what is no bias of this run: {', '.join(strange)}. "
            f"Biases: {', '.join(known) or 'none'}."
        )
    return warnings + (_baseline_warnings(baseline) if baseline else [])


def _baseline_warnings(baseline: BaselineComparison) -> list[str]:
    warnings = []
    if regressed := sum(row.status == "regressed" for row in baseline.rows):
        warnings.append(
            f"{regressed} of {len(baseline.rows)} figures are worse than in the earlier audit {baseline.name}."
        )
    if not baseline.same_data:
        warnings.append(f"The earlier audit {baseline.name} saw other data; changes may come from them.")
    if not baseline.rows:
        warnings.append(f"No figure of the earlier audit {baseline.name} is one of this audit; nothing was compared.")
    return warnings


def _provenance(context: StageContext, manifest: Manifest) -> Provenance:
    config = context.config
    # In the order in which they ran; the manifest has them by name.
    stages = {name: manifest.stages[name] for name in STAGE_FOLDERS if name in manifest.stages and name != "report"}
    trained, evaluated = (
        stages.get(name, StageEntry(status="done", key="", parts={})) for name in ("train", "evaluate")
    )
    read = trained.notes.get("dataset", {})
    dataset = manifest.dataset
    return Provenance(
        config_text=dump_config(config),
        arch=config.model.arch,
        weights_sha256=digest_file(context.directory.root / ORIGINAL, "sha256"),
        dataset=DatasetNote(
            fingerprint=dataset.fingerprint if dataset else "",
            skipped=len(dataset.skipped) if dataset else 0,
            classes=read.get("classes", []),
            splits={split: sum(classes.values()) for split, classes in read.get("splits", {}).items()},
        ),
        seed=config.seed,
        # The report computes nothing; what matters is where its figures were measured.
        device=evaluated.notes.get("device", context.device),
        machine=f"{platform.system()} {platform.machine()}",
        versions=evaluated.versions or trained.versions,
        stages=[
            StageTime(name=name, status=entry.status, key=entry.key, seconds=entry.seconds)
            for name, entry in stages.items()
        ],
        commands=_commands(context.directory),
        worlds=evaluated.notes.get("worlds", []),
        attacked_by=evaluated.notes.get("attacked_by", "nothing"),
        created=max((entry.finished for entry in stages.values() if entry.finished), key=_moment, default=""),
    )


def _commands(directory: RunDirectory) -> list[str]:
    """Return how the audit is made again, how it is checked that nothing changed, and how the gate is asked."""
    config = f"--config {shlex.quote(str(directory.root / 'config.yaml'))}"
    return [
        f"python -m pipeline.run {config}",
        f"python -m pipeline.run {config} --status",
        f"python -m pipeline.report {config}",
    ]


def _moment(finished: str) -> float:
    return datetime.fromisoformat(finished).timestamp()
