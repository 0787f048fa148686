"""The shell of every correction that trains: a copy of the model, batches with masks, validation, history."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution.recording import record_outputs
from pipeline.config.mitigate import FineTuningConfig, MaskedBackground, MaskSource
from pipeline.data.augment import Augmenter
from pipeline.data.batches import Batch, Batches
from pipeline.data.memory import split_indices
from pipeline.data.worlds import WorldView
from pipeline.errors import ConfigError
from pipeline.models.build import AuditModel
from pipeline.models.classification import validation_metrics
from pipeline.models.loop import LoopSettings, freeze_norms, train_loop
from pipeline.models.modes import deterministic_algorithms, evaluation_mode
from pipeline.models.split import CannotSplit, Head

from .feature_cache import CachedRows, NoRoom, cache_features, split_trained
from .interface import Correction, Problem
from .training_masks import TrainingMasks


@dataclass(frozen=True)
class MaskedBatch:
    """Training images with their masks, changed together by augmentation.

    Attributes:
        x: `[B, C, H, W]`; where the frozen layers are computed once, the features `[B, D]` that the network given to
            the losses takes instead.
        y: class ids `[B]`, or which classes are present `[B, K]`.
        mask: `[B, 1, H, W]`, 1 = what the model should not use; 0 everywhere for a sample without mask.
        epoch: number of the epoch, from 1.
        rows: positions in the data set `[B]`.
    """

    x: torch.Tensor
    y: torch.Tensor
    mask: torch.Tensor
    epoch: int = 1
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))

    @property
    def masked(self) -> torch.Tensor:
        """Return which samples have a mask, booleans `[B]`."""
        return self.mask.flatten(1).any(1)


Losses = Callable[[nn.Module, MaskedBatch], dict[str, torch.Tensor]]


def fine_tune(
    model: AuditModel,
    problem: Problem,
    config: FineTuningConfig,
    losses: Losses,
    *,
    frozen_up_to: str | Iterable[str] | None = None,
    watched: Iterable[str] = (),
    frozen_norms: bool = True,
    needs_images: bool = False,
    background: MaskedBackground = "artifact",
    mask_source: MaskSource = "localized",
    order: Callable[[int], np.ndarray] | None = None,
    validated: Losses | None = None,
) -> Correction:
    """Return a trained copy of the model.

    Where layers are frozen and nothing else changes what they say (no augmentation, no random or training-dependent
    module), they are computed once, and only what follows them runs in every step, with the same result. Losses then
    get that part as their model, and its features as `batch.x`, rows of which may be chosen; `watched` of
    `pipeline.models.split` gives them the outputs of layers in both cases.

    Args:
        losses: (model, batch) -> named scalars, "total" is minimised.
        frozen_up_to: every parameter that the output of this layer, or of these, depends on stays as it is.
        watched: layers whose outputs the losses ask `watched` for.
        frozen_norms: statistics of BatchNorm stay as they are.
        needs_images: the losses look at, or change, the pixels of `batch.x`: frozen layers are computed in every step.
        background: what masks cover.
        mask_source: who made the masks of artifacts.
        order: epoch -> rows of the data set to visit in it, always as many; default: the training rows, shuffled.
        validated: losses that join the validation metrics by their names; the model is then in evaluation mode.

    Raises:
        ConfigError: no parameter is left to train.
    """
    corrected = copy.deepcopy(model)
    layers = [frozen_up_to] if isinstance(frozen_up_to, str) else list(frozen_up_to or ())
    for layer in layers:
        freeze_up_to(corrected, layer, problem.dataset[0].x[None].to(problem.device))
    if layers and not any(parameter.requires_grad for parameter in corrected.parameters()):
        raise ConfigError(
            f"mitigate.methods: '{config.method_id}' trains what lies above layer '{', '.join(layers)}', but there are "
            "no parameters above it. Name a layer nearer to the input by its `layer:`, or take another method."
        )
    dataset = problem.dataset
    rows, validation = split_indices(dataset, "train"), split_indices(dataset, "val")
    ids = dataset.table["id"].to_numpy()
    masks = TrainingMasks(problem, [*rows, *(validation if validated else ())], background, mask_source)
    augment = Augmenter(problem.augment, problem.seed)

    def batch_losses(network: nn.Module, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        x, mask = augment(batch.x, masks.of(batch.index).to(batch.x.device), ids[batch.index], epoch)
        return losses(head or network, MaskedBatch(x, batch.y, mask, epoch, batch.index))

    def validate(network: nn.Module) -> dict[str, float]:
        metrics = validation_metrics(network, dataset, validation, problem.device)
        if validated is None:
            return metrics
        batches = Batches(dataset, validation, config.batch_size)
        return metrics | mean_losses(network, batches, masks, validated, problem.device)

    part = problem.group.rank.number, problem.group.rank.of
    with deterministic_algorithms(config.deterministic):
        head, samples = None, dataset
        if layers and config.cache_features and not augment.enabled and not needs_images:
            visited = rows if order is None else np.concatenate([order(each + 1) for each in range(config.epochs)])
            head, samples = _computed_once(corrected, problem, config, np.unique(visited), watched, frozen_norms)
        history = train_loop(
            corrected,
            Batches(samples, rows, config.batch_size, shuffle_seed=problem.seed + 1, part=part, order=order),
            batch_losses,
            validate,
            LoopSettings(
                epochs=config.epochs,
                lr=config.lr,
                optimizer=config.optimizer,
                clip_norm=config.clip_norm,
                select=config.select,
                patience=config.patience,
                frozen_norms=frozen_norms,
            ),
            device=problem.device,
            seed=problem.seed,
            key=problem.key,
            state_path=problem.state_path,
            reporter=problem.reporter,
            label=problem.label or config.method_id,
            group=problem.group,
        )
    corrected.requires_grad_(True)
    return Correction(corrected, history)


def _computed_once(
    corrected: AuditModel,
    problem: Problem,
    config: FineTuningConfig,
    rows: np.ndarray,
    watched: Iterable[str],
    frozen_norms: bool,
) -> tuple[Head | None, CachedRows | WorldView]:
    """Return what trains, and a data set of what it takes; where there is no such part, None and the data set."""
    corrected.train()
    if frozen_norms:
        freeze_norms(corrected)
    label = problem.label or config.method_id
    try:
        split = split_trained(corrected, problem, rows, watched)
        return split.head, cache_features(split, problem, rows, config.batch_size, label)
    except (CannotSplit, NoRoom) as reason:
        problem.reporter.say(f"    {label}: frozen layers are computed in every step, since {reason}")
        return None, problem.dataset


def mean_losses(
    network: nn.Module, batches: Batches, masks: TrainingMasks, losses: Losses, device: str
) -> dict[str, float]:
    """Return the mean over samples of every named loss, with the network as it is."""
    sums: dict[str, float] = {}
    for batch in batches:
        moved = MaskedBatch(batch.x.to(device), batch.y.to(device), masks.of(batch.index).to(device), rows=batch.index)
        for name, value in losses(network, moved).items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) * len(batch.y)
    return {name: value / len(batches.indices) for name, value in sums.items()}


def freeze_up_to(model: nn.Module, layer: str, example: torch.Tensor) -> None:
    """Stop the training of every parameter that the output of a layer depends on."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        return
    with evaluation_mode(model), torch.enable_grad(), record_outputs(model, [layer]) as outputs:
        model(example.detach().requires_grad_(True))
    gradients = torch.autograd.grad(outputs[layer].sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.requires_grad_(False)


def classification_loss(problem: Problem, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the loss of the original training, with its class weights.

    Args:
        logits: `[B, K]`.
        y: class ids `[B]` (cross-entropy), or which classes are present `[B, K]` (binary cross-entropy of each).
    """
    weights = None if problem.class_weights is None else problem.class_weights.to(logits.device)
    if y.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, y.to(logits), weight=weights)
    return F.cross_entropy(logits, y, weight=weights)
