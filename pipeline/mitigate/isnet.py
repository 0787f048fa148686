"""ISNet: relevance of the background is minimised while the classifier trains (Bassi et al. 2024, LRP-Flex form)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.attribution.flex import lrp_flex
from pipeline.config.mitigate import IsnetMethod
from pipeline.data.batches import Batches
from pipeline.data.memory import split_indices
from pipeline.models.build import AuditModel

from .interface import Correction, Problem, cross_entropy, fine_tune

TINY = 1e-10
MEASURED = 128


def heatmap_loss(
    relevance: torch.Tensor,
    mask: torch.Tensor,
    *,
    cut: float = 1.0,
    cut2: float = 25.0,
    decay: float = 0.9,
    E: float = 1.0,
    background_weight: float = 1.0,
    foreground_weight: float = 1.0,
    foreground: str = "hybrid",
    norm: str = "absRoIMean",
    reduction: str = "mean",
) -> torch.Tensor:
    """Return background_weight * background term + foreground_weight * foreground term.

    Background: |R| divided by its mean over the foreground, outside the foreground, pooled per channel with geometric
    weights decay^rank over all positions, then ln(1 + g / E). Foreground: the sum of |R| inside it should lie between
    `cut` and `cut2`. A sample without any background contributes nothing to the background term.

    Args:
        relevance: signed, `[B, K, C, H, W]`.
        mask: `[B, 1, H, W]`, binary, 1 = foreground; resized conservatively where its size differs.
        decay: 0 is the largest value, 1 the mean.
        foreground: side above `cut2`: "l2", "l1", or "hybrid", which is quadratic up to cut + cut2 and linear beyond.
        norm: "absRoIMean", "RoIMean" (normalised before the absolute value) or "none".
        reduction: over samples: "mean", "sum" or "none".

    Raises:
        ValueError: a mask that is not binary, or an unknown option.
    """
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError("the mask of the heatmap loss must hold 0 and 1 only")
    relevance = relevance.to(torch.promote_types(relevance.dtype, torch.float32))
    mask = fit_mask(mask.to(relevance), relevance.shape[-2:])[:, None].expand_as(relevance)
    size = relevance.abs()
    background = _background_term(relevance, size, mask, decay, E, norm)
    inside = _foreground_term((size * mask).sum((2, 3, 4)), cut, cut2, foreground)
    loss = background_weight * background + foreground_weight * inside
    if reduction == "none":
        return loss
    if reduction not in ("mean", "sum"):
        raise ValueError(f"unknown reduction '{reduction}'; allowed: mean, sum, none")
    return loss.mean() if reduction == "mean" else loss.sum()


def fit_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return the mask `[B, 1, H, W]` at another size; a cell that touches any foreground is foreground."""
    if mask.shape[-2:] == tuple(size):
        return mask
    return (F.adaptive_avg_pool2d(mask, size) != 0).to(mask)


def ranked_pooling(values: torch.Tensor, decay: float) -> torch.Tensor:
    """Return the mean over the last axis, weighted by decay^rank, the largest value first."""
    if decay == 1:
        return values.mean(-1)
    count = values.shape[-1]
    # beyond this rank the weights are below float32 resolution
    kept = 1 if decay == 0 else min(count, int(-17 / math.log(decay)) + 1)
    weights = decay ** torch.arange(kept, dtype=values.dtype, device=values.device)
    total = 1.0 if decay == 0 else (1 - decay**count) / (1 - decay)
    return (values.topk(kept, dim=-1).values * weights).sum(-1) / total


def _background_term(relevance, size, mask, decay: float, E: float, norm: str) -> torch.Tensor:
    axes = (2, 3, 4)
    count = mask.sum(axes, keepdim=True) + TINY
    if norm == "absRoIMean":
        normalized = size / ((size * mask).sum(axes, keepdim=True) / count + TINY)
    elif norm == "RoIMean":
        normalized = (relevance / ((relevance * mask).sum(axes, keepdim=True) / count + TINY)).abs()
    elif norm == "none":
        normalized = size * math.prod(size.shape[2:])
    else:
        raise ValueError(f"unknown norm '{norm}'; allowed: absRoIMean, RoIMean, none")
    pooled = ranked_pooling((normalized * (1 - mask)).flatten(3), decay)
    share = (pooled / (pooled + E)).clamp(max=1 - 1e-7)
    return -torch.log1p(-share).mean((1, 2))


