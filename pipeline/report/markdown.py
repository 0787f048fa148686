"""The audit as a page of Markdown, short enough for a pull request or the step summary of a CI server."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from ..workspace.metric_catalogue import METRICS
from ..workspace.records import Audit, BaselineRow, GateResult, Metric
from .front import standing_warnings

ORIGINAL = "original"
PAGE = "report/index.html"
VERDICTS = {"pass": "PASS", "conditional": "CONDITIONAL", "fail": "FAIL", "no_gate": "no gate"}
STATUSES = {"pass": "PASS", "warn": "WARN", "fail": "**FAIL**", "error": "**ERROR**", "not_run": "**NOT RUN**"}
BEFORE_AFTER = (
    "balanced_accuracy",
    "worst_group_accuracy",
    "macro_auroc",
    "sensitivity",
    "specificity",
    "calibration_error",
    "accuracy_gain",
    "mcnemar_p_adjusted",
    "artifact_relevance",
    "background_relevance",
    "flip_rate",
    "flip_to_class_rate",
    "relative_logit_shift",
    "artifact_aopc",
)
"""Metrics of the table before and after, in this order."""
WORLDS = ("asis", "clean", "attacked", "inserted", "removed")
LONGEST = {"gate": 80, "summary": 30, "figures": 60, "regressed": 30, "warnings": 30}
"""Rows of each part; what is left out is counted."""
LONGEST_TEXT = 600
"""Characters of a cell or a line. With LONGEST, the page stays below the 1 MiB that a step summary may have."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
"""Characters that break lines, or turn the direction of writing around."""
ACTIVE = re.compile(r"([\\`*_\[\]#|~])")
AT_START = re.compile(r"^(\d+(?=[.)](?:\s|$))|(?=[-=+]))")
"""What would begin a list or underline a heading."""


def summary_markdown(audit: Audit) -> str:
    """Return verdict, gate, findings, figures before and after, regressions and warnings as GitHub's Markdown.

    The same audit gives the same text. Names and messages are escaped: none of them can add markup, tables or links.
    """
    parts = [
        [f"# {escape(audit.title)}: {VERDICTS[audit.verdict]}", "", *_head(audit)],
        _section("Gate", _gate(audit.gate)),
        _section("Findings", _bullets(audit.summary[1:], "summary")),
        _section("Before and after", _figures(audit)),
        _section("Against the baseline", _baseline(audit)),
        _section("Warnings", _bullets(standing_warnings(audit), "warnings")),
        [f"The full report: `{PAGE}` in the run directory of {escape(audit.name)}."],
    ]
    return "\n".join(line for part in parts if part for line in [*part, ""])


def escape(text: str) -> str:
    """Return text for one line, or one cell of a table, that is read as it is: without markup, HTML or links."""
    line = CONTROL.sub(" ", str(text)).strip()
    if len(line) > LONGEST_TEXT:
        line = f"{line[: LONGEST_TEXT - 3]}..."
    line = AT_START.sub(r"\1\\", ACTIVE.sub(r"\\\1", line))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Addresses and names of users would become links by themselves.
    return re.sub(r"\bwww\.", "www\\.", line.replace("://", ":\\//"), flags=re.IGNORECASE).replace("@", "@\u200b")


def _head(audit: Audit) -> list[str]:
    provenance, declared = audit.provenance, audit.declared
    version = f", version {escape(declared.model_version)}" if declared.model_version else ""
    tested = provenance.dataset.splits.get("test")
    data = f"{tested} test samples, " if tested is not None else ""
    return [
        *([f"**{escape(audit.summary[0])}**", ""] if audit.summary else []),
        f"- Model: {escape(provenance.arch)}{version}; weights, SHA-256: {escape(provenance.weights_sha256)}",
        f"- Data: {data}fingerprint {escape(provenance.dataset.fingerprint)}",
        f"- Intended use: {escape(declared.intended_use) or '**NOT PROVIDED**'}",
        *(["- De-identified: samples have made-up names."] if audit.deidentified else []),
    ]


def _section(heading: str, lines: list[str]) -> list[str]:
    return [f"## {heading}", "", *lines] if lines else []


def _gate(gate: Sequence[GateResult]) -> list[str]:
    rows = [
        [
            STATUSES[result.status],
            escape(result.rule),
            "–" if result.measured is None else _number(result.measured),
            "–" if result.n is None else str(result.n),
            escape(result.detail),
        ]
        for result in gate
    ]
    return _table(["", "rule", "measured", "n", "detail"], rows, "gate")


def _figures(audit: Audit) -> list[str]:
    """Return the table of the original beside the preferred correction: value [lower, upper]."""
    best = audit.best_correction
    found = {(row.model, row.world, row.subgroup, row.metric): row for row in audit.metrics}
    subgroups = ["all", *(bias.id for bias in audit.biases)]
    rows = []
    for metric in BEFORE_AFTER:
        for world in WORLDS:
            for subgroup in subgroups:
                before = found.get((ORIGINAL, world, subgroup, metric))
                after = found.get((best, world, subgroup, metric)) if best is not None else None
                if before or after:
                    names = [escape(METRICS[metric].heading), world, escape(subgroup)]
                    rows.append([*names, _interval(before), _interval(after)])
    correction = f"{escape(best)} (best correction)" if best is not None else "no correction"
    return _table(["metric", "world", "subgroup", ORIGINAL, correction], rows, "figures")


def _baseline(audit: Audit) -> list[str]:
    baseline = audit.baseline
    if baseline is None:
        return []
    regressed = [row for row in baseline.rows if row.status == "regressed"]
    improved = sum(row.status == "improved" for row in baseline.rows)
    same = "the same data" if baseline.same_data else "**other data**"
    head = (
        f"Earlier audit {escape(baseline.name)} ({VERDICTS.get(baseline.verdict, escape(baseline.verdict))}, {same}): "
        f"{len(regressed)} of {len(baseline.rows)} figures regressed, {improved} improved; "
        f"{baseline.only_before} only there, {baseline.only_now} only here."
    )
    headings = ["regressed", "model", "world", "subgroup", "before", "after", "change"]
    return [head, "", *_table(headings, [_regressed(row) for row in regressed], "regressed")]


def _regressed(row: BaselineRow) -> list[str]:
    heading = METRICS[row.metric].heading if row.metric in METRICS else row.metric
    change = f"{row.after - row.before:+.3f} [{_number(row.lower)}, {_number(row.upper)}]"
    names = [escape(text) for text in (heading, row.model, row.world, row.subgroup)]
    return [*names, _number(row.before), _number(row.after), change]


def _table(headings: list[str], rows: list[list[str]], part: str) -> list[str]:
    if not rows:
        return []
    limit = LONGEST[part]
    lines = [f"| {' | '.join(cells)} |" for cells in [headings, ["---"] * len(headings), *rows[:limit]]]
    return [*lines, *_left_out(len(rows) - limit)]


def _bullets(texts: Iterable[str], part: str) -> list[str]:
    lines = [f"- {escape(text)}" for text in texts]
    limit = LONGEST[part]
    return [*lines[:limit], *_left_out(len(lines) - limit)]


def _left_out(count: int) -> list[str]:
    return ["", f"{count} more in the full report."] if count > 0 else []


def _interval(row: Metric | None) -> str:
    if row is None:
        return "–"
    if not math.isfinite(row.value):
        return f"not given (n = {row.n})"
    return f"{_number(row.value)} [{_number(row.lower)}, {_number(row.upper)}]"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "–"
