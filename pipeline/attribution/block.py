"""LRP-Block: relevance by epsilon, z+ and Zb rules with one stabiliser, made to be trained on (Bassi et al. 2024).

Bassi, Dertkigil, Cavalli, "Improving deep neural network generalization and robustness to background bias via
layer-wise relevance propagation optimization", Nature Communications 2024; Bassi, Decherchi, Cavalli, "Faster ISNet for
background bias mitigation on deep neural networks", IEEE Access 2024, for the Dual and Selective explanations. How the
rules act on each operation: docs/attribution.md, "LRP-Block".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn

from .block_flow import BlockRule, Flow
from .block_sources import FirstLayer, Layer
from .block_tape import BlockTape, factors_of, signs_of
from .composites import normalization
from .composites import pixel_range as network_range
from .maps import Maps
from .recording import record_outputs
from .tape import Node

INPUT_RULES = ("zb", "gradient_x_input")
Seed = Callable[[torch.Tensor], torch.Tensor]
"""Takes logits `[N, classes]`, returns relevance of each divided by its stabilised value, in the same shape."""


@dataclass(frozen=True)
class BlockMap:
    """One map: a rule for all layers above the first, and where it starts.

    Attributes:
        rule: "epsilon", or "z_plus": of positive weights and biases alone.
        seed: given the logits, by z+ those of positive weights and biases alone.
    """

    rule: BlockRule
    seed: Seed


def class_seed(index: int, epsilon: float = 1e-2) -> Seed:
    """Return the seed that explains one class, ISNet's Original: y / (y + epsilon sign y), and 0 elsewhere."""

    def seed(logits: torch.Tensor) -> torch.Tensor:
        here = torch.zeros_like(logits)
        here[:, index] = 1
        return here * _stabilized(logits, epsilon)

    return seed


def chosen_seed(choose: Callable[[torch.Tensor], torch.Tensor], epsilon: float = 1e-2) -> Seed:
    """Return the seed that explains one class of every sample, whose ids `[N]` are chosen by the logits."""

    def seed(logits: torch.Tensor) -> torch.Tensor:
        here = torch.zeros_like(logits).scatter(1, choose(logits.detach())[:, None], 1)
        return here * _stabilized(logits, epsilon)

    return seed


def all_classes_seed(epsilon: float = 1e-2) -> Seed:
    """Return the seed that explains all logits in one map, ISNet's Dual: y / (y + epsilon sign y) of every class."""
    return lambda logits: _stabilized(logits, epsilon)


def selective_seed(epsilon: float = 1e-2) -> Seed:
    """Return the seed that explains the lowest logit y_c against all others, ISNet's Selective.

    With Z_j = y_c - y_j and w_j = exp(-Z_j): relevance w_j Z_j / (sum_k w_k - 1 + 1e-5) goes through W_c - W_j. The
    quotients are computed as a softmax, so that no gap of logits is too large.
    """

    def seed(logits: torch.Tensor) -> torch.Tensor:
        lowest = logits.argmin(1, keepdim=True)
        value = logits.gather(1, lowest)
        # the place of the lowest logit takes the constant 1e-5 = exp(y_c + ln 1e-5 - y_c)
        share = logits.scatter(1, lowest, value + math.log(1e-5)).softmax(1)
        against = share * _stabilized(value - logits, epsilon)
        return torch.zeros_like(logits).scatter(1, lowest, against.sum(1, keepdim=True)) - against

    return seed


def dual_maps(epsilon: float = 1e-2) -> tuple[BlockMap, BlockMap]:
    """Return ISNet's Dual: all classes in one z+ map and one epsilon map."""
    return BlockMap("z_plus", all_classes_seed(epsilon)), BlockMap("epsilon", all_classes_seed(epsilon))


