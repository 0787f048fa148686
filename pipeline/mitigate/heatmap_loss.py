"""The heatmap loss of ISNet: relevance of the background, and foreground relevance outside its range, cost.

Source: Bassi et al., "Improving deep neural network generalization and robustness to background bias via layer-wise
relevance propagation optimization", Nature Communications 2024; Bassi et al., "Faster ISNet for background bias
mitigation on deep neural networks", IEEE Access 2024, for the hybrid foreground side and the deep supervision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

TINY = 1e-10
SATURATION = 23 * math.log(2)
"""Largest background cost: where g / (g + E) is the last float32 below 1. The gradient is zero beyond."""
FOREGROUNDS = ("hybrid", "l2", "l1")
NORMS = ("absRoIMean", "RoIMean", "none")
REDUCTIONS = ("mean", "sum", "none")
BLOCK = 8
"""Values in a block, when the largest are searched for."""
HOST = "cpu"
"""Where looking at the values of a tensor makes nobody wait."""
Cut = float | Sequence[float] | torch.Tensor


def heatmap_loss(
    relevance: torch.Tensor,
    mask: torch.Tensor,
    *,
    cut: Cut = 1.0,
    cut2: Cut = 25.0,
    decay: float = 0.9,
    E: float = 1.0,
    background_weight: float = 1.0,
    foreground_weight: float = 1.0,
    foreground: str = "hybrid",
    norm: str = "absRoIMean",
    reduction: str = "mean",
    present: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return background_weight * background term + foreground_weight * foreground term.

    Background: |R| outside the foreground, over its mean inside (of all channels), is pooled per channel to g, with
    geometric weights decay^rank over all positions, and costs ln(1 + g / E), at most `SATURATION`. Foreground: the sum
    S of |R| inside should lie between `cut` and `cut2`. Both are means over maps (and channels). A term of weight 0 is
    not computed. All is computed in float32, or in float64 where relevance has it, also under autocast.

    A mask without background leaves a background term of 0. One without foreground leaves nothing to compare with: the
    sample costs `SATURATION` and 1, both without a gradient (with `norm="none"`, the background keeps its own).

    Relevance that is nan or infinite is not replaced: the loss is then not finite either, and training should stop.

    Args:
        relevance: signed, `[B, K, C, H, W]`, or `[B, K, C, T]` of signals; K maps of C channels.
        mask: 1 = foreground, 0 = background; `[B, 1, H, W]`, or per channel `[B, C, H, W]`, or per map
            `[B, K, C, H, W]` (signals: `T` for `H, W`). Of another number of channels, the first one counts. Another
            size is brought to that of relevance, so that a cell that touches any foreground is foreground.
        cut: least S that costs nothing, above 0; one number, or one per map `[K]`.
        cut2: largest S that costs nothing; as `cut`.
        decay: in [0, 1]; 0 is the largest value, 1 the mean.
        E: above 0; pooled relevance at which ln(1 + g / E) turns from linear to logarithmic.
        foreground: side above `cut2`: "l2" is (S / cut - cut2 / cut)^2, "l1" is S - cut2, "hybrid" the square up to
            S = cut + cut2 and linear beyond.
        norm: "absRoIMean", "RoIMean" (the mean of R, not of |R|), or "none" (|R| times C * H * W).
        reduction: over samples: "mean", "sum" or "none".
        present: who has a mask, booleans `[B]`; the others count for nothing, whatever their relevance and mask are,
            and the mean is over those present. None present gives 0, with zero gradient.

    Raises:
        ValueError: a mask that is not binary, shapes that do not fit, or an option that is not allowed. To look at the
            values of a mask on an accelerator would make every step wait for it, so there such a mask makes the loss
            nan instead.
    """
    _require("foreground", foreground, FOREGROUNDS)
    _require("norm", norm, NORMS)
    _require("reduction", reduction, REDUCTIONS)
    if not 0 <= decay <= 1 or not E > 0:
        raise ValueError(f"decay must lie in [0, 1] and E above 0, got decay {decay} and E {E}")
    if relevance.dim() == 4:
        relevance, mask = relevance.unsqueeze(-2), mask.unsqueeze(-2)
    with torch.autocast(relevance.device.type, enabled=False):
        relevance = relevance.to(torch.promote_types(relevance.dtype, torch.float32))
        mask = _mask_of_maps(mask, relevance, present)
        if present is not None:
            # not a product with 0, which would let a nan through, here or in the gradient
            relevance = torch.where(present[:, None, None, None, None], relevance, 0)
        size = relevance.abs()
        inside = (size * mask).sum((2, 3, 4))
        loss = relevance.new_zeros(len(relevance))
        if background_weight:
            scale = _scale(relevance, inside, mask, norm)
            # the scale is one number for each map, so pooling first and dividing then is the same
            pooled = ranked_pooling((size * (1 - mask)).flatten(3), decay) / scale[:, :, None]
            loss = loss + background_weight * torch.log1p(pooled / E).clamp(max=SATURATION).mean((1, 2))
        if foreground_weight:
            cuts = (_cut_of_maps(name, each, inside) for name, each in (("cut", cut), ("cut2", cut2)))
            loss = loss + foreground_weight * _foreground_term(inside, *cuts, foreground)
        return _reduced(loss, reduction, present)


