"""The tape: what a forward pass did, operation by operation, and how relevance goes back through it.

Calls of PyTorch's functions are intercepted while the model runs, so layers, functions, operators and in-place
operations are all seen, in any network written in Python. Nothing of the model is replaced. Handlers (package
`operations`) say for each function how relevance passes; relevance itself is computed by ordinary differentiable
operations, so that a loss on it can be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.weak import WeakIdKeyDictionary

from .composites import Composite
from .folding import Ahead, NoPlan, Plan, Weights
from .operations import HANDLERS, linearized


@dataclass(eq=False, slots=True)
class Node:
    """An intermediate result that depends on the explained input.

    Attributes:
        depth: linear maps on the way from the pixels; rules for first layers apply at 0.
        nonnegative: known to hold no negative value.
        gate: an output of sigmoid or softmax, that weighs other values instead of being one.
        attention: an output of softmax, or made of such outputs alone; a gate as well.
        uses: operations that took it so far.
        wanted: its relevance is needed, for itself or for something that it was computed from.
    """

    depth: int = 0
    nonnegative: bool = False
    gate: bool = False
    attention: bool = False
    uses: int = 0
    wanted: bool = False


Relevance = torch.Tensor | None
Back = Callable[..., Sequence[Relevance]]


@dataclass(eq=False, slots=True)
class Step:
    """One operation: results, inputs, and the function from relevance of the results to relevance of the inputs."""

    outputs: tuple[Node, ...]
    inputs: tuple[Node, ...]
    back: Back


class Recorder(TorchFunctionMode):
    """Records a forward pass while active as a context; `follow` says what is remembered of a function.

    Attributes:
        steps: operations in the order in which they ran.
    """

    def __init__(self):
        super().__init__()
        self.steps: list[Step] = []
        self._nodes = WeakIdKeyDictionary()
        self._paused = False

    # what handlers use

    def node(self, value: object) -> Node | None:
        """Return the node of a tensor, None for anything that does not depend on the explained input."""
        return self._nodes.get(value) if isinstance(value, torch.Tensor) else None

    def leaf(self, tensor: torch.Tensor, *, wanted: bool = True) -> Node:
        """Make a tensor one that relevance is wanted for, or one whose results are followed all the same."""
        node = self.node(tensor)
        if node is None:
            node = self._nodes[tensor] = Node()
        node.wanted |= wanted
        return node

    def explained(self, arguments: Iterable) -> list[torch.Tensor]:
        """Return the arguments, also those within lists, that depend on the explained input."""
        found = []
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                if argument in self._nodes:
                    found.append(argument)
            elif isinstance(argument, (list, tuple)):
                found += self.explained(argument)
        return found

    def record(
        self,
        outputs: torch.Tensor | Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        back: Back,
        *,
        deeper: bool = False,
        nonnegative: bool = False,
        gate: bool = False,
        attention: bool = False,
    ) -> None:
        """Add an operation; its way back is kept where relevance is wanted at, or below, one of its inputs.

        Args:
            outputs: its results.
            inputs: those of its inputs that have nodes.
            back: takes the relevance of every output (None: none arrived), returns that of every input.
            deeper: the operation is a linear map.
            nonnegative, gate, attention: what is known of the results.
        """
        outputs = (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)
        nodes = tuple(self._nodes[tensor] for tensor in inputs)
        for node in nodes:
            node.uses += 1
        depth = max(node.depth for node in nodes) + deeper
        # weights of attention stay weights when they are mixed; a sigmoid may as well end a layer of the trunk
        attention = attention or all(node.attention for node in nodes)
        wanted = any(node.wanted for node in nodes)
        made = tuple(Node(depth, nonnegative, gate or attention, attention, wanted=wanted) for _ in outputs)
        for tensor, node in zip(outputs, made, strict=True):
            self._nodes[tensor] = node
        if wanted:
            self.steps.append(Step(made, nodes, back))

    # recording

    def follow(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """Run a function of PyTorch and remember how relevance goes back through it."""
        raise NotImplementedError

    def __torch_function__(self, function, types, args=(), kwargs=None):
        """Run a function of PyTorch, followed unless paused."""
        kwargs = kwargs or {}
        return function(*args, **kwargs) if self._paused else self.follow(function, args, kwargs)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Record nothing for a while, though the tape is active."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    # relevance

    def propagate(
        self,
        start: Mapping[Node, Any],
        wanted: Mapping[Node, Callable[[Any], Any]],
        filters: Mapping[Node, Callable[[Any], Any]] | None = None,
    ) -> dict[Node, Any]:
        """Send relevance back from the start to the wanted nodes, no further than needed. Empties the tape.

        Args:
            start: relevance to begin with: tensors, or whatever else the ways back take and give, and can be added.
            wanted: nodes, and what is kept of their relevance; applied as soon as it is complete.
            filters: nodes, and what goes on of their relevance.

        Returns:
            What was kept; nodes that no relevance reaches are absent.
        """
        filters = filters or {}

        def complete(node: Node, each: torch.Tensor) -> torch.Tensor:
            each = filters[node](each) if node in filters else each
            if node in wanted:
                kept[node] = wanted[node](each)
            return each

        needed = set(wanted)
        for step in self.steps:
            if any(node in needed for node in step.inputs):
                needed.update(step.outputs)
        relevance = dict(start)
        kept: dict[Node, Any] = {}
        while self.steps:
            step = self.steps.pop()
            # every taker of these results came later, so their relevance is complete
            arrived = [relevance.pop(node, None) for node in step.outputs]
            arrived = [
                None if each is None else complete(node, each) for node, each in zip(step.outputs, arrived, strict=True)
            ]
            if all(each is None for each in arrived) or not any(node in needed for node in step.inputs):
                continue
            for node, share in zip(step.inputs, step.back(*arrived), strict=True):
                if share is not None and node in needed:
                    relevance[node] = relevance[node] + share if node in relevance else share
        for node, each in relevance.items():
            complete(node, each)
        return kept


@dataclass(eq=False)
class Tape(Recorder):
    """Records a forward pass for rules that a composite names.

    Args:
        composite: which rule for what.
        weights: weights of the model as rules use them, BatchNorm folded in.
        keeps_biases: whether biases and other constants take their share of relevance.
        pixel_range: lowest and highest input of the first layer, for rules that need them.

    Attributes:
        without_rule: functions that were met without a rule of their own.
        plan: which BatchNorm follows which layer, as seen.
        folded: output of a layer -> its weights, where they hold the BatchNorm that is still to come.
        padded: result of padding with zeros -> where it holds values `[1, 1, ...positions]`.
    """

    composite: Composite
    weights: Weights
    keeps_biases: bool = True
    pixel_range: tuple[torch.Tensor, torch.Tensor] = (torch.tensor(0.0), torch.tensor(1.0))
    without_rule: set[str] = field(default_factory=set)
    plan: Plan = field(default_factory=NoPlan)

    def __post_init__(self):
        super().__init__()
        self.folded = WeakIdKeyDictionary()
        self.padded = WeakIdKeyDictionary()

    def record(
        self,
        outputs: torch.Tensor | Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        back: Back,
        **known: bool,
    ) -> None:
        """Add an operation, see `Recorder.record`.

        Raises:
            ValueError: an input holds a BatchNorm that should have come first.
        """
        if self.folded and any(tensor in self.folded for tensor in inputs):
            raise ValueError(
                "a layer is not followed by the BatchNorm that followed it in the example: the way through the network "
                "depends on the data. Make the explainer from a batch that goes the same way."
            )
        super().record(outputs, inputs, back, **known)

    def before_norm(self, output: torch.Tensor) -> torch.Tensor:
        """Return a layer's output as the model itself computes it: without the BatchNorm that is folded in here."""
        ahead: Ahead | None = self.folded.get(output)
        return output if ahead is None else ahead.before_norm(output)

    def follow(self, function: Callable, args: tuple, kwargs: dict) -> Any:
        """Run a function of PyTorch and remember how relevance goes back through it, linearized without a rule."""
        handler = HANDLERS.get(function)
        if handler is not None:
            return handler(self, function, args, kwargs)
        inputs = self.explained([*args, *kwargs.values()])
        if not inputs:
            return function(*args, **kwargs)
        return linearized(self, function, args, kwargs)

    def miss(self, function: Callable) -> None:
        """Remember a function without a rule, for the health check."""
        self.without_rule.add(resolve_name(function) or getattr(function, "__name__", str(function)))
