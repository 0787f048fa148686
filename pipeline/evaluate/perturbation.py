"""Does the prediction need what a heatmap calls relevant? Cells of the image are blanked in its order (AOPC)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import nn

from pipeline.config.evaluate import Fill
from pipeline.data.randomness import generator
from pipeline.errors import ConfigError, DataError
from pipeline.models.modes import evaluation_mode

Order = Literal["morf", "lerf", "random"]
Output = Literal["probability", "logit"]
BATCH = 64
PERMUTATIONS = 3
"""Random orders per image; their curves are averaged."""
BLUR = 0.1
"""Deviation of the Gaussian that blurs, as a share of the shorter side: 22 pixels at 224."""
ALMOST_ALL = 0.95
"""A region that covers more of the image than this leaves nothing to compare it with."""


class AopcScores(NamedTuple):
    """AOPC of each sample `[B]`, in units of the output; see `aopc_per_sample`.

    Attributes:
        morf: the most relevant cell first; larger is better.
        lerf: the least relevant cell first; smaller is better.
        random: mean over random orders.
        gap: morf - random; 0 for heatmaps that know no more than chance.
    """

    morf: np.ndarray
    lerf: np.ndarray
    random: np.ndarray
    gap: np.ndarray


def aopc_per_sample(
    model: nn.Module,
    x: torch.Tensor,
    targets: torch.Tensor,
    heatmaps: torch.Tensor | np.ndarray,
    **options,
) -> AopcScores:
    """Return the AOPC of heatmaps in all three orders; arguments as in `aopc_curves`, except `order`."""
    curves = [aopc_curves(model, x, targets, heatmaps, order=order, **options) for order in get_args(Order)]
    morf, lerf, random = map(aopc, curves)
    return AopcScores(morf, lerf, random, morf - random)


def aopc_curves(
    model: nn.Module,
    x: torch.Tensor,
    targets: torch.Tensor,
    heatmaps: torch.Tensor | np.ndarray,
    *,
    ids: Sequence[str],
    grid: int = 7,
    steps: int | None = None,
    fill: Fill = "mean",
    order: Order = "morf",
    output: Output = "probability",
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    batch_size: int = BATCH,
    device: str = "cpu",
) -> np.ndarray:
    """Return by how much the output has fallen, f(x_0) - f(x_k), after k = 0, 1, ... steps cells are blanked for good.

    The order of cells follows the mean of the signed heatmap over each cell: what speaks for the target comes first in
    "morf" (most relevant first), what speaks against it in "lerf". Give magnitudes to have both count alike. Cells of
    equal relevance come in a random order. All steps of all images share batches: the model sees B (1 + steps) samples,
    in "random" B (1 + permutations steps).

    Args:
        model: pixels -> logits; it is used in evaluation mode and left as it was.
        x: `[B, C, H, W]`, or signals `[B, C, T]`, values in [0, 1].
        targets: class ids `[B]`, the same for all steps; or which labels are present `[B, K]`: then "probability" is
            the mean of their sigmoids, "logit" the sum of their logits, and both are nan for a sample without any.
        heatmaps: `[B, H, W]` or `[B, T]`, signed. Where one is not finite, "morf" and "lerf" give nan.
        ids: names of the samples `[B]`; with the seed they decide everything that is random.
        grid: cells along each side, see `cells`.
        steps: cells that are blanked; None: half of them.
        fill: what stands in blanked cells, see `filled`.
        output: f, the softmax probability or the logit of the target.
        permutations: how many random orders are averaged.
        batch_size: samples in a forward pass.
        device: where the model is.

    Returns:
        float64 `[B, steps + 1]`; the first column is 0.

    Raises:
        ConfigError: fewer cells than steps.
        DataError: numbers or sizes of samples, targets, heatmaps and ids differ.

    Source: Samek et al., "Evaluating the visualization of what a deep neural network has learned", TNNLS 2017, eq. 12.
    """
    maps = torch.as_tensor(heatmaps).detach().cpu().double()
    _require_fitting(x, targets, maps, ids, "heatmaps")
    numbers = cells(x.shape[2:], grid)
    count = int(numbers.max()) + 1
    steps = _checked_steps(steps, count, grid)
    relevance = _cell_means(maps, numbers, count)
    if order == "random":
        ranks = np.stack([_random_ranks(count, ids, seed, str(draw)) for draw in range(permutations)])
    else:
        ranks = _ranks(relevance if order == "lerf" else -relevance, ids, seed)[None]
    place, ranks = torch.from_numpy(numbers), torch.from_numpy(ranks)
    which, row, step = _pairs(len(ranks), len(x), steps)

    def blanked(some: torch.Tensor) -> torch.Tensor:
        return (ranks[which[some], row[some]] < step[some, None])[:, place]

    fillings = filled(x, fill, ids=ids, seed=seed)
    values = _outputs(model, x, fillings, targets, row, blanked, output, batch_size, device)
    before, after = values[: len(x), None], values[len(x) :].reshape(len(ranks), len(x), steps).mean(0)
    drops = before - np.concatenate([before, after], axis=1)
    if order != "random":
        drops[~np.isfinite(relevance).all(1)] = np.nan
    return drops


def aopc(drops: np.ndarray) -> np.ndarray:
    """Return the area over the perturbation curve `[B]`: the mean of the falls `[B, K + 1]` at k = 0 to K."""
    return drops.mean(-1)


def artifact_aopc(
    model: nn.Module,
    x: torch.Tensor,
    targets: torch.Tensor,
    masks: np.ndarray | torch.Tensor,
    *,
    ids: Sequence[str],
    fill: Fill = "mean",
    output: Output = "probability",
    seed: int = 0,
    draws: int = 3,
    batch_size: int = BATCH,
    device: str = "cpu",
) -> np.ndarray:
    """Return how much further the output falls when the artifact is blanked than when as much is blanked elsewhere.

    Elsewhere is the artifact's own mask moved to random places, see `moved`; the mean over `draws` of them counts.

    Args:
        masks: booleans `[B, H, W]` or `[B, T]`; the rest as in `aopc_curves`.

    Returns:
        float64 `[B]`; nan where the mask is empty or covers more than 95 % of the image.

    Raises:
        DataError: numbers or sizes differ.
    """
    masks = np.asarray(torch.as_tensor(masks).cpu(), dtype=bool)
    _require_fitting(x, targets, masks, ids, "masks")
    usable = np.flatnonzero([is_local(mask) for mask in masks])
    found = np.full(len(x), np.nan)
    if not len(usable):
        return found
    controls = [moved(masks[row], draws, generator(seed, "elsewhere", ids[row])) for row in usable]
    # the output of the image as it is, from which both fall, cancels out: [1 + draws, usable, ...] are needed
    regions = np.stack([masks[usable], *np.swapaxes(controls, 0, 1)])
    blanked = torch.from_numpy(regions.reshape(-1, *masks.shape[1:]))
    rows = torch.from_numpy(np.tile(usable, 1 + draws))
    fillings = filled(x, fill, ids=ids, seed=seed)
    values = _outputs(model, x, fillings, targets, rows, lambda some: blanked[some], output, batch_size, device)
    values = values.reshape(1 + draws, -1)
    found[usable] = values[1:].mean(0) - values[0]
    return found


def is_local(mask: np.ndarray) -> bool:
    """Return whether a mask marks a part of the image: not nothing, and at most 95 % of it."""
    return bool(mask.any() and mask.mean() <= ALMOST_ALL)


def moved(mask: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return the mask at `draws` other places `[draws, H, W]`, with as many pixels in the same arrangement.

    Places are drawn among those with the least overlap with where the mask was; of these, a place at which no part
    leaves the image is preferred. What leaves it enters at the opposite side. No place is drawn twice while there are
    others.

    Args:
        mask: booleans `[H, W]` or `[T]`, not empty.
    """
    axes = tuple(range(mask.ndim))
    spectrum = np.fft.rfftn(mask)
    overlap = np.rint(np.fft.irfftn(np.abs(spectrum) ** 2, s=mask.shape, axes=axes)).astype(int)
    leaves = np.zeros(mask.shape, bool)
    for axis, side in enumerate(mask.shape):
        taken = np.flatnonzero(mask.any(tuple(other for other in axes if other != axis)))
        shift = np.arange(side)
        stays = (taken[-1] + shift < side) | (taken[0] + shift >= side)
        leaves |= np.expand_dims(~stays, tuple(other for other in axes if other != axis))
    cost = 2 * overlap + leaves
    places = np.argwhere(cost == cost.min())
    chosen = rng.choice(len(places), draws, replace=len(places) < draws)
    return np.stack([np.roll(mask, tuple(places[each]), axes) for each in chosen])