def fit_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return a mask `[..., H, W]` of 0 and 1 at another size; a cell that touches any foreground is foreground.

    Cells are the windows of adaptive pooling, which overlap where the sizes do not divide.
    """
    if mask.shape[-2:] == tuple(size):
        return mask
    return F.adaptive_max_pool2d(mask.flatten(0, -3), size).unflatten(0, mask.shape[:-2])


def ranked_pooling(values: torch.Tensor, decay: float) -> torch.Tensor:
    """Return the mean over the last axis, weighted by decay^rank, the largest value first.

    Ranks whose weight is below the resolution of the values are left out, so that only the largest are sorted.

    Args:
        values: `[..., N]`, not negative.
        decay: in [0, 1]; 0 is the largest value, 1 the mean.

    Source: global weighted rank pooling, Kolesnikov & Lampert, "Seed, expand and constrain", ECCV 2016.
    """
    if decay == 1:
        return values.mean(-1)
    resolution = torch.finfo(values.dtype).eps / 2
    kept = 1 if decay == 0 else min(values.shape[-1], math.ceil(math.log(resolution) / math.log(decay)))
    weights = decay ** torch.arange(kept, dtype=torch.float64, device=values.device)
    weights = (weights / weights.sum()).to(values.dtype)
    return (_largest(values, kept) * weights).sum(-1)


def deep_supervision(losses: Sequence[torch.Tensor], decay: float = 0.8) -> torch.Tensor:
    """Return the heatmap losses of the input and of the supervised layers as one: ranked pooling, the largest first.

    Args:
        losses: scalars, at least one.
        decay: in [0, 1]; 1 is the mean, 0 the largest alone.

    Raises:
        ValueError: no loss, or a decay outside [0, 1].

    Source: LRP deep supervision of the Faster ISNet.
    """
    if not losses or not 0 <= decay <= 1:
        raise ValueError(
            f"deep supervision needs at least one loss and a decay in [0, 1], got {len(losses)} and {decay}"
        )
    return ranked_pooling(torch.stack(list(losses)), decay)


def _largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return the largest values of the last axis, in descending order `[..., count]`.

    They lie in those `count` blocks whose maxima are largest: a value outside has `count` maxima that are no smaller.
    """
    length = values.shape[-1]
    if length % BLOCK or length < 2 * BLOCK * count:
        return values.topk(count, dim=-1).values
    blocks = values.unflatten(-1, (BLOCK, length // BLOCK))
    best = blocks.detach().amax(-2).topk(count, dim=-1, sorted=False).indices
    found = blocks.gather(-1, best.unsqueeze(-2).expand(*best.shape[:-1], BLOCK, count))
    return found.flatten(-2).topk(count, dim=-1).values


def _mask_of_maps(mask: torch.Tensor, relevance: torch.Tensor, present: torch.Tensor | None) -> torch.Tensor:
    """Return the mask `[B, 1 or K, 1 or C, H, W]` in the dtype, on the device and at the size of relevance."""
    if mask.dim() == relevance.dim() - 1:
        mask = mask.unsqueeze(1)
    if (
        mask.dim() != 5
        or relevance.dim() != 5
        or len(mask) != len(relevance)
        or mask.shape[1] not in (1, relevance.shape[1])
    ):
        raise ValueError(
            f"relevance {list(relevance.shape)} and mask {list(mask.shape)} do not fit; give relevance [B, K, C, H, W] "
            "or [B, K, C, T], and one mask for each sample, [B, 1 or C, H, W], or for each map, [B, K, 1 or C, H, W]"
        )
    if mask.shape[2] not in (1, relevance.shape[2]):
        mask = mask[:, :, :1]
    mask = mask.to(relevance)
    if present is not None:
        mask = torch.where(present[:, None, None, None, None], mask, 1)
    return fit_mask(_binary(mask), relevance.shape[-2:])


def _binary(mask: torch.Tensor) -> torch.Tensor:
    """Return the mask; other values than 0 and 1 are refused, or made nan where looking at them would take a wait."""
    wrong = (mask != 0) & (mask != 1)
    if mask.device.type != HOST:
        return mask.masked_fill(wrong, math.nan)
    if wrong.any():
        values = ", ".join(f"{value:g}" for value in mask[wrong].unique()[:5].tolist())
        raise ValueError(f"the mask of the heatmap loss must hold 0 and 1 only, but holds {values}; threshold it first")
    return mask


def _scale(relevance: torch.Tensor, inside: torch.Tensor, mask: torch.Tensor, norm: str) -> torch.Tensor:
    """Return what each map's |R| is divided by `[B, K]`."""
    axes = (2, 3, 4)
    if norm == "none":
        return torch.full_like(inside, 1 / math.prod(relevance.shape[2:]))
    area = mask.sum(axes) * (relevance.shape[2] // mask.shape[2]) + TINY
    if norm == "absRoIMean":
        return inside / area + TINY
    return ((relevance * mask).sum(axes) / area + TINY).abs()


def _foreground_term(total: torch.Tensor, cut: float | torch.Tensor, cut2: float | torch.Tensor, kind: str):
    """Return the cost of sums of |R| `[B, K]` below `cut` and above `cut2`, as means over the maps `[B]`."""
    ratio, upper = total / cut, cut2 / cut
    below = (1 - ratio).clamp(min=0).pow(2)
    if kind == "l1":
        return (below + (total - cut2).clamp(min=0)).mean(1)
    above = (ratio - upper).clamp(min=0).pow(2)
    if kind == "hybrid":
        bound = cut + cut2
        above = torch.where(total <= bound, above, total - bound + 1)
    return (below + above).mean(1)


def _cut_of_maps(name: str, cut: Cut, inside: torch.Tensor) -> float | torch.Tensor:
    """Return one cut, or one for each map, where `inside` is."""
    if not isinstance(cut, torch.Tensor) and not (np.asarray(cut) > 0).all():
        raise ValueError(f"{name} must be above 0, got {cut}")
    if isinstance(cut, int | float):
        return cut
    cuts = torch.as_tensor(cut, dtype=inside.dtype, device=inside.device)
    maps = inside.shape[1]
    if cuts.shape not in ((), (maps,)):
        raise ValueError(
            f"{name} has the shape {list(cuts.shape)}, but there are {maps} maps; give one number, or {maps}"
        )
    return cuts


def _reduced(loss: torch.Tensor, reduction: str, present: torch.Tensor | None) -> torch.Tensor:
    if present is not None:
        loss = torch.where(present, loss, 0)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    return loss.mean() if present is None else loss.sum() / present.sum().clamp(min=1)


def _require(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} '{value}'; allowed: {', '.join(allowed)}")
