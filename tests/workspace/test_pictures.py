from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.workspace.pictures import (
    BLUE,
    COLORS,
    GAP,
    LABEL_WIDTH,
    RED,
    TILE,
    YELLOW,
    arranged,
    color_bar,
    faded,
    heatmap_image,
    heatmap_scale,
    labelled_sheet,
    outlined,
    save,
    scatter_image,
    sheet,
    stacked,
    text_tile,
    tile_size,
    to_image,
)


def pixel(image: Image.Image, row: float, column: float) -> tuple[int, int, int]:
    """Return the colour at a place given as shares of the side."""
    return image.getpixel((int(column * image.width), int(row * image.height)))


def test_relevance_for_is_red_against_is_blue_nothing_is_white():
    heatmap = np.zeros((4, 4))
    heatmap[:2, :2], heatmap[2:, 2:] = 2.0, -2.0
    image = heatmap_image(heatmap)
    red, blue = pixel(image, 0.2, 0.2), pixel(image, 0.8, 0.8)
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0]
    assert pixel(image, 0.2, 0.8) == (255, 255, 255)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_colours_do_not_depend_on_the_scale_of_the_heatmap(scale):
    heatmap = np.random.default_rng(0).standard_normal((8, 8))
    assert np.array_equal(np.array(heatmap_image(heatmap * scale)), np.array(heatmap_image(heatmap)))


def test_stronger_relevance_is_drawn_darker():
    heatmap = np.linspace(0, 1, 64).reshape(8, 8)
    brightness = np.array(heatmap_image(heatmap, size=8)).sum(2).ravel().astype(int)
    assert (np.diff(brightness) <= 0).all() and brightness[0] > brightness[-1]


@pytest.mark.parametrize("heatmap", [np.zeros((3, 5)), np.full((3, 5), np.nan)], ids=["empty", "nan"])
def test_a_heatmap_without_values_is_white(heatmap):
    assert np.array(heatmap_image(heatmap)).min() == 255


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_number_of_channels_become_rgb_tiles(channels):
    x = np.linspace(-0.5, 1.5, channels * 6 * 8).reshape(channels, 6, 8)
    image = to_image(x)
    assert image.mode == "RGB" and image.size == (TILE, TILE)
    expected = np.round(np.clip(x, 0, 1) * 255)
    assert pixel(image, 0, 0)[0] == expected[0, 0, 0]
    if channels >= 3:
        assert pixel(image, 0.99, 0.99) == tuple(expected[:3, -1, -1])
    else:
        assert len(set(pixel(image, 0.5, 0.5))) == 1


def test_the_border_of_a_mask_is_yellow_and_its_inside_is_the_image():
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:6, 2:6] = True
    image = outlined(np.full((1, 8, 8), 0.5), mask)
    assert pixel(image, 0.26, 0.5) == (255, 214, 0)
    assert pixel(image, 0.5, 0.5) == pixel(image, 0.1, 0.1) == (128, 128, 128)


def test_an_empty_mask_leaves_the_image():
    x = np.random.default_rng(0).random((3, 8, 8))
    assert np.array_equal(np.array(outlined(x, np.zeros((8, 8), bool))), np.array(to_image(x)))


def test_a_sheet_has_a_gap_around_every_tile():
    red, blue = Image.new("RGB", (TILE, TILE), "red"), Image.new("RGB", (TILE, TILE), "blue")
    page = sheet([[red, red, red], [blue]])
    assert page.size == (3 * (TILE + GAP) + GAP, 2 * (TILE + GAP) + GAP)
    assert page.getpixel((GAP - 1, GAP)) == page.getpixel((GAP + TILE, GAP)) == (255, 255, 255)
    assert page.getpixel((GAP, GAP)) == page.getpixel((2 * (TILE + GAP) + GAP, GAP)) == (255, 0, 0)
    assert page.getpixel((GAP, TILE + 2 * GAP)) == (0, 0, 255)
    assert page.getpixel((TILE + 2 * GAP, TILE + 2 * GAP)) == (255, 255, 255)


