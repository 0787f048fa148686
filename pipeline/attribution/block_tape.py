"""The tape of LRP-Block: what a forward pass did, and how relevance / value goes back through it, see `block_flow`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from .block_flow import BlockRule, Flow
from .block_handlers import HANDLED, ROUTED, Routed
from .block_sources import FirstLayer, Result, Sign, Source
from .tape import Recorder


class BlockTape(Recorder):
    """Records a forward pass for LRP-Block while active as a context.

    Args:
        first: what is known of the input of first layers.
        signs: id of a BatchNorm's factor -> which of its channels are not negative, see `signs_of`.
        epsilon: stabiliser.
        constant_biases: no gradient reaches biases and shifts of BatchNorm through the rules.

    Attributes:
        rule: of the maps that are being propagated.
        sources: result -> what a BatchNorm would take with it, for outputs of linear layers and what joins them.
        padded: pixels with zeros around them -> what a first layer knows of these.
    """

    def __init__(self, first: FirstLayer, signs: Mapping[int, Sign], *, epsilon: float, constant_biases: bool):
        super().__init__()
        self.first, self.epsilon, self.constant_biases = first, epsilon, constant_biases
        self.rule: BlockRule = "epsilon"
        self.sources: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.padded: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._signs = signs
        self._overwritten = WeakIdKeyDictionary()

    def source(self, tensor: torch.Tensor) -> Source:
        """Return what a BatchNorm takes with this tensor."""
        return self.sources.get(tensor) or Result(tensor)

    def sign(self, factor: torch.Tensor | None) -> Sign:
        """Return which channels of a BatchNorm's factor `[C]` are not negative; None: all."""
        if factor is None:
            return None
        return self._signs[id(factor)] if id(factor) in self._signs else signs_of([factor])[id(factor)]

    def to_input(self, tensor: torch.Tensor, gradient: torch.Tensor, value: torch.Tensor, **known: bool) -> Flow:
        """Return what goes to an input of an operation: relevance, if nothing but pixels made it."""
        if self.node(tensor).depth == 0:
            return Flow(gradient * value)
        return Flow(gradient, value, **known)

    def require_depth(self, function: Callable, tensors: Iterable[torch.Tensor]) -> None:
        """Refuse an operation on pixels that is no preparation of them.

        Raises:
            ValueError: it is one.
        """
        if all(self.node(tensor).depth == 0 for tensor in tensors):
            raise ValueError(f"LRP-Block needs a convolution or linear layer before {name_of(function)}.")

    def overwrite(self, tensor: torch.Tensor) -> None:
        """Remember a tensor that the model would have written over, and the one of which it is a part."""
        self._overwritten[tensor] = True
        if tensor._base is not None:
            self._overwritten[tensor._base] = True

    def follow(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """Run a function of PyTorch and remember how relevance goes back through it.

        Raises:
            ValueError: there is no rule for it, or it uses what was written over.
        """
        inputs = self.explained([*args, *kwargs.values()])
        if not inputs:
            return function(*args, **kwargs)
        if self._overwritten and any(tensor in self._overwritten for tensor in inputs):
            if name_of(function) not in ("__get__", "size", "dim"):
                raise ValueError(
                    f"the model writes over a tensor and uses it again ({name_of(function)}). Write y = f(x) instead "
                    "of f_(x) or f(x, inplace=True) without using what is returned."
                )
        if function in HANDLED:
            return HANDLED[function](self, function, args, kwargs)
        if function in ROUTED:
            return ROUTED[function](Routed(self), function, args, kwargs)
        output = function(*args, **kwargs)
        results = output if isinstance(output, (list, tuple)) else [output]
        if any(isinstance(each, torch.Tensor) and each.is_floating_point() for each in results):
            raise ValueError(
                f"LRP-Block has no rule for {name_of(function)}: it is made for networks of convolutions, linear "
                "layers, BatchNorm, ReLU, ReLU6, pooling, sums, concatenation. Use LRP-Flex, or another correction."
            )
        return output

    def clear(self) -> None:
        """Let go of everything recorded: it holds itself in circles."""
        self.steps.clear()
        self.sources.clear()
        self.padded.clear()


def signs_of(factors: Iterable[torch.Tensor]) -> dict[int, Sign]:
    """Return id of a factor `[C]` -> which of its channels are not negative, None: all; asks a device once."""
    factors = list(factors)
    if not factors:
        return {}
    flags = (torch.cat([factor.detach() for factor in factors]) >= 0).cpu().split([len(factor) for factor in factors])
    return {
        id(factor): None if bool(flag.all()) else flag for factor, flag in zip(factors, flags, strict=True)
    }  # fmt: skip


def factors_of(model: nn.Module) -> list[torch.Tensor]:
    """Return the factors of all BatchNorms of a model."""
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return [norm.weight for norm in norms if norm.weight is not None]


def name_of(function: Callable) -> str:
    """Return the name of a function, for messages."""
    return getattr(function, "__name__", str(function))
