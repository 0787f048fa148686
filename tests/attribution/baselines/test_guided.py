from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution.baselines import gradient, guided


def test_negative_gradients_stop_at_every_rectifier(scrambled, pixels):
    network = scrambled(
        nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU6(), nn.Linear(6, 3))
    )
    x = pixels(5, 3, 2, 2)
    first = F.linear(x.flatten(1), network[1].weight, network[1].bias)
    second = F.linear(first.relu(), network[3].weight, network[3].bias)
    above = network[5].weight[1].clamp(min=0) * ((second > 0) & (second < 6))
    below = (above @ network[3].weight).clamp(min=0) * (first > 0)
    found = guided(network, x, 1, layers=["2"])
    assert torch.allclose(found.relevance.flatten(1), below @ network[1].weight, atol=1e-6)
    assert torch.allclose(found.relevances["2"], above @ network[3].weight, atol=1e-6)
    assert found.relevance.abs().max() > 0
    assert not torch.allclose(found.relevance, gradient(network, x, 1).relevance, atol=1e-3)


def test_a_network_without_rectifiers_is_refused(scrambled, pixels):
    network = scrambled(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.GELU(), nn.Linear(5, 3)))
    with pytest.raises(ValueError, match="needs a network of ReLU or ReLU6 activations.*use 'gradient'"):
        guided(network, pixels(2, 3, 2, 2))
