from __future__ import annotations

import numpy as np
import pytest

from pipeline.concepts.cav import Cav
from pipeline.errors import ConfigError

MEAN = Cav(np.array([0.8, -0.6]), 5.0, "pattern", np.ones(2), "tint", "mean")


def test_of_a_linear_score_cells_get_what_they_exceed_the_mean_by(pixelwise, method_for):
    """The score is the mean of 3.4 x - 0.6, so a cell's value is 3.4 / P times the sum of x less its mean."""
    x, explainer = pixelwise
    method = method_for("shap", explainer=explainer, shap_segments=2, shap_samples=16)
    heatmaps = method.heatmaps(x, MEAN)
    pixels = x[:, 0].double().numpy()
    excess = (pixels - pixels.reshape(3, -1).mean(1).reshape(3, *[1] * (pixels.ndim - 1))) * 3.4 / pixels[0].size
    expected = np.zeros_like(excess)
    halves = [np.arange(length) * 2 // length for length in pixels.shape[1:]]
    for cell in np.ndindex(*[2] * len(halves)):
        inside = np.ix_(range(3), *[half == number for half, number in zip(halves, cell, strict=True)])
        expected[inside] = excess[inside].reshape(3, -1).mean(1).reshape(3, *[1] * len(halves))
    np.testing.assert_allclose(heatmaps, np.maximum(expected, 0), rtol=1e-4, atol=1e-6)


def test_too_few_samples_for_the_cells_are_refused(world, concept, method_for):
    with pytest.raises(ConfigError, match=r"shap_samples is 99; 49 regions need at least 100"):
        method_for("shap", shap_samples=99).heatmaps(world.x[:1], concept())
    assert method_for("shap", shap_samples=100).heatmaps(world.x[:1], concept()).shape == (1, 16, 16)


def test_the_same_draws_every_time(world, concept, method_for):
    first, second = (method_for("shap", shap_samples=100).heatmaps(world.x[:2], concept()) for _ in range(2))
    assert np.array_equal(first, second)
