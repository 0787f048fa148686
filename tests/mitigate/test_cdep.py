"""CDEP: its two forms, and what training with them does. The decomposition itself has tests of its own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.attribution.decomposition import Decomposition, contextual_decomposition
from pipeline.errors import ConfigError
from pipeline.mitigate import make_mitigation
from pipeline.mitigate.cdep import cdep_loss
from pipeline.models.build import AuditModel


def parts(relevant: list[list[float]], irrelevant: list[list[float]]) -> Decomposition:
    relevant, irrelevant = (torch.tensor(each, dtype=torch.float64) for each in (relevant, irrelevant))
    return Decomposition(relevant + irrelevant, relevant)


def test_closed_forms():
    found = parts([[3.0, 0.0], [1.0, 1.0]], [[0.0, 4.0], [1.0, -1.0]])
    assert float(cdep_loss(found)) == pytest.approx((9 / 25 + 2 / 4) / 2)
    softmax = [math.exp(r) / (math.exp(r) + math.exp(i)) for r, i in ((3, 0), (0, 4), (1, 1), (1, -1))]
    assert float(cdep_loss(found, "softmax")) == pytest.approx(sum(softmax) / 4)


@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_the_share_lies_between_0_and_1_and_has_no_scale(seed, scale):
    relevant, logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loss = cdep_loss(Decomposition(logits, relevant))
    assert 0 <= loss <= 1
    torch.testing.assert_close(cdep_loss(Decomposition(logits * scale, relevant * scale)), loss)


def test_nothing_of_the_region_is_0_and_nothing_else_is_1():
    logits = torch.tensor([[1.0, -2.0]])
    assert cdep_loss(Decomposition(logits, torch.zeros(1, 2))) == 0
    assert cdep_loss(Decomposition(logits, logits)) == 1
    nothing = torch.zeros(1, 2, requires_grad=True)
    loss = cdep_loss(Decomposition(nothing, nothing))
    assert loss == 0 and torch.autograd.grad(loss, nothing)[0].isfinite().all()


@pytest.mark.parametrize("form", ["share", "softmax"])
def test_its_derivatives_are_those_of_finite_differences(form):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, 3)
    ).double()
    network[1].running_mean.normal_(0, 0.3)
    network.eval()
    x, mask = torch.randn(3, 2, 6, 5).double(), torch.rand(3, 1, 6, 5).double()
    parameters = list(network.parameters())

    def loss(*_) -> torch.Tensor:
        return cdep_loss(contextual_decomposition(network, x, mask), form)

    assert torch.autograd.gradcheck(loss, parameters)
    assert all(gradient.any() for gradient in torch.autograd.grad(loss(), parameters))


@pytest.mark.parametrize("form", ["share", "softmax"])
def test_training_lowers_the_penalty(audited, section, form):
    model, problem = audited
    history = make_mitigation(section("cdep", epochs=4, lr=0.003, form=form)).fit(model, problem).history
    assert history[-1].losses["penalty"] < 0.95 * history[0].losses["penalty"]


def test_all_layers_train_unless_one_is_named(audited, section):
    model, problem = audited
    old = dict(model.named_parameters())
    for layer, kept in ((None, ()), ("network.relu1", ("network.conv1", "network.norm1"))):
        corrected = make_mitigation(section("cdep", layer=layer)).fit(model, problem).model
        still = {name for name, value in corrected.named_parameters() if torch.equal(value, old[name])}
        assert still == {name for name in old if name.startswith(kept)} if kept else not still


class Gated(nn.Module):
    def forward(self, x):
        return x * x.mean((2, 3), keepdim=True)


def test_a_network_without_decomposition_is_refused_before_it_trains(audited, section):
    _, problem = audited
    model = AuditModel(nn.Sequential(nn.Conv2d(1, 4, 3), Gated(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))).eval()
    with pytest.raises(ConfigError, match="'cdep': contextual decomposition has no rule for .*mul of two values"):
        make_mitigation(section("cdep")).fit(model, problem)
