"""Prototypes: how a class usually comes to be predicted, as a Gaussian mixture of latent relevances (PCX).

Source: Dreyer et al., "Understanding the (extra-)ordinary: validating deep model decisions with prototypical
concept-based explanations", 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from pipeline.config.reveal import PrototypesConfig
from pipeline.workspace.pictures import sheet, to_image

from .candidates import Candidate, Detection
from .spaces import normalize_rows, space_features
from .view import ClassView, DataView

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

Covariance = Literal["diag", "tied", "full"]
FIT_AT_MOST = 10_000
"""More samples say hardly more about a handful of prototypes, and cost as much again for each start of each mixture."""
SAMPLES_PER_DIMENSION = 4
SAMPLES_PER_COMPONENT = 5
INITIALIZATIONS = 3
ITERATIONS = 200
REGULARIZATION = 1e-5
REPRESENTATIVES = 4
CONCEPTS = 6
OVERUSED = 3
PICTURED_PROTOTYPES = 6
PICTURED_CLASSES = 12
TINY = 1e-30
NEGLIGIBLE = 1e-12
"""Shares of the variance below this are rounding."""


@dataclass(frozen=True)
class PrincipalMixture:
    """A density over rows `[D]`: a Gaussian mixture of d principal components, and noise in all other directions.

    The noise is one isotropic Gaussian for all components (Moghaddam & Pentland 1997, "distance from feature space");
    it decides nothing between prototypes, but makes samples improbable that leave the principal components.

    Attributes:
        center: `[D]`.
        axes: `[d, D]`, orthonormal.
        scale: length that counts as 1 for the mixture, whose regularisation is absolute.
        noise: variance in each of the D - d other directions; 0 = there is none.
        mixture: of scaled components, most frequent first.
    """

    center: np.ndarray
    axes: np.ndarray
    scale: float
    noise: float
    mixture: GaussianMixture

    def components(self, rows: np.ndarray) -> np.ndarray:
        """Return scaled principal components `[N, d]` of rows `[N, D]`."""
        return (np.asarray(rows, dtype=np.float64) - self.center) @ self.axes.T / self.scale

    def responsibilities(self, rows: np.ndarray) -> np.ndarray:
        """Return how probable each prototype is for rows `[N, D]`: `[N, K]`, rows sum to 1."""
        return self.mixture.predict_proba(self.components(rows))

    def log_density(self, rows: np.ndarray) -> np.ndarray:
        """Return log p `[N]` of rows `[N, D]`, natural logarithm, in the units of the rows."""
        components = self.components(rows)
        known, other = self.axes.shape[0], self.axes.shape[1] - self.axes.shape[0]
        density = self.mixture.score_samples(components) - known * np.log(self.scale)
        if self.noise <= 0:
            return density
        centered = np.asarray(rows, dtype=np.float64) - self.center
        left = np.maximum((centered**2).sum(1) - (components**2).sum(1) * self.scale**2, 0)
        return density - 0.5 * (left / self.noise + other * np.log(2 * np.pi * self.noise))


@dataclass(frozen=True)
class PrototypeSet:
    """The K prototypes of one class, most frequent first, and where N samples stand.

    Attributes:
        density: the fitted mixture.
        bic: Bayesian information criterion of 1, 2, ... components `[M]`; the smallest was chosen. Infinite where a
            component holds fewer than five samples.
        means: the prototypes `[K, D]`, in the space of the samples.
        assignment: most probable prototype of each sample `[N]`.
        outlier_score: -log p(x) `[N]`, larger = more unusual.
        representatives: the m samples nearest to each mean `[K, m]`, positions among the N samples.
    """

    density: PrincipalMixture
    bic: np.ndarray
    means: np.ndarray
    assignment: np.ndarray
    outlier_score: np.ndarray
    representatives: np.ndarray

    @cached_property
    def coverage(self) -> np.ndarray:
        """Share of the samples that each prototype stands for `[K]`, sum 1."""
        return coverage(self.assignment, len(self.means))

    def assign(self, rows: np.ndarray) -> np.ndarray:
        """Return the most probable prototype `[N]` of rows `[N, D]`, also of new ones."""
        return self.density.responsibilities(rows).argmax(1)

    def difference(self, rows: np.ndarray) -> np.ndarray:
        """Return rows `[N, D]` minus the mean of their prototype: positive = used more than usual, negative = less."""
        return rows - self.means[self.assign(rows)]

    @property
    def similarity(self) -> np.ndarray:
        """Cosine between prototypes `[K, K]`, in [-1, 1]."""
        unit = self.means / np.maximum(np.linalg.norm(self.means, axis=1, keepdims=True), TINY)
        return np.clip(unit @ unit.T, -1, 1)


def fit_prototypes(
    relevances: np.ndarray,
    fit: np.ndarray | None = None,
    *,
    dimensions: int = 32,
    covariance: Covariance = "diag",
    max_components: int = 8,
    initializations: int = INITIALIZATIONS,
    seed: int = 0,
) -> PrototypeSet:
    """Fit Gaussian mixtures of 1 to `max_components` components, and keep the one with the smallest BIC.

    Args:
        relevances: `[N, D]`, rows scaled alike (`normalize_rows`).
        fit: booleans `[N]`, samples that the mixture is fitted on, at least 4; None = all. All samples are assigned.
        dimensions: principal components of the fitted samples; at most one for every four of them, so that variances
            can be estimated.
        covariance: of each component, as in scikit-learn.
        max_components: at most; also at most one for every five samples.
        initializations: starts of each mixture (k-means); the likeliest result counts.
        seed: of the starts, and of the choice of samples where there are more than `FIT_AT_MOST`.

    A mean is that of the samples, weighted by how probable the component is for each: the fixed point of the
    expectation maximisation, without the loss of going through the principal components.
    """
    relevances = np.asarray(relevances, dtype=np.float64)
    chosen = np.arange(len(relevances)) if fit is None else np.flatnonzero(fit)
    if len(chosen) > FIT_AT_MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, FIT_AT_MOST, replace=False))
    fitted = relevances[chosen]
    center, axes, scale, noise = principal_axes(fitted, min(dimensions, len(fitted) // SAMPLES_PER_DIMENSION), seed)
    components = (fitted - center) @ axes.T / scale
    most = max(1, min(max_components, len(np.unique(components, axis=0)) // SAMPLES_PER_COMPONENT))
    mixtures = [_mixture(components, count, covariance, initializations, seed) for count in range(1, most + 1)]
    bic = np.array([_criterion(each, components) for each in mixtures])
    density = PrincipalMixture(center, axes, scale, noise, _by_frequency(mixtures[int(bic.argmin())]))
    shares = density.responsibilities(fitted)
    means = shares.T @ fitted / np.maximum(shares.sum(0), TINY)[:, None]
    return PrototypeSet(
        density=density,
        bic=bic,
        means=means,
        assignment=density.responsibilities(relevances).argmax(1),
        outlier_score=-density.log_density(relevances),
        representatives=nearest_samples(relevances, means, REPRESENTATIVES),
    )


def principal_axes(rows: np.ndarray, dimensions: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Return center `[D]`, principal axes `[d, D]`, mean deviation along them, and the variance per direction left.

    Args:
        rows: `[N, D]`.
        dimensions: wanted; d is lower where the rows do not spread in as many directions, and at least 1.
        seed: of the randomised decomposition that scikit-learn takes for large matrices.
    """
    from sklearn.decomposition import PCA

    center = rows.mean(0)
    total = float(((rows - center) ** 2).sum() / len(rows))
    if total <= 0:
        return center, np.eye(1, rows.shape[1]), 1.0, 0.0
    found = PCA(max(1, min(dimensions, *rows.shape)), random_state=seed).fit(rows)
    variances = found.explained_variance_ * (len(rows) - 1) / len(rows)
    used = max(1, int((variances > NEGLIGIBLE * total).sum()))
    left = total - float(variances[:used].sum())
    # Where the axes hold all there is, nothing is left to estimate noise from.
    noise = left / (rows.shape[1] - used) if left > NEGLIGIBLE * total and used < rows.shape[1] else 0.0
    return center, found.components_[:used], float(np.sqrt(variances[:used].mean())), noise


