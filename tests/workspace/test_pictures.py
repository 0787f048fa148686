from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.workspace.pictures import GAP, TILE, embedding_plot, heatmap_image, outlined, save, sheet, to_image


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


def test_an_embedding_plot_shows_members_in_another_colour(tmp_path):
    points = np.random.default_rng(0).standard_normal((30, 2))
    colours = []
    for name, members in (("some", np.arange(30) < 20), ("none", np.zeros(30, bool))):
        embedding_plot(points, members, "title", tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            pixels = np.array(image.convert("RGB")).reshape(-1, 3).astype(int)
        colours.append(int((pixels[:, 0] > pixels[:, 2] + 80).sum()))
    assert colours[0] > 2 * colours[1]