def cells(shape: Sequence[int], grid: int) -> np.ndarray:
    """Return the number of the cell that every position lies in: int64 `[H, W]`, or `[T]` for signals.

    Each side is divided into `grid` parts, or into as many as it has positions; their lengths differ by one at most.
    """
    numbers = np.zeros((), dtype=np.int64)
    for side in shape:
        parts = min(grid, side)
        numbers = numbers[..., None] * parts + np.arange(side) * parts // side
    return numbers


def filled(x: torch.Tensor, fill: Fill, *, ids: Sequence[str], seed: int) -> torch.Tensor:
    """Return what stands in blanked places, in the shape of `x`.

    Args:
        x: `[B, C, H, W]` or `[B, C, T]`, in [0, 1].
        fill: "mean" of each image and channel; "blur", the image under a Gaussian whose deviation is a tenth of its
            shorter side (weights are normalised at the border); "black", 0; "white", 1; "noise", uniform in [0, 1) for
            every value.
        ids: names of the samples; with the seed they decide the noise.

    Raises:
        ConfigError: an unknown fill.
    """
    if fill == "mean":
        return x.mean(tuple(range(2, x.ndim)), keepdim=True).expand_as(x)
    if fill == "blur":
        return _blurred(x)
    if fill == "black":
        return torch.zeros_like(x)
    if fill == "white":
        return torch.ones_like(x)
    if fill == "noise":
        drawn = [generator(seed, "noise", each).random(tuple(x.shape[1:]), dtype=np.float32) for each in ids]
        return torch.from_numpy(np.stack(drawn)).to(x)
    raise ConfigError(f"evaluate.perturbation.fills: '{fill}' is unknown. Allowed: {', '.join(get_args(Fill))}.")


