"""How much a model leans on an artifact: relevance on it, and sensitivity to its direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.attribution import Composite, Explainer
from pipeline.concepts.cav import fit_cav
from pipeline.concepts.features import layer_features
from pipeline.concepts.sensitivity import concept_signs, layer_gradients, random_directions
from pipeline.data.batches import Batches
from pipeline.data.dataset import AuditDataset
from pipeline.models.build import AuditModel
from pipeline.statistics import Interval, bootstrap

from .background import BackgroundShares, background_relevance_share


@dataclass(frozen=True)
class RelevanceShares:
    """Where the absolute relevance for the true class lies, as shares per sample `[N]`.

    Attributes:
        artifact: on the artifact; nan where its mask is empty, or relevance is zero.
        background: outside the region of interest, and how much of the image that is.
    """

    artifact: np.ndarray
    background: BackgroundShares


def relevance_shares(
    model: AuditModel,
    dataset: AuditDataset,
    rows: np.ndarray,
    artifact: Callable[[int], np.ndarray] | None,
    region: Callable[[int], np.ndarray | None],
    composite: Composite,
    device: str,
) -> RelevanceShares:
    """Explain the true class of each row once, and return where the relevance lies.

    On the artifact counts the magnitude of what the channels sum up to, in the background the sum of their magnitudes.

    Args:
        rows: at least one.
        artifact: row -> mask `[H, W]`; None where there is no artifact.
        region: row -> region of interest `[H, W]`, or None where it is not known.
    """
    explainer = Explainer(model, dataset[int(rows[0])].x[None].to(device), composite)
    on_artifact, in_background = [], []
    for batch in Batches(dataset, rows, 64):
        found = explainer.attribute(batch.x.to(device), batch.y.to(device))
        heatmaps = found.heatmap.abs().cpu().numpy()
        on_artifact.append(
            np.full(len(heatmaps), np.nan)
            if artifact is None
            else [_share_on(heatmap, artifact(int(row))) for row, heatmap in zip(batch.index, heatmaps, strict=True)]
        )
        regions = [region(int(row)) for row in batch.index]
        in_background.append(background_relevance_share(found.relevance.cpu().numpy(), regions))
    background = BackgroundShares(*(np.concatenate(each) for each in zip(*in_background, strict=True)))
    return RelevanceShares(np.concatenate(on_artifact), background)


def _share_on(heatmap: np.ndarray, mask: np.ndarray) -> float:
    total = heatmap.sum()
    return heatmap[mask].sum() / total if mask.any() and total > 0 else np.nan


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
) -> tuple[Interval, Interval]:
    """Return the TCAV quotient of the concept, and that of random directions as a control.

    The direction is fitted anew in this model, since training moves what a direction means. The control's interval
    spans the random directions' central quantiles.

    Args:
        fitting, fitting_rows, members: samples of the affected class and who of them carries the concept.
        testing, testing_rows: test samples on which the logit's slope is taken.
        layer: name in this model.
        class_id: whose logit.
    """
    features = layer_features(model, fitting, fitting_rows, layer, device=device)
    direction = fit_cav(features, members, "pattern").direction
    parts = [
        layer_gradients(model, batch.x.to(device), layer, class_id) for batch in Batches(testing, testing_rows, 64)
    ]
    gradients = np.concatenate(parts)
    signs = concept_signs(gradients, direction)
    quotient = bootstrap(signs, resamples=resamples, confidence=confidence, seed=seed)
    controls = np.array(
        [concept_signs(gradients, each).mean() for each in random_directions(random_count, gradients.shape[1], seed)]
    )
    tails = (1 - confidence) / 2
    low, high = np.quantile(controls, [tails, 1 - tails])
    return quotient, Interval(float(controls.mean()), float(low), float(high), random_count)


def mean_share(shares: np.ndarray, *, resamples: int, confidence: float, seed: int) -> Interval:
    """Return the mean of relevance shares with a bootstrap interval over samples, without the undefined ones."""
    return bootstrap(shares[~np.isnan(shares)], resamples=resamples, confidence=confidence, seed=seed)
