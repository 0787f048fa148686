from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluate.pompom import pompom, pompom_scaled

MASK = np.zeros((4, 4))
MASK[:2, :2] = 1
HEATMAP = np.zeros((4, 4))
HEATMAP[:3, :3] = 0.5
HEATMAP[3, 3] = 1e-9


def test_five_of_twelve_pixels_outside_are_meaningful():
    assert pompom(HEATMAP, MASK) == pytest.approx(5 / (12 + 1e-6), abs=1e-12)
    assert pompom(-HEATMAP, MASK.astype(bool)) == pompom(HEATMAP, MASK)
    assert pompom(HEATMAP, MASK, epsilon=1e-10) == pytest.approx(6 / 12, abs=1e-6)


def test_a_region_that_is_the_whole_image_leaves_nothing_outside():
    assert pompom(HEATMAP, np.ones((4, 4))) == 0 and pompom_scaled(HEATMAP, np.ones((4, 4))) == 0


def test_a_heatmap_that_lies_in_the_region_has_nothing_outside():
    assert pompom(HEATMAP * MASK, MASK) == 0


@pytest.mark.parametrize("measure", [pompom, pompom_scaled])
def test_empty_heatmaps_and_unknown_regions_are_undefined_and_not_perfect(measure):
    broken = HEATMAP.copy()
    broken[0, 0] = np.nan
    assert np.isnan([measure(np.zeros((4, 4)), MASK), measure(HEATMAP, None), measure(broken, MASK)]).all()


def test_a_heatmap_below_the_threshold_everywhere_counts_as_empty():
    assert np.isnan(pompom(np.full((4, 4), 1e-7), MASK)) and pompom_scaled(np.full((4, 4), 1e-7), MASK) > 0


def test_the_scaled_variant_counts_from_a_share_of_the_strongest_pixel_on_and_ignores_scale():
    heatmap = np.zeros((4, 4))
    heatmap[0, 0], heatmap[2, :3] = -2.0, [0.2, 0.05, 0.11]  # .1, .025 and .055 of the strongest
    for scale in (1, 1e-9, 1e6):
        assert pompom_scaled(scale * heatmap, MASK) == pytest.approx(2 / 12, abs=1e-6)
    assert pompom_scaled(heatmap, MASK, threshold=0.06) == pytest.approx(1 / 12, abs=1e-6)
    assert pompom(heatmap, MASK) == pytest.approx(3 / 12, abs=1e-6)


def test_soft_masks_weigh_what_lies_outside():
    soft = np.full((2, 2), 0.5)
    assert pompom(np.array([[3e-6, 1.5e-6], [0, 0]]), soft) == pytest.approx(1 / 4, abs=1e-6)
