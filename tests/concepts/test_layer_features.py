from __future__ import annotations

import numpy as np
import pytest
import tiny

from pipeline.concepts.features import layer_features
from pipeline.models.open import open_original
from pipeline.workspace.features import FEATURES, FeatureStore


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_features_of_a_layer_are_those_that_precompute_stored(tiny_run, tiny_dataset, pooling):
    model = open_original(tiny.make_context(tiny_run, tiny_dataset), tiny_dataset)
    rows = np.array([170, 3, 44])
    found = layer_features(model, tiny_dataset, rows, "network.relu2", pooling, batch_size=2)
    stored = FeatureStore(tiny_run / FEATURES).activations("network.relu2", pooling, rows)
    np.testing.assert_allclose(found, stored, rtol=2e-3, atol=1e-3)
    assert not model.network.relu2._forward_hooks
