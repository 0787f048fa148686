"""A network in two parts: a trunk whose values stay while it trains, and a head of all the rest.

The network is traced by `torch.fx`. Modules whose parameters are all frozen, or all trained, are not looked into, so
that only the code between them must be traceable. What belongs to the trunk is found by running the graph, not by a
list of operations: values that no trained parameter enters, that draw no random numbers, change no buffer, and depend
for every row on that row of the input alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

TOLERANCE = 1e-4
"""Largest difference between the network and its two parts, as a share of the largest value."""
ROWS_TOLERANCE = 1e-2
"""The same for a sample in two batches: GPUs round by the size of a batch, but its statistics change by far more."""
WORTHWHILE = 0.1
"""Share of a forward pass's multiplications that must lie in the trunk for a split to be of use."""


class CannotSplit(ValueError):
    """The network has no trunk that could be computed once; the message says why."""


class Trunk(nn.Module):
    """The part that stays: inputs `[N, ...]` -> values that the head needs, flat and side by side, `[N, D]`."""

    def __init__(self, graph: fx.GraphModule):
        super().__init__()
        self.graph = graph

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the values `[N, D]`."""
        return torch.cat([value.flatten(1) for value in self.graph(x)], 1)


class Head(nn.Module):
    """The part that trains: what the trunk returns `[N, D]` -> logits `[N, K]`.

    It holds the very parameters, buffers and modules of the network, in whatever mode they are.

    Attributes:
        shapes: of the trunk's values, without the rows.
        layers: whose outputs `watched` can return.
    """

    def __init__(self, graph: fx.GraphModule, shapes: Sequence[tuple[int, ...]], layers: Sequence[str]):
        super().__init__()
        self.graph = graph
        self.shapes = tuple(shapes)
        self.layers = tuple(layers)

    @property
    def width(self) -> int:
        """Return how many values a row has, D."""
        return sum(map(math.prod, self.shapes))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits `[N, K]`."""
        return self._run(features)[0]

    def watched(self, features: torch.Tensor, layers: Iterable[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return logits and the outputs of layers; see `watched`."""
        layers = tuple(dict.fromkeys(layers))
        if unknown := set(layers) - set(self.layers):
            raise ValueError(f"layer '{min(unknown)}' was not named when the network was split, so it is not watched")
        logits, outputs = self._run(features)
        found = dict(zip(self.layers, outputs, strict=True))
        return logits, {layer: found[layer] for layer in layers}

    def _run(self, features: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        parts = features.split([math.prod(shape) for shape in self.shapes], 1)
        # copies, since the network may change its values in place, and features may be used again
        return self.graph(*(part.clone().view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)))


@dataclass(frozen=True)
class Split:
    """`head(trunk(x))` is the network."""

    trunk: Trunk
    head: Head


def watched(network: nn.Module, x: torch.Tensor, layers: Iterable[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return what a network, or the head of a split one, says, and the outputs of layers on the way.

    Every output requires a gradient: where no trained parameter enters it, the graph starts there, and nothing is
    propagated back into the layers below. Gradients can be differentiated again, also those of attention.

    Args:
        network: any module, or a `Head` whose split names the layers.
        x: inputs `[N, ...]`, or the features `[N, D]` of a head.
        layers: names of modules that run once and return one tensor.

    Raises:
        ValueError: a layer runs more than once, or not at all, or returns no tensor.
    """
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        return network.watched(x, layers) if isinstance(network, Head) else _watched(network, x, layers)


def _watched(
    network: nn.Module, x: torch.Tensor, layers: Iterable[str]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    outputs: dict[str, torch.Tensor] = {}

    def watch(layer: str):
        def hook(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            if layer in outputs or not isinstance(output, torch.Tensor):
                raise ValueError(_not_one_tensor(layer))
            outputs[layer] = start_of_graph(output)
            return outputs[layer].clone()  # the next operation may write into it

        return hook

    layers = tuple(dict.fromkeys(layers))
    handles = [network.get_submodule(layer).register_forward_hook(watch(layer)) for layer in layers]
    try:
        logits = network(x)
    finally:
        for handle in handles:
            handle.remove()
    for layer in layers:
        if layer not in outputs:
            raise ValueError(f"layer '{layer}' does not run in a forward pass of the network")
    return logits, outputs


def start_of_graph(output: torch.Tensor) -> torch.Tensor:
    """Return a tensor that requires a gradient: itself, or a leaf with its values."""
    return output if output.requires_grad else output.detach().requires_grad_(True)


def split_network(model: nn.Module, x: torch.Tensor, layers: Iterable[str] = ()) -> Split:
    """Divide a network into what stays while it trains and what does not.

    Args:
        model: in the mode in which it trains; frozen parameters require no gradient. It is left as it was.
        x: inputs `[N, ...]` of at least two samples, on the model's device, to run and compare the parts on.
        layers: modules whose outputs the head must return; all that follows them is in the head.

    Raises:
        CannotSplit: the network cannot be traced, its parts say something else than the whole, or too little of its
            work lies in the trunk.
    """
    layers = tuple(dict.fromkeys(layers))
    try:
        with _undisturbed(model, x.device):
            split = _split(model, x, layers)
            _require_equal(model, split, x, layers)
            _require_use(model, split, x)
    except CannotSplit:
        raise
    except Exception as error:  # the network's own code meets stand-ins for tensors here, and may raise anything
        text = str(error).strip()
        raise CannotSplit(
            f"the network cannot be traced: {text.splitlines()[0] if text else type(error).__name__}"
        ) from error
    return split


@dataclass(frozen=True)
class _Traced:
    """A network as a graph, and which node holds the output of each watched layer."""

    module: fx.GraphModule
    watched: dict[str, fx.Node]


class _Tracer(fx.Tracer):
    """Looks only into modules that are partly frozen, hold a watched layer, or are named."""

    def __init__(self, model: nn.Module, layers: Sequence[str], opened: set[str]):
        super().__init__()
        self.layers = {model.get_submodule(layer): layer for layer in layers}
        above = {".".join(layer.split(".")[:depth]) for layer in layers for depth in range(1, layer.count(".") + 1)}
        self.opened = {model.get_submodule(path) for path in opened | above}
        self.watched: dict[str, fx.Node] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether a module is one node of the graph."""
        if m in self.opened:
            return False
        alike = len({parameter.requires_grad for parameter in m.parameters()}) < 2
        return alike or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m, forward, args, kwargs):
        """Trace a call, and note where a watched layer's output is."""
        output = super().call_module(m, forward, args, kwargs)
        if m in self.layers:
            layer = self.layers[m]
            if layer in self.watched or not isinstance(output, fx.Proxy):
                raise CannotSplit(_not_one_tensor(layer))
            self.watched[layer] = output.node
        return output


def _not_one_tensor(layer: str) -> str:
    return (
        f"the output of layer '{layer}' is not one tensor, or the layer runs more than once. Name a module inside it, "
        "or the block that ends in it."
    )


def _trace(model: nn.Module, layers: Sequence[str], opened: set[str]) -> _Traced:
    tracer = _Tracer(model, layers, opened)
    module = fx.GraphModule(model, tracer.trace(model))
    if missing := [layer for layer in layers if layer not in tracer.watched]:
        raise CannotSplit(f"layer '{missing[0]}' does not run in a forward pass of the network")
    return _Traced(module, tracer.watched)


class _Watcher(fx.Interpreter):
    """Runs a graph, keeps the value of every node, and notes which draw random numbers or change a buffer."""

    def __init__(self, module: fx.GraphModule, device: torch.device):
        super().__init__(module, garbage_collect_values=False)
        self.device = device
        self.restless: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> object:
        """Return the node's value."""
        before = self._state()
        value = super().run_node(n)
        if self._state() != before:
            self.restless.add(n)
        return value

    def _state(self) -> tuple:
        random = [torch.get_rng_state()]
        if self.device.type == "cuda":
            random.append(torch.cuda.get_rng_state(self.device))
        return *(state.numpy().tobytes() for state in random), *(buffer._version for buffer in self.module.buffers())


def _split(model: nn.Module, x: torch.Tensor, layers: Sequence[str]) -> Split:
    opened: set[str] = set()
    while True:
        traced = _trace(model, layers, opened)
        whole, rest = _Watcher(traced.module, x.device), _Watcher(traced.module, x.device)
        whole.run(x)
        rest.run(x[1:])
        # of a frozen module only a part may be random, such as a dropout at its end
        closer = {node.target for node in whole.restless if node.op == "call_module" and _can_open(model, node.target)}
        if not closer:
            return _parts(traced, whole, rest, layers)
        opened |= closer


def _can_open(model: nn.Module, path: str) -> bool:
    module = model.get_submodule(path)
    known = fx.Tracer().is_leaf_module(module, path)
    return any(module.children()) and not known and not _trains(module)


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _parts(traced: _Traced, whole: _Watcher, rest: _Watcher, layers: Sequence[str]) -> Split:
    graph, values = traced.module.graph, whole.env
    nodes = [node for node in graph.nodes if node.op != "output"]
    inputs = [node for node in nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise CannotSplit("the network's forward pass has more than one argument")
    (answer,) = next(node for node in graph.nodes if node.op == "output").args
    if not isinstance(answer, fx.Node):
        raise CannotSplit("the network does not return one tensor")
    outputs = [traced.watched[layer] for layer in layers]
    of_input, trained = set(inputs), set()
    for node in nodes:
        sources = node.all_input_nodes
        if of_input.intersection(sources):
            of_input.add(node)
        if (
            trained.intersection(sources)
            or set(outputs).intersection(sources)
            or node in whole.restless
            or _uses_trained(traced.module, node)
            or (node in of_input and not _by_rows(values[node], rest.env[node]))
        ):
            trained.add(node)
    if answer not in trained:
        raise CannotSplit("nothing that trains enters the logits")
    # what is no tensor, such as a shape, or has no rows, such as a table of weights, is found again where it is needed
    kept = {node for node in of_input if node not in trained and isinstance(values[node], torch.Tensor)}
    frontier = _frontier(nodes, trained.union(outputs), kept)
    types = {values[node].dtype for node in frontier}
    if len(types) != 1 or not next(iter(types)).is_floating_point:
        raise CannotSplit(f"the frozen layers pass on values of type {', '.join(sorted(map(str, types))) or 'none'}")
    trunk = _trunk_graph([node for node in nodes if node not in trained], frontier)
    head = _head_graph(nodes, trained, frontier, outputs, answer)
    return Split(
        Trunk(fx.GraphModule(traced.module, trunk)),
        Head(fx.GraphModule(traced.module, head), [tuple(values[node].shape[1:]) for node in frontier], layers),
    )


def _uses_trained(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return _trains(module.get_submodule(node.target))
    if node.op == "get_attr":
        found = module
        for name in node.target.split("."):
            found = getattr(found, name)
        return isinstance(found, torch.Tensor) and found.requires_grad
    return False


def _by_rows(value: object, without_first: object) -> bool:
    """Tell whether a value has, for every row but the first, the same when the first row is not there."""
    if not isinstance(value, torch.Tensor):
        return True
    if value.ndim == 0 or without_first.ndim == 0 or len(value) != len(without_first) + 1:
        return False
    if not value.is_floating_point():
        return torch.equal(value[1:], without_first)
    return _close(value[1:], without_first, ROWS_TOLERANCE)


def _close(value: torch.Tensor, other: torch.Tensor, tolerance: float = TOLERANCE) -> bool:
    largest = float(value.abs().max()) if value.numel() else 0.0
    return value.shape == other.shape and torch.allclose(value, other, rtol=0.0, atol=tolerance * largest)


def _frontier(nodes: Sequence[fx.Node], wanted: set[fx.Node], kept: set[fx.Node]) -> list[fx.Node]:
    """Return the values of the trunk that the rest needs, in their order."""
    found: set[fx.Node] = set()
    visited: set[fx.Node] = set()
    waiting = [node for node in nodes if node in wanted]
    while waiting:
        node = waiting.pop()
        if node in visited:
            continue
        visited.add(node)
        if node in kept:
            found.add(node)
        else:
            waiting += node.all_input_nodes
    return [node for node in nodes if node in found]


def _trunk_graph(nodes: Sequence[fx.Node], frontier: Sequence[fx.Node]) -> fx.Graph:
    graph, copies = fx.Graph(), {}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in frontier))
    return graph


def _head_graph(
    nodes: Sequence[fx.Node],
    trained: set[fx.Node],
    frontier: Sequence[fx.Node],
    outputs: Sequence[fx.Node],
    answer: fx.Node,
) -> fx.Graph:
    graph, copies, starts = fx.Graph(), {}, {}

    def add(node: fx.Node, copy: fx.Node) -> None:
        if node in outputs:
            starts[node] = graph.call_function(start_of_graph, (copy,))
            copy = graph.call_method("clone", (starts[node],))
        copies[node] = copy

    def bring(node: fx.Node) -> fx.Node:
        if node not in copies:
            for source in node.all_input_nodes:
                bring(source)
            add(node, graph.node_copy(node, copies.__getitem__))
        return copies[node]

    given = [graph.placeholder(f"value_{number}") for number in range(len(frontier))]
    for node, placeholder in zip(frontier, given, strict=True):
        add(node, placeholder)
    for node in nodes:
        if node in trained:
            bring(node)
    graph.output((copies[answer], tuple(starts[node] for node in outputs)))
    return graph


@contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Leave buffers and the state of random numbers as they were."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


def _require_equal(model: nn.Module, split: Split, x: torch.Tensor, layers: Sequence[str]) -> None:
    torch.manual_seed(0)
    expected, outputs = watched(model, x, layers)
    torch.manual_seed(0)
    found, parts = split.head.watched(split.trunk(x), layers)
    if not _close(expected, found) or not all(_close(outputs[layer], parts[layer]) for layer in layers):
        raise CannotSplit("the network in two parts does not say the same as in one")


def _require_use(model: nn.Module, split: Split, x: torch.Tensor) -> None:
    whole, head = _work(model, x), _work(split.head, split.trunk(x))
    if head > (1 - WORTHWHILE) * whole:
        raise CannotSplit(f"only {1 - head / max(whole, 1):.0%} of the network's work could be done once")


def _work(model: nn.Module, x: torch.Tensor) -> int:
    """Return about how many multiplications a forward pass takes in modules with matrices or kernels of weights."""
    counts = []

    def count(module: nn.Module, _inputs: tuple, output: object) -> None:
        outputs = [each for each in (output if isinstance(output, tuple) else (output,)) if torch.is_tensor(each)]
        for weights in module.parameters(recurse=False):
            if weights.ndim > 1 and outputs:
                counts.append(outputs[0].numel() * weights[0].numel())  # for every output, what one row of weights has

    handles = [module.register_forward_hook(count) for module in model.modules()]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return sum(counts)
