"""A U-Net finds the foreground, and the classifier sees nothing else (the baseline of Bassi et al. 2024)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from pipeline.config.mitigate import MaskedBackground, MaskSource, MultiTaskUnetMethod, UnetClassifierMethod
from pipeline.data.memory import split_indices
from pipeline.models.build import AuditModel
from pipeline.models.unet import segmentation_loss, usable_depth
from pipeline.workspace.records import NetworkChange

from .fine_tuning import MaskedBatch, classification_loss, fine_tune
from .interface import Correction, Problem
from .replaced import mean_color, replaced
from .training_masks import TrainingMasks

SEGMENTER_STATE = "segmenter_state.pt"


class UnetClassifier:
    """First the segmenter is trained, then, behind it, the classifier that was under audit."""

    def __init__(self, config: UnetClassifierMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return the segmenter and the fine-tuned classifier behind it."""
        config = self.config
        change = NetworkChange(
            name="segmented",
            parameters={
                "channels": problem.dataset.shape[0],
                "width": config.width,
                "depth": usable_depth(problem.dataset.shape, config.depth),
            },
        )
        segmented = replaced(model, change, problem.seed)
        fill = segmented.network.fill
        black = model.normalize(torch.zeros_like(fill)[None])[0]
        fill.copy_(mean_color(model, problem) if config.fill == "mean" else black)
        if has_masks(problem, config.background or problem.background, config.masks):
            segmented = self._with_trained_segmenter(segmented, problem)
        else:
            segmented.network.segmenter.see_foreground_everywhere()
            problem.reporter.say(
                f"    {problem.label or config.method_id}: no training sample has a mask, so the segmenter takes all "
                "of every image for foreground, and this is plain fine-tuning"
            )
        segmented.network.segmenter.requires_grad_(False)
        correction = fine_tune(
            segmented,
            problem,
            config,
            lambda network, batch: {"total": classification_loss(problem, network(batch.x), batch.y)},
        )
        if problem.group.leads and (state := self._segmenter_state(problem)) is not None:
            state.unlink(missing_ok=True)
        return dataclasses.replace(correction, changes=[change])

    def _with_trained_segmenter(self, segmented: AuditModel, problem: Problem) -> AuditModel:
        config = self.config
        background = config.background or problem.background

        def losses(network: AuditModel, batch: MaskedBatch) -> dict[str, torch.Tensor]:
            foreground, present = known_foreground(batch, config, background)
            found = network.network.segmenter(network.normalize(batch.x))
            return {"total": segmentation_loss(found, foreground, present)}

        segmented.network.network.requires_grad_(False)
        changes = {
            "epochs": config.segmenter_epochs,
            "lr": config.segmenter_lr,
            "select": "last",
            "patience": None,
        }
        label = f"{problem.label or config.method_id}, segmenter"
        return fine_tune(
            segmented,
            dataclasses.replace(problem, state_path=self._segmenter_state(problem), label=label),
            config.model_copy(update=changes),
            losses,
            frozen_norms=False,  # the losses run the segmenter alone, so the classifier's statistics stay, too
            background=background,
            mask_source=config.masks,
        ).model

    def _segmenter_state(self, problem: Problem) -> Path | None:
        return None if problem.state_path is None else problem.state_path.with_name(SEGMENTER_STATE)


def has_masks(problem: Problem, background: MaskedBackground, source: MaskSource) -> bool:
    """Tell whether any training sample has a mask."""
    rows = split_indices(problem.dataset, "train")
    return any(mask.any() for row in rows for mask in TrainingMasks(problem, [row], background, source).masks.values())


def known_foreground(
    batch: MaskedBatch, config: UnetClassifierMethod | MultiTaskUnetMethod, background: MaskedBackground
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the foreground `[N, 1, H, W]` that a segmenter should find, and for which samples it is known `[N]`."""
    everywhere = config.unmasked == "foreground" or (config.unmasked == "auto" and background == "artifact")
    return 1 - batch.mask, torch.ones_like(batch.masked) if everywhere else batch.masked
