from __future__ import annotations

import io
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.config import load_config
from pipeline.config.data import GlyphAttack
from pipeline.data import leakage
from pipeline.data.leakage import as_text, identical_pixels, nearly_identical_pixels, same_group, sketch
from pipeline.data.load import load_dataset
from pipeline.data.memory import ArrayDataset, LabelledSamples, Subset, make_table
from pipeline.data.worlds import WorldView

REAL = Path(__file__).parents[3] / "shared/data/isic2017"
SIDE = 40
N, N_TEST = 60, 20


def textures(count: int = N, seed: int = 3) -> np.ndarray:
    """Return images uint8 [count, 3, 40, 40]: spots of random color, as fine as 5 pixels."""
    coarse = np.random.default_rng(seed).integers(60, 200, (count, 8, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((SIDE, SIDE), 3)).transpose(2, 0, 1) for each in coarse])


def splits_of(count: int = N) -> list[str]:
    """Return the splits: the last third is the test split, the one before is validation."""
    return [("train", "val", "test")[3 * row // count] for row in range(count)]


def dataset_of(pixels: np.ndarray, splits=None, **groups) -> ArrayDataset:
    ids = [f"s{row}" for row in range(len(pixels))]
    columns = {name: np.array(values, dtype=object) for name, values in groups.items()}
    return ArrayDataset(pixels, make_table(ids, [0] * len(ids), splits or splits_of(len(ids)), columns), ("a", "b"))


def copied(pixels: np.ndarray, change, pairs: dict[int, int]) -> np.ndarray:
    """Return the images with changed copies of others in the places of some: place -> what is copied there."""
    result = pixels.copy()
    for place, source in pairs.items():
        result[place] = change(pixels[source].transpose(1, 2, 0)).transpose(2, 0, 1)
    return result


def recoded(image: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=60)
    return np.asarray(Image.open(stream))


def resized(image: np.ndarray, factor: float) -> np.ndarray:
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((round(width * factor), round(height * factor)), Image.BILINEAR)
    return np.asarray(small.resize((width, height), Image.BILINEAR))


def brighter(image: np.ndarray) -> np.ndarray:
    return np.clip(image * 1.1, 0, 255).astype(np.uint8)


def mirrored(image: np.ndarray) -> np.ndarray:
    return image[:, ::-1]


CHANGES = {
    "recoded": recoded,
    "made smaller": lambda image: resized(image, 0.9),
    "made larger": lambda image: resized(image, 1.1),
    "brighter": brighter,
    "mirrored": mirrored,
    "all of it": lambda image: mirrored(recoded(resized(brighter(image), 0.9))),
}


class Signals(LabelledSamples):
    """Signals [C, T] in memory, as a data set of a user's own may give them out: floats, nothing else."""

    def __init__(self, values: np.ndarray, splits: list[str]):
        ids = [f"s{row}" for row in range(len(values))]
        super().__init__(make_table(ids, [0] * len(ids), splits), ("a", "b"), values.shape[1:])
        self.values = values

    def pixels_at(self, index: int) -> np.ndarray:
        return self.values[index]


class OnlyTheProtocol:
    """What a user's own factory may return: no pixels_at, floats."""

    def __init__(self, dataset):
        self.table, self.classes, self.shape = dataset.table, dataset.classes, dataset.shape
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]


# Identical pixels


@pytest.mark.parametrize("wrap", [lambda data: data, OnlyTheProtocol, lambda data: WorldView(data, None, "asis", 0)])
def test_pairs_of_identical_pixels_are_those_of_a_double_loop(wrap):
    pixels = np.random.default_rng(0).integers(0, 2, (70, 1, 2, 2), dtype=np.uint8)
    data = dataset_of(pixels)
    test = [row for row, split in enumerate(splits_of(70)) if split == "test"]
    pairs = [(i, j) for i, j in product(test, range(70)) if j not in test and (pixels[i] == pixels[j]).all()]
    found = identical_pixels(wrap(data))
    assert (found.status, found.pairs) == ("leak", len(pairs)) and len(pairs) > 50
    assert found.test_samples == len({i for i, _ in pairs})
    assert len(found.examples) == leakage.EXAMPLES
    assert {(int(test[1:]), int(other[1:])) for test, other in found.examples} <= set(pairs)


def test_copies_within_a_split_are_no_leak():
    pixels = textures()
    pixels[-1], pixels[1] = pixels[-2], pixels[0]
    found = identical_pixels(dataset_of(pixels))
    assert (found.status, found.pairs, found.test_samples, found.examples) == ("clean", 0, 0, [])


def test_one_pixel_makes_another_image():
    pixels = textures()
    pixels[-1] = pixels[0]
    pixels[-1, 0, 5, 5] += 1
    assert identical_pixels(dataset_of(pixels)).status == "clean"
    assert nearly_identical_pixels(dataset_of(pixels)).examples == [(f"s{N - 1}", "s0")]


def test_many_equal_samples_are_counted_without_listing_their_pairs():
    count = 30_000
    data = dataset_of(np.zeros((count, 1, 1, 1), dtype=np.uint8))
    assert identical_pixels(data).pairs == count // 3 * (count - count // 3)


def test_a_subset_is_checked_with_its_own_rows_and_splits():
    pixels = textures(6)
    pixels[5] = pixels[0]
    data = dataset_of(pixels, splits=["train"] * 6)
    view = Subset(data, np.array([5, 1, 0, 2]), np.array(["test", "train", "val", "test"], dtype=object))
    assert identical_pixels(view).examples == [("s5", "s0")]
    assert identical_pixels(Subset(data, np.array([5, 1]), np.array(["test", "train"]))).status == "clean"


def test_what_is_planted_hides_copies_that_the_data_set_has():
    pixels = textures()[:, :1]
    pixels[-1] = pixels[0]
    data = dataset_of(pixels)
    planted = WorldView(data, GlyphAttack(kind="glyph", classes=["a"], size=9), "attacked", 0)
    assert identical_pixels(planted).status == "clean"
    assert identical_pixels(planted.dataset).status == "leak"


# Nearly identical pixels


def test_different_samples_are_no_copies():
    found = nearly_identical_pixels(dataset_of(textures()))
    assert (found.status, found.pairs, found.test_samples) == ("clean", 0, 0)
    assert "24 x 24" in found.detail


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_copies_are_found_and_nothing_else(change):
    pairs = {40: 0, 41: 7, 55: 25, 59: 7}
    found = nearly_identical_pixels(dataset_of(copied(textures(), change, pairs)))
    assert (found.status, found.pairs, found.test_samples) == ("leak", 4, 4)
    assert {(int(test[1:]), int(other[1:])) for test, other in found.examples} == set(pairs.items())


def test_the_closest_pairs_are_the_examples():
    pixels = copied(textures(), recoded, {row: row - 40 for row in range(40, 60)})
    pixels[50] = pixels[10]
    found = nearly_identical_pixels(dataset_of(pixels))
    assert (found.pairs, len(found.examples), found.examples[0]) == (20, leakage.EXAMPLES, ("s50", "s10"))


def test_blocks_do_not_change_what_is_found(monkeypatch):
    data = dataset_of(copied(textures(), recoded, {40: 0, 47: 12, 49: 39, 59: 20}))
    whole = nearly_identical_pixels(data)
    monkeypatch.setattr(leakage, "TEST_ROWS", 7)
    monkeypatch.setattr(leakage, "OTHER_ROWS", 11)
    assert nearly_identical_pixels(data) == whole and whole.test_samples == 4


def test_the_nearest_are_those_of_a_full_comparison(monkeypatch):
    monkeypatch.setattr(leakage, "OTHER_ROWS", 7)
    details = sketch(dataset_of(textures())).details
    test, other = np.arange(40, 60), np.arange(40)
    correlations = details[test] @ details[other].T
    found = leakage._nearest(details, test, other)
    assert [pair.other for pair in found] == correlations.argmax(1).tolist()
    assert [pair.correlation for pair in found] == pytest.approx(correlations.max(1), abs=1e-5)


def test_sketches_can_be_shared():
    data = dataset_of(copied(textures(), recoded, {40: 0}))
    shared = sketch(data)
    assert nearly_identical_pixels(data, shared) == nearly_identical_pixels(data)
    assert identical_pixels(data, shared) == identical_pixels(data)


def test_detail_knows_neither_brightness_nor_contrast():
    pixels = textures(3)
    pixels[1] = pixels[0] // 2 + 60
    details = sketch(dataset_of(pixels)).details
    assert np.allclose(np.linalg.norm(details, axis=1), 1, atol=1e-5) and np.allclose(details.sum(1), 0, atol=1e-4)
    assert details[0] @ details[1] > 0.99 > 0.6 > details[0] @ details[2]


@pytest.mark.parametrize(("size", "cells"), [(224, 24), (28, 24), (10, 10), (8, 3)])
def test_averages_are_those_of_repeated_pixels(size, cells):
    values = np.random.default_rng(0).random(size)
    expected = np.repeat(values, cells).reshape(cells, size).mean(1)
    assert leakage._averages(size, cells) @ values == pytest.approx(expected, abs=1e-5)


def test_a_line_is_blurred_like_scipy_does():
    from scipy.ndimage import convolve1d

    values = np.random.default_rng(0).random((3, 9))
    assert leakage._blurred(values) == pytest.approx(convolve1d(values, [0.25, 0.5, 0.25], axis=1, mode="nearest"))


def test_samples_without_detail_are_no_copies_of_each_other():
    pixels = textures()
    pixels[[0, 58, 59]] = np.array([0, 120, 255], dtype=np.uint8)[:, None, None, None]
    found = nearly_identical_pixels(dataset_of(pixels))
    assert found.status == "clean" and "3 samples without any detail" in found.detail


def test_bound_rises_as_different_samples_come_closer(monkeypatch):
    assert leakage._typical([0.3] * 4 + [0.5] * 5 + [0.97] * 20) == 0.0, "9 are too few to tell"
    assert leakage._typical([0.3] * 4 + [0.5] * 7 + [0.97] * 20) == 0.5, "evident copies tell nothing about strangers"
    monkeypatch.setattr(leakage, "_typical", lambda correlations: 0.6)
    assert "from a correlation of 0.960," in nearly_identical_pixels(dataset_of(textures())).detail


def test_mnist_digits_raise_no_false_alarm_and_faint_changes_are_found():
    data = load_dataset(load_config("demo.yaml").data)
    found = nearly_identical_pixels(data)
    assert (found.status, found.pairs) == ("clean", 0) and "faint" in found.detail
    test, train = (np.flatnonzero(data.table["split"] == split)[:20] for split in ("test", "train"))
    pixels = data.pixels.copy()
    pixels[test] = np.clip(pixels[train] * 0.9, 0, 255).astype(np.uint8)
    found = nearly_identical_pixels(ArrayDataset(pixels, data.table, data.classes))
    assert (found.pairs, found.test_samples) == (20, 20)


def test_what_holds_too_little_detail_is_not_compared(data_config):
    found = nearly_identical_pixels(load_dataset(data_config(kind="digits", image_size=32)))
    assert (found.status, found.pairs, found.test_samples) == ("not_run", 0, 0)
    assert "too little detail" in found.detail and len(found.examples) == leakage.EXAMPLES


@pytest.mark.real_data
@pytest.mark.skipif(not REAL.is_dir(), reason="the dermoscopy images are not beside the project")
def test_real_images_with_planted_copies():
    """Of 300 images, three pairs show the same picture in two versions (seen by eye)."""
    known = {"ISIC_0012290": "ISIC_0013594", "ISIC_0012222": "ISIC_0016003", "ISIC_0000171": "ISIC_0015124"}
    names = pd.read_csv(REAL / "labels.csv")["image_id"]
    first = [name for name in names if name not in [*known, *known.values()]][:294]
    images = [
        np.asarray(Image.open(REAL / f"images/{name}.jpg").convert("RGB")) for name in [*known, *first, *known.values()]
    ]
    pixels = np.stack(images).transpose(0, 3, 1, 2)
    expected = {(f"s{297 + row}", f"s{row}") for row in range(3)}
    assert set(nearly_identical_pixels(dataset_of(pixels)).examples) == expected
    for change in CHANGES.values():
        planted = copied(pixels, change, {row: row - 200 for row in range(210, 297)})
        found = nearly_identical_pixels(dataset_of(planted))
        assert (found.pairs, found.test_samples) == (90, 90)


# Signals


def traces(count: int = N, points: int = 400) -> np.ndarray:
    """Return signals float32 [count, 3, points] in [0, 1]: random walks."""
    steps = np.random.default_rng(5).standard_normal((count, 3, points)).cumsum(2)
    return (0.5 + steps / (2 * np.abs(steps).max())).astype(np.float32)


def test_copies_of_signals_are_found_despite_gain_and_drift():
    values = traces()
    values[40] = 0.05 + values[0] * 0.8
    values[41] = values[1] + np.linspace(0, 0.2, 400, dtype=np.float32)
    found = nearly_identical_pixels(Signals(values, splits_of()))
    assert set(found.examples) == {("s40", "s0"), ("s41", "s1")} and found.pairs == 2
    assert "3 channels at 341 points" in found.detail


def test_signals_are_not_mirrored():
    values = traces()
    values[40] = values[0][:, ::-1]
    assert nearly_identical_pixels(Signals(values, splits_of())).status == "clean"


# The same group


def test_pairs_of_a_group_are_counted():
    patients = ["p1", "p1", "p2", "p3", "p1", "p2", "p2", "p4"]
    data = dataset_of(textures(8), ["train", "val", "train", "train", "test", "test", "test", "test"], patient=patients)
    found = same_group(data, "patient")
    assert (found.status, found.pairs, found.test_samples) == ("leak", 2 + 1 + 1, 3)
    assert found.examples == [("s4", "s0"), ("s5", "s2"), ("s6", "s2")]
    assert found == same_group(data, ["patient"])


def test_a_pair_that_shares_several_columns_counts_once():
    generator = np.random.default_rng(0)
    groups = {name: generator.integers(0, 9, N).astype(str) for name in ("patient", "lesion", "visit")}
    groups["lesion"][::4] = ""
    data = dataset_of(textures(), **groups)
    pairs = {
        (i, j)
        for i, j in product(range(40, 60), range(40))
        if any(values[i] == values[j] and values[i] for values in groups.values())
    }
    found = same_group(data, list(groups))
    assert (found.pairs, found.test_samples) == (len(pairs), len({i for i, _ in pairs}))
    assert {(int(test[1:]), int(other[1:])) for test, other in found.examples} <= pairs


def test_missing_values_are_no_group():
    patients = [np.nan, "", None, " ", np.nan, "", None, " "]
    splits = ["train"] * 4 + ["test"] * 4
    found = same_group(dataset_of(textures(8), splits, patient=patients), "patient")
    assert found.status == "not_run" and "no sample has a value in 'patient'" in found.detail
    patients[0] = "p1"
    found = same_group(dataset_of(textures(8), splits, patient=patients), "patient")
    assert found.status == "clean" and "7 missing values" in found.detail


def test_numbers_are_groups_too():
    data = dataset_of(textures(4), ["train", "train", "test", "test"])
    data.table["patient"] = [7.0, np.nan, 7.0, np.nan]
    assert same_group(data, "patient").examples == [("s2", "s0")]
    assert as_text(data.table["patient"]).tolist() == ["7.0", "", "7.0", ""]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [(None, "data.split.group_column"), ([], "data.split.group_column"), ("patient", "no column 'patient'")],
)
def test_without_a_column_groups_are_not_compared(columns, reason):
    found = same_group(dataset_of(textures(6)), columns)
    assert (found.status, found.pairs, found.examples) == ("not_run", 0, []) and reason in found.detail


