"""Right for the Right Reasons: no input gradient inside the artifact (Ross et al. 2017; cosine form)."""

from __future__ import annotations

import torch

from pipeline.config.mitigate import RrrMethod
from pipeline.models.build import AuditModel

from .explained import explained_quantity
from .fine_tuning import classification_loss, fine_tune
from .interface import Correction, Problem


def rrr_loss(gradient: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the share of the squared input gradient that lies inside the masks, averaged over samples that have one.

    Free of scale: the same weight serves every data set. 0 where no sample has a mask.

    Args:
        gradient: `[B, C, H, W]`.
        mask: `[B, 1, H, W]` in [0, 1], 1 = artifact.
    """
    present = mask.flatten(1).any(1)
    if not present.any():
        return gradient.sum() * 0.0
    energy = gradient[present].pow(2).sum(1, keepdim=True)
    inside = (energy * mask[present]).flatten(1).sum(1)
    return (inside / energy.flatten(1).sum(1).clamp(min=1e-30)).mean()


class RightForTheRightReasons:
    """Fine-tuning with `rrr_loss` beside the cross-entropy."""

    def __init__(self, config: RrrMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a corrected copy of the model."""

        def losses(network, batch):
            x, y, mask, present = batch.x, batch.y, batch.mask, batch.masked
            if not present.any():
                classification = classification_loss(problem, network(x), y)
                return {"total": classification, "classification": classification, "penalty": x.new_zeros(())}
            # the gradient of samples without a mask is not looked at, so it is computed for the others alone
            masked = x[present].detach().requires_grad_(True)
            explained = network(masked)
            (gradient,) = torch.autograd.grad(
                explained_quantity(explained, y[present], self.config.explained), masked, create_graph=True
            )
            penalty = rrr_loss(gradient, mask[present])
            logits = explained if present.all() else torch.cat([explained, network(x[~present])])
            classification = classification_loss(problem, logits, torch.cat([y[present], y[~present]]))
            return {
                "total": classification + self.config.weight * penalty,
                "classification": classification,
                "penalty": penalty,
            }

        return fine_tune(model, problem, self.config, losses)
