from __future__ import annotations

import numpy as np
import pytest

from pipeline.concepts.cav import Cav


@pytest.mark.parametrize("baseline", [True, False])
def test_where_channels_see_single_pixels_the_heatmap_is_the_start(pixelwise, method_for, baseline):
    """All relevance of a channel goes to the one pixel it sees; channel 0 is 2 x."""
    x, explainer = pixelwise
    cav = Cav(np.array([1.0, 0.0]), 0.0, "pattern", np.array([0.7, 0.0]), "tint")
    heatmaps = method_for("concept_relevance", explainer=explainer, baseline=baseline).heatmaps(x, cav)
    expected = np.maximum(2 * x[:, 0].numpy() - (0.7 if baseline else 0.0), 0)
    np.testing.assert_allclose(heatmaps, expected, rtol=1e-4, atol=1e-5)


def test_negative_relevance_is_no_evidence(pixelwise, method_for):
    x, explainer = pixelwise
    cav = Cav(np.array([-1.0, 0.0]), 0.0, "pattern", np.array([0.0, 0.0]), "tint")
    assert not method_for("concept_relevance", explainer=explainer).heatmaps(x, cav).any()
