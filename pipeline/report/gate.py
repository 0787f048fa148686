"""The gate: every declared rule is looked up among the metrics and passes, fails, or could not be run."""

from __future__ import annotations

import difflib
import math

from ..config.report import GateRule
from ..workspace.records import GateResult, Metric

BOUND_TEXT = {"point": "", "lower": ", lower bound", "upper": ", upper bound"}
NEAREST_SHOWN = 3


def check_gate(rules: list[GateRule], metrics: list[Metric], best: str | None) -> list[GateResult]:
    """Hold every rule against the metrics.

    Args:
        rules: the section `report.gate`, in the order in which the results are returned.
        metrics: all rows of the evaluation.
        best: id of the best correction on the validation split, which `model: best` stands for; None if there is none.

    Returns:
        One result per rule. `not_run` when the metric is absent, ambiguous or not finite, or rests on fewer than
        `min_n` samples; `detail` says what was looked for. A value equal to its bound passes.
    """
    return [_check(rule, metrics, best) for rule in rules]


def rule_text(rule: GateRule, best: str | None) -> str:
    """Write a rule as a sentence, such as "accuracy of rr_clarc in world attacked, lower bound >= 0.90"."""
    model = rule.model
    if model == "best":
        model = f"{best} (best correction)" if best is not None else "the best correction"
    subgroup = "" if rule.subgroup == "all" else f", subgroup {rule.subgroup}"
    sign, bound = (">=", rule.at_least) if rule.at_least is not None else ("<=", rule.at_most)
    samples = f", on at least {rule.min_n} samples" if rule.min_n > 1 else ""
    return (
        f"{rule.metric} of {model} in world {rule.world}{subgroup}{BOUND_TEXT[rule.on]} {sign} {_short(bound)}{samples}"
    )


def _check(rule: GateRule, metrics: list[Metric], best: str | None) -> GateResult:
    text = rule_text(rule, best)
    if rule.model == "best" and best is None:
        detail = "there is no best correction in this run: no method was fitted, or none has validation metrics"
        return GateResult(rule=text, status="not_run", detail=detail)
    wanted = (rule.metric, best if rule.model == "best" else rule.model, rule.world, rule.subgroup)
    matches = [metric for metric in metrics if _key(metric) == wanted]
    if len(matches) != 1:
        return GateResult(rule=text, status="not_run", detail=_not_found(wanted, matches, metrics))
    metric = matches[0]
    measured = {"point": metric.value, "lower": metric.lower, "upper": metric.upper}[rule.on]
    if not (math.isfinite(metric.value) and math.isfinite(measured)):
        detail = f"{_name(wanted)} has no finite value: {metric.value} [{metric.lower}, {metric.upper}], n = {metric.n}"
        return GateResult(rule=text, status="not_run", n=metric.n, detail=detail)
    figures = f"{metric.value:.4f} [{metric.lower:.4f}, {metric.upper:.4f}]"
    if metric.n < rule.min_n:
        detail = f"{figures} rests on {metric.n} samples; the rule asks for at least {rule.min_n}"
        return GateResult(rule=text, status="not_run", measured=measured, n=metric.n, detail=detail)
    margin = measured - rule.at_least if rule.at_least is not None else rule.at_most - measured
    status = "pass" if margin >= 0 else "fail"
    detail = f"{figures}; {'met with' if margin >= 0 else 'missed by'} {abs(margin):.4f}"
    return GateResult(rule=text, status=status, measured=measured, n=metric.n, detail=detail)


def _not_found(wanted: tuple[str, ...], matches: list[Metric], metrics: list[Metric]) -> str:
    if matches:
        return f"{len(matches)} rows are called {_name(wanted)}; the rule needs exactly one"
    nearest = sorted(dict.fromkeys(map(_key, metrics)), key=lambda key: -_similarity(key, wanted))[:NEAREST_SHOWN]
    listed = "; ".join(map(_name, nearest)) or "none, no metric was measured at all"
    return f"no metric is called {_name(wanted)}; nearest: {listed}"


def _key(metric: Metric) -> tuple[str, ...]:
    return metric.metric, metric.model, metric.world, metric.subgroup


def _name(key: tuple[str, ...]) -> str:
    metric, model, world, subgroup = key
    return f"{metric} of {model} in world {world}, subgroup {subgroup}"


def _similarity(key: tuple[str, ...], wanted: tuple[str, ...]) -> float:
    # The name of the metric says most about what the author of the rule had in mind.
    ratios = [difflib.SequenceMatcher(None, a, b).ratio() for a, b in zip(key, wanted, strict=True)]
    return 2 * ratios[0] + sum(ratios[1:])


def _short(bound: float) -> str:
    return f"{bound:.2f}" if float(f"{bound:.2f}") == bound else f"{bound:g}"
