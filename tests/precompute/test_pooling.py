from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.precompute.pooling import channels_first, largest, mean, scale_rows, to_grid, total

GENERATOR = torch.Generator().manual_seed(0)
SHAPES = [(5, 3), (5, 3, 7), (5, 3, 4, 6)]


@pytest.mark.parametrize("shape", SHAPES)
def test_positions_are_pooled_to_their_largest_value_mean_and_sum(shape):
    values = torch.randn(shape, generator=GENERATOR)
    flat = values.numpy().reshape(5, 3, -1)
    np.testing.assert_array_equal(largest(values), flat.max(2))
    np.testing.assert_allclose(mean(values), flat.mean(2), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(total(values), flat.sum(2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 4, 6, 3)])
def test_channels_of_tokens_come_first(shape):
    values = torch.randn(shape, generator=GENERATOR)
    found = channels_first(values, -1)
    assert found.shape == (2, 3, *shape[1:-1])
    assert torch.equal(found[1, 2, 3], values[1, 3, ..., 2])
    assert channels_first(values, 1) is values


def test_grid_cells_hold_the_mean_of_their_positions():
    values = torch.randn(2, 3, 4, 6, generator=GENERATOR)
    found = to_grid(values, 2)
    assert found.shape == (2, 3, 2, 2)
    torch.testing.assert_close(found[:, :, 1, 0], values[:, :, 2:, :3].mean((2, 3)))
    signal = values[:, :, 0]
    torch.testing.assert_close(to_grid(signal, 3)[..., 1], signal[..., 2:4].mean(2))


def test_a_grid_is_never_finer_than_the_positions():
    values = torch.randn(2, 3, 4, 6, generator=GENERATOR)
    assert to_grid(values, 5).shape == (2, 3, 4, 5)
    assert torch.equal(to_grid(values, 9), values)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_sample_is_scaled_to_a_largest_magnitude_of_one_and_can_be_had_back(shape):
    values = torch.randn(shape, generator=GENERATOR) * torch.tensor([1e-6, 1, 1e6, 1e-37, 0.5]).view(
        -1, *[1] * (len(shape) - 1)
    )
    scaled, scale = scale_rows(values)
    torch.testing.assert_close(scaled.flatten(1).abs().amax(1), torch.ones(5))
    torch.testing.assert_close(scaled * scale.view(-1, *[1] * (len(shape) - 1)), values, rtol=1e-5, atol=0)


def test_zero_stays_zero():
    scaled, scale = scale_rows(torch.tensor([[[0.0, 0.0]], [[1.0, -4.0]]]))
    assert scaled.tolist() == [[[0.0, 0.0]], [[0.25, -1.0]]]
    assert scale.tolist() == [0.0, 4.0]
