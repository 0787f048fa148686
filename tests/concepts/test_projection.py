from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pipeline.attribution.recording import record_outputs
from pipeline.concepts.projection import Projected, Projection, insert_projection, own_layer


def unit(dimension: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn / drawn.norm()


def activation(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def along(direction: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return torch.einsum("c,nc...->n...", direction.float(), values)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 9), (4, 6, 5, 7)], ids=["flat", "signal", "image"])
def test_by_position_every_position_takes_the_clean_value_and_keeps_the_rest(shape):
    direction, values = unit(6), activation(*shape)
    projection = Projection(direction, 0.7, "position")
    projected = projection(values)
    torch.testing.assert_close(along(direction, projected), torch.full(shape[:1] + shape[2:], 0.7))
    torch.testing.assert_close(projection(projected), projected)
    change = projected - values
    column = direction.float().view(1, -1, *[1] * (len(shape) - 2))
    torch.testing.assert_close(change, (change * column).sum(1, keepdim=True) * column, rtol=1e-4, atol=1e-6)


def test_pooled_shifts_every_position_alike_by_the_gap_of_the_largest_values():
    direction, values = unit(6), activation(4, 6, 5, 7)
    projected = Projection(direction, 0.7, "pooled")(values)
    gap = 0.7 - values.amax((2, 3)).double() @ direction
    expected = values + (gap[:, None] * direction).float()[:, :, None, None]
    torch.testing.assert_close(projected, expected)
    # the largest value of every channel moves along, so pooled features reach the clean value
    torch.testing.assert_close(projected.amax((2, 3)) @ direction.float(), torch.full((4,), 0.7))


def test_without_positions_both_modes_are_one():
    values = activation(4, 6)
    torch.testing.assert_close(Projection(unit(6), 0.7, "pooled")(values), Projection(unit(6), 0.7, "position")(values))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )


def test_an_inserted_projection_acts_behind_its_layer_and_touches_no_weight(network):
    x, before = activation(2, 1, 8, 8), copy.deepcopy(network)
    projection = Projection(unit(6), 0.7, "position")
    insert_projection(network, "0.1", projection)
    expected = before[3](before[2](before[1](projection(before[0](x)))))
    torch.testing.assert_close(network(x), expected)
    weights = dict(network.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in before.named_parameters())


def test_two_projections_behind_one_layer_act_in_turn(network):
    x, before = activation(2, 1, 8, 8), copy.deepcopy(network)
    first, second = Projection(unit(6), 0.7, "position"), Projection(unit(6, 5), -0.2, "pooled")
    insert_projection(network, "0.1", first)
    insert_projection(network, "0.1", second)
    assert isinstance(network[0][1], Projected) and not isinstance(network[0][1].layer, Projected)
    torch.testing.assert_close(network[0](x), second(first(before[0](x))))


def test_the_layers_own_output_is_found_before_and_after_a_projection(network):
    x = activation(2, 1, 8, 8)
    expected = network[0](x)
    for layer in ("0.1", "0.1.layer"):
        name = own_layer(network, "0.1")
        assert name == layer
        with record_outputs(network, [name]) as outputs:
            network(x)
        torch.testing.assert_close(outputs[name], expected)
        insert_projection(network, "0.1", Projection(unit(6), 0.7, "position"))


def test_a_projection_keeps_direction_and_clean_value_in_the_state_dict(network):
    insert_projection(network, "0.1", Projection(unit(6), 0.7, "position"))
    state = network.state_dict()
    torch.testing.assert_close(state["0.1.projections.0.direction"], unit(6).float())
    assert float(state["0.1.projections.0.clean_value"]) == pytest.approx(0.7)
