"""Normalisation layers: linear in their input once the deviation is taken for a constant."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from ..folding import Norm
from ..stabilize import stabilized_ratio
from .transposed import transposed

T = torch.Tensor


def batch_norm(tape, function, args, kwargs):
    """Relevance passes; a BatchNorm that is folded into the layer before it has nothing left to do."""
    given = given_to_batch_norm(function, args, kwargs)
    x = given["input"]
    folded = tape.folded.get(x)
    if folded is not None and folded.norm.mean is given["running_mean"]:
        del tape.folded[x]
        output = x.view_as(x)
    else:
        output = function(*args, **kwargs)
    if tape.node(x) is not None:
        tape.record(output, [x], lambda relevance: [relevance])
        if not given["training"]:
            tape.plan.notice_norm(
                x, Norm(given["running_mean"], given["running_var"], given["weight"], given["bias"], given["eps"])
            )
    return output


def given_to_batch_norm(function, args, kwargs) -> dict:
    """Return the arguments of a batch normalisation by name; PyTorch's two functions order them differently."""
    statistics, factors = ("running_mean", "running_var"), ("weight", "bias")
    order = (*factors, *statistics) if function is torch.batch_norm else (*statistics, *factors)
    names = ("input", *order, "training", "momentum", "eps")
    usual = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}
    return usual | dict(zip(names, args, strict=False)) | kwargs


def instance_norm(tape, function, args, kwargs):
    """A layer normalisation of every channel, or, with statistics of the training, a BatchNorm: relevance passes."""
    x = args[0] if args else kwargs["input"]
    own_statistics = args[5] if len(args) > 5 else kwargs.get("use_input_stats", True)
    if own_statistics or tape.node(x) is None:
        return layer_norm(tape, function, args, kwargs)
    output = function(*args, **kwargs)
    tape.record(output, [x], lambda relevance: [relevance])
    return output


def layer_norm(tape, function, args, kwargs):
    """y = g (x - mean) / deviation + b by the epsilon rule, the deviation being constant (Ali et al. 2022).

    The shift takes its share; where biases are left out, it goes to the inputs in proportion to |x|.
    """
    x = args[0] if args else kwargs["input"]
    if tape.node(x) is None:
        return function(*args, **kwargs)
    output = function(*args, **kwargs)
    settings = _Settings(function, args, kwargs)

    def back(relevance):
        scaled = stabilized_ratio(relevance, output, tape.composite.stabilizer)
        (weights,) = transposed(settings.linear(x), [x], [scaled])
        found = x * weights
        if tape.keeps_biases:
            return [found]
        axes = settings.axes(x)
        missing = relevance.sum(axes, keepdim=True) - found.sum(axes, keepdim=True)
        magnitude = x.abs()
        return [
            found + magnitude * stabilized_ratio(missing, magnitude.sum(axes, keepdim=True), tape.composite.stabilizer)
        ]

    tape.record(output, [x], back)
    return output


class _Settings:
    """What a normalisation does, apart from its deviation: which axes, centring, factor."""

    def __init__(self, function: Callable, args, kwargs):
        self.function, self.args, self.kwargs = function, args, kwargs
        self.kind = function.__name__

    def _argument(self, position: int, name: str, default=None):
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @property
    def groups(self) -> int | None:
        """Number of groups of channels; None for normalisation over trailing axes."""
        if self.kind == "group_norm":
            return self._argument(1, "num_groups")
        return None

    def axes(self, x: T) -> tuple[int, ...]:
        """Axes over which means are taken, at the shape of x; groups share among all channels for simplicity."""
        if self.kind in ("layer_norm", "rms_norm"):
            shape = self._argument(1, "normalized_shape")
            return tuple(range(-len(shape), 0))
        return tuple(range(2, x.ndim)) if self.kind == "instance_norm" else tuple(range(1, x.ndim))

    def linear(self, x: T) -> Callable[[T], T]:
        """Return the map with the deviation of x as a constant, without shift."""
        if self.kind in ("layer_norm", "rms_norm"):
            axes, grouped = self.axes(x), x
            weight = self._argument(2, "weight")
            eps = self._argument(4 if self.kind == "layer_norm" else 3, "eps")
        else:
            groups = self.groups or x.shape[1]
            grouped = x.reshape(x.shape[0], groups, -1)
            axes = (2,)
            weight = self._argument(2 if self.kind == "group_norm" else 3, "weight")
            weight = None if weight is None else weight.view(1, -1, *[1] * (x.ndim - 2))
            eps = self._argument(4 if self.kind == "group_norm" else 7, "eps")
        eps = (1e-5 if self.kind != "rms_norm" else torch.finfo(x.dtype).eps) if eps is None else eps
        centred = self.kind != "rms_norm"
        spread = grouped - grouped.mean(axes, keepdim=True) if centred else grouped
        inverse = torch.rsqrt(spread.square().mean(axes, keepdim=True) + eps)

        def run(place: T) -> T:
            values = place.reshape(grouped.shape)
            values = (values - values.mean(axes, keepdim=True) if centred else values) * inverse
            values = values.reshape(place.shape)
            return values if weight is None else values * weight

        return run


def unit_length(tape, function, args, kwargs):
    """x / |x|, the length being constant: relevance passes."""
    x = args[0] if args else kwargs["input"]
    output = function(*args, **kwargs)
    if tape.node(x) is not None:
        tape.record(output, [x], lambda relevance: [relevance], nonnegative=tape.node(x).nonnegative)
    return output


HANDLED = {
    batch_norm: (F.batch_norm, torch.batch_norm),
    instance_norm: (F.instance_norm,),
    layer_norm: (F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm, F.rms_norm, torch.rms_norm),
    unit_length: (F.normalize, F.local_response_norm),
}
