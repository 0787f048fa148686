from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.attribution import Explainer
from pipeline.concepts.cav import Cav
from pipeline.errors import ConfigError
from pipeline.localize.methods.concept_map import over_input


@pytest.mark.parametrize("baseline", [True, False])
def test_at_full_resolution_it_is_the_excess_along_the_direction(pixelwise, method_for, baseline):
    x, explainer = pixelwise
    cav = Cav(np.array([0.8, -0.6]), 0.0, "pattern", np.array([0.5, 0.2]), "tint")
    heatmaps = method_for("concept_map", explainer=explainer, baseline=baseline).heatmaps(x, cav)
    usual = cav.baseline if baseline else np.zeros(2)
    pixels = x[:, 0].double().numpy()
    excess = np.maximum(2 * pixels - usual[0], 0) * 0.8 - np.maximum(1 - 3 * pixels - usual[1], 0) * 0.6
    np.testing.assert_allclose(heatmaps, np.maximum(excess, 0), rtol=1e-4, atol=1e-6)


def test_a_coarse_layer_is_enlarged_by_straight_lines(method_for):
    x = torch.zeros(1, 1, 1, 8)
    x[..., 4:] = 1.0
    network = torch.nn.Sequential(torch.nn.AvgPool2d((1, 4)), torch.nn.Flatten(), torch.nn.Linear(2, 2))
    cav = Cav(np.array([1.0]), 0.0, "pattern", np.zeros(1), "0")
    heatmap = method_for("concept_map", explainer=Explainer(network, x, "epsilon")).heatmaps(x, cav)[0, 0]
    # cells are centred at 1.5 and 5.5
    np.testing.assert_allclose(heatmap, np.clip((np.arange(8) - 1.5) / 4, 0, 1), atol=1e-6)


@pytest.mark.parametrize(("tokens", "left_out", "grid"), [(16, 0, (4, 4)), (17, 1, (4, 4)), (20, 4, (4, 4))])
def test_leading_tokens_that_stand_for_no_patch_are_left_out(tokens, left_out, grid):
    values = torch.arange(tokens, dtype=torch.float32).expand(2, 1, tokens)
    found = over_input(values, (32, 32), "blocks")
    assert found.shape == (2, 1, *grid)
    assert found[0, 0].flatten().tolist() == list(range(left_out, tokens))


def test_tokens_take_the_proportions_of_the_image():
    assert over_input(torch.zeros(1, 1, 19), (16, 32), "blocks").shape == (1, 1, 3, 6)
    assert over_input(torch.zeros(1, 1, 19), (32, 16), "blocks").shape == (1, 1, 6, 3)


@pytest.mark.parametrize(("shape", "size"), [((2, 1), (8, 8)), ((2, 1, 4, 4), (9,)), ((2, 1, 3), (4, 9))])
def test_what_has_no_positions_over_the_input_is_refused_with_a_way_out(shape, size):
    with pytest.raises(ConfigError, match=r"concept_map.*'fc'.*concept_relevance"):
        over_input(torch.zeros(shape), size, "fc")
