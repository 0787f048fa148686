from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution.composites import COMPOSITES
from pipeline.attribution.folding import Weights
from pipeline.attribution.operations import (
    HANDLERS,
    activations,
    attention,
    averages,
    linear,
    normalization,
    products,
    routing,
    sums,
)
from pipeline.attribution.tape import Node, Tape

T = torch.Tensor


def unchanged(relevance: T) -> T:
    return relevance


def make_tape(**options) -> Tape:
    return Tape(COMPOSITES["epsilon"], Weights(), **options)


def follow(function, x: T, **options) -> tuple[Tape, Node, T]:
    """Return the tape, the node of the input and the output."""
    tape = make_tape(**options)
    node = tape.leaf(x)
    with torch.no_grad(), tape:
        output = function(x)
    return tape, node, output


def test_layers_functions_operators_and_in_place_operations_are_all_seen(scrambled):
    layer = scrambled(nn.Linear(4, 4)).double()

    def network(x: T) -> T:
        y = layer(x).relu_()
        y = F.gelu(y) * 2 + x
        y += y.mean(1, keepdim=True)
        return torch.cat([y, y[:, :1]], 1).flatten(1)

    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    tape, node, output = follow(network, x.clone())
    assert torch.allclose(output, network(x.clone())) and not tape.without_rule
    kinds = len(tape.steps)
    assert kinds == 9  # linear, relu, gelu, product, sum, mean, sum, index, cat; flatten returns what it is given
    found = tape.propagate({tape.node(output): torch.ones_like(output)}, {node: unchanged})
    assert set(found) == {node} and found[node].shape == x.shape and not tape.steps


def test_nodes_know_how_deep_they_are_and_what_is_known_of_them():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    seen = {}

    def network(x: T) -> T:
        seen["hidden"] = first(x)
        seen["activated"] = seen["hidden"].relu()
        seen["skipped"] = x + second(seen["activated"])
        seen["gate"] = seen["skipped"].sigmoid()
        return seen["gate"].flatten(1) * 1

    tape, node, output = follow(network, torch.rand(2, 4))
    known = {name: tape.node(value) for name, value in seen.items()}
    assert [known[name].depth for name in ("hidden", "activated", "skipped", "gate")] == [1, 1, 2, 2]
    assert [known[name].nonnegative for name in ("hidden", "activated", "skipped", "gate")] == [
        False,
        True,
        False,
        True,
    ]
    assert [known[name].gate for name in ("hidden", "activated", "skipped", "gate")] == [False, False, False, True]
    assert node.uses == 2 and known["hidden"].uses == 1 and tape.node(output).uses == 0
    assert tape.node(torch.rand(2, 4)) is None and tape.node("text") is None and tape.node(3.0) is None


def test_relevance_of_a_tensor_with_several_takers_is_their_sum():
    def network(x: T) -> T:
        return torch.stack([x * 1, x * 2, x.relu()])

    x = torch.rand(2, 3)
    tape, node, output = follow(network, x)
    start = torch.arange(18.0).view(3, 2, 3)
    found = tape.propagate({tape.node(output): start}, {node: unchanged})
    assert torch.equal(found[node], start.sum(0))


def test_relevance_may_start_at_several_places_and_is_kept_at_several():
    seen = {}

    def network(x: T) -> T:
        seen["inside"] = x * 2
        return seen["inside"] * 3

    tape, node, output = follow(network, torch.rand(2, 3))
    inside = tape.node(seen["inside"])
    ones = torch.ones(2, 3)
    found = tape.propagate({tape.node(output): ones, inside: 5 * ones}, {node: unchanged, inside: lambda r: r.sum()})
    assert float(found[inside]) == 36 and torch.equal(found[node], 6 * ones)


