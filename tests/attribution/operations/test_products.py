from __future__ import annotations

import operator

import pytest
import torch
from torch import nn
from torch.nn import functional as F


def in_place(a, b):
    a *= b
    return a


def divided_in_place(a, b):
    a /= b
    return a


PRODUCTS = {
    "*": operator.mul,
    "*=": in_place,
    "torch.mul": torch.mul,
    "by keyword": lambda a, b: torch.mul(input=a, other=b),
    "mul": lambda a, b: a.mul(b),
    "mul_": lambda a, b: a.mul_(b),
}
QUOTIENTS = {
    "/": operator.truediv,
    "/=": divided_in_place,
    "torch.div": torch.div,
    "div_": lambda a, b: a.div_(b),
    "rounded": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_equals_get_half_each(name, passed, signed):
    a, b = signed(3, 4), signed(3, 4, seed=1)
    found = passed(PRODUCTS[name], a, b)
    assert torch.equal(found.output, a * b)
    assert all(torch.equal(each, found.start[0] / 2) for each in found.relevances)


def test_a_tensor_times_itself_gets_all(passed, signed):
    found = passed(lambda x: x * x, signed(3, 4))
    assert torch.equal(found.relevance, found.start[0])


@pytest.mark.parametrize("name", QUOTIENTS)
def test_what_is_divided_gets_all_and_the_divisor_nothing(name, passed, signed):
    a, b = signed(3, 4), signed(3, 4, seed=1)
    found = passed(QUOTIENTS[name], a, b)
    assert torch.equal(found.output, QUOTIENTS[name](a.clone(), b))
    assert torch.equal(found.relevances[0], found.start[0]) and found.relevances[1] is None


CONSTANT = torch.linspace(-2, 3, 12, dtype=torch.float64).view(3, 4)
WITH_CONSTANTS = {
    "x * c": lambda x: x * CONSTANT,
    "c * x": lambda x: CONSTANT * x,
    "2 * x": lambda x: 2 * x,
    "x * 2": lambda x: x * 2,
    "x / c": lambda x: x / CONSTANT,
    "x / 2": lambda x: x / 2,
    "1 / x": lambda x: 1 / x,
    "c / x": lambda x: CONSTANT / x,
    "mask": lambda x: x * (x > 0),
}


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_constants_take_nothing(name, passed, signed):
    found = passed(WITH_CONSTANTS[name], signed(3, 4))
    assert torch.equal(found.output, WITH_CONSTANTS[name](signed(3, 4)))
    assert torch.equal(found.relevance, found.start[0])


def test_what_is_broadcast_over_constants_collects(passed, signed):
    found = passed(lambda x: x * CONSTANT, signed(4))
    assert torch.allclose(found.relevance, found.start[0].sum(0))


GATES = {
    "sigmoid": lambda x, gate: x * gate.sigmoid(),
    "sigmoid first": lambda x, gate: torch.sigmoid(gate) * x,
    "hardsigmoid": lambda x, gate: x * F.hardsigmoid(gate),
    "softmax": lambda x, gate: x * gate.softmax(1),
    "by way of a view": lambda x, gate: x * gate.sigmoid().flatten(1).view(2, 3, 4, 4),
}


@pytest.mark.parametrize("name", GATES)
def test_a_gate_leaves_relevance_to_what_it_weighs(name, passed, signed):
    found = passed(GATES[name], signed(2, 3, 4, 4), signed(2, 3, 4, 4, seed=1))
    assert torch.equal(found.relevances[0], found.start[0]) and found.relevances[1] is None


@pytest.mark.parametrize("gate", [nn.Sigmoid(), nn.Hardsigmoid(), nn.ReLU6(), nn.Softplus()])
def test_squeeze_and_excitation_leaves_relevance_to_the_map(gate, passed, signed, scrambled):
    squeeze, excite = scrambled(nn.Conv2d(4, 2, 1)).double(), scrambled(nn.Conv2d(2, 4, 1)).double()
    maps = []

    def block(x):
        weights = gate(excite(squeeze(F.adaptive_avg_pool2d(x, 1)).relu()))
        maps.append(weights)
        return x * weights

    x = signed(2, 4, 3, 3)
    found = passed(block, x)
    assert torch.equal(found.output, x * maps[0]) and maps[0].shape == (2, 4, 1, 1)
    assert torch.equal(found.relevance, found.start[0]), "nothing goes through the excitation"


def test_of_two_gates_neither_is_the_signal(passed, signed):
    found = passed(lambda a, b: a.sigmoid() * b.sigmoid(), signed(3, 4), signed(3, 4, seed=1))
    assert all(torch.equal(each, found.start[0] / 2) for each in found.relevances)


@pytest.mark.parametrize("function", [operator.mul, torch.multiply, lambda a, b: b * a])
def test_a_factor_that_is_broadcast_only_weighs(function, passed, signed):
    found = passed(function, signed(2, 3, 4, 4), signed(2, 3, 1, 1, seed=1))
    assert torch.equal(found.relevances[0], found.start[0]) and found.relevances[1] is None


def test_the_sign_is_known_where_both_signs_are(passed, signed):
    a, b = signed(3, 4).abs(), signed(3, 4, seed=1).abs()
    assert passed(operator.mul, a, b, nonnegative=True).node.nonnegative
    assert not passed(operator.mul, a, b).node.nonnegative
    assert not passed(lambda x: x * CONSTANT, a, nonnegative=True).node.nonnegative


def test_products_of_constants_are_ordinary(passed, signed):
    found = passed(lambda x: x + torch.mul(input=CONSTANT, other=CONSTANT), signed(3, 4), keeps_biases=False)
    assert torch.equal(found.output, signed(3, 4) + CONSTANT**2)
