from __future__ import annotations

import pytest
import torch

from pipeline.precompute.pooling import pool_activation, pool_relevance, scale_rows


def test_activation_keeps_the_largest_and_the_mean_over_positions():
    activation = torch.tensor([[[[1.0, -2.0], [4.0, 5.0]], [[-1.0, -3.0], [-2.0, -2.0]]]])
    largest, mean = pool_activation(activation)
    assert largest.tolist() == [[5.0, -1.0]]
    assert mean.tolist() == [[2.0, -2.0]]


def test_activation_without_positions_is_its_own_largest_and_mean():
    activation = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    assert all(torch.equal(pooled, activation) for pooled in pool_activation(activation))


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (5, 3, 4, 6)])
def test_relevance_is_summed_over_positions_and_scaled_to_a_largest_magnitude_of_one(shape):
    relevance = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-6
    pooled = pool_relevance(relevance)
    sums = relevance.reshape(5, 3, -1).sum(2)
    assert pooled.shape == (5, 3)
    torch.testing.assert_close(pooled.abs().amax(1), torch.ones(5))
    torch.testing.assert_close(pooled * sums.abs().amax(1, keepdim=True), sums)


def test_samples_are_scaled_each_by_itself_and_zero_stays_zero():
    values = torch.tensor([[[0.0, 0.0]], [[1.0, -4.0]], [[1e-20, 0.0]]])
    assert scale_rows(values).tolist() == [[[0.0, 0.0]], [[0.25, -1.0]], [[1.0, 0.0]]]
