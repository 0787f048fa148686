from __future__ import annotations

import torch
from torch.autograd.functional import jacobian

from pipeline.attribution.operations.transposed import transposed


def test_it_is_the_product_with_the_transposed_jacobian(signed):
    x, y, r = signed(3), signed(4, seed=1), signed(3, 4, seed=2)

    def outer(x, y):
        return x[:, None] * y

    of_x, of_y = transposed(outer, [x, y], [r])
    jacobians = jacobian(outer, (x, y))
    assert torch.allclose(of_x, torch.einsum("abi,ab->i", jacobians[0], r))
    assert torch.allclose(of_y, torch.einsum("abi,ab->i", jacobians[1], r))


def test_results_without_relevance_count_as_zero(signed):
    x, r = signed(4), signed(2, seed=1)
    (found,) = transposed(lambda x: x.chunk(2), [x], [None, r])
    assert torch.equal(found, torch.cat([torch.zeros(2), r]))
    (nothing,) = transposed(lambda x: x.chunk(2), [x], [None, None])
    assert torch.equal(nothing, torch.zeros(4))


def test_an_input_that_plays_no_part_gets_zero(signed):
    x, y, r = signed(3), signed(3, seed=1), signed(3, seed=2)
    _, of_y = transposed(lambda x, y: x * 2, [x, y], [r])
    assert torch.equal(of_y, torch.zeros(3))


def test_a_graph_is_kept_only_where_one_is_wanted(signed):
    x, r = signed(3).requires_grad_(), signed(3, seed=2).requires_grad_()
    with torch.no_grad():
        (found,) = transposed(lambda x: x**3, [x], [r])
        assert not found.requires_grad
    (found,) = transposed(lambda x: x**3, [x], [r])
    of_x, of_r = torch.autograd.grad(found.sum(), [x, r])
    assert torch.allclose(of_x, 6 * x * r) and torch.allclose(of_r, 3 * x**2)
