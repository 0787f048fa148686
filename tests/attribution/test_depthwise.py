from __future__ import annotations

import torch
from torch import nn

from pipeline.attribution import attribute
from pipeline.attribution.depthwise import Depthwise


def test_depthwise_means_one_input_channel_per_group():
    assert isinstance(nn.Conv2d(4, 8, 3, groups=4), Depthwise) and isinstance(nn.Conv1d(4, 4, 3, groups=4), Depthwise)
    for module in (nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3), nn.Conv2d(1, 4, 3), nn.Linear(4, 4)):
        assert not isinstance(module, Depthwise)


def network(scrambled) -> nn.Module:
    return scrambled(
        nn.Sequential(
            nn.Conv2d(3, 4, 1),
            nn.ReLU(),
            nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, 2),
        )  # fmt: skip
    ).double()


def test_relevance_is_shared_by_the_size_of_contributions_and_conserved(scrambled, pixels):
    model, x = network(scrambled), pixels(3, 3, 6, 6).double()
    found = attribute(model, x, 0, composite="epsilon_plus", layers=["1", "2"])
    below, above, a = found.relevances["1"], found.relevances["2"], found.activations["1"]
    convolution = model[2]

    def size_of_sums(values: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(values, convolution.weight.abs(), None, 2, 1, groups=4)

    values = (a.abs() + 1e-6).requires_grad_()
    sums = size_of_sums(values)
    (expected,) = torch.autograd.grad(sums, values, above / sums.detach())
    assert torch.allclose(below, values.detach() * expected, atol=1e-9)
    channels = above.view(3, 4, 2, -1).sum((2, 3))
    assert torch.allclose(below.sum((2, 3)), channels, atol=1e-9), "channel by channel"
    assert above.abs().max() > 0.01


def test_a_unit_alive_by_its_bias_alone_keeps_its_relevance(scrambled, pixels):
    model = network(scrambled)
    model[0].bias.data.fill_(-100)  # nothing reaches the depthwise convolution
    model[2].bias.data.fill_(1)
    found = attribute(model, pixels(2, 3, 6, 6).double(), 1, composite="epsilon_plus", layers=["1", "2"])
    assert torch.allclose(found.relevances["1"].sum((1, 2, 3)), found.relevances["2"].sum((1, 2, 3)), rtol=1e-5)
    assert found.relevances["2"].abs().max() > 0.01
