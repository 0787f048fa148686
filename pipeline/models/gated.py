"""A classifier whose features are multiplied by the map of an explainer (Rio-Torto et al., 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.errors import ConfigError, nearest

from .build import AuditModel
from .map_explainer import MapExplainer
from .replacement import INNER
from .trace import Layer, trace_layers
from .weighting import constant_for_relevance

GatedPlace = Literal["input", "stem", "stages", "activations"]


class GatedClassifier(nn.Module):
    """The classifier sees its features times a map in [0, 1]; what the map closes, it can use less, or not at all.

    The map, averaged to the size of each gated layer, multiplies the layer's output. Names of parameters and layers
    of the network stay as they are: hooks are there only while it runs.

    Args:
        network: classifier of images `[N, C, H, W]`.
        explainer: draws the map.
        layers: names within this module, as "network.relu1", whose outputs are multiplied. None at all: the image
            itself is masked, x z + (1 - z) fill, so that nothing outside the map can leak into features.
        channels: C.

    Attributes:
        fill: `[C, 1, 1]`, what stands in closed places of a masked image.
    """

    def __init__(self, network: nn.Module, explainer: MapExplainer, layers: Sequence[str], channels: int):
        super().__init__()
        self.network = network
        self.explainer = explainer
        self.layers = tuple(layers)
        if not self.layers:
            self.register_buffer("fill", torch.zeros(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `[N, K]`; the map counts as a constant.

        Whatever explains these logits, by relevance or by gradients, explains the classifier given its map. For
        training, take `forward_with_map`.
        """
        with torch.no_grad(), constant_for_relevance():
            opening = self.explainer(x)
        return self.logits_given(x, opening)

    def forward_with_map(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits `[N, K]` and maps `[N, 1, H, W]`, with gradients through both."""
        opening = self.explainer(x)
        return self.logits_given(x, opening), opening

    def logits_given(self, x: torch.Tensor, opening: torch.Tensor) -> torch.Tensor:
        """Return logits `[N, K]` for maps `[N, 1, H, W]`; with 1 everywhere, those of the network itself."""
        if not self.layers:
            return self.network(x * opening + (1 - opening) * self.fill)
        hook = _multiplied_by(opening)
        handles = [self.get_submodule(name).register_forward_hook(hook) for name in self.layers]
        try:
            return self.network(x)
        finally:
            for handle in handles:
                handle.remove()


def _multiplied_by(opening: torch.Tensor) -> Callable[[nn.Module, tuple, torch.Tensor], torch.Tensor]:
    def hook(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        # averaged, not the largest value: one open pixel must not open a whole cell
        return output * F.adaptive_avg_pool2d(opening, output.shape[-2:])

    return hook


def gated_classifier(
    network: nn.Module, *, channels: int, layers: list[str], width: int, gate: str, bias: float
) -> GatedClassifier:
    """Return the network behind an explainer with its first weights; see `GatedClassifier` and `MapExplainer`."""
    explainer = MapExplainer(channels, width, gate=gate, bias=bias)
    return GatedClassifier(network, explainer, layers, channels)


def gated_layers(model: AuditModel, example: torch.Tensor, wanted: GatedPlace | list[str]) -> tuple[str, ...]:
    """Return names of the layers that a map multiplies, from input to output; none where the input is masked.

    Args:
        model: the model under audit.
        example: one small batch.
        wanted: "input"; "stem", the first activation; "stages", the last output of every spatial size (of a ResNet the
            stem and its four stages); "activations", all that run once (of a torchvision ResNet the stem and the end
            of every block, as in the published code); or names.

    Raises:
        ConfigError: the samples are no images, a name is no layer with positions, or there is no such layer.
    """
    if example.ndim != 4:
        raise ConfigError(
            f"mitigate.methods: in_model_explainer draws maps of images [C, H, W], but the samples of this data set "
            f"have the shape {list(example.shape[1:])}. Take another method."
        )
    if wanted == "input":
        return ()
    maps = [layer for layer in trace_layers(model, example) if _has_positions(layer)]
    if isinstance(wanted, list):
        return _named(maps, wanted)
    activations = [layer.name for layer in maps if layer.kind == "activation"]
    if wanted == "stages":
        chosen = {layer.shape[1:]: layer.name for layer in maps if layer.kind != "convolution"}.values()
    else:
        chosen = activations[:1] if wanted == "stem" else activations
    if not chosen:
        raise ConfigError(
            f"mitigate.methods: gated '{wanted}' finds no layer [N, C, H, W] in this network. Name some, as "
            "gated: [network.layer1], or mask the input by gated: input."
        )
    return tuple(chosen)


def _has_positions(layer: Layer) -> bool:
    within = layer.name.startswith(f"{INNER}.")
    return within and layer.channel_axis == 1 and len(layer.shape) == 3 and max(layer.shape[1:]) > 1


def _named(maps: list[Layer], wanted: list[str]) -> tuple[str, ...]:
    names = [layer.name for layer in maps]
    for name in wanted:
        if name not in names:
            raise ConfigError(
                f"mitigate.methods: gated names '{name}', which is no layer [N, C, H, W] that runs once."
                f"{nearest(name, names)} Layers: {', '.join(names[:40])}."
            )
    return tuple(name for name in names if name in wanted)
