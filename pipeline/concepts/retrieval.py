"""Which samples show a concept, from a few labels: scores, what to look at next, and how many positives are left.

The scores compare samples by the cosine of their angle in the features of several layers at once, whitened with strong
shrinkage, and fit a ridge regression to the labels there. The thousands of unlabelled samples serve without labels:
they say what is common (the centre and the covariance), so that ten positives are enough to say what is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import DataError
from pipeline.statistics.intervals import Interval, unmeasured

SHRINKAGE = 0.3
RIDGE = 0.3
COMPONENTS = 64
POWER_ITERATIONS = 3
MOST_FITTED = 2000
BLOCK = 4096
TOP_SHARE, BOUNDARY_SHARE = 0.6, 0.2
POOL = 3
PRIOR_PRECISION = 0.1
NEWTON_STEPS = 50
DRAWS = 400
LEFT_SHARE = 0.05

Reason = Literal["top", "boundary", "diverse"]


@dataclass(frozen=True)
class Suggestion:
    """A sample that is worth a label.

    Attributes:
        row: of the data set.
        score: as it was given.
        reason: "top" = it probably shows the concept; "boundary" = the label would tell most about where the line runs;
            "diverse" = it is high up and unlike the other suggestions.
    """

    row: int
    score: float
    reason: Reason


def few_shot_scores(
    features_by_layer: Sequence[np.ndarray],
    positives: np.ndarray,
    negatives: np.ndarray,
    *,
    pool: np.ndarray | None = None,
    shrinkage: float = SHRINKAGE,
    ridge: float = RIDGE,
    components: int = COMPONENTS,
    seed: int = 0,
) -> np.ndarray:
    """Return for every sample `[N]` how much it shows the concept; about 1 = as labelled positives, 0 = as any sample.

    Features of each layer are standardised over the pool and divided by the root of their number, so that layers count
    alike. With z their concatenation, samples are compared by the cosine of W z, where W'W = (S + l I)^-1, S is the
    pool's covariance and l = shrinkage * its largest eigenvalue; of S the leading components are used, the rest is
    small against l. A ridge regression without intercept fits 1 to positives and 0, the value of the pool's mean, to
    negatives: they shall look like any other sample, not like the opposite of the concept.

    A labelled sample gets the score of the fit without it (closed form of leave-one-out: y - a / H, with a = H y and
    H = (K + ridge I)^-1), so that scores of labelled and of new samples mean the same. The cost is O(N D) for each
    component and each label; nothing is of size N x N. Of more than 2,000 labels a random part is fitted.

    Args:
        features_by_layer: for each layer pooled activations `[N, C]`; "max" serves small artifacts best.
        positives: rows that show the concept, at least one.
        negatives: rows that do not; may be empty.
        pool: rows that centre and covariance are taken from, such as training and validation; default: all.
        shrinkage: above 0; larger = the covariance counts less.
        ridge: above 0; larger = the labels count more alike.
        components: leading components of the covariance.
        seed: of the randomised decomposition, and of the part that is fitted.

    Raises:
        DataError: there is no positive, a row is labelled both ways, or features are not finite.

    Source: ridge regression in the space of regularised linear discriminant analysis (Friedman, JASA 1989); randomised
    subspace iteration (Halko, Martinsson and Tropp, SIAM Review 2011).
    """
    positives, negatives = (np.unique(np.asarray(rows, dtype=np.int64)) for rows in (positives, negatives))
    if not len(positives):
        raise DataError("no sample is labelled positive: label at least one that shows the concept.")
    both = np.intersect1d(positives, negatives)
    if len(both):
        raise DataError(f"rows {', '.join(map(str, both[:10]))} are labelled positive and negative. Keep one of each.")
    generator = np.random.default_rng(seed)
    fitted, targets = _fitted_part(positives, negatives, generator)
    count = len(features_by_layer[0])
    table = _Standardized(features_by_layer, np.arange(count) if pool is None else np.asarray(pool, dtype=np.int64))
    metric = _Metric.of(table, shrinkage, min(components, len(table.pool), table.dimensions), generator)
    cosines = _cosines(table, metric, fitted)
    inverse = np.linalg.inv(cosines[fitted] + ridge * np.eye(len(fitted)))
    weights = inverse @ targets
    scores = cosines @ weights
    scores[fitted] = targets - weights / np.diag(inverse)
    return scores


def rank(
    scores: np.ndarray,
    rows: np.ndarray,
    labelled: np.ndarray,
    *,
    count: int = 20,
    boundary: float | None = None,
    embedding: np.ndarray | None = None,
) -> list[Suggestion]:
    """Return samples to look at next, none of them labelled: the highest, some at the boundary, and some unlike these.

    Of `count`, 60 % are the highest scores and 20 % (with a boundary) the scores nearest to it; the rest is diverse,
    from the following `3 * count` samples by score: with an embedding each the farthest from all suggested before
    (Gonzalez 1985), else at even steps.

    Args:
        scores: `[N]` of all samples of the data set; a nan is never suggested.
        rows: who may be suggested.
        labelled: rows with a label of any kind, also "unsure".
        count: how many; fewer are returned where fewer are left.
        boundary: score at which a sample is as likely positive as not, see `Calibration.boundary`.
        embedding: `[N, K]`, such as features of a deep layer.
    """
    scores = np.asarray(scores, dtype=np.float64)
    left = np.setdiff1d(rows, labelled)
    left = left[~np.isnan(scores[left])]
    order = left[np.argsort(-scores[left], kind="stable")]
    count = min(count, len(order))
    at_boundary = 0 if boundary is None or not math.isfinite(boundary) else round(BOUNDARY_SHARE * count)
    top = math.ceil(TOP_SHARE * count)
    chosen: dict[int, Reason] = {int(row): "top" for row in order[:top]}
    rest = order[top:]
    if at_boundary:
        nearest = np.argsort(np.abs(scores[rest] - boundary), kind="stable")[:at_boundary]
        chosen |= {int(row): "boundary" for row in rest[nearest]}
        rest = np.delete(rest, nearest)
    wanted = count - len(chosen)
    near_top = rest[: max(POOL * count, wanted)]
    if embedding is None:
        diverse = near_top[np.linspace(0, len(near_top) - 1, wanted).round().astype(int)] if wanted else near_top[:0]
    else:
        diverse = _farthest(
            np.asarray(embedding, dtype=np.float64), np.array(list(chosen), dtype=int), near_top, wanted
        )
    chosen |= {int(row): "diverse" for row in diverse}
    return [Suggestion(row, float(scores[row]), reason) for row, reason in chosen.items()]


@dataclass(frozen=True)
class Calibration:
    """Probability that a sample is positive, by its score: a logistic curve with the uncertainty of its coefficients.

    Attributes:
        coefficients: (intercept, slope) over standardised scores.
        covariance: `[2, 2]` of the coefficients.
        center: mean of the scores that it was fitted on.
        spread: their standard deviation.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    center: float
    spread: float

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return `[N]` probabilities of scores `[N]`."""
        return _logistic(_design(scores, self.center, self.spread) @ self.coefficients)

    @property
    def boundary(self) -> float:
        """The score of probability one half; nan where the curve does not rise."""
        intercept, slope = self.coefficients
        return self.center - self.spread * intercept / slope if slope > 0 else math.nan


def calibrate(scores: np.ndarray, labels: np.ndarray) -> Calibration | None:
    """Return the calibration of labelled samples, or None where one of the labels is missing.

    A logistic curve (Platt 1999) is fitted with a weak normal prior, so that labels that the scores separate
    perfectly still have one; the covariance is that of the Laplace approximation.

    Samples that were labelled because of their score do not bias the curve. Seeds that were collected because they are
    positive do: leave them out.

    Args:
        scores: `[N]` of labelled samples, held out, as those of `few_shot_scores` are.
        labels: `[N]`, true for positives.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    if labels.all() or not labels.any():
        return None
    center, spread = float(scores.mean()), float(scores.std()) or 1.0
    design = _design(scores, center, spread)
    prior = PRIOR_PRECISION * np.eye(2)
    coefficients = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        probabilities = _logistic(design @ coefficients)
        slope = design.T @ (labels - probabilities) - prior @ coefficients
        curvature = (design.T * (probabilities * (1 - probabilities))) @ design + prior
        coefficients = coefficients + np.linalg.solve(curvature, slope)
    return Calibration(coefficients, np.linalg.inv(curvature), center, spread)


