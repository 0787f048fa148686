"""The one interface of all corrections, and what they are given."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution.recording import record_outputs
from pipeline.concepts.cav import Cav, acting_layer
from pipeline.config.mitigate import FineTuningConfig
from pipeline.config.model import AugmentConfig
from pipeline.data.augment import Augmenter
from pipeline.data.batches import Batch, Batches
from pipeline.data.dataset import AuditDataset
from pipeline.data.memory import split_indices
from pipeline.errors import ConfigError, nearest
from pipeline.models.build import AuditModel
from pipeline.models.classification import validation_metrics
from pipeline.models.loop import Epoch, LoopSettings, train_loop
from pipeline.models.modes import evaluation_mode
from pipeline.workspace.progress import Reporter, SilentReporter
from pipeline.workspace.records import Bias


@dataclass(frozen=True)
class KnownBias:
    """A bias with all that reveal and localize found out about it.

    Attributes:
        bias: the record.
        cav: the CAV that localized it.
        cavs: every fitted CAV by (layer, kind).
        mask: sample id -> artifact mask `[H, W]`, None where there is none.
    """

    bias: Bias
    cav: Cav
    cavs: dict[tuple[str, str], Cav]
    mask: Callable[[str], np.ndarray | None]

    def correction_cav(self, layer: str = "auto") -> Cav:
        """Return the CAV that a correction acts on: that of `acting_layer`, or of a named layer.

        Raises:
            ConfigError: no CAV was fitted in the named layer.
        """
        acting, kind = acting_layer(self.bias.candidates)
        layer = acting if layer == "auto" else layer
        if (layer, kind) not in self.cavs:
            fitted = [name for name, _ in self.cavs]
            raise ConfigError(
                f"mitigate.methods: no CAV was fitted in layer '{layer}'.{nearest(layer, fitted)} "
                f"Fitted: {', '.join(dict.fromkeys(fitted))}. Add it to reveal.cav.layers."
            )
        return self.cavs[layer, kind]


@dataclass(frozen=True)
class Problem:
    """What every correction starts from.

    Attributes:
        dataset: the training world; corrections see no other.
        biases: what to correct.
        device: where to compute.
        seed: of everything random.
        augment: changes of training images; masks move along.
        key: hash of the inputs, for resuming.
        state_path: where a training keeps its state.
    """

    dataset: AuditDataset
    biases: list[KnownBias]
    device: str = "cpu"
    seed: int = 0
    augment: AugmentConfig = AugmentConfig()
    class_weights: torch.Tensor | None = None
    reporter: Reporter = field(default_factory=SilentReporter)
    key: str = ""
    state_path: Path | None = None
    label: str = ""


@dataclass(frozen=True)
class Insertion:
    """A projection that the corrected model carries: layer, direction, clean value, mode."""

    layer: str
    direction: np.ndarray
    clean_value: float
    mode: str


@dataclass(frozen=True)
class Correction:
    """A corrected model.

    Attributes:
        model: the plain architecture, or the architecture with projections inserted.
        history: epochs of the training, empty without training.
        insertions: projections to put in before its weights are loaded.
        notes: facts for the method's record.
    """

    model: AuditModel
    history: list[Epoch] = field(default_factory=list)
    insertions: list[Insertion] = field(default_factory=list)
    notes: dict = field(default_factory=dict)


class Mitigation(Protocol):
    """Corrects a model; the model given is left as it was."""

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a corrected copy of the model."""
        ...


def fine_tune(
    model: AuditModel,
    problem: Problem,
    config: FineTuningConfig,
    losses: Callable[[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]],
    *,
    frozen_up_to: str | None = None,
) -> Correction:
    """Return a copy of the model, fine-tuned with BatchNorm statistics kept: the shell of every method that trains.

    Args:
        losses: (model, x `[B, C, H, W]`, y `[B]`, masks `[B, 1, H, W]`, 1 = artifact, 0 everywhere without mask)
            -> named scalars, "total" is minimised.
        frozen_up_to: every parameter that this layer's output depends on stays as it is.

    Raises:
        ConfigError: no parameter is left to train.
    """
    corrected = copy.deepcopy(model)
    if frozen_up_to is not None:
        freeze_up_to(corrected, frozen_up_to, problem.dataset[0].x[None].to(problem.device))
        if not any(parameter.requires_grad for parameter in corrected.parameters()):
            raise ConfigError(
                f"mitigate.methods: '{config.method_id}' trains what lies above layer '{frozen_up_to}', but there are "
                "no parameters above it. Name a layer nearer to the input by its `layer:`, or take another method."
            )
    dataset = problem.dataset
    rows, validation = split_indices(dataset, "train"), split_indices(dataset, "val")
    ids = dataset.table["id"].to_numpy()
    masks = TrainingMasks(problem, ids[rows], dataset.shape[1:])
    augment = Augmenter(problem.augment, problem.seed)

    def batch_losses(network: nn.Module, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        names = ids[batch.index]
        x, mask = augment(batch.x, masks.of(names).to(batch.x.device), names, epoch)
        return losses(network, x, batch.y, mask)

    history = train_loop(
        corrected,
        Batches(dataset, rows, config.batch_size, shuffle_seed=problem.seed + 1),
        batch_losses,
        lambda network: validation_metrics(network, dataset, validation, problem.device),
        LoopSettings(
            epochs=config.epochs,
            lr=config.lr,
            optimizer=config.optimizer,
            clip_norm=config.clip_norm,
            select="last",
            frozen_norms=True,
        ),
        device=problem.device,
        seed=problem.seed,
        key=problem.key,
        state_path=problem.state_path,
        reporter=problem.reporter,
        label=problem.label or config.method_id,
    )
    corrected.requires_grad_(True)
    return Correction(corrected, history)


def freeze_up_to(model: nn.Module, layer: str, example: torch.Tensor) -> None:
    """Stop the training of every parameter that the output of a layer depends on."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluation_mode(model), torch.enable_grad(), record_outputs(model, [layer]) as outputs:
        model(example.detach().requires_grad_(True))
    gradients = torch.autograd.grad(outputs[layer].sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.requires_grad_(False)


def cross_entropy(problem: Problem, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the classification loss, with the class weights of the original training."""
    weights = problem.class_weights
    return F.cross_entropy(logits, y, weight=None if weights is None else weights.to(logits.device))


class TrainingMasks:
    """Artifact masks of the training samples, the union over all biases, in memory."""

    def __init__(self, problem: Problem, ids: np.ndarray, size: tuple[int, ...]):
        self.size = size
        self.masks: dict[str, torch.Tensor] = {}
        for name in ids:
            found = [mask for known in problem.biases if (mask := known.mask(str(name))) is not None]
            if found:
                self.masks[str(name)] = torch.from_numpy(np.logical_or.reduce(found))

    def of(self, names: np.ndarray) -> torch.Tensor:
        """Return masks `[B, 1, H, W]` as float32, all 0 for samples without mask."""
        nothing = torch.zeros(self.size, dtype=torch.bool)
        return torch.stack([self.masks.get(str(name), nothing) for name in names])[:, None].float()