def test_pictures_are_saved_as_png(tmp_path):
    image = to_image(np.random.default_rng(0).random((3, 8, 8)))
    save(image, tmp_path / "new/folder/picture.png")
    with Image.open(tmp_path / "new/folder/picture.png") as stored:
        assert stored.format == "PNG"
        assert np.array_equal(np.array(stored), np.array(image))


@pytest.fixture
def spot() -> np.ndarray:
    heatmap = np.zeros((12, 12))
    heatmap[3:6, 3:6], heatmap[9:, 9:] = 2.0, -5.0
    return heatmap


def test_an_image_stays_where_the_heatmap_is_strong_and_fades_to_white_elsewhere(spot):
    image = faded(np.full((1, 12, 12), 0.2), spot)
    assert pixel(image, 0.37, 0.37) == (51, 51, 51)
    assert pixel(image, 0.37, 0.8) == pixel(image, 0.85, 0.85) == (214, 214, 214)


def test_a_line_surrounds_what_stays_and_a_higher_threshold_leaves_less(spot):
    areas = []
    for threshold in (0.1, 0.5, 0.9):
        pixels = np.array(faded(np.full((3, 12, 12), 0.5), spot, threshold))[..., 0]
        line, stays = pixels == 0, pixels == 128
        areas.append(stays.sum())
        rows, columns = np.nonzero(stays)
        assert line[rows.min() - 1, columns].any() and line[rows.max() + 1, columns].any()
        assert line[rows, columns.min() - 1].any() and line[rows, columns.max() + 1].any()
        assert not stays[:10].any() and not stays[60:].any()
    assert areas[0] > areas[1] > areas[2] > 0


@pytest.mark.parametrize("heatmap", [np.zeros((6, 6)), -np.ones((6, 6)), np.full((6, 6), np.nan)])
def test_without_positive_relevance_everything_fades_and_there_is_no_line(heatmap):
    assert np.array(faded(np.zeros((3, 6, 6)), heatmap)).min() == 204


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_what_stays_does_not_depend_on_the_scale_of_the_heatmap(spot, scale):
    x = np.random.default_rng(0).random((3, 12, 12))
    assert np.array_equal(np.array(faded(x, spot * scale)), np.array(faded(x, spot)))


