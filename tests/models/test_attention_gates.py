"""Attention gates around a network."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import attribute
from pipeline.models.attention_gates import AttentionGate, AttentionGated


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).eval()  # fmt: skip


def made(*, opened: bool = False) -> AttentionGated:
    torch.manual_seed(2)
    model = AttentionGated(network(), ["1"], "4", channels=[4, 6], classes=3, inner=5).eval()
    if opened:
        nn.init.normal_(model.gates[0].psi.weight)
    return model


@pytest.fixture
def x():
    return torch.rand(3, 1, 10, 10, generator=torch.Generator().manual_seed(3))


def test_attention_lies_between_0_and_1_and_adds_up_to_1(x):
    (attention,) = made(opened=True).look(x)[1]
    assert attention.shape == (3, 1, 10, 10)
    assert 0 <= attention.min() and attention.max() <= 1 and attention.std() > 1e-4
    torch.testing.assert_close(attention.sum((1, 2, 3)), torch.ones(3))


def test_attention_is_additive_and_driven_by_the_deeper_map():
    torch.manual_seed(4)
    gate = AttentionGate(3, 2, 5)
    nn.init.normal_(gate.psi.weight)
    nn.init.normal_(gate.psi.bias)
    x, driver = torch.randn(2, 3, 4, 6), torch.randn(2, 2, 2, 3)
    enlarged = F.interpolate(gate.of_driver(driver), size=(4, 6), mode="bilinear")
    inner = torch.einsum("ic,nchw->nihw", gate.of_map.weight[:, :, 0, 0], x) + enlarged
    score = (torch.einsum("i,nihw->nhw", gate.psi.weight[0, :, 0, 0], inner.relu()) + gate.psi.bias).sigmoid()
    torch.testing.assert_close(gate(x, driver)[:, 0], score / score.sum((1, 2), keepdim=True))
    assert (gate(x, driver.flip(3)) - gate(x, driver)).abs().max() > 1e-3


def test_at_first_every_position_counts_the_same(x):
    model = made()
    features, (attention,) = model.look(x)
    torch.testing.assert_close(attention, torch.full((3, 1, 10, 10), 0.01))
    plain = network()
    means = torch.cat([plain[:2](x).mean((2, 3)), plain[:5](x).mean((2, 3))], 1)
    torch.testing.assert_close(features, means)
    torch.testing.assert_close(model(x), model.head(means))


def test_gated_sums_are_weighted_by_the_attention(x):
    model = made(opened=True)
    features, (attention,) = model.look(x)
    torch.testing.assert_close(features[:, :4], (network()[:2](x) * attention).sum((2, 3)))


def test_maps_are_those_of_the_layer_whatever_is_written_into_them_later(x):
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(5)
            self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)

        def forward(self, x):
            maps = self.first(x)
            maps += 100
            return self.second(maps).mean((2, 3))

    model = AttentionGated(Writes(), ["first"], "second", channels=[4, 6], classes=2, inner=3)
    torch.testing.assert_close(model.look(x)[0][:, :4], model.network.first(x).mean((2, 3)))


def test_it_holds_hooks_for_the_time_of_a_forward_pass_only(x):
    model = made()
    model(x)
    with pytest.raises(RuntimeError):
        model(torch.rand(1, 5, 10, 10))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_it_can_be_copied_stored_and_traced(x):
    model, other = made(opened=True), made()
    other.load_state_dict(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, x[:2])
    for same in (copy.deepcopy(model), other, traced):
        torch.testing.assert_close(same(x), model(x))


def test_relevance_takes_attention_for_a_constant(x):
    model, x = made(opened=True), x[:2]
    attention = [each.detach() for each in model.look(x)[1]]

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.head = model.network, model.head

        def forward(self, x):
            low = self.network[:2](x)
            deep = self.network[2:5](low)
            return self.head(torch.cat([(low * attention[0]).sum((2, 3)), deep.mean((2, 3))], 1))

    found, expected = attribute(model, x), attribute(Constant(), x)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.relevance, expected.relevance)
    assert found.relevance.isfinite().all() and found.relevance.any()


def test_gates_can_be_trained(x):
    model = made()
    model(x)[:, 0].sum().backward()
    assert model.gates[0].psi.weight.grad.abs().sum() > 0 and model.network[0].weight.grad.abs().sum() > 0