def coverage(assignment: np.ndarray, count: int) -> np.ndarray:
    """Return the share of samples `[N]` in each of `count` prototypes `[count]`; 0 for one without samples."""
    return np.bincount(assignment, minlength=count) / max(len(assignment), 1)


def nearest_samples(rows: np.ndarray, means: np.ndarray, count: int) -> np.ndarray:
    """Return the positions `[K, min(count, N)]` of the rows `[N, D]` nearest to each mean `[K, D]`, nearest first."""
    distances = [((rows - mean) ** 2).sum(1) for mean in means]
    return np.array([np.argsort(each, kind="stable")[:count] for each in distances])


def top_concepts(means: np.ndarray, count: int = CONCEPTS) -> np.ndarray:
    """Return the channels that describe prototypes `[K, D]`: the n strongest of each, n as small as `count` allows.

    Every prototype brings its strongest channels, so that there can be more than `count`; fewer only where D is.
    Ordered by the largest magnitude in any prototype.
    """
    magnitude = np.abs(means)
    ranked = np.argsort(-magnitude, axis=1, kind="stable")
    channels = np.unique(ranked[:, :1])
    for each in range(2, means.shape[1] + 1):
        if len(channels) >= count:
            break
        channels = np.unique(ranked[:, :each])
    return channels[np.argsort(-magnitude[:, channels].max(0), kind="stable")]


def overused(mean: np.ndarray, usual: np.ndarray, count: int = OVERUSED) -> tuple[int, ...]:
    """Return the channels `[D]` in which a prototype exceeds what is usual most, at most `count`, only those above."""
    excess = mean - usual
    return tuple(int(each) for each in np.argsort(-excess, kind="stable")[:count] if excess[each] > 0)