def lrp_block(
    model: nn.Module,
    x: torch.Tensor,
    maps: Sequence[BlockMap] | Callable[[int], Sequence[BlockMap]],
    *,
    layers: Sequence[str] = (),
    create_graph: bool = False,
    epsilon: float = 1e-2,
    input_rule: str = "zb",
    pixel_range: tuple[float, float] = (0.0, 1.0),
    constant_biases: bool = False,
) -> Maps:
    """Return maps of a batch, all from one forward pass, in the mode that the model is in.

    Args:
        model: convolutions, linear layers, BatchNorm, ReLU, ReLU6, pooling, dropout, sums, concatenation, in any order.
            BatchNorm may be in training mode: its statistics are then constants of the rules, so that samples do not
            mix, and differentiated like all else; running statistics are updated as in any forward pass.
        x: pixels `[N, C, H, W]` within `pixel_range`.
        maps: K of them, or a function that makes them, given the number of classes.
        layers: module names at whose output relevance is returned as well.
        create_graph: keep the graph, for a loss on the relevance.
        epsilon: the stabiliser of every division; 0 gives gradient times input for the epsilon rule.
        input_rule: "zb", for bounded pixels (Montavon et al. 2017, eq. 14), or "gradient_x_input": the rule of the map.
            Pixels then count from black: what normalisation adds belongs to the bias.
        pixel_range: lowest and highest pixel value, before the model's own normalisation.
        constant_biases: no gradient reaches biases and shifts of BatchNorm through the rules, as in the published
            code. The gradient is then not that of a loss on the maps, which depend on biases all the same.

    Raises:
        ValueError: no map, an unknown rule, a seed of another shape than the logits, a function without rule, a layer
            that does not run exactly once, or, with the first layers, pixels that the network changes otherwise than by
            its normalisation and by padding with zeros.
    """
    if input_rule not in INPUT_RULES:
        raise ValueError(f"input_rule '{input_rule}' is unknown; allowed are {', '.join(INPUT_RULES)}.")
    first = _first_layer(model, x, input_rule, pixel_range)
    tape = BlockTape(first, signs_of(factors_of(model)), epsilon=epsilon, constant_biases=constant_biases)
    outputs: dict[str, torch.Tensor] = {}
    with torch.set_grad_enabled(create_graph), torch.autocast(x.device.type, enabled=False):
        place = x.view_as(x) if create_graph else x.detach()
        tape.leaf(place)
        with record_outputs(model, layers, outputs.__setitem__), tape:
            logits = model(place)
        maps = maps(logits.shape[1]) if callable(maps) else maps
        _require_maps(maps)
        if tape.node(logits) is None:
            raise ValueError("LRP-Block cannot see how the logits come from the input. Use ordinary Python modules.")
        found = _propagate(tape, maps, place, logits, outputs)
    activations = outputs if create_graph else {name: output.detach() for name, output in outputs.items()}
    return Maps(logits, found.pop(""), found, activations)


def _propagate(
    tape: BlockTape,
    maps: Sequence[BlockMap],
    place: torch.Tensor,
    logits: torch.Tensor,
    outputs: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Return relevance `[N, K, ...]` at the pixels (named "") and at the recorded outputs."""
    wanted = {"": place} | outputs
    by_map: dict[str, list[torch.Tensor | None]] = {name: [None] * len(maps) for name in wanted}
    steps = tape.steps
    rules = list(dict.fromkeys(each.rule for each in maps))
    for rule in rules:
        tape.rule = rule
        tape.steps = steps if rule == rules[-1] else list(steps)
        which = [at for at, each in enumerate(maps) if each.rule == rule]
        start = _start(tape, logits, [maps[at].seed for at in which])
        keepers: dict[Node, Callable[[Flow], torch.Tensor]] = {}
        for tensor in wanted.values():
            if tape.node(tensor) is not None:
                keepers[tape.node(tensor)] = _keeper(tape, tensor)
        kept = tape.propagate({tape.node(logits): start}, keepers)
        for name, tensor in wanted.items():
            relevance = kept.get(tape.node(tensor))
            for at, index in enumerate(which):
                by_map[name][index] = torch.zeros_like(tensor) if relevance is None else relevance[at]
    tape.clear()
    return {name: torch.stack(found, 1) for name, found in by_map.items()}


def _start(tape: BlockTape, logits: torch.Tensor, seeds: Sequence[Seed]) -> Flow:
    """Return what arrives at the logits. A final linear layer divides by nothing any more: its seeds are divided."""
    source = tape.source(logits)
    final = isinstance(source, Layer)
    seen = source.logits(tape.rule) if final else logits
    values = torch.stack([seed(seen) for seed in seeds])
    if values.shape[1:] != logits.shape:
        raise ValueError(
            f"a seed returned the shape {list(values.shape[1:])}, expected that of logits {list(logits.shape)}."
        )
    return Flow(same=values, taken=logits) if final else Flow(values, logits)


def _keeper(tape: BlockTape, tensor: torch.Tensor) -> Callable[[Flow], torch.Tensor]:
    source, depth = tape.source(tensor), tape.node(tensor).depth
    return lambda flow: flow.gradient if depth == 0 else source.relevance(tape.rule, flow)


def _first_layer(model: nn.Module, x: torch.Tensor, input_rule: str, pixels: tuple[float, float]) -> FirstLayer:
    normalize = normalization(model)
    with torch.no_grad():
        prepared = x.detach() if normalize is None else normalize(x.detach())
    black = network_range(model, 0.0, 0.0)[0]
    bounds = network_range(model, *pixels) if input_rule == "zb" else None
    return FirstLayer(prepared, bounds, black if bool(black.any()) else None)


def _require_maps(maps: Sequence[BlockMap]) -> None:
    if not maps:
        raise ValueError("LRP-Block needs at least one map.")
    unknown = [each.rule for each in maps if each.rule not in get_args(BlockRule)]
    if unknown:
        raise ValueError(f"rule '{unknown[0]}' is unknown; allowed are {', '.join(get_args(BlockRule))}.")


def _stabilized(values: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return v / (v + epsilon sign v), 0 at 0."""
    size = values.abs()
    return size / (size + epsilon) if epsilon > 0 else (size > 0).to(values)
