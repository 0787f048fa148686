"""How much a model leans on an artifact: relevance on it, and sensitivity to its direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.concepts.cav import fit_cav
from pipeline.concepts.features import layer_features
from pipeline.concepts.mask_metrics import pointing_hit, relevance_ratio, relevance_share
from pipeline.concepts.sensitivity import concept_signs, layer_gradients, random_directions
from pipeline.data.batches import Batches
from pipeline.data.dataset import AuditDataset
from pipeline.errors import DataError
from pipeline.models.build import AuditModel
from pipeline.statistics import Interval, bootstrap

from .background import background_relevance_share
from .perturbation import is_local
from .pompom import pompom, pompom_scaled

BATCH = 64
GROWN_BLUR = 8 / 224
"""Deviation of the Gaussian that grows a mask, as a share of the shorter side."""
GROWN_REACH = 2.5
"""Where that Gaussian ends, in deviations: 20 pixels to either side at 224, a kernel of 41."""
GROWN_CUT = 0.3


class RelevanceShares(NamedTuple):
    """Where the relevance for the true class lies, per sample `[N]`, under the names that the metrics have.

    Figures of the artifact are nan where its mask is not known, empty, or more than 95 % of the image; those of the
    region of interest likewise. All are nan where relevance is zero.

    Attributes:
        artifact_relevance: share of the absolute relevance on the artifact, in [0, 1].
        artifact_relevance_ratio: that share over the share of the image that the artifact covers; evenly spread
            relevance has 1.
        artifact_relevance_grown: the share on the grown mask, see `grown_mask`; at least `artifact_relevance`.
        pointing_artifact: 1 where the strongest pixel lies on the artifact, else 0.
        background_relevance: share of the absolute relevance outside the region of interest.
        background_area: share of the image outside it.
        pointing_foreground: 1 where the strongest pixel lies in the region of interest, else 0.
        pompom: share of the pixels outside the region of interest that are meaningful at all, see `pompom`.
        pompom_scaled: of those that exceed 5 % of the strongest pixel.
    """

    artifact_relevance: np.ndarray
    artifact_relevance_ratio: np.ndarray
    artifact_relevance_grown: np.ndarray
    pointing_artifact: np.ndarray
    background_relevance: np.ndarray
    background_area: np.ndarray
    pointing_foreground: np.ndarray
    pompom: np.ndarray
    pompom_scaled: np.ndarray


def explained_shares(
    relevance: np.ndarray,
    artifacts: Sequence[np.ndarray | None] | None,
    regions: Sequence[np.ndarray | None] | None,
) -> RelevanceShares:
    """Return where relevance lies that was computed before.

    In the background counts the sum of the channels' magnitudes; everywhere else the magnitude of their sum, which is
    the heatmap.

    Args:
        relevance: signed, `[N, C, H, W]` or `[N, C, T]`; a heatmap has C = 1.
        artifacts: mask `[H, W]` of each sample, booleans, or None where it is not known; None: of all samples.
        regions: region of interest of each sample in the same form.

    Raises:
        DataError: another number of masks than samples, or a mask of another size.
    """
    artifacts, regions = (
        _usable(masks, relevance, what) for masks, what in ((artifacts, "artifact"), (regions, "region of interest"))
    )
    heatmaps = np.abs(relevance.sum(1, dtype=np.float64))
    with_artifact, with_region = (list(zip(heatmaps, masks, strict=True)) for masks in (artifacts, regions))
    background = background_relevance_share(relevance, regions)
    return RelevanceShares(
        artifact_relevance=_each(relevance_share, with_artifact),
        artifact_relevance_ratio=_each(relevance_ratio, with_artifact),
        artifact_relevance_grown=_each(_share_on_grown, with_artifact),
        pointing_artifact=_each(pointing_hit, with_artifact),
        background_relevance=background.relevance,
        background_area=background.area,
        pointing_foreground=_each(pointing_hit, with_region),
        pompom=_each(pompom, with_region),
        pompom_scaled=_each(pompom_scaled, with_region),
    )


def grown_mask(mask: np.ndarray) -> np.ndarray:
    """Return the mask with its surroundings: blurred by a Gaussian and cut at .3 of its largest value, plus itself.

    The Gaussian has a deviation of 8 pixels and ends after 20 where the shorter side has 224, and scales with it.

    Args:
        mask: booleans `[H, W]` or `[T]`, not empty.
    """
    from scipy.ndimage import gaussian_filter

    deviation = GROWN_BLUR * min(mask.shape)
    smooth = gaussian_filter(mask.astype(np.float64), deviation, mode="mirror", truncate=GROWN_REACH)
    return mask | (smooth > GROWN_CUT * smooth.max())  # the blur alone would lose thin parts beside large ones


class ConceptSensitivity(NamedTuple):
    """How a logit depends on a concept's direction, beside random directions; see `concept_sensitivity`.

    Attributes:
        quotient: share of the samples whose logit rises along the direction (TCAV); 1/2 without dependence.
        random: the same for random directions: mean and central range over them.
        p: share of random directions whose quotient is at least as far from 1/2, the concept's own counted among them:
            in [1 / (m + 1), 1] for m directions. The bounds are the value itself.
        sensitivity: mean over samples of |cos(gradient, direction)|, in [0, 1].
        random_sensitivity: the same for random directions: mean and central range over them.
    """

    quotient: Interval
    random: Interval
    p: Interval
    sensitivity: Interval
    random_sensitivity: Interval


def concept_sensitivity(
    model: AuditModel,
    fitting: AuditDataset,
    fitting_rows: np.ndarray,
    members: np.ndarray,
    testing: AuditDataset,
    testing_rows: np.ndarray,
    layer: str,
    class_id: int,
    *,
    random_count: int,
    confidence: float,
    resamples: int,
    seed: int,
    device: str,
) -> ConceptSensitivity:
    """Return how often and how much a logit changes along a concept, and the same for random directions as a control.

    The direction is fitted anew in this model, since training moves what a direction means. A sample is the unit: its
    gradient is averaged over positions first, and intervals are bootstrapped over samples. The size of the slope is
    taken over that of the gradient, so that layers and models can be compared, whatever the scale of their activations.

    Args:
        fitting, fitting_rows, members: samples of the affected class and who of them carries the concept.
        testing, testing_rows: test samples on which the logit's slope is taken.
        layer: name in this model.
        class_id: whose logit.
        random_count: number of random directions m.

    Raises:
        NoDirection: the layer does not respond to the concept; a ValueError, as are members that are all or none.

    Source: Kim et al., "Interpretability beyond feature attribution", ICML 2018.
    """
    features = layer_features(model, fitting, fitting_rows, layer, device=device)
    direction = fit_cav(features, members, "pattern").direction
    parts = [
        layer_gradients(model, batch.x.to(device), layer, class_id) for batch in Batches(testing, testing_rows, BATCH)
    ]
    gradients = np.concatenate(parts)
    controls = random_directions(random_count, gradients.shape[1], seed)
    return along_directions(gradients, direction, controls, confidence=confidence, resamples=resamples, seed=seed)


def along_directions(
    gradients: np.ndarray,
    direction: np.ndarray,
    controls: np.ndarray,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> ConceptSensitivity:
    """Return the figures of `concept_sensitivity`.

    Args:
        gradients: d logit / d activation of each sample `[N, D]`. Where one is 0, the logit depends on no direction:
            it counts 1/2 for the quotient and 0 for the sensitivity.
        direction: unit vector `[D]`.
        controls: unit vectors `[m, D]`.
    """
    resampling = {"resamples": resamples, "confidence": confidence, "seed": seed}
    signs = concept_signs(gradients, direction)
    quotients = np.array([concept_signs(gradients, each).mean() for each in controls])
    # the same distance may come out a rounding error smaller
    as_far = int((np.abs(quotients - 0.5) >= abs(signs.mean() - 0.5) - 1e-9).sum())
    chance = (as_far + 1) / (len(controls) + 1)
    return ConceptSensitivity(
        quotient=bootstrap(signs, **resampling),
        random=_central(quotients, confidence),
        p=Interval(chance, chance, chance, len(controls)),
        sensitivity=bootstrap(slope_shares(gradients, direction[None])[:, 0], **resampling),
        random_sensitivity=_central(slope_shares(gradients, controls).mean(0), confidence),
    )


def slope_shares(gradients: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return |cos(gradient, direction)|, `[N, m]` in [0, 1], of gradients `[N, D]` and unit vectors `[m, D]`.

    It is the slope along the direction over the steepest there is; 0 where the gradient is 0.
    """
    gradients = gradients.astype(np.float64)
    size = np.linalg.norm(gradients, axis=1, keepdims=True)
    slopes = np.abs(gradients @ directions.T)
    return np.minimum(np.divide(slopes, size, out=np.zeros_like(slopes), where=size > 0), 1)