def positives_left(
    calibration: Calibration | None, unlabelled_scores: np.ndarray, *, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return how many of the unlabelled samples are positive: the sum of their probabilities, with an interval.

    The interval holds the central share of counts that are drawn in two steps: a curve from the calibration's normal
    approximation, then the number of positives under it (normal approximation of the Poisson binomial).

    Args:
        calibration: of the labelled samples; None gives nan.
        unlabelled_scores: `[N]`.
        confidence: in (0, 1).
        seed: of the draws.
    """
    scores = np.asarray(unlabelled_scores, dtype=np.float64)
    if calibration is None:
        return unmeasured(len(scores))
    if not len(scores):
        return Interval(0.0, 0.0, 0.0, 0)
    generator = np.random.default_rng(seed)
    drawn = generator.multivariate_normal(calibration.coefficients, calibration.covariance, DRAWS)
    mean, variance = np.zeros(DRAWS), np.zeros(DRAWS)
    design = _design(scores, calibration.center, calibration.spread)
    for start in range(0, len(scores), BLOCK):
        probabilities = _logistic(design[start : start + BLOCK] @ drawn.T)
        mean += probabilities.sum(0)
        variance += (probabilities * (1 - probabilities)).sum(0)
    counts = np.clip(generator.normal(mean, np.sqrt(variance)).round(), 0, len(scores))
    lower, upper = np.quantile(counts, [0.5 - confidence / 2, 0.5 + confidence / 2])
    value = float(calibration.probabilities(scores).sum())
    return Interval(value, float(min(lower, value)), float(max(upper, value)), len(scores))


def enough_found(left: Interval, found: int) -> bool:
    """Return whether searching may stop: fewer positives are left than 1, or than 5 % of those found.

    An unknown number, as long as nothing is labelled negative, is never enough.
    """
    return left.value < max(1.0, LEFT_SHARE * found)


class _Standardized:
    """Features of several layers as one table of standardised columns, without copying them."""

    def __init__(self, layers: Sequence[np.ndarray], pool: np.ndarray):
        self.layers = [np.asarray(layer).reshape(len(layer), -1) for layer in layers]
        self.pool = pool
        self.sizes = [layer.shape[1] for layer in self.layers]
        self.dimensions = sum(self.sizes)
        self.means, self.factors = [], []
        for layer in self.layers:
            if not np.isfinite(layer).all():
                raise DataError("features are not finite. Check the model's activations.")
            part = layer[pool].astype(np.float64)
            spread = part.std(0)
            # constant columns carry nothing; rounding may leave them a spread just above 0
            factor = np.where(spread > 1e-6 * np.abs(part).max(0), 1 / np.maximum(spread, 1e-300), 0.0)
            self.means.append(part.mean(0))
            self.factors.append(factor / math.sqrt(layer.shape[1]))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the standardised features `[len(rows), D]`."""
        parts = zip(self.layers, self.means, self.factors, strict=True)
        return np.concatenate([(layer[rows] - mean) * factor for layer, mean, factor in parts], axis=1)

    def dot(self, matrix: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        """Return the product `[len(rows), K]` with a matrix `[D, K]`."""
        total = 0.0
        for layer, mean, factor, block in self._with(np.split(matrix, np.cumsum(self.sizes)[:-1])):
            scaled = factor[:, None] * block
            total = total + layer[rows] @ scaled.astype(np.float32) - mean @ scaled
        return np.asarray(total, dtype=np.float64)

    def transposed_dot(self, matrix: np.ndarray) -> np.ndarray:
        """Return the product `[D, K]` of the pool's transposed table with a matrix `[len(pool), K]`."""
        small = matrix.astype(np.float32)
        sums = matrix.sum(0)
        return np.concatenate(
            [
                factor[:, None] * (layer[self.pool].T @ small - mean[:, None] * sums)
                for layer, mean, factor in zip(self.layers, self.means, self.factors, strict=True)
            ]
        )

    def squared_lengths(self) -> np.ndarray:
        """Return the squared length of every row `[N]`."""
        lengths = np.zeros(len(self.layers[0]))
        for layer, mean, factor in zip(self.layers, self.means, self.factors, strict=True):
            for start in range(0, len(layer), BLOCK):
                lengths[start : start + BLOCK] += (((layer[start : start + BLOCK] - mean) * factor) ** 2).sum(1)
        return lengths

    def _with(self, blocks: list[np.ndarray]):
        return zip(self.layers, self.means, self.factors, blocks, strict=True)


@dataclass(frozen=True)
class _Metric:
    """The inverse of a shrunk covariance: 1 / floor everywhere, and less along the leading components.

    Attributes:
        basis: `[D, K]`, orthonormal leading components.
        change: `[K]`, what is added to 1 / floor along them.
        floor: what is added to every variance.
    """

    basis: np.ndarray
    change: np.ndarray
    floor: float

    @classmethod
    def of(cls, table: _Standardized, shrinkage: float, components: int, generator: np.random.Generator) -> _Metric:
        trial = table.dot(generator.normal(size=(table.dimensions, components)), table.pool)
        for _ in range(POWER_ITERATIONS):
            trial = table.dot(table.transposed_dot(np.linalg.qr(trial)[0]), table.pool)
        directions, sizes, _ = np.linalg.svd(table.transposed_dot(np.linalg.qr(trial)[0]), full_matrices=False)
        variances = sizes**2 / len(table.pool)
        floor = shrinkage * max(float(variances[0]), 1e-12)
        return cls(directions, 1 / (variances + floor) - 1 / floor, floor)

    def times(self, vectors: np.ndarray) -> np.ndarray:
        """Return the inverse covariance times vectors `[D, K]`."""
        return vectors / self.floor + self.basis @ (self.change[:, None] * (self.basis.T @ vectors))


def _cosines(table: _Standardized, metric: _Metric, fitted: np.ndarray) -> np.ndarray:
    """Return the cosines `[N, L]` of all samples with the fitted ones, in the metric."""
    coordinates = table.dot(metric.basis, slice(None))
    squares = table.squared_lengths() / metric.floor + (coordinates**2) @ metric.change
    inverse_lengths = 1 / np.sqrt(np.maximum(squares, 1e-12))
    directions = table.take(fitted).T * inverse_lengths[fitted]
    return table.dot(metric.times(directions), slice(None)) * inverse_lengths[:, None]


def _fitted_part(
    positives: np.ndarray, negatives: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    rows = np.concatenate([positives, negatives])
    targets = np.concatenate([np.ones(len(positives)), np.zeros(len(negatives))])
    if len(rows) <= MOST_FITTED:
        return rows, targets
    # half of each label, or all of the rarer one
    few = min(len(positives), len(negatives), MOST_FITTED // 2)
    many_positive = len(positives) > len(negatives)
    sizes = (MOST_FITTED - few, few) if many_positive else (few, MOST_FITTED - few)
    parts = [
        generator.choice(each, size, replace=False) for each, size in zip((positives, negatives), sizes, strict=True)
    ]
    return np.concatenate(parts), np.repeat([1.0, 0.0], sizes)


def _farthest(embedding: np.ndarray, chosen: np.ndarray, candidates: np.ndarray, count: int) -> list[int]:
    """Return `count` candidates, each the farthest from all that were chosen before it."""
    found: list[int] = []
    distances = np.full(len(candidates), np.inf)
    for row in chosen:
        distances = np.minimum(distances, np.linalg.norm(embedding[candidates] - embedding[row], axis=1))
    for _ in range(count):
        position = int(distances.argmax())
        found.append(int(candidates[position]))
        new = np.linalg.norm(embedding[candidates] - embedding[candidates[position]], axis=1)
        distances = np.minimum(distances, new)
        distances[position] = -1.0
    return found


def _design(scores: np.ndarray, center: float, spread: float) -> np.ndarray:
    standardized = (np.asarray(scores, dtype=np.float64) - center) / spread
    return np.stack([np.ones_like(standardized), standardized], axis=1)


def _logistic(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(values / 2))
