from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.attribution.recording import record_outputs
from pipeline.concepts.projection import (
    Amplification,
    Projected,
    Projection,
    columns,
    from_columns,
    insert_projection,
    joint_solution,
    own_layer,
    pooled,
    remove_projections,
)


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


def test_a_projection_keeps_directions_and_clean_values_in_the_state_dict(network):
    insert_projection(network, "0.1", Projection(unit(6), 0.7, "position"))
    state = network.state_dict()
    torch.testing.assert_close(state["0.1.projections.0.measured"], unit(6).float()[:, None])
    assert float(state["0.1.projections.0.clean_value"]) == pytest.approx(0.7)


def slanted(dimension: int = 6, count: int = 2) -> torch.Tensor:
    """Return unit directions `[D, count]` with cosines of about 0.8: far from orthogonal."""
    first = unit(dimension)
    others = [nn.functional.normalize(first + 0.7 * unit(dimension, seed), dim=0) for seed in range(1, count)]
    return torch.stack([first, *others], 1)


@pytest.mark.parametrize("mode", ["position", "pooled"])
@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_directions_that_are_not_orthogonal_get_their_clean_values_together(mode, pooling):
    directions, values, clean = slanted(count=3), activation(4, 6, 5, 7), torch.tensor([0.7, -0.2, 0.1])
    assert (directions.T @ directions - torch.eye(3)).abs().max() > 0.5
    projection = Projection(directions, clean, mode, pooling=pooling)
    projected = projection(values)
    source = projected.flatten(2) if mode == "position" else pooled(projected.flatten(2), pooling)
    found = torch.einsum("dk,ndp->nkp", directions.float(), source)
    torch.testing.assert_close(found, clean[None, :, None].expand_as(found), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(projection(projected), projected, rtol=1e-4, atol=1e-5)
    # one after the other does not get there
    in_turn = values
    for direction, value in zip(directions.T, clean, strict=True):
        in_turn = Projection(direction, float(value), mode, pooling=pooling)(in_turn)
    assert (in_turn - projected).abs().max() > 0.05


def test_a_projection_moves_within_the_span_of_its_directions_only():
    directions, values = slanted(count=2), activation(4, 6, 5)
    change = (Projection(directions, torch.zeros(2), "position")(values) - values).double()
    basis, _ = torch.linalg.qr(directions)
    within = torch.einsum("dk,ek,nep->ndp", basis, basis, change)
    torch.testing.assert_close(within, change, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["position", "pooled"])
def test_measured_along_a_filter_and_moved_along_a_pattern(mode):
    """a' = a + (z - h.a) / (h.v) v."""
    h, v, values = unit(6), slanted()[:, 1], activation(4, 6, 5)
    projected = Projection(h, 0.7, mode, moving=v)(values).double()
    source = values.double() if mode == "position" else values.double().amax(2, keepdim=True)
    gap = 0.7 - torch.einsum("c,ncp->np", h, source)
    expected = values + torch.einsum("c,np->ncp", v, (gap / (h @ v)).expand(4, 5))
    torch.testing.assert_close(projected, expected, rtol=1e-4, atol=1e-5)


def test_the_same_direction_twice_is_one_direction_with_the_mean_of_both_values():
    values = activation(4, 6, 5)
    twice = Projection(torch.stack([unit(6)] * 2, 1), torch.tensor([0.2, 0.6]), "position")
    torch.testing.assert_close(twice(values), Projection(unit(6), 0.4, "position")(values))
    assert np.abs(joint_solution(np.ones((3, 2)), np.ones((3, 2)))).max() < 1


@pytest.mark.parametrize("mode", ["position", "pooled"])
@pytest.mark.parametrize("shape", [(4, 9, 6), (4, 3, 5, 6)], ids=["tokens", "grid of tokens"])
def test_channels_may_come_last(mode, shape):
    values = activation(*shape)
    first = Projection(unit(6), 0.7, mode)(values.movedim(-1, 1))
    last = Projection(unit(6), 0.7, mode, channel_axis=-1)(values)
    torch.testing.assert_close(last, first.movedim(1, -1))


@pytest.mark.parametrize("axis", [1, -1])
def test_a_full_map_is_projected_as_one_long_vector(axis):
    direction, values = unit(6 * 35), activation(4, 6, 5, 7)
    projection = Projection(direction, 0.7, "position", pooling="full", channel_axis=axis)
    given = values if axis == 1 else values.movedim(1, -1)
    projected = projection(given) if axis == 1 else projection(given).movedim(-1, 1)
    flat = values.flatten(1).double()
    expected = flat + (0.7 - flat @ direction)[:, None] * direction
    torch.testing.assert_close(projected.flatten(1).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["max", "full"])
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5), (4, 6, 5, 7)])
def test_columns_are_put_back_where_they_came_from(pooling, axis, shape):
    values = activation(*shape)
    assert torch.equal(from_columns(columns(values, axis, pooling), values, axis, pooling), values)


def test_amplification_acts_on_a_share_of_the_samples_while_training():
    amplified, values = Amplification(unit(6), 0.7, "pooled", share=0.4), activation(500, 6, 5)
    assert torch.equal(amplified.eval()(values), values)
    torch.manual_seed(0)
    found = amplified.train()(values)
    moved = (found != values).flatten(1).any(1)
    assert 0.3 < moved.float().mean() < 0.5
    torch.testing.assert_close(found[moved], Projection(unit(6), 0.7, "pooled")(values)[moved])
    torch.manual_seed(0)
    assert torch.equal(amplified(values), found)
    everywhere = Amplification(unit(6), 0.7, "pooled")
    assert (everywhere(values) != values).flatten(1).any(1).all()


@pytest.mark.parametrize("axis", [1, -1])
def test_amplification_by_maps_gives_each_sample_the_values_of_one_map(axis):
    directions, values = slanted(), activation(50, 6, 5)
    maps = np.random.default_rng(0).standard_normal((3, 2, 5))
    amplified = Amplification(directions, torch.zeros(2), "position", maps=maps, channel_axis=axis).train()
    found = amplified(values if axis == 1 else values.movedim(1, -1))
    found = found if axis == 1 else found.movedim(-1, 1)
    along = torch.einsum("dk,ndp->nkp", directions.float(), found)
    gaps = (along[:, None] - torch.tensor(maps).float()).abs().amax((2, 3))
    assert gaps.min(1).values.max() < 1e-4 and len(gaps.argmin(1).unique()) == 3


def test_without_its_projections_a_network_is_what_it_was(network):
    before = copy.deepcopy(network)
    for layer in ("0.1", "0.1", "3"):
        insert_projection(network, layer, Projection(unit(3 if layer == "3" else 6), 0.7, "position"))
    with torch.no_grad():
        network[3].layer.weight += 1
    remove_projections(network)
    assert [type(module) for module in network.modules()] == [type(module) for module in before.modules()]
    assert network.state_dict().keys() == before.state_dict().keys()
    assert torch.equal(network[3].weight, before[3].weight + 1)


def test_a_layer_that_is_not_there_is_refused(network):
    with pytest.raises(ValueError, match="'7' is no module"):
        insert_projection(network, "7", Projection(unit(6), 0.7, "position"))


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize("mode", ["position", "pooled"])
def test_a_traced_copy_gives_the_same_for_other_inputs(network, mode):
    insert_projection(network, "0.1", Projection(slanted(), torch.tensor([0.7, 0.1]), mode))
    traced = torch.jit.trace(network, activation(2, 1, 8, 8))
    x = 3 * torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(traced(x), network(x))
    torch.testing.assert_close(copy.deepcopy(network)(x), network(x), rtol=0, atol=0)
