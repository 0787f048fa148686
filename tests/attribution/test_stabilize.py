from __future__ import annotations

import torch

from pipeline.attribution.stabilize import product_into, ratio_into, stabilized_ratio


def test_epsilon_carries_the_sign_of_z_and_zero_counts_as_positive():
    z = torch.tensor([2.0, -2.0, 0.0, -0.25], dtype=torch.float64)
    found = stabilized_ratio(torch.ones(4, dtype=torch.float64), z, 0.5)
    assert found.dtype == torch.float64 and found.tolist() == [1 / 2.5, -1 / 2.5, 2, -1 / 0.75]


def test_a_denominator_of_zero_divides_by_one():
    z = torch.tensor([0.0, 4.0], requires_grad=True)
    found = stabilized_ratio(torch.relu(z), z, 0)
    assert found.tolist() == [0, 1]
    assert torch.autograd.grad(found.sum(), z)[0].isfinite().all()


def test_the_operands_are_left_alone_where_they_may_be_needed_again():
    numerator, z = torch.tensor([1.0, 2.0]), torch.tensor([2.0, -4.0])
    with torch.no_grad():
        stabilized_ratio(numerator, z, 1e-6)
    assert numerator.tolist() == [1, 2] and z.tolist() == [2, -4]


def test_without_a_graph_memory_is_taken_again_where_it_fits():
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            denominator, values = torch.tensor([[2.0, 4.0]]), torch.tensor([[2.0, 4.0]])
            ratio, product = ratio_into(torch.ones(1, 2), denominator), product_into(values, torch.full((1, 2), 3.0))
            assert ratio.tolist() == [[0.5, 0.25]] and product.tolist() == [[6, 12]]
            assert (ratio is denominator) == (product is values) == (not grad)
            wide, several = ratio_into(torch.ones(3, 2), denominator.fill_(2)), product_into(values, torch.ones(3, 2))
            assert wide.shape == several.shape == (3, 2) and float(wide.sum()) == 3
            assert product_into(torch.ones(2), torch.ones(2).double()).dtype == torch.float64
