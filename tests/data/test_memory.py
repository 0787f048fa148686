from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.data.memory import ArrayDataset, Subset, make_table, split_indices, to_pixels

PIXELS = np.random.default_rng(1).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
SPLITS = ["train", "train", "val", "val", "test", "test"]


def dataset(pixels=PIXELS, ids="abcdef", labels=(0, 1, 0, 1, 0, 1), splits=SPLITS, sex="fmfmfm", classes=("x", "y")):
    return ArrayDataset(pixels, make_table(list(ids), labels, splits, {"sex": np.array(list(sex))}), classes)


def changed(values, place, value):
    copy = np.array(values) if isinstance(values, np.ndarray) else list(values)
    copy[place] = value
    return copy


def test_items_are_pixels_over_255():
    sample = dataset()[3]
    assert sample.x.dtype == torch.float32 and sample.id == "d" and sample.y == 1 and type(sample.y) is int
    assert np.array_equal(sample.x.numpy(), PIXELS[3] / np.float32(255))


def test_items_are_copies():
    data = dataset()
    data[0].x.fill_(7)
    assert np.array_equal(data[0].x.numpy(), PIXELS[0] / np.float32(255))


def test_fingerprint_is_the_same_for_equal_content():
    assert dataset().fingerprint() == dataset(pixels=PIXELS.copy(), labels=np.array([0, 1, 0, 1, 0, 1])).fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"pixels": changed(PIXELS, (5, 0, 7, 7), PIXELS[5, 0, 7, 7] ^ 1)},
        {"pixels": PIXELS.reshape(6, 1, 4, 16)},
        {"ids": "abcdeF"},
        {"labels": (0, 1, 0, 1, 0, 0)},
        {"splits": changed(SPLITS, 0, "val")},
        {"sex": "fmfmff"},
        {"classes": ("x", "z")},
    ],
    ids=["pixel", "shape", "id", "label", "split", "group", "class name"],
)
def test_fingerprint_changes_with(change):
    assert dataset(**change).fingerprint() != dataset().fingerprint()


def test_fingerprint_is_computed_once(monkeypatch):
    data = dataset()
    first = data.fingerprint()
    monkeypatch.setattr(data, "content", lambda: pytest.fail("computed again"))
    assert data.fingerprint() == first


def test_pixels_must_be_bytes_and_as_many_as_rows():
    for pixels in (PIXELS / 255, PIXELS[:5], PIXELS[:, 0]):
        with pytest.raises(ValueError, match="uint8"):
            dataset(pixels=pixels)


def test_subset_shows_the_chosen_rows(small_dataset):
    data = small_dataset()
    rows = np.array([30, 3, 44])
    view = Subset(data, rows)
    assert (
        len(view) == 3 and view.table["id"].tolist() == ["s030", "s003", "s044"] and list(view.table.index) == [0, 1, 2]
    )
    for position, row in enumerate(rows):
        assert torch.equal(view[position].x, data[row].x) and view[position][1:] == data[row][1:]
        expected = data.roi_mask(row)
        for mask in (view.roi_mask(position), view.artifact_mask("ruler", position)):
            assert mask is None if expected is None else np.array_equal(mask, expected)
    assert view.artifact_names() == ("ruler",) and view.artifact_flags("ruler").tolist() == [True, False, False]
    assert view.classes == data.classes and view.shape == data.shape


def test_subset_fingerprint_depends_on_rows_splits_and_content(small_dataset):
    data, rows = small_dataset(), np.arange(10)
    prints = [
        Subset(data, rows).fingerprint(),
        Subset(data, rows[::-1]).fingerprint(),
        Subset(data, rows, splits=["test"] * 10).fingerprint(),
        Subset(small_dataset(side=17), rows).fingerprint(),
        data.fingerprint(),
    ]
    assert len(set(prints)) == 5 and prints[0] == Subset(small_dataset(), rows).fingerprint()


def test_new_splits_of_a_subset_leave_the_data_set_alone(small_dataset):
    data = small_dataset()
    before = data.table.copy()
    assert set(Subset(data, np.arange(10), splits=["test"] * 10).table["split"]) == {"test"}
    assert data.table.equals(before)


def test_split_indices_partition_the_rows(small_dataset):
    data = small_dataset()
    parts = [split_indices(data, split) for split in ("train", "val", "test")]
    assert sorted(np.concatenate(parts)) == list(range(60)) and [len(part) for part in parts] == [36, 12, 12]
    assert set(data.table["split"][parts[1]]) == {"val"}
    with pytest.raises(ValueError, match="dev"):
        split_indices(data, "dev")


def test_to_pixels_is_exact_without_resizing():
    assert np.array_equal(to_pixels(PIXELS / 255, None), PIXELS) and np.array_equal(to_pixels(PIXELS / 255, 8), PIXELS)


def test_to_pixels_enlarges_bilinearly():
    ramp = np.tile(np.linspace(0, 1, 8), (300, 1, 8, 1))
    large = to_pixels(ramp, 32)
    # Sample points of the enlarged grid, in units of the small one; beyond the outermost centres the value stays.
    centres = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7) / 7
    assert large.shape == (300, 1, 32, 32) and np.abs(large / 255 - centres).max() < 0.5 / 255 + 1e-6
