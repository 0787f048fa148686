"""The first page: verdict, gate, what was found, what mitigation changed and cost, and what must not be overlooked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..workspace.metric_catalogue import METRICS
from ..workspace.records import Audit, GateResult, Metric
from .contest import harm, without_artifact
from .formats import WORLDS, change, clipped, duration, figure, has_interval, measured
from .tables import ORIGINAL, MetricIndex

RULES, LINES, WARNINGS = 5, 5, 4  # what fits on a printed page; the rest follows behind it, and is counted
LONGEST_RULE, LONGEST_LINE, LONGEST_WARNING, LONGEST_DECLARED = 110, 380, 240, 190  # characters
ALL_LINES, ALL_WARNINGS = 900, 520  # characters
KEY_FIGURES = 4
WANTED = (
    ("balanced_accuracy", "attacked"),
    ("worst_group_accuracy", "attacked"),
    ("balanced_accuracy", "clean"),
    ("artifact_relevance", "attacked"),
    ("balanced_accuracy", "asis"),
    ("worst_group_accuracy", "asis"),
    ("flip_rate", "attacked"),
    ("background_relevance", "asis"),
    ("accuracy", "attacked"),
    ("accuracy", "clean"),
    ("accuracy", "asis"),
)
"""Metric and world of the key figures, in order of preference."""


@dataclass(frozen=True)
class VerdictText:
    """The verdict: a word, a sign of its own shape, and what it means."""

    word: str
    sign: str
    meaning: str


VERDICTS = {
    "pass": VerdictText("PASS", "✔", "Every rule that was declared is met."),
    "conditional": VerdictText(
        "CONDITIONAL", "▲", "No rule that blocks is missed, but not every rule is met: each open one needs a decision."
    ),
    "fail": VerdictText("FAIL", "✖", "At least one rule that blocks is not met."),
    "no_gate": VerdictText("NO GATE", "○", "No rule was declared, so this report states neither pass nor fail."),
}
STATUS_SIGNS = {"pass": "✔", "warn": "▲", "fail": "✖", "error": "✖", "not_run": "○"}
STATUS_WORDS = {"pass": "pass", "warn": "warning", "fail": "FAIL", "error": "ERROR", "not_run": "not run"}


@dataclass(frozen=True)
class KeyFigure:
    """A figure of the original and of the preferred correction."""

    heading: str
    meaning: str
    before: Metric
    after: Metric | None


@dataclass(frozen=True)
class FrontPage:
    """What stands on the first page; numbers of what was left out for the pages behind it.

    Attributes:
        verdict: in words.
        lead: the verdict's sentence.
        gate: results, those that block first.
        gate_left_out: how many more there are.
        lines: what was found, in plain words.
        lines_left_out: how many more there are.
        key_figures: before and after.
        changed: what the preferred correction changed.
        cost: what it cost.
        warnings: the most important ones.
        warnings_left_out: how many more there are.
        intended_use: as declared, shortened; "" where it was not.
    """

    verdict: VerdictText
    lead: str
    gate: list[GateResult]
    gate_left_out: int
    lines: list[str]
    lines_left_out: int
    key_figures: list[KeyFigure]
    changed: list[str]
    cost: list[str]
    warnings: list[str]
    warnings_left_out: int
    intended_use: str


def front_page(audit: Audit, index: MetricIndex) -> FrontPage:
    """Arrange the first page."""
    verdict = VERDICTS[audit.verdict]
    said = bool(audit.summary) and audit.summary[0].upper().startswith(verdict.word)
    lines = audit.summary[1:] if said else audit.summary
    shown_lines = fitting(lines, LINES, LONGEST_LINE, ALL_LINES)
    warnings = standing_warnings(audit)
    shown_warnings = fitting(warnings, WARNINGS, LONGEST_WARNING, ALL_WARNINGS)
    gate = sorted(audit.gate, key=lambda result: (not result.blocking, result.status == "pass"))
    return FrontPage(
        verdict=verdict,
        lead=audit.summary[0] if said else verdict.meaning,
        gate=[_short_rule(result) for result in gate[:RULES]],
        gate_left_out=len(gate[RULES:]),
        lines=shown_lines,
        lines_left_out=len(lines) - len(shown_lines),
        key_figures=key_figures(index, audit.best_correction),
        changed=_changed(audit, index),
        cost=_cost(audit, index),
        warnings=shown_warnings,
        warnings_left_out=len(warnings) - len(shown_warnings),
        intended_use=clipped(audit.declared.intended_use, LONGEST_DECLARED),
    )


def key_figures(index: MetricIndex, best: str | None) -> list[KeyFigure]:
    """Return the first figures of WANTED that the original was measured by."""
    found = []
    for metric, world in WANTED:
        before = index.find(ORIGINAL, world, "all", metric)
        if before is not None:
            heading = f"{METRICS[metric].heading}, {WORLDS[world]}"
            after = index.find(best, world, "all", metric) if best else None
            found.append(KeyFigure(heading, METRICS[metric].meaning, before, after))
    return found[:KEY_FIGURES]


def standing_warnings(audit: Audit) -> list[str]:
    """Return the warnings of the audit, preceded by those that follow from its content; each text once."""
    found = []
    if audit.health is None:
        found.append("The health of the attributions was not checked; heatmaps and relevance shares are unproven.")
    elif not audit.health.healthy:
        reason = audit.health.warning or f"conservation {audit.health.conservation:.3g} instead of 1"
        found.append(f"Attributions are NOT HEALTHY on this architecture, do not trust the heatmaps: {reason}")
    elif audit.health.warning:
        found.append(f"Attributions are conserved, but: {audit.health.warning}")
    unreviewed = [bias.id for bias in audit.biases if bias.status == "unreviewed"]
    if unreviewed:
        found.append(
            f"Accepted without a person's verdict (unreviewed): {', '.join(unreviewed)}. Concept vectors, masks, "
            "corrections and metrics that rest on them are unreviewed, too."
        )
    if not audit.declared.intended_use:
        found.append("Intended use NOT PROVIDED (report.intended_use): whether a finding does harm cannot be judged.")
    return list(dict.fromkeys([*found, *audit.warnings]))


def fitting(texts: Sequence[str], most: int, longest: int, together: int) -> list[str]:
    """Return the first texts, each cut to `longest` characters, as many as fit into `together`; the first always."""
    shown: list[str] = []
    for text in texts[:most]:
        short = clipped(text, longest)
        if shown and sum(map(len, shown)) + len(short) > together:
            break
        shown.append(short)
    return shown


def _short_rule(result: GateResult) -> GateResult:
    return result.model_copy(update={"rule": clipped(result.rule, LONGEST_RULE)})


def _changed(audit: Audit, index: MetricIndex) -> list[str]:
    best = audit.best_correction
    if best is None:
        return []
    items = [_gain(index, best, "attacked")]
    items.append(_before_after(index, best, "flip_rate", "attacked", "all", "flip rate, with the artifact"))
    for bias in audit.biases[:1]:
        for world, words in (("removed", "filled in"), ("inserted", "pasted in")):
            items.append(_before_after(index, best, "flip_rate", world, bias.id, f"flip rate, {bias.id} {words}"))
    return [item for item in items if item] or ["nothing was measured that shows it"]


def _cost(audit: Audit, index: MetricIndex) -> list[str]:
    best = audit.best_correction
    if best is None:
        return []
    world = without_artifact(audit.metrics)
    lost = harm(audit.metrics, best, audit.min_n)
    method = next((method for method in audit.methods if method.id == best), None)
    items = [_gain(index, best, world)]
    if not items[0] and lost.accuracy is not None:
        items = [f"accuracy {WORLDS[world]} {change(lost.accuracy)}"]
    if lost.worst_class is not None:
        items.append(f"most harmed class {lost.worst_class}: {change(lost.class_change)}")
    if lost.calibration is not None:
        items.append(f"calibration error {change(lost.calibration)}")
    if audit.again:
        items.append(_new_biases(audit.again.accepted))
    if method is not None:
        items.append(f"{duration(method.seconds)} to fit")
    return [item for item in items if item]


def _new_biases(accepted: Sequence[str]) -> str:
    return (
        f"{len(accepted)} new bias{'es' * (len(accepted) > 1)} found in it" if accepted else "no new bias found in it"
    )


def _gain(index: MetricIndex, best: str, world: str) -> str:
    gain = index.find(best, world, "all", "accuracy_gain")
    if gain is None:
        return ""
    p = index.find(best, world, "all", "mcnemar_p_adjusted")
    chance = f", McNemar p {_equals(measured(p))} adjusted" if p else ""
    return f"accuracy {WORLDS[world]} {change(gain.value)}{_bounds(gain)}{chance}"


def _equals(text: str) -> str:
    return text if text.startswith("<") else f"= {text}"


def _before_after(index: MetricIndex, best: str, metric: str, world: str, subgroup: str, name: str) -> str:
    before, after = index.find(ORIGINAL, world, subgroup, metric), index.find(best, world, subgroup, metric)
    return f"{name} {measured(before)} → {measured(after)}" if before and after else ""


def _bounds(row: Metric) -> str:
    return f" [{figure(row.lower)}, {figure(row.upper)}]" if has_interval(row) else ""
