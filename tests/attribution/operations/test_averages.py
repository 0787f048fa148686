from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

AVERAGES = {
    "mean": lambda x: x.mean((2, 3)),
    "torch.mean": lambda x: torch.mean(x, dim=(2, 3), keepdim=True),
    "torch.mean by keyword": lambda x: torch.mean(input=x, dim=1),
    "mean of all": lambda x: x.mean(),
    "sum": lambda x: x.sum(1),
    "torch.sum": lambda x: torch.sum(x, (0, 2)),
    "cumsum": lambda x: torch.cumsum(x, 1),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 3, stride=2, padding=1),
    "AvgPool2d, padding not counted": nn.AvgPool2d(3, 1, padding=1, count_include_pad=False),
    "avg_pool1d": lambda x: F.avg_pool1d(x.flatten(2), 4),
    "avg_pool3d": lambda x: F.avg_pool3d(x, 2),
    "AdaptiveAvgPool2d": nn.AdaptiveAvgPool2d((2, 3)),
    "AdaptiveAvgPool2d by keyword": lambda x: F.adaptive_avg_pool2d(input=x, output_size=1),
    "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 3),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "Upsample": nn.Upsample(scale_factor=2),
    "interpolate bicubic": lambda x: F.interpolate(x, size=(5, 9), mode="bicubic"),
    "fold": lambda x: F.fold(x.flatten(2)[:, :, :9], (4, 4), 2),
}


def written_out(function, x: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
    """Contributions of every input to every output, one input at a time."""
    found = torch.zeros_like(x)
    output = function(x)
    ratio = relevance / (output + torch.where(output >= 0, 1e-6, -1e-6))
    for index in range(x.numel()):
        alone = torch.zeros_like(x)
        alone.view(-1)[index] = x.reshape(-1)[index]
        found.view(-1)[index] = (function(alone) * ratio).sum()
    return found


@pytest.mark.parametrize("name", AVERAGES)
def test_values_share_the_relevance_of_their_average_in_proportion(name, passed, signed):
    x = signed(2, 4, 4, 6) if name != "fold" else signed(2, 4, 3, 3)
    found = passed(AVERAGES[name], x)
    assert torch.equal(found.output, AVERAGES[name](x))
    assert torch.allclose(found.relevance, written_out(AVERAGES[name], x, found.start[0]), rtol=1e-9)
    assert found.total()[1] == pytest.approx(found.total()[0], rel=1e-3)
    assert not found.tape.without_rule


@pytest.mark.parametrize("name", AVERAGES)
def test_what_is_said_about_the_sign_is_true(name, passed, signed):
    x = signed(2, 4, 3, 3).abs() if name == "fold" else signed(2, 4, 4, 6).abs()
    x[:, :, 1:3] = 0  # edges, where cubic curves overshoot
    known = passed(AVERAGES[name], x, nonnegative=True)
    assert known.node.nonnegative == (name != "interpolate bicubic")
    assert not known.node.nonnegative or (known.output >= 0).all()
    assert not passed(AVERAGES[name], x).node.nonnegative
