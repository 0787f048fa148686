from __future__ import annotations

import importlib
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.config.data import DATA_KINDS
from pipeline.data.checks import REQUIRED, check_dataset
from pipeline.data.load import ADAPTERS, load_dataset
from pipeline.data.memory import ArrayDataset, Subset, make_table
from pipeline.errors import DataError

FILE_KINDS = ("table", "folder", "isic")


@pytest.fixture
def config_of(request, data_config):
    """The smallest configuration of every kind, file kinds on look-alike folders."""

    def make(kind, **values):
        if kind == "table":
            return request.getfixturevalue("table_config")(**values)
        if kind in FILE_KINDS:
            folder = {"folder": "class_folder", "isic": "isic_folder"}[kind]
            return data_config(kind=kind, root=str(request.getfixturevalue(folder)), **values)
        return data_config(kind=kind, **values)

    return make


def test_every_kind_of_the_configuration_has_an_adapter():
    assert set(ADAPTERS) == set(DATA_KINDS)
    for entry in ADAPTERS.values():
        module, name = entry.split(":")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_keep_the_protocol(config_of, kind):
    config = config_of(kind)
    data, again = load_dataset(config), load_dataset(config)
    assert all(hasattr(data, name) for name in REQUIRED) and data.skipped == []
    assert list(data.table.columns[:3]) == ["id", "label", "split"] and isinstance(data.table, pd.DataFrame)
    assert len(data) == len(data.table) and data.table["id"].is_unique
    assert set(data.table["label"]) == set(range(len(data.classes))) and all(type(each) is str for each in data.classes)
    assert data.fingerprint() == again.fingerprint() and data.table.equals(again.table)
    for row in (0, 1, len(data) - 1):
        sample = data[row]
        assert sample.x.dtype == torch.float32 and tuple(sample.x.shape) == data.shape
        assert 0 <= sample.x.min() and sample.x.max() <= 1
        assert sample.id == data.table["id"][row] and sample.y == data.table["label"][row]
        assert type(sample.y) is int and type(sample.id) is str
        assert torch.equal(sample.x, again[row].x)
    with pytest.raises(IndexError):
        data[len(data)]


@pytest.mark.parametrize("kind", ADAPTERS)
def test_data_sets_can_be_sent_to_other_processes(config_of, kind):
    data = load_dataset(config_of(kind, limit=2))
    assert torch.equal(pickle.loads(pickle.dumps(data))[1].x, data[1].x)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_limit_takes_the_first_rows_of_each_split_and_class(config_of, kind):
    full, cut = load_dataset(config_of(kind)), load_dataset(config_of(kind, limit=1))
    first = full.table.drop_duplicates(["split", "label"])
    assert len(cut) == 3 * len(full.classes) and cut.table["id"].tolist() == first["id"].tolist()
    assert cut.fingerprint() != full.fingerprint()
    assert torch.equal(cut[2].x, full[int(first.index[2])].x)


@pytest.mark.parametrize("kind", [kind for kind in ADAPTERS if kind != "table"])
def test_split_seed_changes_the_splits_and_the_fingerprint(config_of, kind):
    one, two = load_dataset(config_of(kind)), load_dataset(config_of(kind, split={"seed": 1}))
    assert one.table["split"].tolist() != two.table["split"].tolist() and one.fingerprint() != two.fingerprint()
    assert load_dataset(config_of(kind), seed=9).fingerprint() == one.fingerprint()


def test_digits_are_enlarged_to_32_pixels_and_keep_their_values(data_config):
    from sklearn.datasets import load_digits

    data = load_dataset(data_config(kind="digits"))
    assert len(data) == 1797 and data.shape == (1, 32, 32) and data.table["id"][5] == "digit-0005"
    native = load_dataset(data_config(kind="digits", image_size=8))
    assert np.abs(native[5].x.numpy()[0] - load_digits().images[5] / 16).max() <= 0.5 / 255 + 1e-6
    assert native.table["label"].tolist() == load_digits().target.tolist()


def test_mnist_has_500_digits_of_each_class_at_28_pixels(data_config):
    data = load_dataset(data_config(kind="mnist5k"))
    assert data.table["label"].value_counts().to_dict() == dict.fromkeys(range(10), 500)
    assert data.shape == (1, 28, 28) and data.classes == tuple("0123456789") and data.table["id"][0] == "mnist-00000"
    assert data.table.groupby("label")["split"].value_counts().unstack().drop_duplicates().to_dict("records") == [
        {"train": 325, "val": 75, "test": 100}
    ]


