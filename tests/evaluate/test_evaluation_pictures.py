from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluate.pictures import (
    BAR_WIDTH,
    NAMES_WIDTH,
    Changes,
    Explained,
    Prediction,
    heatmap_sheet,
    intervention_sheet,
    predictions,
)
from pipeline.workspace.pictures import RED, YELLOW, color_bar, heatmap_image, tile_size

GAP = 8
COLUMNS = 3


def occurrences(page: Image.Image, part: Image.Image) -> list[tuple[int, int]]:
    """Return (top, left) of every place where a sheet holds a picture, pixel by pixel."""
    whole, tile = (np.array(each).astype(np.int64) @ [1, 256, 65536] for each in (page, part))
    height, width = tile.shape
    corners = np.argwhere(whole[: len(whole) - height + 1, : whole.shape[1] - width + 1] == tile[0, 0])
    return [(r, c) for r, c in corners if np.array_equal(whole[r : r + height, c : c + width], tile)]


def count(page: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.array(page) == color).all(2).sum())


def plain(x: np.ndarray, size: int) -> Image.Image:
    """Return an image of few pixels, enlarged without smoothing."""
    pixels = np.round(np.repeat(x, 3, axis=0) * 255).astype(np.uint8).transpose(1, 2, 0)
    factor = size // x.shape[-1]
    return Image.fromarray(pixels.repeat(factor, 0).repeat(factor, 1))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).random((COLUMNS, 1, 28, 28))


@pytest.fixture
def masks() -> np.ndarray:
    masks = np.zeros((COLUMNS, 28, 28), dtype=bool)
    masks[:, 5:12, 5:12] = True
    return masks


def changes(model: str, *after: str) -> Changes:
    return Changes(model, [Prediction("8", 0.9)] * COLUMNS, [Prediction(name, 0.7) for name in after])


def test_predictions_name_the_class_with_its_softmax_probability():
    found = predictions(np.log([[0.2, 0.8], [0.997, 0.003]]).astype(np.float32), ("nevus", "melanoma"))
    assert [str(each) for each in found] == ["melanoma (80%)", "nevus (100%)"]
    assert found[0].probability == pytest.approx(0.8)


@pytest.mark.parametrize("direction", ["inserted", "removed"])
def test_every_sample_has_a_column_as_it_is_and_changed_without_smoothing(images, masks, direction):
    changed = images[:, :, ::-1].copy()
    page = intervention_sheet(images, changed, masks, ["a", "b", "c"], [changes("m", "8", "8", "8")], direction)
    size = tile_size(28)
    assert size % 28 == 0
    before = [occurrences(page, plain(x, size)) for x in images]
    after = [occurrences(page, plain(x, size)) for x in changed]
    assert all(len(each) == 1 for each in [*before, *after])
    lefts = [GAP + NAMES_WIDTH + GAP + number * (size + GAP) for number in range(COLUMNS)]
    assert [each[0][1] for each in before] == [each[0][1] for each in after] == lefts
    assert len({each[0][0] for each in before}) == 1 and before[0][0][0] < after[0][0][0]


@pytest.mark.parametrize(("direction", "shows_it"), [("inserted", 1), ("removed", 0)])
def test_the_region_is_outlined_in_the_image_that_shows_the_artifact(masks, direction, shows_it):
    pair = [np.full((COLUMNS, 1, 28, 28), value) for value in (0.2, 0.6)]
    page = intervention_sheet(*pair, masks, ["", "", ""], [], direction)
    pixels, grey = np.array(page), [51, 153]
    yellow = np.argwhere((pixels == YELLOW).all(2))
    inside = pixels[yellow[:, 0].min() : yellow[:, 0].max(), yellow[:, 1].min() : yellow[:, 1].max(), 0]
    assert (inside == grey[shows_it]).sum() > (inside == grey[1 - shows_it]).sum() == 0


def test_changed_predictions_stand_out_and_every_model_has_a_line(images, masks):
    def sheet(*models: Changes) -> Image.Image:
        return intervention_sheet(images, images, masks, ["", "", ""], list(models), "inserted")

    same, flipped = changes("original", "8", "8", "8"), changes("original", "8", "3", "8")
    orange = (0xB3, 0x47, 0x00)
    assert count(sheet(same), orange) == 0 and count(sheet(flipped), orange) > 20
    assert sheet(same, same).height > sheet(same).height > sheet().height
    assert sheet(same).width == sheet().width


def explained(model: str, heatmaps: np.ndarray) -> Explained:
    return Explained(model, heatmaps, [Prediction("8", 0.9)] * len(heatmaps))


def inner(tile: Image.Image) -> Image.Image:
    """Return a tile without its frame."""
    return tile.crop((1, 1, tile.width - 1, tile.height - 1))


def test_the_three_heatmaps_of_a_row_share_one_scale_that_the_bar_names(images):
    generator = np.random.default_rng(1)
    first, second = generator.standard_normal((2, COLUMNS, 28, 28)) * np.array([1, 10, 100])[:, None, None]
    second *= 0.2
    page = heatmap_sheet(images, ["a", "b", "c"], explained("original", first), explained("rrr", second))
    size = tile_size(28)
    for number in range(COLUMNS):
        maps = [first[number], second[number], second[number] - first[number]]
        scale = np.percentile(np.abs(maps), 99.5)
        places = [occurrences(page, inner(heatmap_image(each, size, scale))) for each in maps]
        assert all(len(each) == 1 for each in places)
        assert len({each[0][0] for each in places}) == 1
        assert [each[0][1] for each in places] == [GAP + k * (size + GAP) + 1 for k in (1, 2, 3)]
        assert len(occurrences(page, color_bar(scale, size, BAR_WIDTH))) == 1


def test_less_relevance_is_blue_in_the_difference_and_more_is_red(images):
    first, second = np.zeros((2, COLUMNS, 28, 28))
    first[:, :14], second[:, 14:] = 1, 1
    page = heatmap_sheet(images, ["", "", ""], explained("original", first), explained("rrr", second))
    size = tile_size(28)
    left, top = GAP + 3 * (size + GAP), next(iter(occurrences(page, plain(images[0], size))))[0]
    upper, lower = page.getpixel((left + 80, top + 40)), page.getpixel((left + 80, top + size - 40))
    assert upper[2] > upper[0] and lower == RED


def test_masks_are_outlined_in_the_inputs_alone(images, masks):
    maps = explained("original", np.zeros((COLUMNS, 28, 28)))
    without, outlined = (heatmap_sheet(images, ["", "", ""], maps, maps, each) for each in (None, masks))
    yellow = (np.array(outlined) == YELLOW).all(2)
    assert count(without, YELLOW) == 0 and yellow.any()
    assert np.argwhere(yellow)[:, 1].max() < GAP + tile_size(28)


def test_large_color_images_with_long_names_are_drawn_too():
    images = np.random.default_rng(0).random((2, 3, 224, 224))
    masks = np.zeros((2, 224, 224), dtype=bool)
    names = [Prediction("pigmented benign keratosis of an unbelievablylongwordwithoutanyspaces", 0.5)] * 2
    page = intervention_sheet(images, images, masks, ["x", "y"], [Changes("m", names, names)], "removed")
    assert page.width == GAP * 4 + NAMES_WIDTH + 2 * tile_size(224)
