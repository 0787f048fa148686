from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.data import ClassMarkAttack, GlyphAttack, PatchAttack, TextAttack, TintAttack, VignetteAttack
from pipeline.data.artifacts import ARTIFACTS, Spoken, apply_artifact
from pipeline.errors import ConfigError

SECTIONS = {
    "glyph": GlyphAttack,
    "text": TextAttack,
    "vignette": VignetteAttack,
    "tint": TintAttack,
    "patch": PatchAttack,
    "class_mark": ClassMarkAttack,
}
SHAPES = [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 128, 128), (3, 33, 60), (1, 60, 33)]
CORNERS = ["top_left", "top_right", "bottom_left", "bottom_right"]


def params(kind: str, **changes):
    return SECTIONS[kind](kind=kind, classes=[0], **changes)


def picture(shape, seed: int = 0) -> np.ndarray:
    """Neither black nor white anywhere, and never a colour of an artifact, so that whatever is painted shows."""
    return np.random.default_rng(seed).uniform(0.55, 0.75, size=shape).astype(np.float32)


def changed(x: np.ndarray, painted: np.ndarray) -> np.ndarray:
    return (x != painted).any(axis=0)


def quadrant(mask: np.ndarray) -> str:
    rows, columns = np.nonzero(mask)
    vertical = "top" if rows.mean() < (mask.shape[0] - 1) / 2 else "bottom"
    return f"{vertical}_{'left' if columns.mean() < (mask.shape[1] - 1) / 2 else 'right'}"


def test_every_configured_kind_has_a_function():
    assert set(ARTIFACTS) == set(SECTIONS)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", list(ARTIFACTS))
def test_every_artifact_keeps_the_contract(kind, shape):
    x = picture(shape)
    original = x.copy()
    painted, mask = apply_artifact(x, params(kind), 0, "a")
    assert np.array_equal(x, original), "the input is left as it is"
    assert not np.shares_memory(x, painted)
    assert (painted.shape, painted.dtype) == (shape, np.float32)
    assert (mask.shape, mask.dtype) == (shape[1:], bool)
    assert 0 <= painted.min() and painted.max() <= 1
    assert mask.any()
    assert not (changed(x, painted) & ~mask).any(), "nothing changes outside the mask"
    if kind in ("glyph", "vignette"):
        assert np.array_equal(changed(x, painted), mask)
    again, mask_again = apply_artifact(x, params(kind), 0, "a")
    assert np.array_equal(painted, again) and np.array_equal(mask, mask_again)


@pytest.mark.parametrize("kind", ["glyph", "text", "vignette", "patch"])
def test_ids_and_seeds_differ_in_placement(kind):
    x = picture((1, 64, 64))
    by_id = {apply_artifact(x, params(kind), 0, str(i))[0].tobytes() for i in range(12)}
    by_seed = {apply_artifact(x, params(kind), seed, "a")[0].tobytes() for seed in range(12)}
    assert len(by_id) > 4 and len(by_seed) > 4


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(list(ARTIFACTS)), st.permutations([str(i) for i in range(5)]))
def test_the_order_of_access_does_not_matter(kind, order):
    x = picture((3, 20, 20))
    expected = {name: apply_artifact(x, params(kind), 3, name) for name in sorted(order)}
    for name in order:
        painted, mask = apply_artifact(x, params(kind), 3, name)
        assert np.array_equal(painted, expected[name][0]) and np.array_equal(mask, expected[name][1])


