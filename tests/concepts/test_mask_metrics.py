from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, jaccard_score

from pipeline.concepts.mask_metrics import (
    dice,
    intersection_over_union,
    mask_auprc,
    pointing_hit,
    relevance_ratio,
    relevance_share,
)

SHAPE = (5, 6)
OF_HEATMAPS = (mask_auprc, pointing_hit, relevance_share, relevance_ratio)
REGION = np.zeros(SHAPE, bool)
REGION[1:3, 2:5] = True
masks = st.lists(st.booleans(), min_size=30, max_size=30).map(lambda values: np.array(values).reshape(SHAPE))
heatmaps = st.lists(st.integers(0, 5), min_size=30, max_size=30).map(
    lambda values: np.array(values, dtype=float).reshape(SHAPE)
)


def test_overlaps_closed_form():
    left, right = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    left[:, :3], right[:, 1:] = True, True
    assert intersection_over_union(left, right) == pytest.approx(4 / 8)
    assert dice(left, right) == pytest.approx(2 * 4 / 12)
    nothing = np.zeros((2, 4), bool)
    for overlap in (intersection_over_union, dice):
        assert overlap(left, left) == 1
        assert overlap(left, ~left) == overlap(nothing, left) == 0
        assert math.isnan(overlap(left, nothing)) and math.isnan(overlap(nothing, nothing))


@given(masks, masks)
def test_overlaps_equal_sklearn(mask, expected):
    if expected.any():
        flat = expected.ravel(), mask.ravel()
        assert intersection_over_union(mask, expected) == pytest.approx(jaccard_score(*flat))
        assert dice(mask, expected) == pytest.approx(f1_score(*flat))


@given(heatmaps, masks)
def test_auprc_equals_sklearn(heatmap, expected):
    found = mask_auprc(heatmap, expected)
    if expected.all() or not expected.any() or heatmap.max() == heatmap.min():
        assert math.isnan(found)
    else:
        assert found == pytest.approx(average_precision_score(expected.ravel(), heatmap.ravel()))


def test_a_heatmap_that_equals_the_region_is_perfect():
    heatmap = REGION.astype(np.float32)
    assert mask_auprc(heatmap, REGION) == pointing_hit(heatmap, REGION) == relevance_share(heatmap, REGION) == 1
    assert relevance_ratio(heatmap, REGION) == pytest.approx(30 / 6)


def test_a_heatmap_of_the_opposite_misses_everything():
    heatmap = (~REGION).astype(float)
    assert pointing_hit(heatmap, REGION) == relevance_share(heatmap, REGION) == relevance_ratio(heatmap, REGION) == 0
    assert mask_auprc(heatmap, REGION) == pytest.approx(6 / 30)


def test_the_share_weighs_by_relevance_and_the_ratio_by_area():
    heatmap = np.ones(SHAPE)
    assert relevance_share(heatmap, REGION) == pytest.approx(6 / 30)
    assert relevance_ratio(heatmap, REGION) == pytest.approx(1)
    heatmap[REGION] = 4
    assert relevance_share(heatmap, REGION) == pytest.approx(24 / 48)
    assert relevance_ratio(heatmap, REGION) == pytest.approx(2.5)


@given(heatmaps, masks)
def test_shares_of_a_region_and_its_complement_add_to_1_whatever_the_scale(heatmap, expected):
    if heatmap.any() and expected.any() and not expected.all():
        share = relevance_share(heatmap, expected)
        assert share + relevance_share(heatmap, ~expected) == pytest.approx(1)
        assert relevance_share(1e-3 * heatmap, expected) == pytest.approx(share)


def test_pointing_tolerates_a_distance_in_pixels():
    heatmap = np.zeros(SHAPE)
    heatmap[4, 1] = 1  # the nearest pixel of the region is two rows up and one column to the right
    assert [pointing_hit(heatmap, REGION, tolerance) for tolerance in (0, 2, 3)] == [0, 0, 1]
    heatmap[4, 2] = 2  # straight below
    assert [pointing_hit(heatmap, REGION, tolerance) for tolerance in (0, 1, 2)] == [0, 0, 1]


def test_of_several_largest_values_each_counts_in_proportion():
    heatmap = np.zeros(SHAPE)
    heatmap[[1, 0, 0, 0], [2, 0, 1, 2]] = 1
    assert pointing_hit(heatmap, REGION) == 0.25


@pytest.mark.parametrize("metric", OF_HEATMAPS)
def test_without_a_region_there_is_nothing_to_measure(metric):
    assert math.isnan(metric(np.arange(30.0).reshape(SHAPE), np.zeros(SHAPE, bool)))


@pytest.mark.parametrize("metric", OF_HEATMAPS)
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_empty_or_infinite_heatmap_is_unmeasured(metric, value):
    with np.errstate(all="raise"):
        assert math.isnan(metric(np.full(SHAPE, value), REGION))
    one = REGION.astype(float)
    one[0, 0] = value
    assert math.isnan(metric(one, REGION)) == (value != 0)


def test_where_every_pixel_is_true_nothing_is_ranked():
    assert math.isnan(mask_auprc(np.arange(30.0).reshape(SHAPE), np.ones(SHAPE, bool)))


@pytest.mark.parametrize("metric", [mask_auprc, pointing_hit])
def test_a_constant_heatmap_ranks_nothing(metric):
    assert math.isnan(metric(np.full(SHAPE, 0.5), REGION))


def test_signals_are_measured_like_images():
    heatmap, region = np.array([0, 1, 3.0, 0]), np.array([False, False, True, True])
    assert relevance_share(heatmap, region) == 0.75 and pointing_hit(heatmap, region) == 1
    assert mask_auprc(heatmap, region) == pytest.approx((1 + 2 / 4) / 2)
