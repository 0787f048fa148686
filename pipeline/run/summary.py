"""The lines that end `python -m pipeline.run`: what was found, what got better, and what it cost."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from pipeline.workspace.records import Audit, BaselineComparison, Metric

ORIGINAL = "original"
ABSENT = "not measured"
RELIANCE = {"artifact_relevance": "share of relevance on the artifact", "flip_rate": "flip rate"}
"""Metrics that say how much the model leans on the artifact; the first one that was measured is shown."""


def summarize(audit: Audit, root: Path) -> list[str]:
    """Return five lines (six with a baseline) and the path of the report.

    Args:
        audit: content of `report/audit.json`.
        root: the run directory.
    """
    rows = [
        ("top finding", _top_finding(audit)),
        ("reliance", _reliance(audit)),
        ("accuracy, attacked", _before_after(audit, "accuracy", "attacked")),
        ("accuracy, clean", _before_after(audit, "accuracy", "clean")),
        ("gate", _gate(audit)),
        *([("baseline", _baseline(audit.baseline))] if audit.baseline else []),
        ("report", str(root / "report" / "index.html")),
    ]
    width = max(len(label) for label, _ in rows)
    return [f"{label:<{width}}  {text}" for label, text in rows]


def _top_finding(audit: Audit) -> str:
    if not audit.findings:
        return "none"
    finding = min(audit.findings, key=lambda each: each.rank)
    bias = next((bias for bias in audit.biases if bias.finding == finding.id), None)
    accepted = f"accepted as {bias.id}, {bias.status}" if bias else "not accepted"
    size = f"{len(finding.sample_ids)} samples" if finding.sample_ids else f"{len(finding.neuron_ids)} neurons"
    return (
        f"{finding.id} ({finding.detector}, class {finding.class_name}, {finding.layer}): "
        f"score {finding.score:.2f}, {size}; {accepted}"
    )


def _reliance(audit: Audit) -> str:
    for metric, label in RELIANCE.items():
        if _find(audit, ORIGINAL, metric, "attacked"):
            return f"{_before_after(audit, metric, 'attacked')}, {label}"
    return ABSENT


def _before_after(audit: Audit, metric: str, world: str) -> str:
    before = _find(audit, ORIGINAL, metric, world)
    best = audit.best_correction
    after = _find(audit, best, metric, world) if best else None
    if before is None and after is None:
        return ABSENT
    correction = f" ({best})" if best else " (no correction)"
    return f"{_figure(before)} -> {_figure(after)}{correction}"


def _find(audit: Audit, model: str, metric: str, world: str) -> Metric | None:
    """Return the figure on the whole set, else the first one on a part of it, such as one bias."""
    rows = [row for row in audit.metrics if (row.model, row.metric, row.world) == (model, metric, world)]
    return min(rows, key=lambda row: row.subgroup != "all", default=None)


def _figure(metric: Metric | None) -> str:
    return f"{metric.value:.3f}" if metric is not None and math.isfinite(metric.value) else ABSENT


def _gate(audit: Audit) -> str:
    if audit.verdict == "no_gate":
        return "none declared"
    counts = Counter(result.status for result in audit.gate)
    words = {"warn": "warning", "error": "without a usable figure", "not_run": "not run"}
    rest = [
        f"{counts[status]} {word}{'s' * (status == 'warn' and counts[status] > 1)}"
        for status, word in words.items()
        if counts[status]
    ]
    return ", ".join([audit.verdict.upper(), f"{counts['pass']} of {len(audit.gate)} rules passed", *rest])


def _baseline(baseline: BaselineComparison) -> str:
    counts = Counter(row.status for row in baseline.rows)
    same = "" if baseline.same_data else ", on other data"
    return (
        f"{counts['regressed']} of {len(baseline.rows)} figures regressed, {counts['improved']} improved, "
        f"since {baseline.name}{same}"
    )
