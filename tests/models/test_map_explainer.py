"""The encoder-decoder that draws maps."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.models.map_explainer import GATES, LEAK, MapExplainer


def test_it_has_as_many_weights_as_the_published_one():
    assert sum(parameter.numel() for parameter in MapExplainer(3).parameters()) == 781_283


def test_it_is_the_published_network_layer_by_layer():
    torch.manual_seed(0)
    explainer, x = MapExplainer(3, 2, bias=0.0), torch.rand(2, 3, 16, 24)
    first = explainer.encoder[0](x)
    second = explainer.encoder[1](F.max_pool2d(first, 2))
    third = explainer.encoder[2](F.max_pool2d(second, 2))
    up = explainer.decoder[0](explainer.enlarge[0](F.max_pool2d(third, 2)) + third)
    up = explainer.decoder[1](explainer.enlarge[1](up) + second)
    up = explainer.decoder[2](explainer.enlarge[2](up) + first)
    expected = GATES["leaky_tanh_relu"](explainer.norm(explainer.head(up)))
    torch.testing.assert_close(explainer(x), expected)
    assert expected.std() > 0.1


@pytest.mark.parametrize("size", [(16, 16), (5, 7), (1, 9), (23, 32)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("gate", GATES)
def test_images_of_any_size_have_a_map_of_their_size_in_the_unit_interval(size, channels, gate):
    torch.manual_seed(0)
    opening = MapExplainer(channels, 2, gate=gate, bias=0.0)(torch.rand(3, channels, *size))
    assert opening.shape == (3, 1, *size)
    assert opening.min() >= 0 and opening.max() <= 1


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("gate", GATES)
def test_maps_are_open_before_any_training(gate, training):
    torch.manual_seed(0)
    explainer = MapExplainer(3, 8, gate=gate).train(training)
    opening = explainer(torch.rand(4, 3, 24, 24))
    assert opening.mean() > 0.95
    assert MapExplainer(3, 8, gate=gate, bias=-2.0).train(training)(torch.rand(4, 3, 24, 24)).mean() < 0.1


def test_what_poolings_do_not_divide_is_padded_by_the_last_row_and_column():
    torch.manual_seed(0)
    explainer, x = MapExplainer(1, 2, bias=0.0).eval(), torch.rand(1, 1, 14, 23)
    padded = torch.cat([x, x[..., -1:, :], x[..., -1:, :]], 2)
    padded = torch.cat([padded, padded[..., -1:]], 3)
    torch.testing.assert_close(explainer(x), explainer(padded)[..., :14, :23])
    assert explainer(x).std() > 0


def test_gates_are_their_formulas():
    a = torch.linspace(-4, 4, 81, dtype=torch.float64)
    torch.testing.assert_close(GATES["tanh_relu"](a), a.tanh().clamp(min=0))
    torch.testing.assert_close(GATES["sigmoid"](a), (1 + a.tanh()) / 2)
    leaky = GATES["leaky_tanh_relu"](a)
    assert (leaky - GATES["tanh_relu"](a)).abs().max() <= LEAK + 1e-12
    assert (leaky.diff() > 0).all() and leaky.min() >= 0 and leaky.max() < 1
    assert leaky[40] == pytest.approx(LEAK)


def steepest(gate: str) -> float:
    torch.manual_seed(0)
    explainer = MapExplainer(1, 2, gate=gate, bias=-3.0).eval()
    explainer(torch.rand(2, 1, 16, 16)).sum().backward()
    return max(float(parameter.grad.abs().max()) for parameter in explainer.parameters())


def test_a_map_that_is_closed_everywhere_can_open_again_unless_its_gate_is_the_published_one():
    with torch.no_grad():
        assert MapExplainer(1, 2, bias=-3.0).eval()(torch.rand(2, 1, 16, 16)).max() < LEAK
    assert steepest("tanh_relu") == 0
    assert steepest("leaky_tanh_relu") > 0 and steepest("sigmoid") > 0


def test_an_unknown_gate_is_refused():
    with pytest.raises(ValueError, match="gate 'relu' is unknown; allowed: leaky_tanh_relu"):
        MapExplainer(1, gate="relu")
