"""Outliers: samples whose relevance is unlike that of all others of their class.

Distances are taken between the samples' features, not in the spectral embedding: in it, the row of a lone sample is the
mean of its neighbours' rows, and a group of more than k alike samples is an island in one spot, so that both are among
the least conspicuous. Measured on Gaussian samples with planted strangers, the mean distance to the nearest ranks them
above ordinary samples with an AUROC near 1 in the features, and of 0.4 to 0.7 in the embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.config.reveal import OutliersConfig

from .candidates import Candidate, Detection
from .spaces import normalize_rows, space_features
from .view import DataView

PART = 1000
"""Samples are compared in random parts of at most this many, so that cost grows with their number alone."""
LEADING = 8
SAMPLES_PER_DIRECTION = 10
SMALLEST = 12
TINY = 1e-30

Score = Literal["knn", "lof"]


@dataclass(frozen=True)
class OutlierScores:
    """Scores of N samples.

    Attributes:
        scores: `[N]`, larger = more unlike the others.
        threshold: what a share `level` of samples exceeds under the null.
        null: scores under the null `[P]`, pooled over the permutations, with the median of `scores`.
    """

    scores: np.ndarray
    threshold: float
    null: np.ndarray

    @property
    def members(self) -> np.ndarray:
        """Who is an outlier, booleans `[N]`."""
        return self.scores > self.threshold

    @property
    def p_values(self) -> np.ndarray:
        """Share of null scores at least as large `[N]`, in (0, 1]; counted with the sample itself, hence never 0."""
        below = np.searchsorted(np.sort(self.null), self.scores, side="left")
        return (1 + len(self.null) - below) / (1 + len(self.null))


def find_outliers(
    features: np.ndarray,
    *,
    score: Score = "knn",
    neighbors: int = 8,
    level: float = 0.01,
    permutations: int = 20,
    seed: int = 0,
) -> OutlierScores:
    """Score samples by their neighbours, and calibrate the threshold by permutation.

    Args:
        features: `[N, D]`, N at least 3, rows scaled alike.
        score: see `neighbor_scores`.
        neighbors: others that count.
        level: share of samples above the threshold where there are no outliers, in (0, 0.5).
        permutations: null samples whose scores are pooled; spread over the parts where there are several.
        seed: of the parts and the permutations.

    The null says: samples differ along the leading directions of the class independently of one another, and
    independently of all else. `null_sampler` makes such samples from the samples themselves, so that spread along each
    direction, heavy tails and noise stay as they are. More than 1,000 samples are split at random into equal parts,
    and null samples are as many as a part, because distances to neighbours depend on how many samples there are.

    Found: samples far from all others, and groups of at most `neighbors` alike ones that together make up no more than
    about `level`. Not found: larger groups of alike samples. They are one another's neighbours (an island of the
    neighbour graph, which `spray` finds), or widen the null along the direction that they share.

    Null scores are scaled to the median of the samples' own, which outliers hardly move: null samples lie somewhat
    farther apart where they fill the space between clusters, and nearer where there are fewer samples than directions.

    How far the threshold keeps its word, as the share above it without outliers at levels 0.01 and 0.05 (five draws
    of 100 to 600 samples in 64 and 512 directions, both scores): correlated Gaussians 0.01 to 0.02 and 0.05 to 0.06;
    their rows scaled to one sum, which null samples do not keep to, 0 and 0.002; pure noise 0 to 0.01 and 0 to 0.05;
    four clusters 0 to 0.03 and 0.02 to 0.11; heavy tails 0.01 to 0.05 and 0.03 to 0.11.
    """
    features = np.asarray(features, dtype=np.float32)
    generator = np.random.default_rng(seed)
    parts = np.array_split(generator.permutation(len(features)), -(-len(features) // PART))
    scores = np.empty(len(features))
    for part in parts:
        scores[part] = neighbor_scores(features[part], neighbors, score)
    samplers = [null_sampler(features[part]) for part in parts[:permutations]]
    null = [
        neighbor_scores(samplers[number % len(samplers)](generator), neighbors, score) for number in range(permutations)
    ]
    pooled = np.concatenate(null)
    pooled *= np.median(scores) / max(np.median(pooled), TINY)
    return OutlierScores(scores, float(np.quantile(pooled, 1 - level)), pooled)


def neighbor_scores(features: np.ndarray, neighbors: int, score: Score = "knn") -> np.ndarray:
    """Return how far each sample `[N, D]` is from its nearest others `[N]`, larger = farther.

    Args:
        features: compared by Euclidean distance; N at least 2.
        neighbors: others that count; lowered to N - 1.
        score: "knn" = mean distance to them; "lof" = local outlier factor (Breunig et al. 2000), about 1 where a
            sample lies as densely as its neighbours.
    """
    from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

    neighbors = min(neighbors, len(features) - 1)
    if score == "lof":
        return -LocalOutlierFactor(n_neighbors=neighbors).fit(features).negative_outlier_factor_
    distances, _ = NearestNeighbors(n_neighbors=neighbors).fit(features).kneighbors()
    return distances.mean(1)


def null_sampler(features: np.ndarray) -> Callable[[np.random.Generator], np.ndarray]:
    """Return a function that draws samples `[N, D]` without what ties the leading directions of `[N, D]` together.

    Principal components are uncorrelated; of the first 8 (at most one for every ten samples) each is shuffled over the
    samples on its own, and what they leave of a sample goes as a whole to another. Mean, covariance and the
    distribution along each direction stay, clusters and samples that are unusual in several directions at once go.
    Columns are not shuffled themselves: without their correlations all samples would lie farther apart than the real
    ones, and no outlier would exceed them.
    """
    from sklearn.decomposition import PCA

    count = min(LEADING, max(1, len(features) // SAMPLES_PER_DIRECTION), *features.shape)
    found = PCA(count, svd_solver="full").fit(features)
    components = found.transform(features)
    rest = features - components @ found.components_

    def draw(generator: np.random.Generator) -> np.ndarray:
        return generator.permuted(components, axis=0) @ found.components_ + rest[generator.permutation(len(rest))]

    return draw


class Outliers:
    """The detector `outliers`: the outliers of a class in a space form a candidate."""

    def __init__(self, config: OutliersConfig):
        self.config = config

    def detect(self, view: DataView) -> Detection:
        """Return a group for each class and space with enough outliers, and the scores of all samples."""
        candidates: list[Candidate] = []
        arrays: dict[str, np.ndarray] = {}
        spaces = view.spaces(self.config.spaces, "outliers")
        for each in view.reporter.track(list(view.classes()), "outliers, class by class"):
            if len(each.rows) < max(SMALLEST, 2 * self.config.min_group):
                continue
            for space in spaces:
                found = find_outliers(
                    normalize_rows(space_features(view, each.rows, space)),
                    score=self.config.score,
                    neighbors=self.config.neighbors,
                    level=self.config.level,
                    permutations=self.config.permutations,
                    seed=view.seed,
                )
                place = f"{each.class_id}/{space}"
                arrays |= {
                    f"{place}/rows": each.rows,
                    f"{place}/scores": found.scores,
                    f"{place}/p_values": found.p_values,
                    f"{place}/threshold": np.array(found.threshold),
                }
                members = found.members
                if self.config.min_group <= members.sum() <= len(members) - self.config.min_group:
                    note = (
                        f"{members.sum()} of {len(members)} samples are farther from all others than chance explains "
                        f"({self.config.level:.0%} would be without outliers)"
                    )
                    candidates.append(Candidate("outliers", each.class_id, space, each.rows, members, note=note))
        return Detection(candidates, arrays)
