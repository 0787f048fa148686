from __future__ import annotations

import shutil

import numpy as np
import pytest

from pipeline.data.load import load_dataset
from pipeline.errors import ConfigError, DataError


def test_class_folders_become_classes(data_config, class_folder, picture):
    data = load_dataset(data_config(kind="folder", root=str(class_folder)))
    assert len(data) == 24 and data.classes == ("cat", "dog") and set(data.table["split"]) == {"train", "val", "test"}
    row = data.table["id"].tolist().index("cat__002")
    assert data[row].y == 0 and np.array_equal(data[row].x.numpy(), picture(2).transpose(2, 0, 1) / np.float32(255))


def test_split_folders_are_kept(data_config, class_folder, tmp_path):
    for split in ("train", "val", "test"):
        shutil.copytree(class_folder, tmp_path / "divided" / split)
    data = load_dataset(data_config(kind="folder", root=str(tmp_path / "divided")))
    assert len(data) == 72 and data.table.groupby(["split", "label"]).size().tolist() == [12] * 6
    assert all(name.startswith(f"{split}__") for name, split in zip(data.table["id"], data.table["split"], strict=True))


def test_empty_class_folder_is_noticed(data_config, class_folder):
    (class_folder / "emu").mkdir()
    with pytest.raises(DataError, match="class 'emu' has no samples in split 'train'"):
        load_dataset(data_config(kind="folder", root=str(class_folder)))


def test_root_without_class_folders_explains_the_layout(data_config, tmp_path):
    with pytest.raises(DataError, match=r"root/<class>/<image>.*--set data\.root="):
        load_dataset(data_config(kind="folder", root=str(tmp_path)))


def test_two_images_of_one_name_are_refused(data_config, class_folder):
    shutil.copy(class_folder / "cat/000.jpg", class_folder / "cat/000.jpeg")
    with pytest.raises(DataError, match="cat__000"):
        load_dataset(data_config(kind="folder", root=str(class_folder)))


def test_group_column_is_refused(data_config, class_folder):
    with pytest.raises(ConfigError, match="group_column"):
        load_dataset(data_config(kind="folder", root=str(class_folder), split={"group_column": "patient"}))