def test_columns_that_are_there_are_compared_without_those_that_are_not():
    found = same_group(dataset_of(textures(3), patient=["p1", "p2", "p1"]), ["person", "patient"])
    assert (found.status, found.pairs) == ("leak", 1) and "no column 'person'" in found.detail


# Odd inputs


@pytest.mark.parametrize("check", [identical_pixels, nearly_identical_pixels, lambda data: same_group(data, "sex")])
@pytest.mark.parametrize(
    ("splits", "reason"),
    [(["train", "val"], "test split is empty"), (["test", "test"], "no samples but those of the test split"),
     (["test"], "no samples but those of the test split")],
)  # fmt: skip
def test_without_test_or_other_samples_nothing_is_compared(check, splits, reason):
    data = dataset_of(textures(len(splits)), splits, sex=["f"] * len(splits))
    found = check(data)
    assert (found.status, found.pairs) == ("not_run", 0) and reason in found.detail


def test_one_test_sample_and_one_other_can_be_compared():
    same, different = textures(1).repeat(2, 0), textures(2)
    assert nearly_identical_pixels(dataset_of(same, ["train", "test"])).pairs == 1
    assert nearly_identical_pixels(dataset_of(different, ["train", "test"])).status == "clean"


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((1, 7, 40), "7 x 40 pixels are too small"), ((2, 20), "20 points are too short"), ((3,), "neither images"),
     ((1, 8, 8, 8), "neither images")],
)  # fmt: skip
def test_samples_that_cannot_be_compared_in_detail_are_still_hashed(shape, reason):
    values = np.random.default_rng(0).random((6, *shape), dtype=np.float32)
    values[5] = values[0]
    data = Signals(values, ["train"] * 3 + ["test"] * 3)
    found = nearly_identical_pixels(data)
    assert found.status == "not_run" and reason in found.detail
    assert identical_pixels(data).examples == [("s5", "s0")]


class WithNegativeZero(OnlyTheProtocol):
    def __getitem__(self, index):
        sample = self.dataset[index]
        return sample._replace(x=-sample.x if index else sample.x)


def test_minus_zero_is_zero():
    data = WithNegativeZero(dataset_of(np.zeros((2, 1, 9, 9), dtype=np.uint8), ["train", "test"]))
    assert np.signbit(data[1].x.numpy()).all() and not np.signbit(data[0].x.numpy()).any()
    assert identical_pixels(data).status == "leak"
