"""ISNet: relevance of the background is minimised while the classifier trains (Bassi et al. 2024, and Faster ISNet)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.config.mitigate import IsnetMethod
from pipeline.data.batches import Batches
from pipeline.data.memory import split_indices
from pipeline.models.build import AuditModel
from pipeline.models.loop import Epoch
from pipeline.models.modes import evaluation_mode

from .cuts import Cuts, CutTuner
from .fine_tuning import MaskedBatch, classification_loss, fine_tune
from .heatmap_loss import deep_supervision, heatmap_loss
from .interface import Correction, Problem
from .isnet_maps import INPUT, can_be_streamed, relevance_maps, streamed_mean
from .supervised_layers import supervised_layers

__all__ = ["IsNet", "heatmap_loss", "isnet_losses", "losses_fight"]

MEASURED = 128
PLAIN_STATE = "plain_state.pt"
RISE = 1.2
"""Of the classification loss over its lowest value, above which it is called rising."""


class IsNet:
    """Training with (1 - P) classification loss + P heatmap loss on samples that have a mask."""

    def __init__(self, config: IsnetMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a corrected model: the plain architecture, with no cost at run time."""
        config = self.config
        start = model if config.start == "checkpoint" else problem.fresh()
        example = problem.dataset[0].x[None].to(problem.device)
        layers = supervised_layers(start, example, config.supervised_layers) if config.deep_supervision else ()
        cuts = self._cuts(start, problem, layers)

        def losses(network: nn.Module, batch: MaskedBatch) -> dict[str, torch.Tensor]:
            return isnet_losses(network, batch, problem, config, cuts, layers)

        correction = fine_tune(
            start,
            problem,
            config,
            losses,
            frozen_norms=config.frozen_norms,
            background=config.background or problem.background,
            validated=losses if config.select == "total" else None,
        )
        if losses_fight(correction.history):
            problem.reporter.say(
                f"    WARNING: {problem.label or config.method_id}: the classification loss rose while the heatmap "
                "loss fell. The classifier may need what the masks call background; look at some masks, lower "
                "heatmap_share, or raise decay."
            )
        if problem.group.leads and (plain := self._plain_state(problem)) is not None:
            plain.unlink(missing_ok=True)
        return correction

    def _cuts(self, start: AuditModel, problem: Problem, layers: Sequence[str]) -> dict[str, Cuts]:
        """Return the configured cuts of the input; all others are measured on a classifier that knows no masks."""
        config = self.config
        given = {} if config.cut is None else {INPUT: Cuts(torch.tensor(config.cut), torch.tensor(config.cut2))}
        if given and not layers:
            return given
        plain = start if config.start == "checkpoint" else self._plain_classifier(start, problem)
        return measured_cuts(plain, problem, config, layers) | given

    def _plain_classifier(self, start: AuditModel, problem: Problem) -> AuditModel:
        """Return a classifier trained for a few epochs without heatmap loss; it is used for nothing but its cuts."""
        config = self.config
        changes = {"epochs": config.cut_epochs, "select": "last", "patience": None}
        return fine_tune(
            start,
            dataclasses.replace(
                problem, state_path=self._plain_state(problem), label=f"{problem.label or config.method_id}, cuts"
            ),
            config.model_copy(update=changes),
            lambda network, batch: {"total": classification_loss(problem, network(batch.x), batch.y)},
            frozen_norms=config.frozen_norms,
        ).model

    def _plain_state(self, problem: Problem) -> Path | None:
        return None if problem.state_path is None else problem.state_path.with_name(PLAIN_STATE)


