"""What an artifact does to predictions when it is put into samples, or taken out: figures from logits with and without.

Each figure is a mean over samples; where an intervention was repeated at several places, first over the repeats of each
sample, because the samples, not the repeats, are what is drawn from a population.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.special import softmax

from pipeline.data.pasted import PastedView
from pipeline.statistics import Interval, bootstrap, paired_mean_change, unmeasured, wilson

Direction = Literal["inserted", "removed"]
SMALLEST_MEAN_LOGIT = 1e-6
SMALLEST_STEP = 1e-6
"""Of color, where values are in [0, 1]: below it, the surroundings of the donors are flat and no measure of a step."""


def intervention(
    before: np.ndarray,
    after: np.ndarray,
    labels: np.ndarray,
    class_id: int,
    *,
    direction: Direction,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Interval]:
    """Return the effect of an intervention on predictions, metric name -> figure.

    - flip_rate: share of predictions that change.
    - flip_to_class_rate: inserted: of the samples not predicted as the class, the share that becomes so; removed: of
      those predicted as the class, the share that no longer is. n counts these samples.
    - logit_shift, probability_shift: mean change of the class's logit and of its softmax probability.
    - relative_logit_shift: sum of the changes of the logit over the sum of its magnitudes before; nan where these are 0
      on average.
    - accuracy_change: accuracy after minus before, on the same samples.

    Args:
        before: logits `[N, K]` of the samples as they are.
        after: logits `[P, N, K]` of the same samples with the intervention, for each of P placements.
        labels: class ids `[N]`.
        class_id: the bias's class.
        direction: whether the artifact was inserted or removed.
        confidence, resamples, seed: of the intervals; see `mean_of_shares` for shares.

    Raises:
        ValueError: the shapes do not belong together, or the direction is unknown.
    """
    if direction not in ("inserted", "removed"):
        raise ValueError(f"unknown direction '{direction}'; allowed are inserted and removed")
    resampling = {"resamples": resamples, "confidence": confidence, "seed": seed}
    changed = changed_predictions(before, after, labels, **resampling)
    was, becomes = before.argmax(1), after.argmax(2)
    concerned = (was != class_id) if direction == "inserted" else (was == class_id)
    moved = (becomes == class_id) if direction == "inserted" else (becomes != class_id)
    logits = before[:, class_id].astype(np.float64), after[:, :, class_id].mean(0, dtype=np.float64)
    probabilities = [softmax(each.astype(np.float64), axis=-1)[..., class_id] for each in (before, after)]
    return changed | {
        "flip_to_class_rate": mean_of_shares(moved[:, concerned], **resampling),
        "logit_shift": paired_mean_change(*logits, **resampling),
        "relative_logit_shift": ratio_of_sums(
            logits[1] - logits[0], np.abs(logits[0]), SMALLEST_MEAN_LOGIT, **resampling
        ),
        "probability_shift": paired_mean_change(probabilities[0], probabilities[1].mean(0), **resampling),
    }


def changed_predictions(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray, *, confidence: float, resamples: int, seed: int
) -> dict[str, Interval]:
    """Return flip_rate and accuracy_change, which ask for no class; see `intervention`."""
    _require_fitting(before, after)
    if len(labels) != len(before):
        raise ValueError(f"{len(labels)} labels do not fit logits of {len(before)} samples")
    resampling = {"resamples": resamples, "confidence": confidence, "seed": seed}
    was, becomes = before.argmax(1), after.argmax(2)
    correct = (becomes == labels).mean(0) - (was == labels)
    return {
        "flip_rate": mean_of_shares(becomes != was, **resampling),
        "accuracy_change": _paired_change(correct, **resampling),
    }


def paste_seam(views: list[PastedView], rows: np.ndarray, *, confidence: float, resamples: int, seed: int) -> Interval:
    """Return the step of color across the border of what was pasted, over that across the same border in the donors.

    1 = as in nature, above 1 the border shows more than the artifact's own. A step is the absolute difference of two
    neighboring values, the mean over channels. Of all pairs of neighbors those count where the donor's share changes,
    by how much it does: with a hard cut the pairs across the border, with a seam all pairs in it. Means over the
    borders of each sample and its placements; the ratio is that of their sums over samples, with a bootstrap interval.
    nan where the donors are flat at their borders, as on a black background.

    Args:
        views: data sets with something pasted in, one for each placement.
        rows: samples to look at.
        confidence, resamples, seed: of the interval.
    """
    steps = [[_steps(view, int(row)) for view in views] for row in rows]
    if not steps or not views:
        return unmeasured(0)
    known = np.array([np.mean(each, axis=0) for each in steps])
    known = known[~np.isnan(known).any(1)]  # a region that fills the image has no border
    return ratio_of_sums(known[:, 0], known[:, 1], SMALLEST_STEP, confidence=confidence, resamples=resamples, seed=seed)


def mean_of_shares(flags: np.ndarray, *, confidence: float, resamples: int, seed: int) -> Interval:
    """Return the mean over samples of each one's share of flags.

    With one flag for each sample Wilson's interval; with several the bootstrap over samples, unless all flags are
    equal: then resampling knows of no variation, and Wilson's interval for as many samples stands.

    Args:
        flags: booleans `[P, N]`, P repeats of N samples.
    """
    repeats, n = flags.shape
    successes = int(flags.sum())
    if repeats == 1 or successes in (0, flags.size):
        return wilson(successes // repeats, n, confidence)
    return bootstrap(flags.mean(0), resamples=resamples, confidence=confidence, seed=seed)


def ratio_of_sums(
    numerators: np.ndarray,
    denominators: np.ndarray,
    smallest: float,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    """Return the sum of the first over the sum of the second, both `[N]`, with a bootstrap interval over samples.

    nan where the mean of the denominators, which are not negative, is not above `smallest`.
    """
    n = len(numerators)
    if n == 0 or not denominators.mean() > smallest:
        return unmeasured(n)

    def ratio(pairs: np.ndarray) -> float:
        above, below = pairs.sum(0)
        return above / max(below, smallest * n)

    pairs = np.stack([numerators, denominators], 1).astype(np.float64)
    return bootstrap(pairs, ratio, resamples=resamples, confidence=confidence, seed=seed)


def _paired_change(changes: np.ndarray, *, confidence: float, resamples: int, seed: int) -> Interval:
    """Return the mean of changes `[N]` in -1..1; where there is none, bounds say how many might have gone unseen."""
    if len(changes) and not changes.any():
        reach = wilson(0, len(changes), confidence).upper
        return Interval(0.0, -reach, reach, len(changes))
    return bootstrap(changes, resamples=resamples, confidence=confidence, seed=seed)


def _steps(view: PastedView, row: int) -> tuple[float, float]:
    """Return the mean step across the border in a sample and in its donor, weighted by the change of shares."""
    donor, shares = view.donor(row)
    return _step(view[row].x.numpy(), view.shares(row)), _step(donor.numpy(), shares)


def _step(image: np.ndarray, shares: np.ndarray) -> float:
    """Return the mean step of `[C, ...positions]` between neighbors, weighted by the change of shares `[...]`."""
    total = weight = 0.0
    for axis in range(shares.ndim):
        change = np.abs(np.diff(shares.astype(np.float64), axis=axis))
        total += (change * np.abs(np.diff(image.astype(np.float64), axis=axis + 1)).mean(0)).sum()
        weight += change.sum()
    return float(total / weight) if weight > 0 else np.nan


def _require_fitting(before: np.ndarray, after: np.ndarray) -> None:
    if before.ndim != 2 or after.ndim != 3 or len(after) == 0 or after.shape[1:] != before.shape:
        raise ValueError(
            f"logits [N, K] before and [P, N, K] after expected, P at least 1; got {list(before.shape)} and "
            f"{list(after.shape)}"
        )
