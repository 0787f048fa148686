"""The first page in plain words: the verdict, what the model leans on, what the preferred correction does and costs.

Nothing is computed here: figures are looked up among the metrics, rounded, and put into sentences. What was not
measured is left out; an interval that holds 0 is called "no clear change".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..workspace.records import Audit, Bias, Finding, GateResult, Metric, SearchedAgain
from .tables import ORIGINAL, PIPELINE, MetricIndex

REMOVING, PASTING = "removing it", "pasting it into others"
ATTACK = {
    "planting": "with the artifact planted in every test image",
    "pasting": "with the localized region pasted into every test image",
}


@dataclass(frozen=True)
class Severity:
    """How much a bias matters: how often it is there, what it does there, and what a wrong prediction costs.

    Attributes:
        prevalence: share of the training images of its class that show it; None where it was not measured.
        effect: share of the original's predictions that change when it is filled in (or, where that was not measured,
            pasted into other images); None where neither was.
        harm: "low", "medium" or "high" as declared (`report.harm`); None where it was not.
        text: the three as one clause. They are not multiplied: declared harm is no number.
    """

    prevalence: float | None
    effect: float | None
    harm: str | None
    text: str


def summary(
    *,
    gate: list[GateResult],
    verdict: str,
    findings: list[Finding],
    biases: list[Bias],
    metrics: list[Metric],
    best: str | None,
    attacked_by: str,
    confidence: float,
    min_n: int,
    again: SearchedAgain | None = None,
) -> list[str]:
    """Return the lines of the first page, the verdict first.

    Args:
        gate: results of the rules.
        verdict: "pass", "conditional", "fail" or "no_gate".
        findings: best first.
        biases: what was accepted.
        metrics: all rows of the evaluation.
        best: id of the preferred correction, None if there is none.
        attacked_by: "planting", "pasting" or "nothing": how the attacked world was made.
        confidence: of the intervals; p values below 1 minus it are called more than chance explains.
        min_n: figures on fewer samples are not told.
        again: what was found in the preferred correction.
    """
    index = MetricIndex(metrics, min_n)
    lines = [verdict_sentence(gate, verdict)]
    lines += [_about_bias(bias, index) for bias in biases] or _nothing(findings)
    if best is not None:
        lines += _about_correction(best, biases, index, attacked_by, confidence)
    elif biases:
        lines.append("No correction is preferred: none was fitted that may be chosen.")
    if again is not None:
        lines.append(_about_second_search(again))
    return lines


def verdict_sentence(gate: list[GateResult], verdict: str) -> str:
    """Return the verdict with what is behind it, such as "FAIL: 2 of 4 rules are not met."."""
    if verdict == "no_gate":
        return "No gate was declared, so there is no verdict."
    total, blocking = len(gate), sum(result.blocking for result in gate)
    if verdict == "pass":
        return f"PASS: {'the one rule is' if total == 1 else f'all {total} rules are'} met."
    if verdict == "fail":
        reasons = _counted(result.status for result in gate if result.blocking)
        return f"FAIL: {blocking} of {_rules(total)} {'is' if blocking == 1 else 'are'} not met ({reasons})."
    open_rules = [result.status for result in gate if result.status != "pass"]
    return (
        f"CONDITIONAL: no rule that blocks is missed, but {len(open_rules)} of {_rules(total)} "
        f"{'is' if len(open_rules) == 1 else 'are'} not met ({_counted(open_rules)}); each needs a person's decision."
    )


def severity(audit: Audit, bias: Bias) -> Severity:
    """Return how much a bias of the audit matters, for the card that shows it."""
    index = MetricIndex(audit.metrics, audit.min_n)
    prevalence = index.find(PIPELINE, "asis", bias.id, "prevalence")
    removed = index.find(ORIGINAL, "removed", bias.id, "flip_rate")
    inserted = index.find(ORIGINAL, "inserted", bias.id, "flip_rate")
    effect, how = (removed, REMOVING) if removed else (inserted, PASTING)
    harm = audit.declared.harm.get(bias.id)
    parts = [
        f"prevalence {percent(prevalence.value)}" if prevalence else "prevalence not measured",
        f"{how} changes {percent(effect.value)} of predictions" if effect else "effect on predictions not measured",
        f"harm: {harm or 'not declared'}",
    ]
    return Severity(prevalence.value if prevalence else None, effect.value if effect else None, harm, ", ".join(parts))


def percent(share: float, digits: int = 0) -> str:
    """Write a share as a percentage; below 1 % and above 99 % with a decimal, so that little is not written as 0."""
    size = abs(share) * 100
    if digits == 0 and (0 < size < 1 or 99 < size < 100):
        digits = 1
    return f"{_rounded(100 * share, digits)} %"


def _about_bias(bias: Bias, index: MetricIndex) -> str:
    prevalence = index.find(PIPELINE, "asis", bias.id, "prevalence")
    share = f", {percent(prevalence.value)} of its training images" if prevalence else ""
    name = f"bias {bias.id} (class {bias.class_name}{share})"
    removed, removed_is_clear = _removed(bias, index)
    inserted, inserted_is_clear = _inserted(bias, index)
    if not (removed or inserted):
        return f"{name[0].upper()}{name[1:]} was found; what it does to predictions was not measured."
    clear = removed_is_clear or inserted_is_clear
    start = f"The model leans on {name}" if clear else f"No clear effect of {name} on the predictions"
    return f"{start}: {'; '.join(filter(None, [removed, inserted]))}."


def _removed(bias: Bias, index: MetricIndex) -> tuple[str, bool]:
    """Return what filling the bias in does, "" where that was not measured, and whether it speaks for the bias."""
    logit = index.find(ORIGINAL, "removed", bias.id, "relative_logit_shift")
    flips = index.find(ORIGINAL, "removed", bias.id, "flip_rate")
    control = index.find(ORIGINAL, "removed", bias.id, "flip_rate_elsewhere")
    logit_control = index.find(ORIGINAL, "removed", bias.id, "relative_logit_shift_elsewhere")
    parts = []
    if logit:
        parts.append(_logit_text(logit, bias.class_name))
    if flips:
        parts.append(f"changes {percent(flips.value)} of predictions")
    if not parts:
        return "", False
    falls = logit is not None and logit.upper < min(0.0, logit_control.lower if logit_control else 0.0)
    clear = falls or bool(flips and _beyond(flips, control))
    return f"{REMOVING} {' and '.join(parts)} {_samples(flips or logit, control)}", clear


def _inserted(bias: Bias, index: MetricIndex) -> tuple[str, bool]:
    """Return what pasting the bias into other images does, "" where that was not measured, and whether it is clear."""
    turned = index.find(ORIGINAL, "inserted", bias.id, "flip_to_class_rate")
    measured = "flip_to_class_rate" if turned else "flip_rate"
    shown = turned or index.find(ORIGINAL, "inserted", bias.id, "flip_rate")
    control = index.find(ORIGINAL, "inserted", bias.id, f"{measured}_elsewhere")
    if shown is None:
        return "", False
    share = f"{percent(shown.value)} of them"
    what = f"turns {share} into {bias.class_name}" if turned else f"changes the predictions of {share}"
    return f"{PASTING} {what} {_samples(shown, control)}", _beyond(shown, control)


def _beyond(rate: Metric, control: Metric | None) -> bool:
    """Tell whether a rate exceeds that of its control, with both intervals; without a control, whether it exceeds 0."""
    return rate.lower > (control.upper if control else 0.0)


def _logit_text(shift: Metric, class_name: str) -> str:
    lower, upper = (_rounded(100 * bound) for bound in (shift.lower, shift.upper))
    if shift.upper < 0:
        size, bounds = percent(-shift.value), (_rounded(-100 * shift.upper), _rounded(-100 * shift.lower))
        return f"lowers the logit of {class_name} by {size} [{bounds[0]}, {bounds[1]}]"
    if shift.lower > 0:
        return f"raises the logit of {class_name} by {percent(shift.value)} [{lower}, {upper}]"
    return f"makes no clear change of the logit of {class_name} ({percent(shift.value)} [{lower}, {upper}])"


def _share_text(row: Metric, digits: int = 0) -> str:
    return f"{percent(row.value, digits)} [{_rounded(100 * row.lower, digits)}, {_rounded(100 * row.upper, digits)}]"


def _samples(row: Metric, control: Metric | None) -> str:
    """Return the number of samples, and what share of predictions the same change elsewhere in the image flips."""
    return f"(n = {row.n}; the same done elsewhere: {percent(control.value)})" if control else f"(n = {row.n})"


def _nothing(findings: list[Finding]) -> list[str]:
    lines = ["Nothing suspicious enough to be taken for a bias was found."]
    if findings:
        top = findings[0]
        lines.append(
            f"The most suspicious finding: {len(top.sample_ids)} samples of class {top.class_name} share a reason of "
            f"their own (suspicion {top.score:.2f}, found by {top.detector})."
        )
    return lines


def _about_correction(
    best: str, biases: list[Bias], index: MetricIndex, attacked_by: str, confidence: float
) -> list[str]:
    attacked = ATTACK.get(attacked_by, "in the attacked world")
    without = "clean" if index.find(ORIGINAL, "clean", "all", "balanced_accuracy") else "asis"
    place = "on clean test images" if without == "clean" else "on the test images as they are"
    gained = _before_after(index, best, "attacked", "balanced_accuracy")
    cost = _before_after(index, best, without, "balanced_accuracy")
    lines = []
    if gained:
        gain = _gain(best, "attacked", index, confidence)
        lines.append(f"With the preferred correction, {best}, balanced accuracy {attacked} goes {gained}{gain}.")
    if cost:
        lines.append(f"With {best}, balanced accuracy {place} goes {cost}{_gain(best, without, index, confidence)}.")
    return lines + _flips(best, biases, index, attacked)


def _before_after(index: MetricIndex, best: str, world: str, metric: str) -> str:
    before, after = index.find(ORIGINAL, world, "all", metric), index.find(best, world, "all", metric)
    return f"from {_share_text(before, 1)} to {_share_text(after, 1)}" if before and after else ""


def _gain(best: str, world: str, index: MetricIndex, confidence: float) -> str:
    """Return the paired change of accuracy with what McNemar's test says of it; "" where neither was measured."""
    gain = index.find(best, world, "all", "accuracy_gain")
    p = index.find(best, world, "all", "mcnemar_p_adjusted")
    parts = []
    if gain:
        clear = "" if gain.lower > 0 or gain.upper < 0 else ", no clear change"
        bounds = f"[{_rounded(100 * gain.lower, 1)}, {_rounded(100 * gain.upper, 1)}]"
        parts.append(f"accuracy changes by {100 * gain.value:+.1f} points {bounds}{clear}")
    if p:
        parts.append(f"{'more' if p.value < 1 - confidence else 'no more'} than chance explains")
    return f"; {', '.join(parts)}" if parts else ""


