"""From which score a sample counts as positive, and what that finds and spares."""

from __future__ import annotations

import math

import numpy as np

from ..errors import DataError
from .checks import binary, equal_lengths
from .intervals import Interval, unmeasured, wilson

RULES = ("youden", "sensitivity", "specificity", "one_half")


def choose_threshold(scores: np.ndarray, labels: np.ndarray, rule: str, at: float | None = None) -> float:
    """Return the threshold from which a score counts as positive, chosen on samples that are not the tested ones.

    It lies midway between two neighbouring scores, between 0 and the smallest or between the largest and 1; where the
    largest is 1 and no sample may count as positive, just above 1.

    Args:
        scores: probability of the positive class `[N]`, in [0, 1].
        labels: `[N]` of 0 and 1 (or booleans).
        rule: "youden": largest sensitivity + specificity, and among equally good thresholds the one in the widest gap
            between scores, then the smallest. "sensitivity": the largest threshold with a sensitivity of at least `at`.
            "specificity": the smallest one with a specificity of at least `at`. "one_half": 1/2, whatever the scores.
        at: in (0, 1], for the rules sensitivity and specificity.

    Raises:
        DataError: when lengths differ, labels are not binary, scores are no probabilities, the rule is unknown, or `at`
            is missing; unless the rule is one_half, also when a class is absent.

    Source: Youden, "Index for rating diagnostic tests", Cancer 1950.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), binary("labels", labels)
    equal_lengths(scores=scores, labels=labels)
    if rule not in RULES:
        raise DataError(f"There is no rule '{rule}' for a threshold. Choose one of {', '.join(RULES)}.")
    if rule == "one_half":
        return 0.5
    _check(scores, labels, rule, at)
    # The k-th threshold makes samples positive from the k-th distinct score on, the last one none.
    distinct, place = np.unique(scores, return_inverse=True)
    missed = np.append(0, np.cumsum(np.bincount(place[labels], minlength=len(distinct))))
    spared = np.append(0, np.cumsum(np.bincount(place[~labels], minlength=len(distinct))))
    positives, negatives = int(labels.sum()), int((~labels).sum())
    edges = np.concatenate([[min(0.0, distinct[0])], distinct, [max(1.0, distinct[-1])]])
    if rule == "sensitivity":
        chosen = np.flatnonzero((positives - missed) / positives >= at)[-1]
    elif rule == "specificity":
        chosen = np.flatnonzero(spared / negatives >= at)[0]
    else:
        # in whole numbers, so that equally good thresholds are equal
        gain = spared * positives - missed * negatives
        best = np.flatnonzero(gain == gain.max())
        chosen = best[np.argmax(np.diff(edges)[best])]
    return _between(edges[chosen], edges[chosen + 1], first=chosen == 0)


def sensitivity_specificity(
    scores: np.ndarray, labels: np.ndarray, threshold: float, confidence: float = 0.95
) -> tuple[Interval, Interval]:
    """Return the share of positives that reach the threshold and the share of negatives that do not, with Wilson's.

    Args:
        scores: `[N]`, larger = more positive. A nan among them gives nan.
        labels: `[N]` of 0 and 1 (or booleans). A class that is absent leaves its share nan.
        threshold: samples with a score of at least this count as positive.
        confidence: in (0, 1).

    Returns:
        Sensitivity, with the number of positives as n, and specificity, with that of negatives.

    Raises:
        DataError: when lengths differ or labels are not binary.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), binary("labels", labels)
    equal_lengths(scores=scores, labels=labels)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if np.isnan(scores).any():
        return unmeasured(positives), unmeasured(negatives)
    called = scores >= threshold
    return wilson(called[labels].sum(), positives, confidence), wilson((~called[~labels]).sum(), negatives, confidence)


def _check(scores: np.ndarray, labels: np.ndarray, rule: str, at: float | None) -> None:
    if labels.all() or not labels.any():
        found = (
            f"all {len(labels)} are {'positive' if labels.any() else 'negative'}" if len(labels) else "there are none"
        )
        raise DataError(
            f"A threshold by the rule '{rule}' needs samples of both classes, but {found}. "
            "Choose it on a split that has both, or use the rule 'one_half'."
        )
    wrong = ~((scores >= 0) & (scores <= 1))
    if wrong.any():
        raise DataError(f"scores must be probabilities in [0, 1], not {scores[wrong][0]}. Pass those of one class.")
    if rule in ("sensitivity", "specificity") and (at is None or not 0 < at <= 1):
        raise DataError(
            f"The rule '{rule}' needs the level that it has to reach, in (0, 1], not {at}, for example 0.9."
        )


def _between(below: float, above: float, *, first: bool) -> float:
    """Return a number above `below`, and at most `above`; midway, where floating point has one there.

    With `first`, below is no score, so that the threshold may equal it.
    """
    middle = below + (above - below) / 2
    if middle > below or first:
        return float(middle)
    return float(above) if above > below else math.nextafter(above, math.inf)