def test_what_is_kept_can_be_filtered_on_its_way():
    seen = {}

    def network(x: T) -> T:
        seen["inside"] = x * 2
        return seen["inside"] * 3

    for wanted in (True, False):
        tape, node, output = follow(network, torch.rand(2, 3))
        inside, places = tape.node(seen["inside"]), {node: unchanged}
        half = {inside: lambda relevance: relevance / 2, node: lambda relevance: relevance + 1}
        found = tape.propagate(
            {tape.node(output): torch.ones(2, 3)}, places | ({inside: unchanged} if wanted else {}), half
        )
        assert torch.equal(found[node], torch.full((2, 3), 1.5)), "also where no operation stands before"
        assert not wanted or torch.equal(found[inside], torch.full((2, 3), 0.5))


def test_the_way_back_goes_no_further_than_needed():
    ran = []
    tape = make_tape()
    tensors = [torch.rand(2) for _ in range(5)]
    lowest = tape.leaf(tensors[0])
    for index in range(4):
        tape.record(tensors[index + 1], [tensors[index]], lambda r, index=index: (ran.append(index), [r])[1])
    side = torch.rand(2)
    tape.record(side, [tensors[2]], lambda r: (ran.append("side"), [r])[1])
    last = tape.node(tensors[4])
    found = tape.propagate({last: torch.ones(2)}, {tape.node(tensors[2]): unchanged})
    assert ran == [3, 2] and len(found) == 1, "neither below what is wanted, nor where no relevance is"
    assert lowest not in found


def test_nodes_that_relevance_does_not_reach_are_absent():
    tape, node, _ = follow(lambda x: x * 2, torch.rand(2))
    assert tape.propagate({tape.leaf(torch.rand(2)): torch.ones(2)}, {node: unchanged}) == {}


def test_what_lies_below_all_that_is_wanted_is_followed_but_not_kept():
    tape, x, seen = make_tape(), torch.rand(2, 4), {}
    layer = nn.Linear(4, 4)
    tape.leaf(x, wanted=False)
    with torch.no_grad(), tape:
        below = layer(x).relu()
        tape.leaf(below)
        seen["above"] = layer(below)
    assert len(tape.steps) == 1, "one way back, from above to below"
    assert tape.node(seen["above"]).depth == 2 and tape.node(below).nonnegative


def test_constants_are_not_followed():
    tape, _, _ = follow(lambda x: torch.ones(3).mul(2).relu_().add(1), torch.rand(2))
    assert not tape.steps


def test_a_paused_tape_records_nothing():
    tape, x = make_tape(), torch.rand(2)
    tape.leaf(x)
    with tape:
        with tape.paused():
            inner = x * 2
        outer = x * 3
    assert tape.node(inner) is None and tape.node(outer) is not None and len(tape.steps) == 1
    with pytest.raises(RuntimeError), tape, tape.paused():
        raise RuntimeError
    with tape:
        assert tape.node(x * 2) is not None, "after an error it goes on"


def test_nothing_is_followed_outside_the_context():
    tape, x = make_tape(), torch.rand(2)
    tape.leaf(x)
    assert tape.node(x * 2) is None
    with pytest.raises(RuntimeError), tape:
        torch.rand(2) @ torch.rand(3)
    assert tape.node(x * 2) is None


def test_nodes_are_forgotten_with_their_tensors():
    """Or else a new tensor in the same place would be taken for the old one."""
    tape, x = make_tape(), torch.rand(2)
    tape.leaf(x)
    for _ in range(100):
        gone = torch.rand(2)
        tape.leaf(gone)
        del gone
        assert tape.node(torch.rand(2)) is None
    assert tape.node(x) is not None


def test_lists_of_tensors_are_searched():
    tape, a, b = make_tape(), torch.rand(2), torch.rand(2)
    tape.leaf(a)
    found = tape.explained([b, [b, (a, 3)], "text", None, a])
    assert len(found) == 2 and all(each is a for each in found)


def test_no_function_is_listed_in_two_families():
    """It would silently get the rule of the last one."""
    families = (routing, activations, averages, sums, products, normalization, attention, linear)
    listed = [
        function
        for family in families
        for functions in family.HANDLED.values()
        for function in dict.fromkeys(functions)
    ]  # fmt: skip
    assert len(listed) == len(set(listed)) == len(HANDLERS)
