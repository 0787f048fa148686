from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.concepts.cav import Cav
from pipeline.errors import ConfigError
from pipeline.localize.methods import Neurons
from pipeline.localize.methods.neuron_relevance import neuron_start

ANY = Cav(np.array([0.0, -1.0]), 0.0, "pattern", np.ones(2), "relu")


@pytest.mark.parametrize("layer", ["tint", "relu"])
def test_relevance_starts_at_the_neurons_of_the_finding_and_at_no_others(pixelwise, method_for, layer):
    """Neuron 0 is 2 x, neuron 1 is 1 - 3 x; all relevance of a neuron goes to the one pixel that it sees."""
    x, explainer = pixelwise
    for neuron, expected in ((0, 2 * x[:, 0].numpy()), (1, np.maximum(1 - 3 * x[:, 0].numpy(), 0))):
        heatmaps = method_for("neuron_relevance", Neurons(layer, (neuron,), "f1"), explainer).heatmaps(x, ANY)
        np.testing.assert_allclose(heatmaps, expected, rtol=1e-4, atol=1e-5)


def test_only_positive_activation_of_the_neurons_starts_relevance():
    activation = torch.tensor([[[3.0, -2.0], [5.0, 1.0], [-1.0, 4.0]]])
    assert neuron_start(activation, (0, 2)).tolist() == [[[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]]]


def test_a_finding_without_neurons_is_refused_with_a_way_out(method_for):
    with pytest.raises(ConfigError, match=r"neuron_relevance.*'f7'.*concept_relevance"):
        method_for("neuron_relevance", Neurons("relu2", (), "f7"))
