"""The one interface of all corrections, and what they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from pipeline.concepts.cav import Cav, acting_layer
from pipeline.config.mitigate import MaskedBackground
from pipeline.config.model import AugmentConfig
from pipeline.data.worlds import WorldView
from pipeline.errors import ConfigError, nearest
from pipeline.models.build import AuditModel
from pipeline.models.loop import Epoch
from pipeline.models.training_group import TrainingGroup
from pipeline.workspace.progress import Reporter, SilentReporter
from pipeline.workspace.records import Bias, Change


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
        background: what masks cover where a method does not say it.
        fresh: makes the architecture anew with its first weights, for corrections that start from scratch.
        key: hash of the inputs, for resuming.
        state_path: where a training keeps its state.
        group: processes that train together.
    """

    dataset: WorldView
    biases: list[KnownBias]
    device: str = "cpu"
    seed: int = 0
    augment: AugmentConfig = AugmentConfig()
    background: MaskedBackground = "artifact"
    fresh: Callable[[], AuditModel] | None = None
    class_weights: torch.Tensor | None = None
    reporter: Reporter = field(default_factory=SilentReporter)
    key: str = ""
    state_path: Path | None = None
    label: str = ""
    group: TrainingGroup = field(default_factory=TrainingGroup)


@dataclass(frozen=True)
class Correction:
    """A corrected model.

    Attributes:
        model: the plain architecture, or the architecture with changes.
        history: epochs of the training, empty without training.
        changes: of the architecture, which are made before its weights are loaded.
        notes: facts for the method's record.
    """

    model: AuditModel
    history: list[Epoch] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    notes: dict[str, str | float] = field(default_factory=dict)


class Mitigation(Protocol):
    """Corrects a model; the model given is left as it was."""

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a corrected copy of the model."""
        ...


@runtime_checkable
class Exporting(Protocol):
    """A correction whose model has more to show than its predictions."""

    def export(self, model: AuditModel, problem: Problem, folder: Path) -> None:
        """Write it into the folder."""
        ...
