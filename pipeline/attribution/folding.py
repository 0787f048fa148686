"""Weights as rules use them: BatchNorm folded into the layer before it, by exact arithmetic, outside the model.

Which BatchNorm follows which layer is seen on a recorded forward pass, not looked up by architecture. The model keeps
its parameters and modules; folded weights live here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from .rules.linear_operation import Parts

LARGEST_OFFSET = 1e3
"""In deviations of a channel. A BatchNorm that moves values farther is not undone: rounding would be what is left."""


@dataclass(frozen=True, eq=False)
class Norm:
    """A BatchNorm in evaluation mode, y = scale x + shift per channel.

    Attributes:
        counter: number of batches trained on, if it is known. PyTorch changes statistics without a trace of their own.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float
    counter: torch.Tensor | None = None

    def scale(self) -> torch.Tensor:
        """Return the factor `[C]`."""
        inverse = torch.rsqrt(self.variance + self.eps)
        return inverse if self.weight is None else self.weight * inverse

    def shift(self, bias: torch.Tensor | None) -> torch.Tensor:
        """Return what is added `[C]`, given the bias of the layer before."""
        mean = self.mean if bias is None else self.mean - bias
        shifted = -mean * self.scale()
        return shifted if self.bias is None else shifted + self.bias


class Plan:
    """Which BatchNorm takes the output of which layer, collected while a forward pass runs."""

    def __init__(self):
        self._layers: list[tuple[torch.Tensor, torch.Tensor, object]] = []
        self._norms: list[tuple[torch.Tensor, Norm]] = []

    def notice_layer(self, output: torch.Tensor, weight: torch.Tensor, node: object) -> None:
        """Remember a layer's output. It is kept alive: the identities of tensors that are gone are given again."""
        self._layers.append((output, weight, node))

    def notice_norm(self, x: torch.Tensor, norm: Norm) -> None:
        """Remember what a BatchNorm took."""
        self._norms.append((x, norm))

    def pairs(self, names: Mapping[int, str]) -> dict[int, tuple[torch.Tensor, Norm]]:
        """Return id of a weight -> (weight, BatchNorm), where both run once and nothing else takes what is between.

        Args:
            names: id of every tensor that belongs to the model; statistics made anew in every pass cannot be folded.
        """
        runs: dict[int, int] = {}
        for _, weight, _ in self._layers:
            runs[id(weight)] = runs.get(id(weight), 0) + 1
        takers: dict[int, list[Norm]] = {}
        for x, norm in self._norms:
            takers.setdefault(id(x), []).append(norm)
        found = {}
        for output, weight, node in self._layers:
            norms = takers.get(id(output), [])
            if len(norms) != 1 or node.uses != 1 or runs[id(weight)] != 1 or id(norms[0].mean) not in names:
                continue
            if sum(norm.mean is norms[0].mean for _, norm in self._norms) == 1:
                found[id(weight)] = weight, norms[0]
        return found


class NoPlan(Plan):
    """Collects nothing: the plan is made."""

    def notice_layer(self, output: torch.Tensor, weight: torch.Tensor, node: object) -> None:
        """Let the output go."""

    def notice_norm(self, x: torch.Tensor, norm: Norm) -> None:
        """Nothing to do."""


@dataclass(frozen=True, eq=False)
class Folded:
    """A layer's weight and bias with the following BatchNorm in them.

    Attributes:
        norm: that BatchNorm, None if the layer stands alone.
        undo: takes it out of the layer's output again.
        path: name of the module that owns the weight, "" if it belongs to none.
    """

    weight: Parts
    bias: Parts | None
    norm: Norm | None = None
    undo: Undo | None = None
    path: str = ""


@dataclass(frozen=True, eq=False)
class Undo:
    """How to get back what a layer put out from its output with the BatchNorm in it: offset + factor y, per channel."""

    offset: torch.Tensor
    factor: torch.Tensor

    @classmethod
    def of(cls, norm: Norm) -> Undo | None:
        """Return it for a BatchNorm; None where a factor is too small to be divided by."""
        scale, shift = norm.scale(), norm.shift(None)
        if bool((shift.abs() >= LARGEST_OFFSET * norm.variance.sqrt() * scale.abs()).any()):
            return None
        return cls(-shift / scale, 1 / scale)


@dataclass(frozen=True, eq=False)
class Ahead:
    """A layer's output that holds the BatchNorm after it already.

    Attributes:
        norm: that BatchNorm.
        undo: takes it out again, None where that cannot be done.
        run: computes what the layer itself puts out.
    """

    norm: Norm
    undo: Undo | None
    run: Callable[[], torch.Tensor]

    def before_norm(self, output: torch.Tensor) -> torch.Tensor:
        """Return what the layer itself puts out `[N, C, ...]`, given its output with the BatchNorm in it."""
        if self.undo is None:
            return self.run()
        shape = (1, -1, *[1] * (output.ndim - 2))
        return torch.addcmul(self.undo.offset.view(shape), output, self.undo.factor.view(shape))


@dataclass
class Weights:
    """All weights of a model, as rules use them.

    Args:
        pairs: weight of a layer -> the BatchNorm right after it.
        names: id of a parameter or buffer -> its name.
        keep: the weights stay as they are, so folded ones and their parts are made once. False where a loss on
            relevance trains them.
        channels_last: keep four-dimensional weights in that memory layout, which is faster on most processors.
    """

    pairs: Mapping[int, tuple[torch.Tensor, Norm]] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    keep: bool = True
    channels_last: bool = False

    def __post_init__(self):
        self._made: dict[int, tuple[tuple, Folded]] = {}

    def get(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Folded:
        """Return a layer's weight and bias, folded where a BatchNorm follows."""
        pair = self.pairs.get(id(weight))
        norm = pair[1] if pair is not None and pair[0] is weight else None
        if not self.keep or id(weight) not in self.names:
            return self._make(weight, bias, norm)
        sources = (weight, bias, *(vars(norm).values() if norm is not None else ()))
        state = tuple((id(each), each.data_ptr(), each._version) for each in sources if isinstance(each, torch.Tensor))
        known = self._made.get(id(weight))
        if known is None or known[0] != state:
            known = self._made[id(weight)] = state, self._make(weight, bias, norm)
        return known[1]

    def _make(self, weight: torch.Tensor, bias: torch.Tensor | None, norm: Norm | None) -> Folded:
        path = self.names.get(id(weight), "").rpartition(".")[0]
        undo = None
        if norm is not None:
            scale, undo = norm.scale(), Undo.of(norm)
            weight, bias = weight * scale.view(-1, *[1] * (weight.ndim - 1)), norm.shift(bias)
        if self.channels_last and weight.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        parts = Parts(weight, keep=self.keep)
        return Folded(parts, None if bias is None else Parts(bias, keep=self.keep), norm, undo, path)
