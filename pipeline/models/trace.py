"""Layers found by watching one forward pass: name, order, kind, shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pipeline.errors import ConfigError, nearest

from .modes import evaluation_mode

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardtanh)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Layer:
    """A module that ran exactly once, so that its output is well defined.

    Attributes:
        name: path of the module in the network.
        kind: "activation" (output of a ReLU or its kin, also of a block that ends in one), "convolution", or "other".
        shape: shape of the output without the batch axis.
    """

    name: str
    kind: str
    shape: tuple[int, ...]


def trace_layers(model: nn.Module, example: torch.Tensor) -> list[Layer]:
    """Run the model once and return its layers in the order in which they finish.

    A tensor that leaves several modules (a ReLU and the block that ends in it) is listed once, under the innermost
    module that ran once; a ReLU that is used twice by its block is therefore found under the block's name.

    Args:
        model: any module; hooks are removed afterwards and training flags are kept.
        example: one small batch `[N, ...]`.
    """
    calls: list[tuple[str, nn.Module, torch.Tensor]] = []
    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: calls.append((name, module, output)))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with evaluation_mode(model), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return _unique_layers([call for call in calls if isinstance(call[2], torch.Tensor) and call[2].ndim >= 2])


def _unique_layers(calls: list[tuple[str, nn.Module, torch.Tensor]]) -> list[Layer]:
    times = {name: sum(other == name for other, _, _ in calls) for name, _, _ in calls}
    activated = {id(output) for _, module, output in calls if isinstance(module, ACTIVATIONS)}
    convolved = {id(output) for _, module, output in calls if isinstance(module, CONVOLUTIONS)}
    layers, seen = [], set()
    for name, _, output in calls:
        if times[name] > 1 or id(output) in seen:
            continue
        seen.add(id(output))
        kind = "activation" if id(output) in activated else "convolution" if id(output) in convolved else "other"
        layers.append(Layer(name, kind, tuple(output.shape[1:])))
    return layers


def select_layers(layers: list[Layer], wanted: str | list[str], key: str) -> list[Layer]:
    """Return the layers meant by a configuration value.

    Args:
        layers: all layers of the model.
        wanted: "auto" for every activation and convolution output with channels and positions, or names with wildcards.
        key: configuration key, for the message.

    Raises:
        ConfigError: a name matches no layer.
    """
    from fnmatch import fnmatchcase

    if wanted == "auto":
        return [layer for layer in layers if layer.kind != "other" and len(layer.shape) >= 2]
    names = [layer.name for layer in layers]
    chosen = []
    for pattern in wanted:
        matches = [layer for layer in layers if fnmatchcase(layer.name, pattern)]
        if not matches:
            raise ConfigError(
                f"{key}: no layer matches '{pattern}'.{nearest(pattern, names)} Layers: {', '.join(names[:40])}."
            )
        chosen += [layer for layer in matches if layer not in chosen]
    return sorted(chosen, key=layers.index)
