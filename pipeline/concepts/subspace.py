"""Several directions at once: what a single concept activation vector leaves of a concept in a layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.config.reveal import CavKind
from pipeline.errors import DataError

from .cav import NoDirection, fit_cav, held_out_auroc, is_constant
from .stored import Stored

RANK = 1e-10
CHANCE = 0.5


@dataclass(frozen=True)
class Subspace(Stored):
    """Orthonormal directions along which a concept moves features.

    Attributes:
        basis: `[D, k]`, orthonormal columns; k = 0 where nothing was found.
        offset: `[D]`, mean features of samples without the concept.
        kind: how it was found.
        layer: name of the layer.
        pooling: how positions were pooled into features, as in `Cav`.
    """

    basis: np.ndarray
    offset: np.ndarray
    kind: str
    layer: str = ""
    pooling: str = "max"

    def project_out(self, features: np.ndarray) -> np.ndarray:
        """Return features `[N, D]` that agree with the offset along every direction, and are unchanged across."""
        return features - ((features - self.offset) @ self.basis) @ self.basis.T


@dataclass(frozen=True)
class Eraser(Stored):
    """An affine map that takes away all that linear classifiers know of a concept: x - moved measured^T (x - offset).

    Unlike an orthogonal projection it measures the concept along other directions than it moves features, by filters
    and along patterns, and of all such maps it moves features least.

    Attributes:
        moved: `[D, k]`.
        measured: `[D, k]`; `measured.T @ moved` is the identity.
        offset: `[D]`, mean features of all samples, which stays.
        kind: how it was found.
        layer: name of the layer.
        pooling: how positions were pooled into features, as in `Cav`.
    """

    moved: np.ndarray
    measured: np.ndarray
    offset: np.ndarray
    kind: str = "leace"
    layer: str = ""
    pooling: str = "max"

    def project_out(self, features: np.ndarray) -> np.ndarray:
        """Return features `[N, D]` without the concept."""
        return features - ((features - self.offset) @ self.measured) @ self.moved.T


def iterative_subspace(
    features: np.ndarray,
    labels: np.ndarray,
    kind: CavKind,
    k: int,
    *,
    layer: str = "",
    pooling: str = "max",
    seed: int = 0,
) -> Subspace:
    """Fit a direction, project it out, fit the next, until held-out evidence falls to chance or there are k.

    Filters find several directions. A pattern takes the whole difference of the means away at once, so "pattern" and
    "mean" end at one.

    Args:
        features: `[N, D]`.
        labels: `[N]`, true where the concept is present; each value must occur at least twice.
        kind: of CAV.
        k: most directions.
        layer: where the features come from.
        pooling: how positions were pooled.
        seed: of the folds.

    Source: iterative null-space projection, Ravfogel et al., ACL 2020.
    """
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels, dtype=bool)
    found = Subspace(np.zeros((features.shape[1], 0)), features[~labels].mean(0), kind, layer, pooling)
    remaining = features
    while found.basis.shape[1] < min(k, features.shape[1]) and not is_constant(remaining):
        if held_out_auroc(remaining, labels, kind, seed=seed).lower <= CHANCE:
            break
        try:
            direction = fit_cav(remaining, labels, kind).direction
        except NoDirection:
            break
        # a filter of projected features may point slightly back into what is gone already
        across = direction - found.basis @ (found.basis.T @ direction)
        length = np.linalg.norm(across)
        if length < RANK:
            break
        basis = np.concatenate([found.basis, across[:, None] / length], 1)
        found = Subspace(basis, found.offset, kind, layer, pooling)
        remaining = found.project_out(features)
    return found


def paired_subspace(
    having: np.ndarray, without: np.ndarray, k: int, *, layer: str = "", pooling: str = "max"
) -> Subspace:
    """Return the principal directions of what a concept changes in paired features.

    Args:
        having: `[N, D]`, features of samples with the concept.
        without: `[N, D]`, of the same samples without it.
        k: most directions; fewer where the differences span fewer.
        layer: where the features come from.
        pooling: how positions were pooled.

    Raises:
        DataError: the shapes differ.
    """
    having, without = np.asarray(having, dtype=np.float64), np.asarray(without, dtype=np.float64)
    if having.shape != without.shape or not len(having):
        raise DataError(
            f"Paired features need one row with and one without the concept for each sample; the shapes are "
            f"{having.shape} and {without.shape}. Pass features of the same samples in the same order."
        )
    # not centered: the mean change is what all samples share of the concept
    _, sizes, directions = np.linalg.svd(having - without, full_matrices=False)
    kept = sizes[:k] > RANK * max(sizes[0], np.finfo(float).tiny)
    return Subspace(directions[:k][kept].T, without.mean(0), "paired", layer, pooling)


def least_squares_eraser(
    features: np.ndarray, concepts: np.ndarray, *, shrinkage: float = 0.0, layer: str = "", pooling: str = "max"
) -> Eraser:
    """Return the map after which no linear classifier does better than a constant on these samples, in closed form.

    Features are whitened, the directions of their cross-covariance with the concepts are projected out, and the
    whitening is undone. Afterwards the cross-covariance is 0, which is the same as that statement.

    Args:
        features: `[N, D]`.
        concepts: `[N]` or `[N, k]`, labels or any numbers.
        shrinkage: what is added to every variance before whitening, as a share of their mean. The statement holds for
            any; 0 moves features least, more trusts directions of small variance less, up to the orthogonal projection
            along the cross-covariance.
        layer: where the features come from.
        pooling: how positions were pooled.

    Source: Belrose et al., "LEACE: perfect linear concept erasure in closed form", NeurIPS 2023, theorem 4.2.
    """
    features = np.asarray(features, dtype=np.float64)
    concepts = np.asarray(concepts, dtype=np.float64).reshape(len(features), -1)
    offset = features.mean(0)
    centered, concepts = features - offset, concepts - concepts.mean(0)
    variances, axes = _principal_axes(centered)
    roots = np.sqrt(variances + shrinkage * variances.mean()) if len(variances) else variances
    # in principal axes whitening is a division by the deviations
    whitened = ((centered @ axes).T @ concepts / len(features)) / roots[:, None]
    directions, sizes, _ = np.linalg.svd(whitened, full_matrices=False)
    directions = directions[:, sizes > RANK]
    return Eraser(
        axes @ (roots[:, None] * directions), axes @ (directions / roots[:, None]), offset, "leace", layer, pooling
    )


def _principal_axes(centered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variances `[R]` that are not 0 and their axes `[D, R]`, from the smaller of both Gram matrices."""
    count, dimensions = centered.shape
    if count >= dimensions:
        variances, axes = np.linalg.eigh(centered.T @ centered / count)
        kept = variances > RANK * max(variances[-1], np.finfo(float).tiny)
        return variances[kept], axes[:, kept]
    _, sizes, axes = np.linalg.svd(centered, full_matrices=False)
    variances = sizes**2 / count
    kept = variances > RANK * max(variances[0], np.finfo(float).tiny)
    return variances[kept], axes[kept].T
