from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from pipeline.attribution.composites import COMPOSITES
from pipeline.attribution.folding import Weights
from pipeline.attribution.tape import Node, Tape


@dataclass
class Passed:
    """What became of tensors and of relevance on the way through a function and back.

    Attributes:
        outputs: what the function returned.
        nodes: what is known of every output that was followed; None for others.
        start: relevance of the outputs that have nodes.
        relevances: relevance of every input.
        tape: without steps by now.
    """

    outputs: list[torch.Tensor]
    nodes: list[Node | None]
    start: list[torch.Tensor]
    relevances: list[torch.Tensor]
    tape: Tape

    @property
    def output(self) -> torch.Tensor:
        (output,) = self.outputs
        return output

    @property
    def node(self) -> Node:
        (node,) = self.nodes
        return node

    @property
    def relevance(self) -> torch.Tensor:
        (relevance,) = self.relevances
        return relevance

    def total(self) -> tuple[float, float]:
        """Relevance that was sent, and that arrived."""
        return (
            sum(float(each.sum()) for each in self.start),
            sum(float(each.sum()) for each in self.relevances if each is not None),
        )


def pass_through(
    function: Callable,
    *inputs: torch.Tensor,
    keeps_biases: bool = True,
    nonnegative: bool = False,
    depth: int = 1,
    attention: str = "values",
) -> Passed:
    """Send tensors through a function that the tape follows, and arbitrary relevance back."""
    tape = Tape(replace(COMPOSITES["epsilon"], attention=attention), Weights(), keeps_biases=keeps_biases)
    places = [x.detach().clone() for x in inputs]
    leaves = [tape.leaf(x) for x in places]
    for leaf in leaves:
        leaf.depth, leaf.nonnegative = depth, nonnegative
    with torch.no_grad():
        with tape:
            output = function(*places)
        outputs = list(output) if isinstance(output, Sequence) else [output]
        nodes = [tape.node(each) for each in outputs]
        start = [
            torch.linspace(-1, 2.5, each.numel(), dtype=each.dtype).view(each.shape)
            for each, node in zip(outputs, nodes, strict=True) if node is not None
        ]  # fmt: skip
        seeds = dict(zip([node for node in nodes if node is not None], [s.clone() for s in start], strict=True))
        found = tape.propagate(seeds, {leaf: lambda relevance: relevance for leaf in leaves})
    return Passed(outputs, nodes, start, [found.get(leaf) for leaf in leaves], tape)


@pytest.fixture
def passed() -> Callable[..., Passed]:
    return pass_through


@pytest.fixture
def signed() -> Callable[..., torch.Tensor]:
    """Normal random numbers in double precision."""

    def make(*shape: int, seed: int = 0) -> torch.Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return make
