from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.attribution.baselines import gradient


def test_of_a_linear_network_it_is_the_row_of_the_class(scrambled, pixels):
    network = scrambled(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)))
    found = gradient(network, pixels(3, 3, 2, 2), torch.tensor([1, 3, 0]))
    assert torch.equal(found.relevance, network[1].weight.detach()[[1, 3, 0]].reshape(3, 3, 2, 2))


def test_it_is_the_slope_of_finite_differences_at_input_and_layer(residual, pixels):
    network, x = residual().double(), pixels(1, 3, 13, 13).double()
    found = gradient(network, x, 2, layers=["3"])
    with torch.no_grad():
        for start, tensor, slope in [(0, x, found.relevance), (4, found.activations["3"], found.relevances["3"])]:
            step = torch.zeros_like(tensor)
            step.view(-1)[int(slope.abs().argmax())] = 1e-6
            rest = network[start:]
            difference = (rest(tensor + step) - rest(tensor - step))[0, 2] / 2e-6
            assert float(slope.abs().max()) > 1e-3
            assert float((slope * step).sum() / 1e-6) == pytest.approx(float(difference), rel=1e-5)


def test_captum_finds_the_same(residual, pixels):
    captum = pytest.importorskip("captum.attr")
    network, x, target = residual(), pixels(3, 3, 13, 13), torch.tensor([0, 2, 1])
    expected = captum.Saliency(network).attribute(x.clone(), target, abs=False)
    assert torch.allclose(gradient(network, x, target).relevance, expected, atol=1e-6)