class Prototypes:
    """The detector `prototypes`: the samples of each prototype of a class form a candidate."""

    def __init__(self, config: PrototypesConfig):
        self.config = config

    def detect(self, view: DataView) -> Detection:
        """Return a group for each prototype of each class and space, and pictures of prototypes in the first space.

        A class is fitted on the samples that are also predicted as it, where they are at least twice the smallest
        group, and otherwise on all.
        """
        spaces = view.spaces(self.config.spaces, "prototypes")
        candidates: list[Candidate] = []
        arrays: dict[str, np.ndarray] = {}
        pictures: dict[str, Image.Image] = {}
        for each in view.reporter.track(list(view.classes()), "prototypes, class by class"):
            if len(each.rows) < 2 * self.config.min_cluster_size:
                continue
            for space in spaces:
                relevances = normalize_rows(space_features(view, each.rows, space))
                found = self.fit(each, relevances)
                candidates += self._groups(each, space, found, relevances.mean(0, dtype=np.float64))
                arrays |= _arrays(f"{each.class_id}/{space}", each.rows, found)
                if space == spaces[0] and len(found.means) > 1 and len(pictures) < PICTURED_CLASSES:
                    pictures |= _picture(each, space, found)
        return Detection(candidates, arrays, pictures)

    def fit(self, view: ClassView, relevances: np.ndarray) -> PrototypeSet:
        """Return the prototypes of a class, from its normalised relevances `[len(view.rows), D]`."""
        right = view.data.store.logits[view.rows].argmax(1) == view.class_id
        return fit_prototypes(
            relevances,
            right if right.sum() >= 2 * self.config.min_cluster_size else None,
            dimensions=self.config.dimensions,
            covariance=self.config.covariance,
            max_components=self.config.max_components,
            seed=view.data.seed,
        )

    def _groups(self, view: ClassView, space: str, found: PrototypeSet, usual: np.ndarray) -> list[Candidate]:
        groups = []
        for number, mean in enumerate(found.means):
            members = found.assignment == number
            if not self.config.min_cluster_size <= members.sum() <= len(members) - self.config.min_cluster_size:
                continue
            note = f"prototype {number + 1} of {len(found.means)}, {found.coverage[number]:.0%} of the class"
            neurons = () if space == "input" else overused(mean, usual)
            if neurons:
                note += f"; more than the class as a whole: channels {', '.join(map(str, neurons))}"
            groups.append(Candidate("prototypes", view.class_id, space, view.rows, members, neurons, note))
        return groups


def _mixture(components: np.ndarray, count: int, covariance: Covariance, starts: int, seed: int) -> GaussianMixture:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        # A mixture with too many components need not settle within the iterations; its BIC decides all the same.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(
            count,
            covariance_type=covariance,
            reg_covar=REGULARIZATION,
            n_init=starts,
            max_iter=ITERATIONS,
            random_state=seed,
        ).fit(components)


def _criterion(mixture: GaussianMixture, components: np.ndarray) -> float:
    """Return the BIC, or infinity: a component of a few samples can be so narrow that its likelihood has no bound."""
    alone = len(mixture.weights_) == 1
    too_few = mixture.weights_.min() * len(components) < SAMPLES_PER_COMPONENT
    return np.inf if too_few and not alone else float(mixture.bic(components))


def _by_frequency(mixture: GaussianMixture) -> GaussianMixture:
    """Return the mixture with its components in descending order of weight."""
    order = np.argsort(-mixture.weights_, kind="stable")
    mixture.weights_, mixture.means_ = mixture.weights_[order], mixture.means_[order]
    if mixture.covariance_type != "tied":
        for name in ("covariances_", "precisions_", "precisions_cholesky_"):
            setattr(mixture, name, getattr(mixture, name)[order])
    return mixture


def _arrays(place: str, rows: np.ndarray, found: PrototypeSet) -> dict[str, np.ndarray]:
    return {
        f"{place}/rows": rows,
        f"{place}/means": found.means.astype(np.float32),
        f"{place}/coverage": found.coverage,
        f"{place}/assignment": found.assignment,
        f"{place}/outlier_score": found.outlier_score,
        f"{place}/representative_rows": rows[found.representatives],
        f"{place}/similarity": found.similarity,
        f"{place}/concepts": top_concepts(found.means),
        f"{place}/bic": found.bic,
    }


def _picture(view: ClassView, space: str, found: PrototypeSet) -> dict[str, Image.Image]:
    """Return a sheet with a column of samples for each prototype; nothing for signals."""
    dataset = view.data.dataset
    if len(dataset.shape) != 3:
        return {}
    shown = np.argsort(-found.coverage, kind="stable")[:PICTURED_PROTOTYPES]
    columns = [[to_image(dataset[int(view.rows[each])].x.numpy()) for each in found.representatives[k]] for k in shown]
    shares = ", ".join(f"{k + 1} ({found.coverage[k]:.0%})" for k in shown)
    caption = f"prototypes of class {view.class_name} in {space}, a column each, by share of the class: {shares}"
    return {caption: sheet([list(row) for row in zip(*columns, strict=True)])}
