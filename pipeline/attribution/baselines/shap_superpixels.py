"""Kernel SHAP over superpixels: how much each region adds, on average over all company it may have. Slow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..targets import Target
from .explained_quantity import logits_of, predict
from .parameters import missing_input, refuse, require_at_least, require_floating

if TYPE_CHECKING:
    from ..explainer import Attribution

BLUR = 0.1
"""Standard deviation of the blur as a share of each axis; little of what a cell of a 7 x 7 grid shows survives it."""


def shap_superpixels(
    model: nn.Module,
    x: torch.Tensor,
    target: Target = None,
    *,
    layers: Sequence[str] = (),
    create_graph: bool = False,
    segments: int | torch.Tensor = 7,
    samples: int = 1024,
    baseline: float | str | torch.Tensor = "mean",
    seed: int = 0,
    batch_size: int = 64,
) -> Attribution:
    """Return Shapley values of segments, each shared equally by the segment's pixels and channels.

    A coalition's worth is the explained quantity of the input with all other segments replaced by the baseline
    (Lundberg and Lee 2017, theorem 2). Values are logits and sum exactly to f(x) - f(everything replaced). Where
    2^segments <= samples, all coalitions are tried and the values are exact; else pairs of a coalition and its
    complement are drawn by the Shapley kernel (Covert and Lee, Improving KernelSHAP, 2021, section 4). Every sample of
    the batch meets the same draws. Predicted classes are those of x itself.

    Args:
        model: any module, pixels -> logits; evaluated in evaluation mode and left as it was.
        x: `[N, C, H, W]` or `[N, C, T]`.
        target: class id, ids `[N]`, logit weights `[N, K]`, or None for the predicted class.
        layers, create_graph: refused.
        segments: parts along every axis of a regular grid, or whole numbers `[H, W]` or `[N, H, W]` (`[T]` or `[N, T]`
            for signals): pixels with the same number are one segment.
        samples: coalitions per sample: 2^segments or more for exact values, at least 2 * segments + 2.
        baseline: a value, a tensor that broadcasts to `x`, "mean" (of each channel) or "blur".
        seed: of the coalitions.
        batch_size: masked inputs that go through the model at once.

    Raises:
        ValueError: layers or a graph are requested, segments, samples, a baseline or a target that do not fit.
    """
    from ..explainer import Attribution

    refuse("shap_superpixels", layers, create_graph)
    require_at_least(1, batch_size=batch_size)
    require_floating(x)
    if x.ndim < 3:
        raise ValueError(f"the input has shape {tuple(x.shape)}; superpixels need [N, C, H, W] or [N, C, T].")
    x = x.detach()
    maps = segment_maps(segments, x)
    replacement = _replacement(x, baseline)
    logits, weights = predict(model, x, target)
    relevance = torch.empty_like(x)
    for row in range(len(x)):
        ids, pixels = torch.unique(maps[row], return_inverse=True, return_counts=True)[1:]
        coalitions, importance = choose_coalitions(len(pixels), samples, seed)
        worth = _worth(model, x[row], replacement[row], coalitions.to(x.device)[:, ids], weights[row], batch_size)
        values = shapley_values(coalitions, importance, worth.double().cpu()).to(x)
        relevance[row] = (values / (pixels * x.shape[1]))[ids]
    return Attribution(relevance=relevance, logits=logits)


def segment_maps(segments: int | torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return one whole number per pixel, `[N, H, W]` or `[N, T]`.

    Raises:
        ValueError: no segments, or a map of another type or shape.
    """
    size = x.shape[2:]
    if isinstance(segments, int):
        require_at_least(1, segments=segments)
        maps = torch.zeros(size, dtype=torch.long, device=x.device)
        for axis, length in enumerate(size):
            part = torch.arange(length, device=x.device) * segments // length
            maps = maps * segments + part.reshape(-1, *[1] * (len(size) - axis - 1))
        return maps.expand(len(x), *size)
    if segments.is_floating_point() or segments.shape not in (size, (len(x), *size)):
        raise ValueError(
            f"segments has type {segments.dtype} and shape {tuple(segments.shape)}; "
            f"expected whole numbers of shape {tuple(size)} or {(len(x), *size)}."
        )
    return segments.to(x.device).expand(len(x), *size)


