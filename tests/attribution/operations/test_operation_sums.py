"""Sums and differences of two tensors (named so beside the tests of `attribution/sums.py`)."""

from __future__ import annotations

import operator

import pytest
import torch


def in_place(a, b):
    a += b
    return a


def taken_in_place(a, b):
    a -= b
    return a


SUMS = {
    "+": operator.add,
    "+=": in_place,
    "torch.add": torch.add,
    "by keyword": lambda a, b: torch.add(input=a, other=b),
    "add": lambda a, b: a.add(b),
    "add_": lambda a, b: a.add_(b),
    "sum": lambda a, b: sum([a, b]),  # begins with 0 + a
    "with factor": lambda a, b: torch.add(a, b, alpha=-3),
    "add_ with factor": lambda a, b: a.add_(b, alpha=0.5),
    "-": operator.sub,
    "-=": taken_in_place,
    "torch.sub": torch.sub,
    "sub with factor": lambda a, b: a.sub(b, alpha=2),
    "torch.subtract": lambda a, b: torch.subtract(a, b),
    "rsub": torch.rsub,
    "rsub with factor": lambda a, b: torch.rsub(a, b, alpha=2),
}
FACTORS = {
    "with factor": (1, -3), "add_ with factor": (1, 0.5), "-": (1, -1), "-=": (1, -1), "torch.sub": (1, -1),
    "sub with factor": (1, -2), "torch.subtract": (1, -1), "rsub": (-1, 1), "rsub with factor": (-2, 1),
}  # fmt: skip


def ratio(relevance, z):
    return relevance / torch.where(z >= 0, z + 1e-6, z - 1e-6)


SHAPES = [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 3, 4), (2, 1, 4)), ((2, 3, 1), (1, 3, 4))]
GROWS = SHAPES[-1]  # nothing is written into what is too small for it


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        (name, shapes)
        for name in SUMS
        for shapes in SHAPES
        if shapes is not GROWS or name not in ("+=", "-=", "add_", "add_ with factor")
    ],
)
def test_two_tensors_share_relevance_in_proportion_to_what_they_add(name, shapes, passed, signed):
    a, b = signed(*shapes[0]), signed(*shapes[1], seed=1)
    found = passed(SUMS[name], a, b)
    of_a, of_b = FACTORS.get(name, (1, 1))
    z = of_a * a + of_b * b
    assert torch.allclose(found.output, z, rtol=1e-12)
    for got, part in zip(found.relevances, (of_a * a, of_b * b), strict=True):
        expected = (part * ratio(found.start[0], z)).sum_to_size(part.shape)
        assert got.shape == part.shape and torch.allclose(got, expected, rtol=1e-9)
    assert found.total()[1] == pytest.approx(found.total()[0], rel=1e-3)
    assert not found.tape.without_rule


def test_a_tensor_that_is_added_to_itself_gets_all(passed, signed):
    found = passed(lambda a: a + a, signed(3, 4))
    assert torch.allclose(found.relevance, found.start[0], rtol=1e-3)


CONSTANT = torch.linspace(-1, 3, 12, dtype=torch.float64).view(3, 4)
WITH_CONSTANTS = {
    "x + c": (lambda x: x + CONSTANT, 1, CONSTANT),
    "c + x": (lambda x: CONSTANT + x, 1, CONSTANT),
    "x + 2": (lambda x: x + 2, 1, 2),
    "2 + x": (lambda x: 2 + x, 1, 2),
    "x - c": (lambda x: x - CONSTANT, 1, -CONSTANT),
    "c - x": (lambda x: CONSTANT - x, -1, CONSTANT),
    "1 - x": (lambda x: 1 - x, -1, 1),
    "x - 1": (lambda x: x - 1, 1, -1),
    "x += c[0]": (lambda x: in_place(x, CONSTANT[0]), 1, CONSTANT[0]),
    "torch.add(x, c, alpha)": (lambda x: torch.add(x, CONSTANT, alpha=3), 1, 3 * CONSTANT),
    "torch.sub(c, x, alpha)": (lambda x: torch.sub(CONSTANT, x, alpha=3), -3, CONSTANT),
    "torch.rsub(x, c, alpha)": (lambda x: torch.rsub(x, CONSTANT, alpha=3), -3, CONSTANT),
}


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_a_constant_takes_its_share_and_keeps_it(name, passed, signed):
    function, factor, constant = WITH_CONSTANTS[name]
    x = signed(3, 4)
    found = passed(function, x)
    assert torch.allclose(found.output, factor * x + constant, rtol=1e-12)
    expected = factor * x * ratio(found.start[0], found.output)
    assert torch.allclose(found.relevance, expected, rtol=1e-9)


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_without_biases_a_constant_takes_nothing(name, passed, signed):
    x = signed(3, 4)
    found, kept = (passed(WITH_CONSTANTS[name][0], x, keeps_biases=keeps) for keeps in (False, True))
    missing = (found.start[0] - kept.relevance).sum(1, keepdim=True)
    handed_back = x.abs() / x.abs().sum(1, keepdim=True) * missing
    assert torch.allclose(found.relevance, kept.relevance + handed_back, rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.relevance.sum(1), found.start[0].sum(1), rtol=1e-5)


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_what_is_added_to_pixels_takes_nothing(name, passed, signed):
    found = passed(WITH_CONSTANTS[name][0], signed(3, 4), depth=0)
    assert torch.equal(found.relevance, found.start[0])


@pytest.mark.parametrize("keeps_biases", [True, False])
def test_a_value_that_is_broadcast_over_a_constant_collects_what_arrives(keeps_biases, passed, signed):
    row = signed(4)
    found = passed(lambda x: x + CONSTANT, row, keeps_biases=keeps_biases)
    expected = row * ratio(found.start[0], found.output) if keeps_biases else found.start[0]
    assert torch.allclose(found.relevance, expected.sum(0), rtol=1e-9)


@pytest.mark.parametrize("value", [1, -2.5])
def test_a_sum_with_a_product_is_a_product_and_a_sum(value, passed, signed):
    x, a, b = signed(3, 4), signed(3, 4, seed=1), signed(3, 4, seed=2)
    for function in (
        lambda x, a, b: torch.addcmul(x, a, b, value=value), lambda x, a, b: x.addcmul_(a, b, value=value),
    ):  # fmt: skip
        found = passed(function, x, a, b)
        parts = passed(lambda x, a, b: x + value * (a * b), x, a, b)
        assert torch.allclose(found.output, torch.addcmul(x, a, b, value=value))
        for got, expected in zip(found.relevances, parts.relevances, strict=True):
            assert torch.allclose(got, expected, rtol=1e-9)
    constant = passed(lambda x: x + torch.addcmul(CONSTANT, CONSTANT, CONSTANT), x, keeps_biases=False)
    assert torch.allclose(constant.relevance.sum(1), constant.start[0].sum(1), rtol=1e-5)


def test_sums_of_constants_are_ordinary(passed, signed):
    found = passed(lambda x: x * torch.add(input=CONSTANT, other=CONSTANT, alpha=2), signed(3, 4))
    assert torch.allclose(found.output, signed(3, 4) * 3 * CONSTANT)


def test_the_sign_is_known_where_both_signs_are(passed, signed):
    a, b = signed(3, 4).abs(), signed(3, 4, seed=1).abs()
    assert passed(operator.add, a, b, nonnegative=True).node.nonnegative
    assert not passed(operator.sub, a, b, nonnegative=True).node.nonnegative
    assert not passed(lambda x: x + CONSTANT, a, nonnegative=True).node.nonnegative
    assert not passed(operator.add, signed(3, 4), b).node.nonnegative
