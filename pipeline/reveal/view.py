"""What detectors are given: samples of the training and validation split, with features, pixels and metadata."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from pipeline.config.reveal import LayerChoice
from pipeline.data.dataset import AuditDataset
from pipeline.errors import ConfigError, nearest
from pipeline.workspace.features import FeatureStore
from pipeline.workspace.progress import Reporter, SilentReporter

LATENT_LAYERS = 2
MOST_LAYERS = 6


@dataclass(frozen=True)
class DataView:
    """All samples that detectors may see.

    Attributes:
        store: features of all samples.
        dataset: pixels and metadata, rows as in the store.
        model: the classifier under audit, in evaluation mode.
        rows: rows of the training and validation split, ascending.
        condition: which logit the relevances explain.
        seed: for clusterings.
        device: of the model.
        batch_size: for whatever runs the model.
        reporter: for progress bars.
    """

    store: FeatureStore
    dataset: AuditDataset
    model: nn.Module
    rows: np.ndarray
    condition: str = "label"
    seed: int = 0
    device: str = "cpu"
    batch_size: int = 64
    reporter: Reporter = field(default_factory=SilentReporter)

    @property
    def labels(self) -> np.ndarray:
        """Class ids `[len(rows)]`."""
        return self.store.labels[self.rows]

    @property
    def deep_layers(self) -> tuple[str, ...]:
        """Activation layers (all layers where there are none), the deepest first."""
        activations = [name for name in self.store.layers if self.store.kinds[name] == "activation"]
        return tuple(reversed(activations or self.store.layers))

    @property
    def spread_layers(self) -> tuple[str, ...]:
        """Up to six of the activation layers, evenly spread over the depth, from input to output."""
        ascending = self.deep_layers[::-1]
        picks = np.unique(np.linspace(0, len(ascending) - 1, MOST_LAYERS).round().astype(int))
        return tuple(ascending[pick] for pick in picks)

    def images(self, rows: np.ndarray) -> torch.Tensor:
        """Return what rows of the data set show, `[len(rows), C, H, W]` (signals: `[len(rows), C, T]`), on `device`."""
        if not len(rows):
            return torch.empty(0, *self.dataset.shape, device=self.device)
        return torch.stack([self.dataset[int(row)].x for row in rows]).to(self.device)

    def classes(self) -> Iterator[ClassView]:
        """Yield every class."""
        labels = self.labels
        for class_id in range(len(self.dataset.classes)):
            yield ClassView(self, class_id, self.rows[labels == class_id])

    def restricted(self, rows: np.ndarray, seed: int) -> DataView:
        """Return the view of fewer samples, with another seed."""
        return replace(self, rows=rows, seed=seed)

    def layers(self, wanted: LayerChoice, detector: str) -> tuple[str, ...]:
        """Return the layers that a detector looks at; "auto" means the deepest two.

        Raises:
            ConfigError: a configured layer is not stored.
        """
        if wanted == "auto":
            return self.deep_layers[:LATENT_LAYERS]
        for layer in wanted:
            if layer not in self.store.layers:
                known = list(self.store.layers)
                raise ConfigError(
                    f"reveal.detectors: {detector} cannot look at '{layer}'.{nearest(layer, known)} "
                    f"Stored layers: {', '.join(known)}."
                )
        return tuple(wanted)

    def spaces(self, wanted: list[str], detector: str) -> tuple[str, ...]:
        """Return "input" for "heatmap", and layers: the deepest two ("latent"), up to six ("layers"), or by name.

        Raises:
            ConfigError: a name is neither.
        """
        found: list[str] = []
        for space in wanted:
            if space == "heatmap":
                found.append("input")
            elif space == "latent":
                found += self.deep_layers[:LATENT_LAYERS]
            elif space == "layers":
                found += self.spread_layers
            elif space in self.store.layers:
                found.append(space)
            else:
                known = ["heatmap", "latent", "layers", *self.store.layers]
                raise ConfigError(
                    f"reveal.detectors: {detector} cannot look at '{space}'.{nearest(space, known)} "
                    f"Allowed: {', '.join(known)}."
                )
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class ClassView:
    """The samples of one class.

    Attributes:
        data: the view of all samples.
        class_id: the class.
        rows: rows of the store that belong to the class, ascending.
    """

    data: DataView
    class_id: int
    rows: np.ndarray

    @property
    def class_name(self) -> str:
        """Name of the class."""
        return self.data.dataset.classes[self.class_id]
