"""RR-ClArC: no latent gradient along the artifact direction (Dreyer et al. 2024)."""

from __future__ import annotations

import torch

from pipeline.config.mitigate import RrClarcMethod
from pipeline.models.build import AuditModel
from pipeline.models.trace import trace_layers

from .explained import explained_quantity
from .fine_tuning import classification_loss, fine_tune
from .interface import Correction, Problem


def rr_clarc_loss(gradient: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """Return the mean over samples of cos^2 between the position-wise gradients and the direction, weighted by length.

    Per sample: sum over positions (g . h)^2 / sum over positions |g|^2, in [0, 1], free of scale.

    Args:
        gradient: `[B, C, ...]`.
        direction: unit vector `[C]`.
    """
    flat = gradient.flatten(2) if gradient.ndim > 2 else gradient[..., None]
    along = torch.einsum("bcp,c->bp", flat, direction).pow(2).sum(1)
    return (along / flat.pow(2).sum((1, 2)).clamp(min=1e-30)).mean()


class RightReasonClarc:
    """Fine-tuning of the layers above the CAV with `rr_clarc_loss` beside the cross-entropy.

    The layers up to the CAV stay as they are, since the direction was fitted in them.
    """

    def __init__(self, config: RrClarcMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a corrected copy of the model."""

        cavs = [known.correction_cav(self.config.layer) for known in problem.biases]

        def losses(network, batch):
            x, y = batch.x, batch.y
            kept: dict[str, torch.Tensor] = {}

            def keep(layer, output):
                # below a frozen trunk nothing asks for a graph; it starts here
                kept[layer] = output if output.requires_grad else output.requires_grad_(True)

            handles = [
                network.get_submodule(layer).register_forward_hook(
                    lambda _, __, output, layer=layer: keep(layer, output)
                )
                for layer in {cav.layer for cav in cavs}
            ]
            try:
                logits = network(x)
            finally:
                for handle in handles:
                    handle.remove()
            classification = classification_loss(problem, logits, y)
            explained = explained_quantity(logits, y, self.config.explained)
            gradients = dict(
                zip(kept, torch.autograd.grad(explained, list(kept.values()), create_graph=True), strict=True)
            )
            penalties = [
                rr_clarc_loss(gradients[cav.layer], torch.as_tensor(cav.direction, dtype=x.dtype, device=x.device))
                for cav in cavs
            ]
            penalty = torch.stack(penalties).mean()
            return {
                "total": classification + self.config.weight * penalty,
                "classification": classification,
                "penalty": penalty,
            }

        order = [layer.name for layer in trace_layers(model, problem.dataset[0].x[None].to(problem.device))]
        lowest = min((cav.layer for cav in cavs), key=order.index)
        return fine_tune(model, problem, self.config, losses, frozen_up_to=lowest)
