from __future__ import annotations

import numpy as np
import pytest

from pipeline.concepts.estimators.moments import Moments, compress, expand


def test_what_is_held_out_can_be_subtracted():
    generator = np.random.default_rng(0)
    features, labels, held_out = generator.standard_normal((40, 5)), np.arange(40) % 3 == 0, np.arange(40) % 5 == 0
    rest = Moments.of(features, labels).without(Moments.of(features[held_out], labels[held_out]))
    expected = Moments.of(features[~held_out], labels[~held_out])
    for name in ("counts", "sums", "grams", "weights"):
        np.testing.assert_allclose(getattr(rest, name), getattr(expected, name), atol=1e-12)


@pytest.mark.parametrize("shape", [(10, 30), (30, 10)])
def test_fewer_dimensions_keep_inner_products_and_decisions(shape):
    generator = np.random.default_rng(0)
    features = generator.standard_normal(shape)
    features -= features.mean(0)
    small, back = compress(features)
    assert small.shape == ((10, 9) if shape == (10, 30) else shape)
    np.testing.assert_allclose(small @ small.T, features @ features.T, atol=1e-10)
    weights = generator.standard_normal(small.shape[1])
    original = expand(weights, features, back)
    np.testing.assert_allclose(features @ original, small @ weights, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(original), np.linalg.norm(weights))
