from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.attribution.sums import ProportionalSums


def in_place(a, b):
    a = a * 1
    a += b
    return a


ADDITIONS = {
    "+": lambda a, b: a + b,
    "+=": in_place,
    "torch.add": torch.add,
    "add": lambda a, b: a.add(b),
    "add_": lambda a, b: (a * 1).add_(b),
    "sum": lambda a, b: sum([a, b]),
}


def leaves(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return a.requires_grad_(), b.requires_grad_()


def relevances(function, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with ProportionalSums():
        output = function(*inputs)
    relevance = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).reshape(output.shape)
    return output, relevance, *torch.autograd.grad(output, inputs, relevance)


@pytest.mark.parametrize("name", ADDITIONS)
def test_a_sum_shares_relevance_in_proportion_and_keeps_it(name):
    a, b = leaves(5, 7)
    output, relevance, of_a, of_b = relevances(ADDITIONS[name], a, b)
    assert torch.equal(output, a + b)
    assert torch.allclose(of_a, a * relevance / (a + b), rtol=1e-3)
    assert torch.allclose(of_b, b * relevance / (a + b), rtol=1e-3)
    assert torch.allclose(of_a + of_b, relevance, rtol=1e-3)


def test_the_order_of_several_branches_does_not_matter():
    (a, b), (c, _) = leaves(4, 6), leaves(4, 6)
    c = (c.detach() * 0.3 + 1).requires_grad_()
    one = relevances(lambda a, b, c: (a + b) + c, a, b, c)
    other = relevances(lambda a, b, c: a + (b + c), a, b, c)
    for left, right in zip(one, other, strict=True):
        assert torch.allclose(left, right, rtol=1e-2, atol=1e-4)


def test_only_sums_of_two_explained_tensors_of_one_shape_are_residual():
    a, b = leaves(3, 4)
    constant = b.detach()
    for function in (
        lambda a: a + constant,
        lambda a: constant + a,
        lambda a: a + 2.0,
        lambda a: torch.add(a, constant, alpha=3),
        lambda a: a.add(constant[0]),
    ):
        _, relevance, of_a = relevances(function, a)
        assert torch.equal(of_a, relevance)
    _, relevance, of_row = relevances(lambda row: a.detach() + row, leaves(4)[0])
    assert torch.equal(of_row, relevance.sum(0))
    _, relevance, of_a, of_rows = relevances(torch.add, a, leaves(1, 4)[0])
    assert torch.equal(of_a, relevance) and torch.equal(of_rows, relevance.sum(0, keepdim=True))


def test_outside_the_context_sums_are_ordinary():
    a, b = leaves(3, 4)
    with ProportionalSums():
        a * 1
    gradients = torch.autograd.grad((a + b).sum(), (a, b))
    assert all((gradient == 1).all() for gradient in gradients)


AVERAGES = {
    "mean": lambda x: x.mean((2, 3)),
    "torch.mean": lambda x: torch.mean(x, dim=(2, 3)),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0],
    "pool": lambda x: F.avg_pool2d(x, x.shape[-1]).flatten(1),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_shares_relevance_in_proportion_to_the_cells(name):
    x = leaves(2, 3, 4, 4)[0].detach().abs().requires_grad_()
    output, relevance, of_x = relevances(AVERAGES[name], x)
    assert torch.allclose(output, x.mean((2, 3)))
    share = x / x.sum((2, 3), keepdim=True)
    assert torch.allclose(of_x, share * relevance[..., None, None], rtol=1e-4)