def _foreground_term(total: torch.Tensor, cut: float, cut2: float, kind: str) -> torch.Tensor:
    ratio, upper = total / cut, cut2 / cut
    below = (ratio.clamp(max=1) - 1).pow(2)
    quadratic = (ratio.clamp(min=upper) - upper).pow(2)
    if kind == "l2":
        above = quadratic
    elif kind == "l1":
        above = (total - cut2).clamp(min=0)
    elif kind == "hybrid":
        above = torch.where(total <= cut + cut2, quadratic, total - (cut + cut2) + 1)
    else:
        raise ValueError(f"unknown foreground '{kind}'; allowed: hybrid, l2, l1")
    return (below + above).mean(1)


def selective_margin(logits: torch.Tensor) -> torch.Tensor:
    """Return, per sample, the lowest logit against the log-sum-exp of the others: one map that no class escapes."""
    lowest = logits.argmin(1, keepdim=True)
    others = logits.scatter(1, lowest, float("-inf"))
    return logits.gather(1, lowest)[:, 0] - others.logsumexp(1)


def stochastic_logit(logits: torch.Tensor) -> torch.Tensor:
    """Return, per sample, the highest logit with probability 1/2, else one of the others at random."""
    count, classes = logits.shape
    highest = logits.argmax(1)
    other = (highest + torch.randint(1, max(classes, 2), (count,), device=logits.device)) % classes
    chosen = torch.where(torch.rand(count, device=logits.device) < 0.5, highest, other)
    return logits.gather(1, chosen[:, None])[:, 0]


VARIANTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "selective": selective_margin,
    "stochastic": stochastic_logit,
}


def natural_cuts(totals: torch.Tensor) -> tuple[float, float]:
    """Return (cut, cut2) around the relevance that a plain classifier carries.

    cut = max(m / 5, m - 3 s), cut2 = min(25 cut, m + 3 s), with m and s the mean and deviation of the totals.

    Args:
        totals: sum of |R| of each heatmap `[N]`, N >= 2.
    """
    mean, deviation = float(totals.mean()), float(totals.std())
    cut = max(mean / 5, mean - 3 * deviation, TINY)
    return cut, min(25 * cut, mean + 3 * deviation)


class IsNet:
    """Fine-tuning with (1 - P) cross-entropy + P heatmap loss on samples that have a mask."""

    def __init__(self, config: IsnetMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a corrected copy of the model: the plain architecture, with no cost at run time."""
        config, share = self.config, self.config.heatmap_share
        cut, cut2 = self._cuts(model, problem)

        def losses(network, x, y, mask):
            present = mask.flatten(1).any(1)
            if not present.any():
                classification = cross_entropy(problem, network(x), y)
                return {
                    "total": (1 - share) * classification,
                    "classification": classification,
                    "heatmap": x.new_zeros(()),
                }
            # samples without a mask have no heatmap loss, so relevance is computed for the others alone
            relevance, explained, _, _ = lrp_flex(
                network,
                x[present],
                VARIANTS[config.variant],
                create_graph=True,
                epsilon=config.epsilon,
                input_rule=config.input_rule,
            )
            logits = torch.cat([explained, network(x[~present])]) if not present.all() else explained
            labels = torch.cat([y[present], y[~present]])
            classification = cross_entropy(problem, logits, labels)
            heatmap = heatmap_loss(
                relevance[:, None],
                1 - mask[present],
                cut=cut,
                cut2=cut2,
                decay=config.decay,
                background_weight=config.background_weight,
                foreground_weight=config.foreground_weight,
            )
            return {
                "total": (1 - share) * classification + share * heatmap,
                "classification": classification,
                "heatmap": heatmap,
            }

        return fine_tune(model, problem, config, losses)

    def _cuts(self, model: AuditModel, problem: Problem) -> tuple[float, float]:
        """Return the configured cuts; left out, they are measured on the model under audit."""
        config = self.config
        if config.cut is not None:
            return config.cut, config.cut2
        rows = split_indices(problem.dataset, "train")
        rows = rows[np.linspace(0, len(rows) - 1, min(MEASURED, len(rows))).astype(int)]
        torch.manual_seed(problem.seed)  # the stochastic variant draws; a resumed training needs the same cuts
        totals = []
        for batch in Batches(problem.dataset, rows, config.batch_size):
            relevance, _, _, _ = lrp_flex(
                model,
                batch.x.to(problem.device),
                VARIANTS[config.variant],
                epsilon=config.epsilon,
                input_rule=config.input_rule,
            )
            totals.append(relevance.abs().flatten(1).sum(1).cpu())
        return natural_cuts(torch.cat(totals))
