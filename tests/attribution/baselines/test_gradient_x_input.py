from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.attribution.baselines import gradient, gradient_x_input


def test_it_is_the_gradient_times_input_and_activation(residual, pixels):
    network, x = residual(), pixels(3, 3, 13, 13)
    slope = gradient(network, x, 2, layers=["3", "0"])
    found = gradient_x_input(network, x, 2, layers=["3", "0"])
    assert torch.equal(found.relevance, slope.relevance * x)
    for name in ("3", "0"):
        assert torch.equal(found.activations[name], slope.activations[name])
        assert torch.equal(found.relevances[name], slope.relevances[name] * slope.activations[name])


def test_without_biases_it_sums_to_the_logit_at_every_layer(plain, pixels):
    network, x = plain().double(), pixels(3, 3, 12, 12).double()
    for module in network:
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.bias.data.zero_()
    found = gradient_x_input(network, x, torch.tensor([0, 3, 1]), layers=["0", "4"])
    logit = found.logits[torch.arange(3), torch.tensor([0, 3, 1])].tolist()
    for relevance in (found.relevance, *found.relevances.values()):
        assert relevance.flatten(1).sum(1).tolist() == pytest.approx(logit, abs=1e-12)


def test_captum_finds_the_same(residual, pixels):
    captum = pytest.importorskip("captum.attr")
    network, x, target = residual(), pixels(3, 3, 13, 13), torch.tensor([0, 2, 1])
    expected = captum.InputXGradient(network).attribute(x.clone(), target).detach()
    assert torch.allclose(gradient_x_input(network, x, target).relevance, expected, atol=1e-6)