def _flips(best: str, biases: list[Bias], index: MetricIndex, attacked: str) -> list[str]:
    """Return how many predictions change, before and after: in the attacked world, else bias by bias."""
    places = [("attacked", "all", f"Predictions that change {attacked}")]
    for bias in biases:
        places.append(("removed", bias.id, f"Predictions that change by filling in bias {bias.id}"))
        places.append(("inserted", bias.id, f"Predictions that change by pasting in bias {bias.id}"))
    lines = []
    for world, subgroup, what in places:
        before = index.find(ORIGINAL, world, subgroup, "flip_rate")
        after = index.find(best, world, subgroup, "flip_rate")
        if before and after:
            lines.append(f"{what}: {_share_text(before)} before, {_share_text(after)} after {best}.")
        if lines and world == "attacked":
            break
    return lines


def _about_second_search(again: SearchedAgain) -> str:
    if not again.accepted:
        return f"The detectors searched {again.model} again and found no new bias."
    count = len(again.accepted)
    names = ", ".join(again.accepted)
    return f"The detectors searched {again.model} again and accepted {count} new bias{'es' * (count > 1)}: {names}."


def _counted(statuses: Iterable[str]) -> str:
    words = {"warn": "missed, a warning", "fail": "missed", "error": "without a usable figure", "not_run": "not run"}
    found = list(statuses)
    return ", ".join(f"{found.count(status)} {word}" for status, word in words.items() if status in found)


def _rules(count: int) -> str:
    return f"{count} rule{'s' * (count != 1)}"


def _rounded(value: float, digits: int = 0) -> str:
    # Without the sign of a zero.
    return f"{round(value, digits) + 0.0:.{digits}f}"
