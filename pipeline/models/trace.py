"""Layers found by watching one forward pass: name, order, kind, shape, channel axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.errors import ConfigError, nearest

from .modes import evaluation_mode

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardtanh)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
CHANNELS_FIRST = (*CONVOLUTIONS, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)
NORMS_OF_LAST_AXIS = (nn.LayerNorm, nn.RMSNorm)
SEQUENCES = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True)
class Layer:
    """A module that ran exactly once, so that its output is well defined.

    Attributes:
        name: path of the module in the network.
        kind: "activation" (output of a ReLU or its kin, also of a block that ends in one), "convolution", "block" (one
            of several modules of the same class in a sequence, whose output is tokens), or "other".
        shape: shape of the output without the batch axis.
        channel_axis: where the output, batch axis included, has its channels: 1 as in `[N, C, H, W]`, or -1 as in the
            tokens `[N, T, C]` and `[N, H, W, C]`.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    channel_axis: int


@dataclass(frozen=True)
class _Call:
    """A module that ran, with the tensor that it was given (None if there was none) and the one that it returned."""

    name: str
    module: nn.Module
    given: torch.Tensor | None
    output: torch.Tensor


def trace_layers(model: nn.Module, example: torch.Tensor) -> list[Layer]:
    """Run the model once and return its layers in the order in which they finish.

    A tensor that leaves several modules (a ReLU and the block that ends in it) is listed once, under the innermost
    module that ran once; a ReLU that is used twice by its block is therefore found under the block's name.

    Args:
        model: any module; hooks are removed afterwards and training flags are kept.
        example: one small batch `[N, ...]`.
    """
    return _unique_layers(_watch(model, example), set(_repeated(model)))


def _watch(model: nn.Module, example: torch.Tensor) -> list[_Call]:
    """Run the model once and return what ran, in the order in which it finished."""
    calls: list[_Call] = []

    def watch(name: str):
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            if isinstance(output, torch.Tensor) and output.ndim >= 2:
                given = inputs[0] if inputs and isinstance(inputs[0], torch.Tensor) else None
                calls.append(_Call(name, module, given, output))

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        with evaluation_mode(model), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return calls


class ChannelAxes:
    """Where the layers of a model have their channels; one forward pass answers all questions.

    Args:
        model: any module; it is watched when the first question comes.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._found: dict[str, int] = {}

    def of(self, layer: str, x: torch.Tensor) -> int:
        """Return the channel axis of a layer's output, batch axis included: 1, or -1 as for tokens.

        Args:
            layer: name of a module.
            x: inputs `[N, ...]`, on the device of the model; the first sample is what the model is watched on.

        Raises:
            ValueError: the layer is unknown, or does not run exactly once.
        """
        if not self._found:
            calls = _watch(self.model, x[:1])
            times = Counter(call.name for call in calls)
            axes = zip(calls, _channel_axes(calls), strict=True)
            self._found = {call.name: axis for call, axis in axes if times[call.name] == 1}
        if layer not in self._found:
            names = list(self._found)
            raise ValueError(
                f"no layer '{layer}' runs exactly once in the model.{nearest(layer, names)} "
                f"Layers: {', '.join(names[:40])}."
            )
        return self._found[layer]


def _repeated(model: nn.Module) -> Iterator[str]:
    """Yield the names of modules with parts of their own that stand in a sequence with others of their class."""
    for path, parent in model.named_modules():
        if not isinstance(parent, SEQUENCES):
            continue
        siblings = Counter(type(child) for child in parent)
        for name, child in parent.named_children():
            if siblings[type(child)] > 1 and any(child.children()) and type(child) not in SEQUENCES:
                yield f"{path}.{name}".lstrip(".")


def _unique_layers(calls: list[_Call], repeated: set[str]) -> list[Layer]:
    times = Counter(call.name for call in calls)
    axes = _channel_axes(calls)
    activated = {id(call.output) for call in calls if isinstance(call.module, ACTIVATIONS)}
    convolved = {id(call.output) for call in calls if isinstance(call.module, CONVOLUTIONS)}
    blocks = {id(call.output) for call in calls if call.name in repeated}
    layers, seen = [], set()
    for call, axis in zip(calls, axes, strict=True):
        tensor = id(call.output)
        if times[call.name] > 1 or tensor in seen:
            continue
        seen.add(tensor)
        tokens = axis == -1 and call.output.ndim > 2
        kind = (
            "activation" if tensor in activated
            else "convolution" if tensor in convolved
            else "block" if tensor in blocks and tokens
            else "other"
        )  # fmt: skip
        layers.append(Layer(call.name, kind, tuple(call.output.shape[1:]), axis))
    return layers


def _channel_axes(calls: list[_Call]) -> list[int]:
    """Return where the output of each call has its channels, 1 or -1.

    Convolutions and linear layers know. A module that moves axes takes the channels along; one that keeps the shape
    of an input whose channels are known keeps their place; any other has them where the last module that knew had
    them, for that many axes.
    """
    known: dict[int, int] = {}  # outputs are alive in `calls`, so that no two share an id
    last: dict[int, tuple[int, int]] = {}  # number of axes -> (channel axis, number of channels)
    axes = []
    for call in calls:
        given, output = call.given, call.output
        before = known.get(id(given))
        axis = _axis_by_definition(call.module)
        if axis is None and before is not None:
            axis = _axis_after_moving(given, output, before)
        if axis is not None:
            last[output.ndim] = axis, output.shape[axis]
        elif before is not None and given.shape == output.shape:
            axis = before
        if axis is not None:
            known.setdefault(id(output), axis)
        axes.append(known.get(id(output), _inherited(output, last)))
    return axes


def _axis_by_definition(module: nn.Module) -> int | None:
    if isinstance(module, CHANNELS_FIRST):
        return 1
    # Subclasses of LayerNorm may norm images over their channels.
    if isinstance(module, nn.Linear) or type(module) in NORMS_OF_LAST_AXIS:
        return -1
    return None


def _axis_after_moving(given: torch.Tensor, output: torch.Tensor, axis: int) -> int | None:
    """Return where the channels are in a view of `given` with its axes in another order; None for any other output."""
    if given.data_ptr() != output.data_ptr() or given.ndim != output.ndim or given.stride() == output.stride():
        return None
    channels = (given.stride(axis), given.shape[axis])
    for candidate in (1, -1):
        if (output.stride(candidate), output.shape[candidate]) == channels:
            return candidate
    return None


def _inherited(output: torch.Tensor, last: dict[int, tuple[int, int]]) -> int:
    axis, channels = last.get(output.ndim, (1, 0))
    moved_back = axis == -1 and output.shape[-1] != channels and output.shape[1] == channels
    return 1 if moved_back else axis


def select_layers(layers: list[Layer], wanted: str | list[str], key: str) -> list[Layer]:
    """Return the layers meant by a configuration value.

    Args:
        layers: all layers of the model.
        wanted: "auto" for every activation, convolution and block output with channels and positions, or names with
            wildcards.
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
