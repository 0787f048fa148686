from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {
    "ReLU": nn.ReLU(),
    "ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu in place, by position": lambda x: F.relu(x, True),
    "F.relu by keyword": lambda x: F.relu(input=x),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "relu": lambda x: x.relu(),
    "relu_": lambda x: x.relu_(),
    "ReLU6": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "LeakyReLU": nn.LeakyReLU(0.2, inplace=True),
    "PReLU": nn.PReLU().double(),
    "ELU": nn.ELU(inplace=True),
    "SELU": nn.SELU(inplace=True),
    "CELU": nn.CELU(),
    "GELU": nn.GELU(),
    "SiLU": nn.SiLU(inplace=True),
    "Mish": nn.Mish(),
    "Hardswish": nn.Hardswish(inplace=True),
    "Hardtanh": nn.Hardtanh(inplace=True),
    "Softplus": nn.Softplus(),
    "Sigmoid": nn.Sigmoid(),
    "Hardsigmoid": nn.Hardsigmoid(inplace=True),
    "sigmoid_": lambda x: x.sigmoid_(),
    "Tanh": nn.Tanh(),
    "tanh_": lambda x: x.tanh_(),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_": lambda x: x.clamp_(min=0),
    "square": torch.square,
    "power": lambda x: x**2,
    "absolute": lambda x: x.abs(),
    "exponential": torch.exp,
    "negative": lambda x: -x,
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "Dropout": nn.Dropout(0.5).eval(),
    "Dropout in place": nn.Dropout2d(0.5, inplace=True).eval(),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_relevance_passes_through_an_activation(name, passed, signed):
    x = signed(3, 4, 2, 2)
    found = passed(ACTIVATIONS[name], x)
    with torch.no_grad():
        assert torch.equal(found.output, ACTIVATIONS[name](x.clone()))
    assert torch.equal(found.relevance, found.start[0])
    assert not found.tape.without_rule
    if found.node.nonnegative:
        assert (found.output >= 0).all(), "what is said about it is true"


@pytest.mark.parametrize(
    "name", ["ReLU in place", "relu_", "F.relu in place, by position", "Hardtanh", "tanh_", "clamp_"]
)
def test_activations_in_place_leave_their_input_as_it_was(name, passed, signed):
    x = signed(3, 4)
    places = []
    passed(lambda place: places.append(place) or ACTIVATIONS[name](place), x)
    assert torch.equal(places[0], x), "rules need the input as it was"


@pytest.mark.parametrize(
    "name", ["ReLU", "F.relu6", "Sigmoid", "Hardsigmoid", "Softplus", "square", "absolute", "exponential"]
)
def test_outputs_that_cannot_be_negative_are_known_to_be_so(name, passed, signed):
    assert passed(ACTIVATIONS[name], signed(3, 4)).node.nonnegative


@pytest.mark.parametrize("name", ["ReLU6", "GELU", "SiLU", "LeakyReLU", "Tanh", "negative", "ELU", "clamp"])
def test_nothing_is_said_about_the_sign_of_others(name, passed, signed):
    assert not passed(ACTIVATIONS[name], signed(3, 4)).node.nonnegative


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_only_sigmoids_make_gates(name, passed, signed):
    found = passed(ACTIVATIONS[name], signed(3, 4, 2, 2))
    assert found.node.gate == (name in ("Sigmoid", "sigmoid_", "Hardsigmoid"))


def test_constants_are_let_through_in_place_as_the_network_does_it(passed, signed):
    constant = signed(3, 4, seed=1)
    found = passed(lambda x: x + constant.relu_(), signed(3, 4))
    assert (constant >= 0).all() and found.node is not None
