from __future__ import annotations

import torch

from pipeline.attribution.stabilize import stabilized_ratio


def test_epsilon_carries_the_sign_of_z_and_zero_counts_as_positive():
    z = torch.tensor([2.0, -2.0, 0.0, -0.25], dtype=torch.float64)
    found = stabilized_ratio(torch.ones(4, dtype=torch.float64), z, 0.5)
    assert found.dtype == torch.float64 and found.tolist() == [1 / 2.5, -1 / 2.5, 2, -1 / 0.75]


def test_a_denominator_of_zero_divides_by_one():
    z = torch.tensor([0.0, 4.0], requires_grad=True)
    found = stabilized_ratio(torch.relu(z), z, 0)
    assert found.tolist() == [0, 1]
    assert torch.autograd.grad(found.sum(), z)[0].isfinite().all()
