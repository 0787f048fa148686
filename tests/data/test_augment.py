from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.model import AugmentConfig
from pipeline.data.augment import Augmenter

IDS = [f"s{row}" for row in range(6)]
EVERYTHING = AugmentConfig(horizontal_flip=True, vertical_flip=True, rotation=30, translate=0.2, brightness=0.3)


def batch(n=6, side=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, side, side, generator=generator), torch.rand(n, 1, side, side, generator=generator) > 0.5


def test_nothing_enabled_returns_the_same_tensors():
    images, masks = batch()
    same_images, same_masks = Augmenter(AugmentConfig(), 0)(images, masks, IDS, 0)
    assert same_images is images and same_masks is masks


@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        AugmentConfig,
        horizontal_flip=st.booleans(),
        vertical_flip=st.booleans(),
        rotation=st.floats(0, 180),
        translate=st.floats(0, 0.4),
    ),
    st.tuples(*[st.integers(0, 19)] * 4),
    st.integers(0, 100),
    st.sampled_from([torch.bool, torch.float32, torch.uint8]),
)
def test_image_of_a_mask_is_warped_like_the_mask(config, corners, seed, dtype):
    top, bottom = sorted(corners[:2])
    left, right = sorted(corners[2:])
    drawn = torch.zeros(1, 1, 20, 20)
    drawn[..., top : bottom + 1, left : right + 1] = 1
    images, masks = Augmenter(config, seed)(drawn, drawn.to(dtype), ["a"], 0)
    assert masks.dtype == dtype and masks.shape == drawn.shape and type(masks) is torch.Tensor
    # The nearest pixel has at least a quarter of the bilinear weight.
    assert masks[images > 0.76].bool().all() and not masks[images < 0.24].bool().any()


def test_flips_are_exact_and_happen_to_about_half():
    images, masks = batch(200, 8)
    ids = [f"s{row}" for row in range(200)]
    flipped, moved = Augmenter(AugmentConfig(horizontal_flip=True), 0)(images, masks, ids, 0)
    changed = [not torch.equal(*pair) for pair in zip(images, flipped, strict=True)]
    assert 75 < sum(changed) < 125
    for row, change in enumerate(changed):
        assert torch.equal(flipped[row], images[row].flip(-1) if change else images[row])
        assert torch.equal(moved[row], masks[row].flip(-1) if change else masks[row])


def test_shift_is_by_whole_pixels_within_its_bound():
    images = torch.zeros(40, 1, 21, 21)
    images[:, :, 10, 10] = 1
    shifted, _ = Augmenter(AugmentConfig(translate=0.2), 0)(images, None, [f"s{row}" for row in range(40)], 0)
    places = shifted.nonzero()
    assert len(places) == 40 and torch.equal(shifted.sum((1, 2, 3)), torch.ones(40))
    away = (places[:, 2:] - 10).abs()
    assert away.max() == 4 and len(places[:, 2:].unique(dim=0)) > 15


def test_rotation_stays_within_its_bound():
    line = torch.zeros(30, 1, 41, 41)
    line[:, :, 20, :] = 1
    turned, _ = Augmenter(AugmentConfig(rotation=20), 0)(line, None, [f"s{row}" for row in range(30)], 0)
    rows, columns = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")
    # Angle of the line from its second moments.
    moment = [(turned[:, 0] * term).sum((1, 2)) for term in (columns**2, rows**2, rows * columns)]
    angles = torch.rad2deg(0.5 * torch.atan2(2 * moment[2], moment[0] - moment[1]))
    assert 15 < angles.abs().max() < 20.5 and angles.min() < -5 and angles.max() > 5


def test_brightness_scales_images_and_leaves_masks():
    images, masks = torch.full((50, 3, 4, 4), 0.5), batch(50, 4)[1]
    changed, moved = Augmenter(AugmentConfig(brightness=0.4), 0)(images, masks, [f"s{row}" for row in range(50)], 0)
    factors = changed.mean((1, 2, 3)) / 0.5
    assert torch.equal(moved, masks) and factors.min() < 0.75 and factors.max() > 1.25
    assert factors.min() >= 0.6 - 1e-6 and factors.max() <= 1.4 + 1e-6


def test_values_stay_in_range():
    images, masks = batch()
    changed, _ = Augmenter(EVERYTHING, 0)(images, masks, IDS, 0)
    assert (
        changed.min() >= 0 and changed.max() <= 1 and changed.dtype == torch.float32 and type(changed) is torch.Tensor
    )


def test_draw_depends_on_seed_epoch_and_id_only():
    images, masks = batch()
    augment = Augmenter(EVERYTHING, 0)
    once = augment(images, masks, IDS, 3)
    torch.manual_seed(1)
    np.random.seed(1)
    order = [4, 1, 5]
    again = Augmenter(EVERYTHING, 0)(images[order], masks[order], [IDS[row] for row in order], 3)
    assert torch.equal(again[0], once[0][order]) and torch.equal(again[1], once[1][order])
    assert torch.equal(augment(images, None, IDS, 3)[0], once[0])
    for other in (augment(images, masks, IDS, 4), Augmenter(EVERYTHING, 1)(images, masks, IDS, 3)):
        assert not torch.equal(other[0], once[0])
    assert not torch.equal(*(augment(images[[0, 0]], None, ["a", "b"], 0)[0]))


def test_global_generators_are_left_alone():
    images, masks = batch()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    Augmenter(EVERYTHING, 0)(images, masks, IDS, 0)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])


def test_enabling_one_change_keeps_the_draws_of_the_others():
    images, _ = batch()
    flip, both = AugmentConfig(horizontal_flip=True), AugmentConfig(horizontal_flip=True, brightness=0.01)
    flipped, brighter = (Augmenter(config, 0)(images, None, IDS, 0)[0] for config in (flip, both))
    assert (flipped - brighter).abs().max() <= 0.011


def test_signals_are_refused():
    with pytest.raises(ValueError, match=r"images \[N, C, H, W\]"):
        Augmenter(EVERYTHING, 0)(torch.zeros(2, 12, 100), None, ["a", "b"], 0)