def mean_share(shares: np.ndarray, *, resamples: int, confidence: float, seed: int) -> Interval:
    """Return the mean of relevance shares with a bootstrap interval over samples, without the undefined ones."""
    return bootstrap(shares[~np.isnan(shares)], resamples=resamples, confidence=confidence, seed=seed)


def _central(values: np.ndarray, confidence: float) -> Interval:
    """Return the mean of values `[m]`, and between which of them the share `confidence` lies."""
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def _usable(masks: Sequence[np.ndarray | None] | None, relevance: np.ndarray, what: str) -> list[np.ndarray | None]:
    """Return the masks as booleans, with None where they mark nothing or (almost) everything."""
    if masks is None:
        return [None] * len(relevance)
    if len(masks) != len(relevance):
        raise DataError(f"There are {len(relevance)} heatmaps and {len(masks)} masks of the {what}; give one for each.")
    for mask in masks:
        if mask is not None and mask.shape != relevance.shape[2:]:
            raise DataError(
                f"A mask of the {what} is {list(mask.shape)}, but its heatmap is {list(relevance.shape[2:])}. "
                "Resize it in the data set."
            )
    return [mask.astype(bool) if mask is not None and is_local(mask) else None for mask in masks]


def _each(
    measure: Callable[[np.ndarray, np.ndarray], float], pairs: Sequence[tuple[np.ndarray, np.ndarray | None]]
) -> np.ndarray:
    """Return a figure of every heatmap and its mask `[N]`; nan without a mask."""
    return np.array([np.nan if mask is None else measure(heatmap, mask) for heatmap, mask in pairs], dtype=np.float64)


def _share_on_grown(heatmap: np.ndarray, mask: np.ndarray) -> float:
    grown = grown_mask(mask)
    return relevance_share(heatmap, grown) if is_local(grown) else np.nan