def test_rows_of_a_labelled_sheet_have_their_names_on_the_left():
    red, blue = Image.new("RGB", (TILE, TILE), "red"), Image.new("RGB", (TILE, TILE), "blue")
    page = labelled_sheet({"first": [red, blue], "second\nrow": [blue], "": []})
    tiles = np.array(page)[:, LABEL_WIDTH:]
    assert np.array_equal(tiles, np.array(sheet([[red, blue], [blue], []])))
    dark = (np.array(page)[:, :LABEL_WIDTH].min(2) < 128).nonzero()[0]
    assert {int(row) // (TILE + GAP) for row in dark} == {0, 1}


def test_a_scatter_image_colours_groups_and_rings_the_named_points():
    points = np.random.default_rng(0).standard_normal((40, 2))
    groups = np.repeat([0, 1], 20)
    colours = [tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in COLORS[:2]]
    plain = np.array(scatter_image(points, groups, {}, "title"))
    counts = [(plain == color).all(2).sum() for color in colours]
    assert min(counts) > 100
    one_group = np.array(scatter_image(points, np.zeros(40, int), {}, "title"))
    assert (one_group == colours[1]).all(2).sum() == 0
    named = np.array(scatter_image(points, groups, {3: "17"}, "title"))
    assert ((named < 60).all(2)).sum() > ((plain < 60).all(2)).sum() + 20


def test_more_groups_than_colours_are_drawn_in_grey():
    points = np.random.default_rng(0).standard_normal((10, 2))
    image = np.array(scatter_image(points, np.full(10, len(COLORS) + 5), {}, "title"))
    assert (image == (0x9A, 0xA5, 0xB1)).all(2).sum() > 100


def test_a_given_scale_is_shared_and_an_own_one_is_not():
    heatmap = np.full((4, 4), 2.0)
    assert pixel(heatmap_image(heatmap, scale=2.0), 0.5, 0.5) == RED
    assert pixel(heatmap_image(-heatmap, scale=2.0), 0.5, 0.5) == BLUE
    half = pixel(heatmap_image(heatmap, scale=4.0), 0.5, 0.5)
    assert half == tuple(round((255 + value) / 2) for value in RED)
    assert pixel(heatmap_image(heatmap, scale=0.0), 0.5, 0.5) == (255, 255, 255)


def test_a_common_scale_is_that_of_all_values_together():
    maps = np.random.default_rng(0).standard_normal((3, 8, 8)) * np.array([1, 5, 2])[:, None, None]
    assert heatmap_scale(*maps) == pytest.approx(np.percentile(np.abs(maps), 99.5))
    assert heatmap_scale(np.full((2, 2), np.nan)) == 0


def test_a_color_bar_runs_from_red_over_white_to_blue_and_has_numbers_beside_it():
    bar = color_bar(0.25, 160)
    assert np.abs(np.array(bar.getpixel((7, 10))) - RED).max() < 8
    assert np.abs(np.array(bar.getpixel((7, 149))) - BLUE).max() < 8
    assert min(bar.getpixel((7, 79))) > 245
    dark = np.flatnonzero((np.array(bar)[:, 20:].min(2) < 128).any(1))
    assert len([row for row in np.diff(dark) if row > 10]) == 2, "three numbers"
    assert not np.array_equal(np.array(bar), np.array(color_bar(0.5, 160)))


@pytest.mark.parametrize(("side", "expected"), [(8, 160), (28, 168), (64, 128), (80, 160), (100, 160), (224, 160)])
def test_small_images_are_enlarged_by_a_whole_number(side, expected):
    assert tile_size(side) == expected


def dark_width(tile: Image.Image) -> int:
    columns = np.flatnonzero((np.array(tile).min(2) < 128).any(0))
    return int(np.ptp(columns)) if len(columns) else 0


def test_text_is_broken_into_lines_that_fit_and_words_that_are_too_long_are_cut():
    one, two, long = (text_tile(text, 90) for text in ("melanoma", "melanoma or nevus", "m" * 60))
    assert one.width == two.width == long.width == 90
    assert two.height == 2 * one.height == 2 * long.height
    assert all(0 < dark_width(tile) < 90 for tile in (one, two, long))
    cut = [np.array(text_tile("m" * number + "…", 90)) for number in range(1, 7)]  # six fit
    assert any(np.array_equal(np.array(long), each) for each in cut)
    assert text_tile("", 90).height == 0 and text_tile("a\nb", 90).height == 2 * one.height


def test_letters_beyond_latin_and_arrows_differ_from_the_sign_for_unknown_ones():
    unknown = np.array(text_tile("\ue123", 30))
    assert all(not np.array_equal(np.array(text_tile(letter, 30)), unknown) for letter in "→−é×ßшα")


def test_stacked_pictures_have_their_middles_in_one_line():
    page = stacked([Image.new("RGB", (20, 10), "red"), Image.new("RGB", (10, 5), "blue")], gap=3)
    assert page.size == (20, 18)
    assert page.getpixel((0, 0)) == (255, 0, 0) and page.getpixel((5, 13)) == page.getpixel((14, 17)) == (0, 0, 255)
    assert page.getpixel((4, 15)) == page.getpixel((10, 11)) == (255, 255, 255)


def test_a_table_gives_every_column_and_row_the_room_it_needs():
    red, blue = Image.new("RGB", (20, 10), "red"), Image.new("RGB", (6, 30), "blue")
    page = arranged([[red, blue], [blue, red, red]], gap=2)
    assert page.size == (20 * 3 + 2 * 4, 30 * 2 + 2 * 3)
    assert page.getpixel((2, 2)) == (255, 0, 0) and page.getpixel((24, 31)) == (0, 0, 255)
    assert page.getpixel((2, 34)) == (0, 0, 255) and page.getpixel((65, 43)) == (255, 0, 0)
    assert page.getpixel((22, 2)) == page.getpixel((46, 12)) == (255, 255, 255)


def test_a_black_line_around_the_yellow_one_shows_on_any_background():
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:6, 2:6] = True
    pixels = np.array(outlined(np.ones((1, 8, 8)), mask))
    assert pixels[23, 48].tolist() == [0, 0, 0] and tuple(pixels[24, 48]) == YELLOW
    assert pixels[22, 48].tolist() == pixels[48, 48].tolist() == [255, 255, 255]
