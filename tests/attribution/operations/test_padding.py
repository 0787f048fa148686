from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import attribute


@pytest.mark.parametrize("rule", ["flat", "w_square", "absolute_share", "zb", "epsilon", "z_plus"])
def test_padding_by_a_function_of_its_own_is_padding_of_the_convolution(rule, functional, scrambled, pixels):
    inside = scrambled(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    )
    outside = nn.Sequential(functional(lambda x: F.pad(x, (1, 1, 1, 1))), *inside)
    outside[1] = nn.Conv2d(3, 4, 3, stride=2)
    outside[1].load_state_dict(inside[0].state_dict())
    x = pixels(4, 3, 6, 6) - 0.5
    expected = attribute(inside, x, 1, rules={"0": rule}).relevance
    found = attribute(outside, x, 1, rules={"1": rule}).relevance
    assert expected.abs().max() > 0
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


def test_the_flat_rule_keeps_all_relevance_on_values(functional, scrambled, pixels):
    network = nn.Sequential(
        functional(lambda x: F.pad(x, (0, 2, 2, 0))), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(120, 3)
    )
    found = attribute(scrambled(network), pixels(4, 3, 5, 6), 1, layers=["3"])
    assert torch.allclose(found.relevance.flatten(1).sum(1), found.relevances["3"].sum(1), rtol=1e-4)


def test_padding_with_another_value_takes_its_share(functional, scrambled, pixels):
    network = nn.Sequential(
        functional(lambda x: F.pad(x, (1, 1, 1, 1), value=1.0)), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)
    )
    found = attribute(scrambled(network), pixels(2, 3, 6, 6), 1, layers=["2"])
    below, above = found.relevance.flatten(1).sum(1), found.relevances["2"].sum(1)
    assert not torch.allclose(below, above, rtol=1e-2)
