from __future__ import annotations

import torch
from torch import nn

from pipeline.attribution.attribute import Explainer
from pipeline.attribution.depthwise import AbsoluteShare, Depthwise


def relevance_through(convolution: nn.Conv2d, a: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
    handle = AbsoluteShare().register(convolution)
    try:
        a = a.requires_grad_(True)
        (found,) = torch.autograd.grad(convolution(a), a, relevance)
    finally:
        handle.remove()
    return found


def test_only_convolutions_with_one_channel_per_group_are_depthwise():
    assert isinstance(nn.Conv2d(4, 4, 3, groups=4), Depthwise)
    assert isinstance(nn.Conv2d(4, 8, 3, groups=4), Depthwise)
    assert not isinstance(nn.Conv2d(4, 4, 3), Depthwise)
    assert not isinstance(nn.Conv2d(4, 4, 3, groups=2), Depthwise)
    assert not isinstance(nn.Conv2d(1, 4, 3), Depthwise)


def test_relevance_is_shared_by_activation_times_weight_within_the_channel():
    convolution = nn.Conv2d(2, 2, (1, 3), groups=2)
    with torch.no_grad():
        convolution.weight[:] = torch.tensor([[1.0, -2.0, 3.0], [1.0, 1.0, 1.0]]).view(2, 1, 1, 3)
    a = torch.tensor([[2.0, 1.0, 0.0], [0.0, 5.0, 0.0]]).view(1, 2, 1, 3)
    found = relevance_through(convolution, a, torch.tensor([8.0, 3.0]).view(1, 2, 1, 1))
    expected = torch.tensor([[4.0, 4.0, 0.0], [0.0, 3.0, 0.0]]).view(1, 2, 1, 3)
    assert torch.allclose(found, expected, atol=1e-4)


def test_units_that_live_by_their_bias_alone_keep_their_relevance():
    convolution = nn.Conv2d(3, 3, 3, padding=1, groups=3)
    with torch.no_grad():
        convolution.weight.copy_(-convolution.weight.abs())
        convolution.bias.fill_(2.0)
    a = torch.zeros(1, 3, 5, 5)
    relevance = torch.rand(1, 3, 5, 5)
    found = relevance_through(convolution, a, relevance)
    assert torch.allclose(found.sum((2, 3)), relevance.sum((2, 3)), rtol=1e-4)


def test_an_inverted_residual_block_conserves_relevance():
    torch.manual_seed(0)
    block = nn.Sequential(
        nn.Conv2d(3, 12, 1), nn.ReLU6(), nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12), nn.ReLU6(),
        nn.Conv2d(12, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
    ).eval()  # fmt: skip
    x = torch.rand(4, 3, 8, 8)
    found = Explainer(block, x, "epsilon_plus_flat", without_biases=True).attribute(x, 0)
    assert torch.allclose(found.relevance.flatten(1).sum(1), found.logits[:, 0], rtol=5e-3)
