from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.nn import functional as F

from pipeline.localize.training_masks import foreground_mask, merge_masks, resize_mask


def box(shape: tuple[int, ...], *slices: slice) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[slices] = True
    return mask


ARTIFACT = box((20, 30), slice(2, 6), slice(3, 8))
ROI = box((20, 30), slice(5, 18), slice(6, 25))
MASKS = arrays.arrays(bool, arrays.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=12))


# What is foreground


@pytest.mark.parametrize(
    ("background", "expected"), [("artifact", ~ARTIFACT), ("roi", ROI), ("union", ROI & ~ARTIFACT)]
)
def test_foreground_is_what_the_rule_leaves(background, expected):
    assert np.array_equal(foreground_mask(ARTIFACT, ROI, background, 0), expected)


@pytest.mark.parametrize("background", ["artifact", "union"])
def test_without_region_of_interest_the_artifact_alone_is_background(background):
    assert np.array_equal(foreground_mask(ARTIFACT, None, background, 0), ~ARTIFACT)


@pytest.mark.parametrize("background", ["roi", "union"])
def test_without_artifact_all_outside_the_region_of_interest_is_background(background):
    assert np.array_equal(foreground_mask(None, ROI, background, 0.1), ROI)


@pytest.mark.parametrize(
    ("artifact", "roi", "background"),
    [(ARTIFACT, None, "roi"), (None, ROI, "artifact"), (None, None, "union")],
)
def test_a_sample_of_which_the_rule_knows_nothing_has_no_mask(artifact, roi, background):
    assert foreground_mask(artifact, roi, background, 0.1) is None


def test_the_artifact_grows_by_a_share_of_the_larger_side_and_the_region_of_interest_does_not():
    background = ~foreground_mask(ARTIFACT, None, "artifact", 0.1)
    rows, columns = np.nonzero(background)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 8, 0, 10)  # 3 of 30 pixels on each side
    assert np.array_equal(foreground_mask(ARTIFACT, ROI, "roi", 0.1), ROI)
    assert np.array_equal(foreground_mask(ARTIFACT, ROI, "union", 0.1), ROI & ~background)


def test_masks_of_signals_grow_along_time():
    background = ~foreground_mask(box((100,), slice(40, 50)), None, "artifact", 0.02)
    assert background.shape == (100,)
    assert np.flatnonzero(background).tolist() == list(range(38, 52))


def test_nothing_may_be_left_of_the_foreground():
    everything = np.ones((4, 4), dtype=bool)
    assert not foreground_mask(everything, None, "artifact", 0).any()


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\[20, 30\].*\[20, 29\]"):
        foreground_mask(ARTIFACT, ROI[:, 1:], "union", 0)


# Merging


def test_masks_of_several_artifacts_are_united():
    others = [box((6, 6), slice(0, 2)), box((6, 6), slice(1, 3)), box((6, 6), slice(0, 6), slice(5, 6))]
    merged = merge_masks(others)
    assert merged.dtype == bool
    assert np.array_equal(merged, others[0] | others[1] | others[2])


def test_of_soft_masks_the_largest_value_stays():
    np.testing.assert_array_equal(merge_masks([np.array([0.1, 0.9]), np.array([0.4, 0.2])]), [0.4, 0.9])


@pytest.mark.parametrize("masks", [[], [np.zeros(3), np.zeros(4)], [np.zeros(3), np.zeros((1, 3))]])
def test_nothing_and_masks_of_different_shapes_cannot_be_merged(masks):
    with pytest.raises(ValueError, match="one shape"):
        merge_masks(masks)


# Another size


def by_supersampling(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the covered share of each cell from a grid that is fine enough to be exact."""
    for axis, length in enumerate(shape):
        mask = np.repeat(mask, length, axis)
        old = mask.shape[axis] // length
        mask = np.stack([part.mean(axis) for part in np.split(mask, np.arange(1, length) * old, axis)], axis)
    return mask


@given(MASKS, st.integers(1, 9), st.integers(1, 9))
def test_a_cell_belongs_to_the_mask_if_half_of_it_does(mask, height, width):
    shape = (height, width)[: mask.ndim]
    share = by_supersampling(mask.astype(float), shape)
    expected = share >= 0.5 - 1e-12
    assert np.array_equal(resize_mask(mask, shape), expected if expected.any() else share > 1e-12)


@given(MASKS, st.integers(1, 4))
def test_whole_multiples_repeat_every_cell_and_come_back(mask, factor):
    shape = tuple(factor * side for side in mask.shape)
    large = resize_mask(mask, shape)
    assert np.array_equal(large, np.kron(mask, np.ones((factor,) * mask.ndim, dtype=bool)))
    assert np.array_equal(resize_mask(large, mask.shape), mask)


def test_areas_are_kept_on_average():
    generator = np.random.default_rng(0)
    before, after = [], []
    for _ in range(200):
        top, left = generator.integers(0, 60, 2)
        height, width = generator.integers(10, 40, 2)
        mask = box((100, 100), slice(top, top + height), slice(left, left + width))
        before.append(mask.mean())
        after.append(resize_mask(mask, (33, 33)).mean())
    assert np.mean(after) == pytest.approx(np.mean(before), rel=0.02)


def test_a_hair_becomes_the_cells_that_it_touches_and_nothing_stays_nothing():
    hair = box((100, 100), slice(0, 100), slice(37, 38))
    assert np.flatnonzero(resize_mask(hair, (10, 10)).all(0)).tolist() == [3]
    assert not resize_mask(np.zeros((100, 100), dtype=bool), (7, 7)).any()


@pytest.mark.parametrize("shape", [(8, 8), (5, 13), (40, 31), (30, 30), (7, 60)])
def test_soft_masks_are_interpolated_as_torch_does_with_antialiasing(shape):
    soft = np.random.default_rng(1).random((20, 30))
    oracle = F.interpolate(torch.from_numpy(soft)[None, None], shape, mode="bilinear", antialias=True)[0, 0].numpy()
    np.testing.assert_allclose(resize_mask(soft, shape), oracle, atol=1e-5)


def test_soft_masks_of_signals_are_interpolated_along_time():
    soft = np.random.default_rng(2).random(50)
    oracle = F.interpolate(torch.from_numpy(soft)[None, None, None], (1, 17), mode="bilinear", antialias=True)
    np.testing.assert_allclose(resize_mask(soft, (17,)), oracle.numpy().ravel(), atol=1e-5)


def test_soft_masks_stay_between_their_extremes():
    soft = np.random.default_rng(3).choice([0.1, 0.8], (9, 9))
    found = resize_mask(soft, (64, 64))
    assert found.min() >= 0.1 and found.max() <= 0.8


@pytest.mark.parametrize(
    ("mask", "shape"),
    [
        (np.zeros((4, 4), bool), (4,)),
        (np.zeros(4, bool), (4, 4)),
        (np.zeros((4, 4, 4)), (2, 2, 2)),
        (np.zeros((0, 4), bool), (2, 2)),
        (np.zeros((4, 4)), (0, 2)),
    ],
    ids=["fewer axes", "more axes", "three axes", "empty", "to nothing"],
)
def test_impossible_sizes_are_refused(mask, shape):
    with pytest.raises(ValueError, match="cannot be resized"):
        resize_mask(mask, shape)
