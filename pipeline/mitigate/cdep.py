"""CDEP: no contribution of the artifact to the logits, by contextual decomposition (Rieger et al., ICML 2020)."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.attribution.decomposition import Decomposition, contextual_decomposition
from pipeline.config.mitigate import CdepForm, CdepMethod
from pipeline.errors import ConfigError
from pipeline.models.build import AuditModel
from pipeline.models.modes import evaluation_mode

from .fine_tuning import MaskedBatch, fine_tune
from .interface import Correction, Problem
from .masked_penalty import masked_penalty_losses


def cdep_loss(decomposition: Decomposition, form: CdepForm = "share") -> torch.Tensor:
    """Return how much the region contributes to the logits, averaged over samples.

    Args:
        decomposition: parts r (of the region) and i (the rest) of the logits, `[N, K]` each.
        form: "share" sum over classes of r^2 / sum over classes of r^2 + i^2; "softmax", as published, the mean over
            classes of e^r / (e^r + e^i), which changes with the scale of the logits and is 1/2 where r = i. Both lie in
            [0, 1].
    """
    relevant, irrelevant = decomposition.relevant, decomposition.irrelevant
    if form == "softmax":
        return (relevant - irrelevant).sigmoid().mean()
    # squares of small logits would be 0; the share does not change
    largest = torch.maximum(relevant.detach().abs(), irrelevant.detach().abs()).amax(1, keepdim=True)
    scale = largest.clamp(min=torch.finfo(largest.dtype).tiny)
    inside, rest = (relevant / scale).pow(2).sum(1), (irrelevant / scale).pow(2).sum(1)
    return (inside / (inside + rest).clamp(min=1e-30)).mean()


class ContextualDecompositionPenalty:
    """Fine-tuning of all layers with `cdep_loss` of the masked region beside the classification loss."""

    def __init__(self, config: CdepMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a corrected copy of the model.

        Raises:
            ConfigError: the network does something that cannot be decomposed.
        """
        config, example = self.config, problem.dataset[0].x[None].to(problem.device)
        try:
            with evaluation_mode(model), torch.no_grad():
                contextual_decomposition(model, example, torch.ones_like(example[:, :1]))
        except ValueError as reason:
            raise ConfigError(f"mitigate.methods: '{config.method_id}': {reason}") from reason

        def penalty(network: nn.Module, batch: MaskedBatch) -> tuple[torch.Tensor, torch.Tensor]:
            decomposition = contextual_decomposition(network, batch.x, batch.mask)
            return cdep_loss(decomposition, config.form), decomposition.logits

        def losses(network: nn.Module, batch: MaskedBatch) -> dict[str, torch.Tensor]:
            return masked_penalty_losses(network, batch, problem, config.weight, penalty)

        return fine_tune(
            model, problem, config, losses, frozen_up_to=config.layer, needs_images=True, mask_source=config.masks
        )