def _blurred(x: torch.Tensor) -> torch.Tensor:
    deviation = BLUR * min(x.shape[2:])
    smooth = x.double()  # so that rounding does not leave the range
    for axis in range(2, x.ndim):
        place = torch.arange(x.shape[axis], device=x.device, dtype=smooth.dtype)
        weights = torch.exp(-(((place[:, None] - place) / deviation) ** 2) / 2)
        smooth = (smooth.movedim(axis, -1) @ (weights / weights.sum(1, keepdim=True)).T).movedim(-1, axis)
    return smooth.to(x.dtype)


def _checked_steps(steps: int | None, count: int, grid: int) -> int:
    if steps is None:
        return max(count // 2, 1)
    if not 1 <= steps <= count:
        raise ConfigError(
            f"evaluate.perturbation.steps: {steps}, but a grid of {grid} divides these images into {count} cells. "
            f"Give 1 to {count}, or another evaluate.perturbation.grid."
        )
    return steps


def _cell_means(maps: torch.Tensor, numbers: np.ndarray, count: int) -> np.ndarray:
    """Return the mean `[B, cells]` of each heatmap over each cell."""
    flat = torch.from_numpy(numbers).flatten()
    sums = maps.new_zeros(len(maps), count).index_add_(1, flat, maps.flatten(1))
    return (sums / torch.bincount(flat, minlength=count)).numpy()


def _random_ranks(count: int, ids: Sequence[str], seed: int, purpose: str) -> np.ndarray:
    """Return when each cell is blanked, `[B, cells]`, in an order that belongs to the sample's name."""
    return np.stack([generator(seed, "cells", each, purpose).permutation(count) for each in ids])


def _ranks(keys: np.ndarray, ids: Sequence[str], seed: int) -> np.ndarray:
    """Return when each cell is blanked, `[B, cells]`: the smallest key first, equal ones in a random order."""
    order = np.lexsort((_random_ranks(keys.shape[1], ids, seed, "ties"), keys), axis=-1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(keys.shape[1])[None], axis=1)
    return ranks


def _pairs(orders: int, samples: int, steps: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (order, image, step) `[P]` of all that the model is to see.

    The images as they are come first, as step 0; then every order of every image in every step.
    """
    none = torch.zeros(samples, dtype=torch.long)
    which, row, step = torch.meshgrid(
        torch.arange(orders), torch.arange(samples), torch.arange(1, steps + 1), indexing="ij"
    )
    return (
        torch.cat([none, which.flatten()]),
        torch.cat([torch.arange(samples), row.flatten()]),
        torch.cat([none, step.flatten()]),
    )


def _outputs(
    model: nn.Module,
    x: torch.Tensor,
    fillings: torch.Tensor,
    targets: torch.Tensor,
    rows: torch.Tensor,
    blanked: Callable[[torch.Tensor], torch.Tensor],
    output: Output,
    batch_size: int,
    device: str,
) -> np.ndarray:
    """Return f `[P]` for P images in which something is blanked.

    Args:
        rows: `[P]`, which image of `x` each of them is.
        blanked: numbers of some of them `[p]` -> where they are blanked, booleans `[p, H, W]`.
    """
    x, fillings, targets = x.to(device), fillings.to(device), targets.to(device)
    parts = []
    with evaluation_mode(model), torch.no_grad():
        for some in torch.arange(len(rows)).split(batch_size):
            row = rows[some].to(device)
            mixed = torch.where(blanked(some).to(device)[:, None], fillings[row], x[row])
            if mixed.ndim == 4:
                mixed = mixed.contiguous(memory_format=torch.channels_last)  # faster on most processors
            parts.append(_explained(model(mixed).float(), targets[row], output))
    return torch.cat(parts).cpu().double().numpy()


def _explained(logits: torch.Tensor, targets: torch.Tensor, output: Output) -> torch.Tensor:
    """Return the explained output `[P]` of logits `[P, K]`, given class ids `[P]` or present labels `[P, K]`."""
    if targets.ndim == 1:
        values = logits.softmax(1) if output == "probability" else logits
        return values.gather(1, targets.long()[:, None]).squeeze(1)
    present = targets.to(logits)
    number = present.sum(1)
    if output == "probability":
        return (logits.sigmoid() * present).sum(1) / number
    return torch.where(number > 0, (logits * present).sum(1), torch.nan)


def _require_fitting(
    x: torch.Tensor, targets: torch.Tensor, maps: torch.Tensor | np.ndarray, ids: Sequence[str], what: str
) -> None:
    lengths = {"samples": len(x), "targets": len(targets), what: len(maps), "ids": len(ids)}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{number} {name}" for name, number in lengths.items())
        raise DataError(f"There are {found}; give one of each for every sample.")
    if tuple(maps.shape[1:]) != tuple(x.shape[2:]):
        raise DataError(f"{what} have the size {list(maps.shape[1:])}, images {list(x.shape[2:])}. Resize one of them.")
