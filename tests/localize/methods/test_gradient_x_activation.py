from __future__ import annotations

import numpy as np

from pipeline.concepts.cav import Cav

DIRECTION = np.array([0.8, -0.6])


def test_of_mean_pooling_every_pixel_gets_its_linear_share(pixelwise, method_for):
    """The score is the mean of 0.8 * 2 x - 0.6 (1 - 3 x), so its derivative by each of P pixels is 3.4 / P."""
    x, explainer = pixelwise
    cav = Cav(DIRECTION, 0.0, "pattern", np.zeros(2), "tint", "mean")
    heatmaps = method_for("gradient_x_activation", explainer=explainer).heatmaps(x, cav)
    np.testing.assert_allclose(heatmaps, 3.4 / x[0, 0].numel() * x[:, 0].numpy(), rtol=1e-5)


def test_of_max_pooling_only_the_strongest_pixel_of_each_channel_counts(pixelwise, method_for):
    x, explainer = pixelwise
    cav = Cav(DIRECTION, 0.0, "pattern", np.zeros(2), "tint", "max")
    heatmaps = method_for("gradient_x_activation", explainer=explainer).heatmaps(x, cav).reshape(3, -1)
    flat = x.flatten(1).numpy()
    for heatmap, pixels in zip(heatmaps, flat, strict=True):
        expected = np.zeros_like(pixels)
        expected[pixels.argmax()] = 0.8 * 2 * pixels.max()
        expected[pixels.argmin()] = 0.6 * 3 * pixels.min()
        np.testing.assert_allclose(heatmap, expected, rtol=1e-5)


def test_of_full_pooling_every_pixel_has_its_own_direction(pixelwise, method_for):
    x, explainer = pixelwise
    direction = np.random.default_rng(0).standard_normal((2, *x.shape[2:]))
    cav = Cav(direction.ravel(), 0.0, "pattern", np.zeros(direction.size), "tint", "full")
    heatmaps = method_for("gradient_x_activation", explainer=explainer).heatmaps(x, cav)
    expected = np.maximum((2 * direction[0] - 3 * direction[1]) * x[:, 0].numpy(), 0)
    np.testing.assert_allclose(heatmaps, expected, rtol=1e-5, atol=1e-6)


def test_a_direction_over_a_grid_is_shared_by_the_pixels_of_a_cell(pixelwise, method_for):
    x, explainer = pixelwise
    size = x.shape[2:]
    cells = [min(3, length) for length in size] if len(size) == 1 else [2, 2]
    direction = np.random.default_rng(0).standard_normal((2, *cells))
    cav = Cav(direction.ravel(), 0.0, "pattern", np.zeros(direction.size), "tint", "full")
    heatmaps = method_for("gradient_x_activation", explainer=explainer).heatmaps(x, cav)
    slope = 2 * direction[0] - 3 * direction[1]
    for axis, (length, count) in enumerate(zip(size, cells, strict=True)):
        slope = np.repeat(slope, length // count, axis) / (length // count)
    np.testing.assert_allclose(heatmaps, np.maximum(slope * x[:, 0].numpy(), 0), rtol=1e-5, atol=1e-6)