def test_the_region_of_interest_of_a_digit_is_its_ink_grown_and_nothing_at_the_border(data_config):
    assert load_dataset(data_config(kind="mnist5k")).roi_mask(0) is None
    ink, grown = (load_dataset(data_config(kind="mnist5k", digit_roi=pixels)) for pixels in (0, 2))
    for row in range(0, 5000, 611):
        x, exact, wide = ink[row].x[0].numpy(), ink.roi_mask(row), grown.roi_mask(row)
        assert np.array_equal(exact, x > 64 / 255)
        rows, columns = np.nonzero(exact)
        near = np.zeros_like(exact)
        for row_of_ink, column_of_ink in zip(rows, columns, strict=True):
            near[max(0, row_of_ink - 2) : row_of_ink + 3, max(0, column_of_ink - 2) : column_of_ink + 3] = True
        assert np.array_equal(wide, near)
        assert not wide[:2].any() and not wide[:, :2].any()


def change_pixel(root):
    path = sorted(root.rglob("*.png"), key=lambda each: ("mask" in str(each), str(each)))[0]
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)


def change_table(old, new):
    def change(root):
        text = (root / "labels.csv").read_text()
        assert old in text
        (root / "labels.csv").write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    "change",
    [
        change_pixel,
        change_table("IM_000,0.0", "IM_000,1.0"),
        change_table("0.0,train", "0.0,val"),
        change_table(",f,", ",x,"),
    ],
    ids=["pixel", "label", "split", "group"],
)
def test_fingerprint_of_files_changes_with(table_config, table_folder, change):
    before = load_dataset(table_config()).fingerprint()
    change(table_folder)
    assert load_dataset(table_config()).fingerprint() != before


def test_fingerprint_of_files_does_not_change_otherwise(table_config, table_folder):
    before = load_dataset(table_config()).fingerprint()
    elsewhere = table_folder.parent / "moved"
    shutil.copytree(table_folder, elsewhere)
    (elsewhere / "images/unlisted.png").write_bytes(b"")
    change_table(",P0,", ",P99,")(elsewhere)
    assert load_dataset(table_config(root=str(elsewhere), cache_megabytes=0)).fingerprint() == before


def test_fingerprint_of_files_changes_with_their_size_and_channels(table_config):
    configs = [table_config(), table_config(image_size=16), table_config(channels=1)]
    assert len({load_dataset(config).fingerprint() for config in configs}) == 3


def test_class_missing_in_a_split_is_named_with_counts(table_config, table_folder, monkeypatch):
    text = (table_folder / "labels.csv").read_text()
    (table_folder / "labels.csv").write_text(text.replace(",1.0,val", ",1.0,train"))
    decoded = []
    monkeypatch.setattr("pipeline.data.images._decode", lambda *_: decoded.append(1))
    gap = r"(?s)class '1' has no samples in split 'val'.*  1: train 12, val 0, test 3.*data\.split"
    with pytest.raises(DataError, match=gap):
        load_dataset(table_config())
    assert not decoded, "must be noticed before hours of decoding"


def test_skipped_samples_are_named_as_a_cause_of_gaps(table_config, table_folder):
    for row in (6, 16, 26):
        (table_folder / f"images/IM_{row:03d}.png").unlink()
    with pytest.raises(DataError, match=r"class '0' has no samples in split 'val'(.|\n)*3 bad samples were skipped"):
        load_dataset(table_config(on_bad_sample="skip"))


def in_memory(splits, labels=(0, 1) * 6, ids=None, classes=("a", "b")):
    pixels = np.zeros((12, 1, 8, 8), np.uint8)
    return ArrayDataset(pixels, make_table(ids or [f"s{row}" for row in range(12)], labels, splits), classes)


GOOD_SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2


@pytest.mark.parametrize(
    "dataset, message",
    [
        (in_memory(["train"] * 10 + ["val"] * 2), "split 'test' is empty"),
        (in_memory(["train"] * 8 + ["dev"] * 2 + ["test"] * 2), "unknown splits 'dev'; allowed are train, val, test"),
        (in_memory(GOOD_SPLITS, labels=(0, 2) * 6), "class ids 0..1, but are '0', '2'"),
        (in_memory(GOOD_SPLITS, labels=(0, -1) * 6), "class ids 0..1"),
        (in_memory(GOOD_SPLITS, ids=["s"] * 12), "1 sample ids occur more than once, for example 's'"),
        (in_memory(GOOD_SPLITS, ids=["a/b", *"bcdefghijkl"]), "cannot be file names, for example 'a/b'"),
        (in_memory(GOOD_SPLITS, labels=[0] * 12, classes=["a"]), "at least two different names"),
        (in_memory(GOOD_SPLITS, classes=["a", "a"]), "at least two different names"),
        (Subset(in_memory(GOOD_SPLITS), []), "0 samples and 0 rows"),
    ],
)
def test_broken_promises_are_named(dataset, message):
    with pytest.raises(DataError, match=f"(?s)here.*{message}|Unusable splits: {message}"):
        check_dataset(dataset, "here")


def test_good_data_set_passes():
    check_dataset(in_memory(GOOD_SPLITS), "here")
