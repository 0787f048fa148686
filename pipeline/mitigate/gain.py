"""Guided attention inference networks with extra supervision (Li et al. 2018, GAIN and its extension by masks)."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.attribution.baselines.grad_cam import last_map
from pipeline.config.mitigate import GainMethod
from pipeline.errors import ConfigError
from pipeline.models.build import AuditModel

from .fine_tuning import MaskedBatch, classification_loss, fine_tune
from .grad_cam import attended, scaled_to_peak
from .interface import Correction, Problem


class Gain:
    """Fine-tuning with classification + attention mining + supervision of Grad-CAM by masks."""

    def __init__(self, config: GainMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a corrected copy of the model."""
        config, background = self.config, self.config.background or problem.background
        layer = _layer(model, problem.dataset[0].x[None].to(problem.device), config.layer)
        everywhere = config.compared == "everywhere" or (config.compared == "auto" and background != "artifact")
        return fine_tune(
            model,
            problem,
            config,
            lambda network, batch: gain_losses(network, batch, problem, config, layer, everywhere=everywhere),
            background=background,
            mask_source=config.masks,
        )


def gain_losses(
    network: nn.Module, batch: MaskedBatch, problem: Problem, config: GainMethod, layer: str, *, everywhere: bool
) -> dict[str, torch.Tensor]:
    """Return the losses of a batch: "total", and its parts by name, without their weights.

    Args:
        layer: of the Grad-CAM.
        everywhere: compare Grad-CAM with the masks on all pixels; otherwise in the background alone.
    """
    target = batch.y.to(batch.x) if batch.y.ndim == 2 else batch.y
    logits, attention = attended(network, batch.x, target, layer, constant_weights=config.constant_weights)
    attention = scaled_to_peak(attention)
    classification = classification_loss(problem, logits, batch.y)
    hidden = batch.x * (1 - soft_mask(attention, config.sharpness, config.threshold))
    mining = mining_loss(network(hidden), batch.y)
    supervision = supervision_loss(attention, batch.mask, everywhere=everywhere)
    return {
        "total": classification + config.mining_weight * mining + config.mask_weight * supervision,
        "classification": classification,
        "mining": mining,
        "supervision": supervision,
    }


def soft_mask(attention: torch.Tensor, sharpness: float, threshold: float) -> torch.Tensor:
    """Return sigmoid(sharpness (attention - threshold)), in (0, 1); Li et al. 2018, eq. 4."""
    return torch.sigmoid(sharpness * (attention - threshold))


def mining_loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the mean probability that the classes are there though the attended region is not; Li et al. 2018, eq. 5.

    Args:
        logits: `[N, K]`, of images without the attended region.
        y: class ids `[N]` (softmax), or which classes are present `[N, K]` (sigmoid, averaged over those of a sample).
    """
    if y.ndim == 1:
        return logits.softmax(1).gather(1, y[:, None]).mean()
    present = y.to(logits)
    return ((logits.sigmoid() * present).sum(1) / present.sum(1).clamp(min=1)).mean()


def supervision_loss(attention: torch.Tensor, mask: torch.Tensor, *, everywhere: bool) -> torch.Tensor:
    """Return the mean squared difference of attention and foreground over samples with a mask; 0 where none has one.

    Args:
        attention: `[N, 1, H, W]` in [0, 1].
        mask: `[N, 1, H, W]`, 1 = background.
        everywhere: over all pixels (Li et al. 2018, eq. 7); otherwise over the background of each sample, where it is
            the mean squared attention.
    """
    present = mask.flatten(1).any(1)
    if not present.any():
        return attention.sum() * 0.0
    attention, mask = attention[present], mask[present]
    if everywhere:
        return (attention - (1 - mask)).pow(2).mean()
    return ((attention.pow(2) * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)).mean()


def _layer(model: AuditModel, example: torch.Tensor, wanted: str) -> str:
    """Return the layer of the Grad-CAM by its name.

    Raises:
        ConfigError: there is none, or its output has no positions.
    """
    try:
        layer = last_map(model, example) if wanted == "auto" else wanted
        attended(model, example, 0, layer, constant_weights=True)
    except ValueError as error:
        raise ConfigError(f"mitigate.methods: gain has no Grad-CAM for this network. {error}") from None
    return layer
