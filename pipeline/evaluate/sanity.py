"""Can the heatmaps of a model be believed? Conservation, and what is left of them with other weights."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from pipeline.attribution import Composite, Explainer
from pipeline.attribution.health_check import SMALLEST_LOGIT, SMALLEST_SHARE
from pipeline.attribution.targets import logit_weights
from pipeline.data.randomness import generator

BATCH = 64


def conservation(
    model: nn.Module,
    x: torch.Tensor,
    targets: torch.Tensor,
    composite: str | Composite,
    device: str = "cpu",
    *,
    without_biases: bool = True,
) -> np.ndarray:
    """Return the sum of each sample's relevance over its explained logit, float64 `[N]`; conserved relevance has 1.

    Args:
        model: pixels -> logits.
        x: `[N, C, H, W]` or `[N, C, T]`, at least one.
        targets: class ids `[N]`, or weights of the logits `[N, K]`.
        composite: of the explanation.
        device: where the model is.
        without_biases: constants of the network take no relevance; only then the ratio has to be 1, as in the health
            check. With them, what is missing is their share.

    Returns:
        nan where the explained logit is near 0: below 1e-4, or 1 % of the largest logit.

    Raises:
        ValueError: the model cannot be explained, see `Explainer`.
    """
    explainer = Explainer(model, x[:1].to(device), composite, without_biases=without_biases)
    sums, explained, largest = [], [], 0.0
    for pixels, target in zip(x.split(BATCH), targets.split(BATCH), strict=True):
        found = explainer.attribute(pixels.to(device), target.to(device))
        logits = found.logits.cpu().double()
        sums.append(found.relevance.flatten(1).cpu().double().sum(1))
        explained.append((logits * logit_weights(logits, target.cpu())).sum(1))
        largest = max(largest, float(logits.abs().max()))
    logit = torch.cat(explained).numpy()
    measured = np.abs(logit) > max(SMALLEST_SHARE * largest, SMALLEST_LOGIT)
    return np.divide(torch.cat(sums).numpy(), logit, out=np.full(len(logit), np.nan), where=measured)


def randomised_similarity(
    model: nn.Module,
    x: torch.Tensor,
    targets: torch.Tensor,
    composite: str | Composite,
    *,
    seed: int,
    device: str = "cpu",
) -> np.ndarray:
    """Return how alike heatmaps of the model and of the same network with random weights are, float64 `[N]` in [-1, 1].

    It is Spearman's rank correlation of the magnitudes of their pixels. Near 1, heatmaps show the image or the
    architecture rather than what was learned.

    Args:
        model: pixels -> logits; neither it nor the global random state is changed, see `randomised`.
        x: `[N, C, H, W]` or `[N, C, T]`, at least one.
        targets: class ids `[N]`, or weights of the logits `[N, K]`; both networks explain the same.
        composite: of the explanations.
        seed: of the random weights.
        device: where the model is.

    Returns:
        nan where one of the heatmaps is constant or not finite, as behind layers that stopped responding; nan for all
        samples where the model cannot be copied.

    Raises:
        ValueError: the model cannot be explained, see `Explainer`.

    Source: Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.
    """
    try:
        other = randomised(model, seed)
    except Exception:  # copying runs code of the user's modules, which may fail in any way
        return np.full(len(x), np.nan)
    mine, theirs = (_magnitudes(each, x, targets, composite, device) for each in (model, other))
    return rank_correlations(mine, theirs)


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of the model in which the values of every parameter are shuffled within their tensor.

    So each tensor keeps its mean, its deviation and every other moment. Buffers, such as the statistics of BatchNorm
    and the directions of projections, stay as they are.
    """
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            order = generator(seed, "weights", name).permutation(parameter.numel())
            parameter.copy_(parameter.flatten()[torch.from_numpy(order).to(parameter.device)].view_as(parameter))
    return other


def rank_correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of each row of `[N, P]` with the same row of the other, `[N]`; ties share a rank.

    nan where a row is constant or not finite.
    """
    from scipy.stats import rankdata

    usable = [np.isfinite(each).all(1) & (each != each[:, :1]).any(1) for each in (first, second)]
    found = np.full(len(first), np.nan)
    rows = np.flatnonzero(usable[0] & usable[1])
    if len(rows):
        ranks = [rankdata(each[rows], axis=1) for each in (first, second)]
        one, two = ((each - each.mean(1, keepdims=True)) for each in ranks)
        found[rows] = (one * two).sum(1) / np.sqrt((one**2).sum(1) * (two**2).sum(1))
    return found


def _magnitudes(
    model: nn.Module, x: torch.Tensor, targets: torch.Tensor, composite: str | Composite, device: str
) -> np.ndarray:
    """Return |heatmap| `[N, positions]`."""
    explainer = Explainer(model, x[:1].to(device), composite)
    parts = [
        explainer.attribute(pixels.to(device), target.to(device)).heatmap.abs().flatten(1).cpu().numpy()
        for pixels, target in zip(x.split(BATCH), targets.split(BATCH), strict=True)
    ]
    return np.concatenate(parts)
