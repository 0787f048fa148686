"""Which hidden layers LRP deep supervision looks at, in any architecture."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.errors import ConfigError, nearest
from pipeline.models.trace import trace_layers


def supervised_layers(model: nn.Module, example: torch.Tensor, wanted: str | list[str]) -> tuple[str, ...]:
    """Return names of layers, from input to output.

    "auto" takes the last output of every spatial size, but for the first activation and for single positions. In a
    ResNet these are its four stages, in a DenseNet the end of every dense block, in a VGG what every pooling takes.

    Args:
        model: any network of images or signals.
        example: one small batch.
        wanted: "auto", or names.

    Raises:
        ConfigError: an unknown name, or no layer at all.
    """
    layers = trace_layers(model, example)
    if wanted != "auto":
        names = [layer.name for layer in layers]
        for name in wanted:
            if name not in names:
                raise ConfigError(
                    f"mitigate.methods: supervised_layers names '{name}', which is no layer that runs once."
                    f"{nearest(name, names)} Layers: {', '.join(names[:40])}."
                )
        return tuple(name for name in names if name in wanted)
    maps = [layer for layer in layers if len(layer.shape) > 1 and layer.channel_axis == 1]
    first = next((layer for layer in maps if layer.kind == "activation"), None)
    last: dict[tuple[int, ...], str] = {}
    for layer in maps:
        positions = layer.shape[1:]
        # convolutions before their activation carry relevance that the activation undoes
        if layer.kind != "convolution" and any(size > 1 for size in positions):
            last[positions] = layer.name
    chosen = tuple(name for name in last.values() if first is None or name != first.name)
    if not chosen:
        raise ConfigError(
            "mitigate.methods: deep_supervision finds no hidden layer with positions in this network. Name some with "
            "supervised_layers, or leave deep_supervision out."
        )
    return chosen
