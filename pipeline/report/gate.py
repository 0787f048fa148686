"""The gate: every declared rule is looked up among the metrics and passes, warns, fails, or could not be run."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from ..config.report import GateRule
from ..statistics import Interval
from ..workspace.metric_catalogue import METRICS
from ..workspace.records import Audit, GateResult, Metric
from .baseline import change_for_the_worse

BOUND_TEXT = {"point": "", "lower": ", lower bound", "upper": ", upper bound"}
EVERY_BIAS = "every_bias"
NEAREST_SHOWN = 3
ROUNDING = 1e-12
"""A difference of two figures that are equal on paper may miss its bound by so much."""


class _Problem(NamedTuple):
    """Why a rule has no figure that could be held against its bound."""

    status: Literal["error", "not_run"]
    detail: str
    n: int | None = None


class _Figure(NamedTuple):
    """What is held against the bound: the value, with the text of what was measured and the number of samples."""

    interval: Interval
    text: str
    n: int


def check_gate(
    rules: Sequence[GateRule],
    metrics: list[Metric],
    best: str | None,
    *,
    bias_ids: Sequence[str] = (),
    min_n: int = 1,
    before: Audit | None = None,
) -> list[GateResult]:
    """Hold every rule against the metrics.

    Args:
        rules: the section `report.gate`, in the order in which the results are returned.
        metrics: all rows of the evaluation.
        best: id of the best correction on the validation split, which `model: best` stands for; None if there is none.
        bias_ids: the accepted biases, for rules with `subgroup: every_bias`.
        min_n: `evaluate.min_n`; the evaluation gives no figures on fewer samples.
        before: the earlier audit, for rules with `worse_by_at_most`; None if none is named.

    Returns:
        One result per rule, and for one on every bias one per bias. A value equal to its bound passes. `warn` and
        `fail`: missed, as its severity says. `error`: the figure is ambiguous or not finite, or cannot become worse
        because no direction is the better one. `not_run`: absent, suppressed, or on fewer than the rule's `min_n`
        samples. `detail` says what was looked for.
        `blocking` is True where the outcome makes the verdict "fail".
    """
    return [_check(rule, metrics, best, min_n, before) for rule in _spread(rules, bias_ids)]


def _spread(rules: Sequence[GateRule], bias_ids: Sequence[str]) -> list[GateRule]:
    """Return the rules, those on every bias once for each; without a bias such a rule stays, and finds nothing."""
    spread = []
    for rule in rules:
        each = bias_ids if rule.subgroup == EVERY_BIAS else ()
        spread += [rule.model_copy(update={"subgroup": bias_id}) for bias_id in each] or [rule]
    return spread


def verdict(results: Sequence[GateResult]) -> Literal["pass", "conditional", "fail", "no_gate"]:
    """Return what the gate says as a whole: "conditional" where rules are not met that do not block."""
    if not results:
        return "no_gate"
    if any(result.blocking for result in results):
        return "fail"
    return "pass" if all(result.status == "pass" for result in results) else "conditional"


def rule_text(rule: GateRule, best: str | None) -> str:
    """Write a rule as a sentence, such as "accuracy of rr_clarc in world attacked, lower bound >= 0.90"."""
    model = rule.model
    if model == "best":
        model = f"{best} (best correction)" if best is not None else "the best correction"
    subgroup = "" if rule.subgroup == "all" else f", subgroup {rule.subgroup}"
    samples = f", on at least {rule.min_n} samples" if rule.min_n > 1 else ""
    severity = " (warning only)" if rule.severity == "warning" else ""
    return f"{rule.metric} of {model} in world {rule.world}{subgroup}{_bound_text(rule)}{samples}{severity}"


def _bound_text(rule: GateRule) -> str:
    if rule.worse_by_at_most is not None:
        of_change = {"point": "", "lower": " (lower bound)", "upper": " (upper bound)"}[rule.on]
        return f", worse than the baseline{of_change} by at most {_short(rule.worse_by_at_most)}"
    sign, bound = (">=", rule.at_least) if rule.at_least is not None else ("<=", rule.at_most)
    return f"{BOUND_TEXT[rule.on]} {sign} {_short(bound)}"


def _check(rule: GateRule, metrics: list[Metric], best: str | None, min_n: int, before: Audit | None) -> GateResult:
    text, warning = rule_text(rule, best), rule.severity == "warning"
    figure = _figure(rule, metrics, best, min_n, before)
    if isinstance(figure, _Problem):
        excused = warning or (figure.status == "not_run" and rule.not_run == "warn")
        return GateResult(rule=text, status=figure.status, blocking=not excused, n=figure.n, detail=figure.detail)
    measured = {"point": figure.interval.value, "lower": figure.interval.lower, "upper": figure.interval.upper}[rule.on]
    margin = _margin(rule, measured)
    met = margin >= -ROUNDING
    return GateResult(
        rule=text,
        status="pass" if met else "warn" if warning else "fail",
        blocking=not met and not warning,
        measured=measured,
        n=figure.n,
        detail=f"{figure.text}; {'met with' if met else 'missed by'} {abs(margin):.4f}",
    )


def _margin(rule: GateRule, measured: float) -> float:
    """Return by how much the bound is met; below 0 it is missed."""
    if rule.at_least is not None:
        return measured - rule.at_least
    return (rule.at_most if rule.at_most is not None else rule.worse_by_at_most) - measured


def _figure(
    rule: GateRule, metrics: list[Metric], best: str | None, min_n: int, before: Audit | None
) -> _Figure | _Problem:
    """Return what the rule speaks of, or why there is nothing to hold against its bound."""
    if rule.metric not in METRICS:
        return _Problem("not_run", f"there is no metric '{rule.metric}'; nearest: {_nearest_names(rule.metric)}")
    now = _one_row(rule, metrics, best, min_n, "this run")
    if rule.worse_by_at_most is None or isinstance(now, _Problem):
        return now if isinstance(now, _Problem) else _Figure(_interval(now), _figures(now), now.n)
    better = METRICS[rule.metric].better
    if better not in ("higher", "lower"):
        detail = (
            f"{rule.metric} cannot be worse than in the baseline: its better direction is '{better}'; "
            "worse_by_at_most needs a metric whose better direction is 'higher' or 'lower'. Use at_least or at_most"
        )
        return _Problem("error", detail)
    if before is None:
        detail = "there is no earlier audit to compare with: name its audit.json with report.baseline or --baseline"
        return _Problem("not_run", detail)
    then = _one_row(rule, before.metrics, before.best_correction, before.min_n, "the earlier audit")
    if isinstance(then, _Problem):
        return then
    worse = change_for_the_worse(then, now)
    text = f"{_figures(then)} before, {_figures(now)} now; worse by {_text(worse)}"
    if not math.isfinite({"point": worse.value, "lower": worse.lower, "upper": worse.upper}[rule.on]):
        return _Problem("error", f"{text}: the change has no finite bound", now.n)
    return _Figure(worse, text, now.n)


def _one_row(rule: GateRule, metrics: list[Metric], best: str | None, min_n: int, where: str) -> Metric | _Problem:
    """Return the one row of an audit that the rule names, with a finite figure on enough samples."""
    if rule.model == "best" and best is None:
        detail = f"there is no best correction in {where}: no method was fitted, or none has validation metrics"
        return _Problem("not_run", detail)
    if rule.subgroup == EVERY_BIAS:
        return _Problem("not_run", "no bias was accepted in this run, so there is none to measure it on")
    wanted = (rule.metric, best if rule.model == "best" else rule.model, rule.world, rule.subgroup)
    matches = [metric for metric in metrics if _key(metric) == wanted]
    if len(matches) > 1:
        return _Problem("error", f"{len(matches)} rows of {where} are called {_name(wanted)}; the rule needs one")
    if not matches:
        return _Problem("not_run", _not_found(wanted, metrics, where))
    row = matches[0]
    if row.n < min_n and math.isnan(row.value):
        detail = f"{_name(wanted)} is not given on {row.n} samples: figures on fewer than {min_n} are left out"
        return _Problem("not_run", f"{detail} (evaluate.min_n)", row.n)
    # The bounds of a change follow from both bounds of both figures, and are looked at where it is known.
    end = row.value if rule.worse_by_at_most is not None else getattr(row, rule.on if rule.on != "point" else "value")
    if not (math.isfinite(row.value) and math.isfinite(end)):
        return _Problem("error", f"{_name(wanted)} in {where} has no finite value: {_figures(row)}, n = {row.n}", row.n)
    if row.n < rule.min_n:
        detail = f"{_figures(row)} in {where} rests on {row.n} samples; the rule asks for at least {rule.min_n}"
        return _Problem("not_run", detail, row.n)
    return row


def _not_found(wanted: tuple[str, ...], metrics: list[Metric], where: str) -> str:
    nearest = sorted(dict.fromkeys(map(_key, metrics)), key=lambda key: -_similarity(key, wanted))[:NEAREST_SHOWN]
    listed = "; ".join(map(_name, nearest)) or "none, no metric was measured at all"
    return f"no metric of {where} is called {_name(wanted)}; nearest: {listed}"


def _nearest_names(name: str) -> str:
    ranked = sorted(METRICS, key=lambda known: -difflib.SequenceMatcher(None, name, known).ratio())
    return ", ".join(ranked[:NEAREST_SHOWN])


def _key(metric: Metric) -> tuple[str, ...]:
    return metric.metric, metric.model, metric.world, metric.subgroup


def _name(key: tuple[str, ...]) -> str:
    metric, model, world, subgroup = key
    return f"{metric} of {model} in world {world}, subgroup {subgroup}"


def _similarity(key: tuple[str, ...], wanted: tuple[str, ...]) -> float:
    # The name of the metric says most about what the author of the rule had in mind.
    ratios = [difflib.SequenceMatcher(None, a, b).ratio() for a, b in zip(key, wanted, strict=True)]
    return 2 * ratios[0] + sum(ratios[1:])


def _interval(row: Metric) -> Interval:
    return Interval(row.value, row.lower, row.upper, row.n)


def _figures(row: Metric) -> str:
    return _text(_interval(row))


def _text(interval: Interval) -> str:
    return f"{interval.value:.4f} [{interval.lower:.4f}, {interval.upper:.4f}]"


def _short(bound: float) -> str:
    return f"{bound:.2f}" if float(f"{bound:.2f}") == bound else f"{bound:g}"