def choose_coalitions(segments: int, samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return coalitions `[S, segments]` (true: kept), nobody first and everybody last, and the weights of the others.

    The Shapley kernel weighs a coalition of s out of M by (M - 1) / (binomial(M, s) s (M - s)) (Lundberg and Lee 2017,
    eq. in theorem 2): all coalitions with that weight where they are at most `samples`; else coalitions drawn with
    that probability, each followed by its complement, with equal weights.

    Raises:
        ValueError: fewer pairs than segments.
    """
    if segments < 63 and 2**segments <= samples:
        coalitions = torch.arange(2**segments)[:, None] >> torch.arange(segments) & 1 == 1
        sizes = coalitions[1:-1].sum(1).tolist()
        weights = [1 / (math.comb(segments, size) * size * (segments - size)) for size in sizes]
        return coalitions, torch.tensor(weights, dtype=torch.float64)
    pairs = (samples - 2) // 2
    if pairs < segments:
        raise ValueError(
            f"samples={samples} is too few for {segments} segments; use at least {2 * segments + 2}, or fewer segments."
        )
    generator = torch.Generator().manual_seed(seed)
    size = torch.arange(1, segments, dtype=torch.float64)
    drawn = 1 + torch.multinomial(1 / (size * (segments - size)), pairs, replacement=True, generator=generator)
    order = torch.rand(pairs, segments, generator=generator, dtype=torch.float64).argsort(1)
    some = order < drawn[:, None]
    inner = torch.stack([some, ~some], 1).flatten(0, 1)
    nobody = torch.zeros(1, segments, dtype=torch.bool)
    return torch.cat([nobody, inner, ~nobody]), torch.ones(2 * pairs, dtype=torch.float64)


def shapley_values(coalitions: torch.Tensor, weights: torch.Tensor, worth: torch.Tensor) -> torch.Tensor:
    """Return the values `[M]` that explain the coalitions' worth best and sum to worth(everybody) - worth(nobody).

    Written as an equal share for each plus a rest that sums to 0, the constraint is met exactly: the rest only sees
    coalitions less their mean, and the least-squares solution of least norm is a combination of these.

    Args:
        coalitions: `[S, M]`, nobody first and everybody last.
        weights: `[S - 2]`, of those between.
        worth: `[S]`, float64.
    """
    share = (worth[-1] - worth[0]) / coalitions.shape[1]
    inner = coalitions[1:-1].double()
    rest = worth[1:-1] - worth[0] - inner.sum(1) * share
    root = weights.sqrt()[:, None]
    centred = inner - inner.mean(1, keepdim=True)
    return share + torch.linalg.lstsq(root * centred, root * rest[:, None], driver="gelsd").solution[:, 0]


def _replacement(x: torch.Tensor, baseline: float | str | torch.Tensor) -> torch.Tensor:
    if not isinstance(baseline, str):
        return missing_input(x, baseline)
    if baseline == "mean":
        return x.mean(tuple(range(2, x.ndim)), keepdim=True).expand_as(x)
    if baseline == "blur":
        return blurred(x)
    raise ValueError(f"baseline='{baseline}' is unknown; allowed are 'mean', 'blur', a value or a tensor.")


def blurred(x: torch.Tensor) -> torch.Tensor:
    """Return `x` with every axis of positions smoothed by a Gaussian of `BLUR` times its length, cut at the border."""
    for axis in range(2, x.ndim):
        length = x.shape[axis]
        place = torch.arange(length, device=x.device, dtype=x.dtype) / (BLUR * length)
        kernel = torch.softmax(-((place[:, None] - place) ** 2) / 2, dim=1)
        x = (x.movedim(axis, -1) @ kernel.T).movedim(-1, axis)
    return x


def _worth(model, sample, replacement, kept, weights, batch_size) -> torch.Tensor:
    """Return the explained quantity `[S]` of a sample `[C, ...]` under masks `[S, ...]`."""
    found = []
    for masks in kept.split(batch_size):
        inputs = torch.where(masks[:, None], sample, replacement)
        found.append((logits_of(model, inputs) * weights).sum(1))
    return torch.cat(found)
