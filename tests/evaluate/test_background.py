from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.evaluate.background import background_relevance_share

RNG = np.random.default_rng(0)


def half(top: int) -> np.ndarray:
    mask = np.zeros((8, 6), bool)
    mask[:top] = True
    return mask


def test_evenly_spread_relevance_has_the_share_of_the_area():
    found = background_relevance_share(np.full((3, 8, 6), -2.0), [half(2), half(4), half(8)])
    assert found.relevance.tolist() == found.area.tolist() == [0.75, 0.5, 0.0]


def test_magnitudes_of_channels_are_added_before_the_share_is_taken():
    relevance = np.zeros((1, 2, 8, 6))
    relevance[0, :, 0, 0] = 3, -3  # in the foreground; the channels would cancel
    relevance[0, 0, 7, 5] = -2
    found = background_relevance_share(relevance, [half(4)])
    assert found.relevance[0] == pytest.approx(2 / 8) and found.area[0] == 0.5


@pytest.mark.parametrize("shape", [(5, 8, 6), (5, 3, 8, 6), (5, 2, 3, 8, 6)])
def test_the_share_is_that_of_sums_in_loops_and_neither_scale_nor_sign_matter(shape):
    relevance, masks = RNG.standard_normal(shape), RNG.random((5, 8, 6)) < 0.4
    found = background_relevance_share(relevance, masks)
    for heatmap, mask, share, area in zip(relevance, masks, *found, strict=True):
        outside = sum(abs(heatmap[..., y, x]).sum() for y, x in zip(*np.nonzero(~mask), strict=True))
        assert share == pytest.approx(outside / abs(heatmap).sum()) and area == (~mask).mean()
    again = background_relevance_share(-1e-3 * relevance, masks)
    np.testing.assert_allclose(again.relevance, found.relevance)


def test_no_relevance_and_no_foreground_have_no_share():
    relevance = np.ones((4, 2, 8, 6))
    relevance[2] = 0
    found = background_relevance_share(relevance, [None, half(0), half(4), half(4)])
    for shares in found:
        assert np.isnan(shares).tolist() == [True, True, True, False]


def test_half_precision_does_not_overflow_and_signals_count_positions():
    found = background_relevance_share(np.full((1, 2, 60_000), 2.0, np.float16), [np.arange(60_000) < 15_000])
    assert (found.relevance[0], found.area[0]) == (0.75, 0.75)


def test_no_samples_give_no_shares():
    found = background_relevance_share(np.empty((0, 3, 8, 6)), [])
    assert found.relevance.shape == found.area.shape == (0,)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="there are 2 heatmaps and 1 foreground masks"):
        background_relevance_share(np.ones((2, 8, 6)), [half(2)])
    with pytest.raises(DataError, match=r"\[8, 6\], but its heatmap is \[3, 6, 8\].*roi_masks"):
        background_relevance_share(np.ones((1, 3, 6, 8)), [half(2)])