def isnet_losses(
    network: nn.Module,
    batch: MaskedBatch,
    problem: Problem,
    config: IsnetMethod,
    cuts: dict[str, Cuts],
    layers: Sequence[str] = (),
) -> dict[str, torch.Tensor]:
    """Return the losses of a batch: "total" (1 - P) classification + P heatmap, and the two by name.

    Args:
        network: in training or evaluation mode.
        batch: images, labels, background masks; a sample without mask has no heatmap loss.
        cuts: of the input and of every layer.
        layers: where relevance is supervised besides the input.
    """
    share, masked = config.share_at(batch.epoch), batch.masked
    if not share or not masked.any():
        classification = classification_loss(problem, network(batch.x), batch.y)
        return _total(classification, batch.x.new_zeros(()), share)
    explained, aside = batch, None
    if not masked.all() and not _mixes_samples(network):
        # relevance of samples without mask is of no use, and they can be classified by themselves
        explained = MaskedBatch(batch.x[masked], batch.y[masked], batch.mask[masked], batch.epoch)
        aside = network(batch.x[~masked])
    foreground = 1 - explained.mask

    def loss_of(relevances: dict[str, torch.Tensor], cuts: dict[str, Cuts]) -> torch.Tensor:
        losses = [
            heatmap_loss(
                relevances[name],
                foreground,
                cut=cuts[name].cut,
                cut2=cuts[name].cut2,
                decay=config.decay,
                E=config.E,
                background_weight=config.background_weight,
                foreground_weight=config.foreground_weight,
                foreground=config.foreground,
                present=explained.masked,
            )
            for name in (INPUT, *layers)
        ]
        return deep_supervision(losses, config.supervision_decay) if layers else losses[0]

    if can_be_streamed(config, layers):
        # the loss is the mean over maps, so each may come and go by itself
        heatmap, logits = streamed_mean(
            network, explained, config, lambda number, relevances: loss_of(relevances, _of_map(cuts, number))
        )
    else:
        maps = relevance_maps(network, explained, config, layers, create_graph=torch.is_grad_enabled())
        heatmap, logits = loss_of(maps.relevances, cuts), maps.logits
    labels = explained.y
    if aside is not None:
        logits, labels = torch.cat([logits, aside]), torch.cat([labels, batch.y[~masked]])
    return _total(classification_loss(problem, logits, labels), heatmap, share)


def _total(classification: torch.Tensor, heatmap: torch.Tensor, share: float) -> dict[str, torch.Tensor]:
    total = (1 - share) * classification + share * heatmap
    return {"total": total, "classification": classification, "heatmap": heatmap}


def _of_map(cuts: dict[str, Cuts], number: int) -> dict[str, Cuts]:
    return {name: Cuts(each.cut[number], each.cut2[number]) if each.cut.ndim else each for name, each in cuts.items()}


def _mixes_samples(network: nn.Module) -> bool:
    """Tell whether a sample's logits depend on the rest of its batch."""
    norms = (module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return any(norm.training or norm.running_mean is None for norm in norms)


def measured_cuts(model: AuditModel, problem: Problem, config: IsnetMethod, layers: Sequence[str]) -> dict[str, Cuts]:
    """Return cuts around the relevance that a classifier carries which was trained without heatmap loss."""
    rows = split_indices(problem.dataset, "train")
    rows = rows[np.linspace(0, len(rows) - 1, min(MEASURED, len(rows))).astype(int)]
    torch.manual_seed(problem.seed)  # the stochastic variant draws; a resumed training needs the same cuts
    tuner = CutTuner()
    with evaluation_mode(model):
        for batch in Batches(problem.dataset, rows, config.batch_size):
            x, y = batch.x.to(problem.device), batch.y.to(problem.device)
            maps = relevance_maps(model, MaskedBatch(x, y, torch.zeros_like(x[:, :1])), config, layers)
            for name, relevance in maps.relevances.items():
                tuner.update(name, relevance)
    return tuner.cuts()


def losses_fight(history: Sequence[Epoch]) -> bool:
    """Tell whether the classification loss ended well above its lowest value while the heatmap loss went on falling."""
    if len(history) < 3:
        return False
    classification = [epoch.losses["classification"] for epoch in history]
    heatmap = [epoch.losses["heatmap"] for epoch in history]
    lowest = int(np.argmin(classification))
    return classification[-1] > RISE * classification[lowest] and heatmap[-1] < heatmap[lowest]
