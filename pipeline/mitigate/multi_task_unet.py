"""One encoder for classification and segmentation (the multi-task baseline of Bassi et al. 2024)."""

from __future__ import annotations

import dataclasses

import torch

from pipeline.config.mitigate import MultiTaskUnetMethod
from pipeline.models.build import AuditModel
from pipeline.models.unet import segmentation_loss, usable_depth
from pipeline.workspace.records import NetworkChange

from .fine_tuning import MaskedBatch, classification_loss, fine_tune
from .interface import Correction, Problem
from .replaced import replaced
from .unet_classifier import known_foreground


class MultiTaskUnet:
    """Training from scratch with (1 - w) classification + w segmentation; nothing of the model under audit is used."""

    def __init__(self, config: MultiTaskUnetMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a U-Net that classifies, behind the normalization of the model under audit."""
        config, background = self.config, self.config.background or problem.background
        change = NetworkChange(
            name="multi_task_unet",
            parameters={
                "channels": problem.dataset.shape[0],
                "classes": len(problem.dataset.classes),
                "width": config.width,
                "depth": usable_depth(problem.dataset.shape, config.depth),
                "cells": config.cells,
                "hidden": config.hidden,
                "dropout": config.dropout,
            },
        )

        def losses(network: AuditModel, batch: MaskedBatch) -> dict[str, torch.Tensor]:
            logits, found = network.network.both(network.normalize(batch.x))
            classification = classification_loss(problem, logits, batch.y)
            segmentation = segmentation_loss(found, *known_foreground(batch, config, background))
            share = config.segmentation_share
            return {
                "total": (1 - share) * classification + share * segmentation,
                "classification": classification,
                "segmentation": segmentation,
            }

        correction = fine_tune(
            replaced(model, change, problem.seed),
            problem,
            config,
            losses,
            frozen_norms=False,
            background=background,
            mask_source=config.masks,
        )
        return dataclasses.replace(correction, changes=[change])
