"""Sums from which weighted least squares are solved: folds share them, since what is held out is subtracted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RANK = 1e-12


@dataclass(frozen=True)
class Moments:
    """Sums over the samples without and with the concept.

    Attributes:
        counts: `[2]`.
        sums: `[2, D]`.
        grams: `[2, D, D]`, of x x^T; features should be centered roughly, or digits are lost.
    """

    counts: np.ndarray
    sums: np.ndarray
    grams: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray) -> Moments:
        """Sum features `[N, D]` by their boolean labels `[N]`."""
        groups = [features[~labels], features[labels]]
        return cls(
            np.array([len(group) for group in groups]),
            np.stack([group.sum(0) for group in groups]),
            np.stack([group.T @ group for group in groups]),
        )

    def without(self, held_out: Moments) -> Moments:
        """Return the sums of the other samples."""
        return Moments(self.counts - held_out.counts, self.sums - held_out.sums, self.grams - held_out.grams)

    @property
    def weights(self) -> np.ndarray:
        """Weight of a sample of each group `[2]`, N / (2 N_c)."""
        return self.counts.sum() / (2 * self.counts)


def compress(features: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return features `[N, R]` in fewer dimensions that keep all inner products, and the way back `[N, R]`.

    What is regularized by the length of its weights depends on inner products alone, and its weights are a combination
    of samples: with fewer samples than dimensions everything happens in R <= N dimensions, found from the N x N Gram
    matrix. Weights found there become `features.T @ (back @ weights)`. With as many samples as dimensions, or more,
    features are returned as they are, and no way back.
    """
    if len(features) >= features.shape[1]:
        return features, None
    values, vectors = np.linalg.eigh(features @ features.T)
    kept = values > RANK * max(values[-1], 0.0)
    roots = np.sqrt(values[kept])
    return vectors[:, kept] * roots, vectors[:, kept] / roots


def expand(weights: np.ndarray, features: np.ndarray, back: np.ndarray | None) -> np.ndarray:
    """Return weights `[D]` for features `[N, D]`, from weights of what `compress` returned."""
    return weights if back is None else features.T @ (back @ weights)