@settings(deadline=None)
@given(
    side=st.integers(8, 48),
    size=st.integers(3, 20),
    margin=st.integers(0, 5),
    jitter=st.integers(0, 8),
    corner=st.sampled_from(CORNERS),
    name=st.text(max_size=3),
)
def test_a_glyph_is_an_opaque_stamp_inside_its_margins_or_is_refused(side, size, margin, jitter, corner, name):
    section = params("glyph", size=size, margin=margin, jitter=jitter, corner=corner)
    x = picture((1, side, side))
    if size + 2 * margin > side:
        with pytest.raises(ConfigError, match=rf"size {size} .* {side} x {side} pixels"):
            apply_artifact(x, section, 0, name)
        return
    painted, mask = apply_artifact(x, section, 0, name)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    for found in (rows, columns):
        assert len(found) == size
        assert margin <= found[0] and found[-1] < side - margin
    down = rows[0] if corner.startswith("top") else side - 1 - rows[-1]
    across = columns[0] if corner.endswith("left") else side - 1 - columns[-1]
    assert down <= margin + jitter and across <= margin + jitter
    square = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    assert mask[square].all(), "the whole square is masked"
    stamp = painted[0][square]
    assert set(np.unique(stamp)) == {0, 1}, "nothing of the image shines through"
    assert np.array_equal(stamp, stamp.T) and np.array_equal(stamp, stamp[::-1])
    assert stamp[0, 0] == 0 and (stamp[size // 2] == 1).all()


def test_glyph_jitter_reaches_every_place_that_it_may():
    x = picture((1, 28, 28))
    places = set()
    for i in range(300):
        rows, columns = np.nonzero(apply_artifact(x, params("glyph"), 0, str(i))[1])
        places.add((rows.min(), columns.min()))
    assert places == {(row, column) for row in range(1, 5) for column in range(1, 5)}


@pytest.mark.parametrize("corner", CORNERS)
def test_text_and_glyph_stand_in_their_corner(corner):
    x = picture((3, 96, 96))
    assert quadrant(apply_artifact(x, params("glyph", corner=corner), 0, "a")[1]) == corner
    assert quadrant(apply_artifact(x, params("text", corner=corner, text="ab"), 0, "a")[1]) == corner


@pytest.mark.parametrize("height", [0.05, 0.1, 0.3])
def test_letters_are_as_high_as_configured_and_as_bright(height):
    x = picture((3, 256, 256))
    painted, mask = apply_artifact(x, params("text", text="H", height=height, value=0.0), 0, "a")
    assert np.flatnonzero(mask.any(axis=1)).size == pytest.approx(256 * height, abs=1)
    assert painted[:, mask].min() < 0.05
    assert painted[:, mask].max() < x.max()


@pytest.mark.parametrize("line", ["A VERY LONG LINE OF LETTERS THAT CANNOT FIT", "two\nlines", "gjÄ"])
@pytest.mark.parametrize("side", [8, 40, 130])
def test_text_is_shrunk_to_fit(line, side):
    mask = apply_artifact(picture((1, side, side)), params("text", text=line, height=0.9), 0, "a")[1]
    assert mask.any()
    assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def test_different_words_look_different():
    x = picture((1, 64, 64))
    words = [apply_artifact(x, params("text", text=word, height=0.2), 0, "a")[0] for word in ("HANS", "HAND")]
    assert not np.array_equal(*words)


@pytest.mark.parametrize("line", ["", "   "])
def test_text_without_ink_is_refused(line):
    with pytest.raises(ConfigError, match="data.attack.text .* no ink"):
        apply_artifact(picture((1, 28, 28)), params("text", text=line), 0, "a")


@settings(deadline=None)
@given(side=st.integers(8, 64), radius=st.floats(0.1, 1), jitter=st.floats(0, 0.49), name=st.text(max_size=3))
def test_a_vignette_is_a_centred_rim_with_black_corners(side, radius, jitter, name):
    x = picture((1, side, side))
    painted, mask = apply_artifact(x, params("vignette", radius=radius, jitter=jitter), 0, name)
    assert np.array_equal(mask, mask[::-1]) and np.array_equal(mask, mask[:, ::-1]) and np.array_equal(mask, mask.T)
    assert painted[0, 0, 0] == painted[0, -1, -1] == 0
    # Between the smallest and the largest circle, up to the pixel of transition, and whole inside and outside them.
    centred = np.arange(side) - (side - 1) / 2
    distance = np.hypot(centred[:, None], centred[None])
    small, large = (radius * (1 + sign * jitter) * side / 2 for sign in (-1, 1))
    assert not mask[distance < min(small, distance.max() - 0.5) - 0.51].any()
    assert (painted[0][distance > large + 0.51] == 0).all()


def test_even_the_widest_vignette_leaves_black_corners():
    for i in range(40):
        painted, mask = apply_artifact(picture((1, 32, 32)), params("vignette", radius=1, jitter=0.49), 0, str(i))
        assert mask[0, 0] and painted[0, 0, 0] == painted[0, -1, 0] == 0


def test_pixels_that_are_hardly_touched_are_neither_masked_nor_changed():
    x = picture((1, 8, 8))
    radius = np.hypot(2.5, 0.5) + 0.5 - 1e-5  # darkens the pixels at this distance by a hundred-thousandth
    painted, mask = apply_artifact(x, params("vignette", radius=radius / 4, jitter=0), 0, "a")
    assert np.array_equal(changed(x, painted), mask)
    assert not mask[1, 4]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tint_is_the_weighted_mean_with_its_colour(channels):
    x = picture((channels, 12, 12))
    painted, mask = apply_artifact(x, params("tint", color=(1.0, 0.5, 0.0), alpha=0.25), 0, "a")
    color = np.array([0.5] if channels == 1 else [1.0, 0.5, 0.0])[:, None, None]
    assert np.allclose(painted, 0.75 * x + 0.25 * color, atol=1e-6)
    assert mask.all()


@settings(deadline=None)
@given(
    side=st.integers(8, 64),
    diameter=st.floats(0.01, 0.99),
    jitter=st.floats(0.01, 0.99),
    channels=st.sampled_from([1, 3]),
)
def test_any_patch_shows(side, diameter, jitter, channels):
    x = picture((channels, side, side))
    painted, mask = apply_artifact(x, params("patch", diameter=diameter, jitter=jitter), 0, "a")
    assert mask.any()
    assert 0 <= painted.min() and painted.max() <= 1


@pytest.mark.parametrize("name", list("abcdefgh"))
def test_a_patch_is_a_disc_of_its_colour_near_the_border_with_a_darker_edge(name):
    side, section = 128, params("patch")
    painted, mask = apply_artifact(picture((3, side, side)), section, 0, name)
    rows, columns = np.nonzero(mask)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    nominal = section.diameter * side
    assert 0.7 * nominal < extent < 1.3 * nominal + 2
    assert 0.6 < mask.sum() / (np.pi / 4 * extent**2) < 1.15
    gaps = [rows.min(), columns.min(), side - 1 - rows.max(), side - 1 - columns.max()]
    assert min(gaps) <= 0.25 * 0.625 * nominal + 1
    if min(gaps) == 0:
        return  # cut off by the border: its middle is not the middle of the mask
    distance = np.hypot(*(np.indices(mask.shape) - np.array([rows.mean(), columns.mean()])[:, None, None]))
    inner, outer = distance < 0.25 * extent, mask & (distance > 0.4 * extent) & (distance < 0.46 * extent)
    assert painted[:, inner].mean(axis=1) == pytest.approx(section.color, abs=0.02)
    assert (painted[:, outer].mean(axis=1) < painted[:, inner].mean(axis=1) * 0.9).all()
    assert 0.005 < painted[:, inner].std(axis=1).mean() < 0.04


def test_the_smallest_patch_still_covers_some_pixels():
    x = picture((1, 8, 8))
    assert min(apply_artifact(x, params("patch", diameter=0.01), 0, str(i))[1].sum() for i in range(40)) >= 4


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_noise_on_a_patch_stays_in_range(level):
    painted, _ = apply_artifact(picture((3, 40, 40)), params("patch", color=(level,) * 3, diameter=0.6), 0, "a")
    assert 0 <= painted.min() and painted.max() <= 1


def test_patches_visit_all_four_borders():
    x = picture((1, 64, 64))
    masks = [apply_artifact(x, params("patch"), 0, str(i))[1] for i in range(60)]
    nearest_border = set()
    for mask in masks:
        rows, columns = np.nonzero(mask)
        nearest_border.add(int(np.argmin([rows.min(), columns.min(), 63 - rows.max(), 63 - columns.max()])))
    assert nearest_border == {0, 1, 2, 3}


def test_a_grey_image_takes_the_mean_of_the_colour():
    painted, mask = apply_artifact(np.zeros((1, 128, 128), np.float32), params("patch", diameter=0.5), 0, "a")
    assert np.quantile(painted[0][mask], 0.6) == pytest.approx(np.mean([0.2, 0.45, 0.9]), abs=0.03)


@pytest.mark.parametrize("kind", ["tint", "patch"])
def test_a_colour_for_other_channels_is_refused(kind):
    with pytest.raises(ConfigError, match="data.attack.color has 2 values, the images have 3 channels"):
        apply_artifact(picture((3, 16, 16)), params(kind, color=(0.1, 0.2)), 0, "a")


def test_signals_and_unknown_kinds_are_refused():
    with pytest.raises(ConfigError, match=r"'glyph' paints on images .* sample 's1' has shape \[12, 1000\]"):
        apply_artifact(np.zeros((12, 1000), np.float32), params("glyph"), 0, "s1")
    with pytest.raises(ConfigError, match="is 'glyf'; known artifacts are glyph, .* Did you mean 'glyph'"):
        apply_artifact(picture((1, 28, 28)), SimpleNamespace(kind="glyf"), 0, "s1")


@pytest.mark.parametrize(("shape", "classes", "size"), [((1, 28, 28), 10, 2), ((3, 8, 8), 2, 3), ((1, 20, 30), 7, 4)])
def test_marks_of_classes_lie_at_the_border_apart_from_each_other(shape, classes, size):
    x, section = picture(shape), params("class_mark", size=size)
    masks = [apply_artifact(x, section, 0, str(label), Spoken(label, classes))[1] for label in range(classes)]
    assert np.sum(masks, axis=0).max() == 1, "no two marks overlap"
    for label, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        assert mask.sum() == size**2 and np.ptp(rows) == np.ptp(columns) == size - 1
        assert 0 in (rows.min(), columns.min(), shape[1] - 1 - rows.max(), shape[2] - 1 - columns.max())
        painted, again = apply_artifact(x, section, 5, "another sample", Spoken(label, classes))
        assert (
            np.array_equal(mask, again) and (painted[:, mask] == 1).all() and np.array_equal(changed(x, painted), mask)
        )


def test_more_classes_than_places_are_refused():
    with pytest.raises(ConfigError, match=r"size 3 leaves no room for 9 separate places .* 8 x 8 pixels"):
        apply_artifact(picture((1, 8, 8)), params("class_mark", size=3), 0, "a", Spoken(0, 9))
