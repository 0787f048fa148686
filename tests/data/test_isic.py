from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.load import load_dataset
from pipeline.errors import ConfigError, DataError

TRUTH = "ISIC_2019_Training_GroundTruth.csv"
METADATA = "ISIC_2019_Training_Metadata.csv"


@pytest.fixture
def config(data_config, isic_folder):
    return lambda **values: data_config(**dict(kind="isic", root=str(isic_folder)) | values)


def replace_row(path, start, line):
    rows = path.read_text().splitlines()
    assert any(row.startswith(start) for row in rows)
    path.write_text("\n".join(line if row.startswith(start) else row for row in rows))


def test_diagnoses_that_occur_are_the_classes(config):
    data = load_dataset(config())
    assert data.classes == ("MEL", "NV") and len(data) == 40 and data.shape == (3, 24, 24)
    assert data.table["label"].tolist() == [1, 1, 0, 0] * 10
    assert data[0].id == "ISIC_0000000_downsampled" and data[1].id == "ISIC_0000001"


def test_metadata_become_group_columns_in_the_order_of_the_images(config):
    table = load_dataset(config()).table
    assert table["anatom_site_general"].tolist() == ["torso" if row % 3 else "" for row in range(40)]
    assert set(table["sex"]) == {"female"}


def test_target_is_one_diagnosis_against_the_rest(config):
    data = load_dataset(config(target="MEL"))
    assert data.classes == ("other", "MEL") and data.table["label"].tolist() == [0, 0, 1, 1] * 10


def test_lesions_stay_in_one_split(config):
    splits = load_dataset(config()).table["split"].to_numpy()
    assert np.array_equal(splits[::2], splits[1::2])


def test_group_column_takes_the_place_of_lesions(config, isic_folder):
    path = isic_folder / METADATA
    rows = path.read_text().splitlines()
    patient = {f"ISIC_{row:07d}": f"P{row % 10}" for row in range(40)}
    path.write_text("\n".join([f"{rows[0]},patient", *(f"{row},{patient[row[:12]]}" for row in rows[1:])]))
    splits = load_dataset(config(split={"group_column": "patient"})).table["split"].to_numpy()
    assert all(len(set(splits[start::10])) == 1 for start in range(10))
    with pytest.raises(ConfigError, match="data.split.group_column.*Did you mean 'patient'"):
        load_dataset(config(split={"group_column": "patients"}))


def test_images_without_lesion_or_metadata_stand_alone(config, isic_folder):
    replace_row(isic_folder / METADATA, "ISIC_0000002,", "ISIC_0000002,50,torso,,male")
    rows = (isic_folder / METADATA).read_text().splitlines()
    (isic_folder / METADATA).write_text("\n".join(row for row in rows if not row.startswith("ISIC_0000005")))
    table = load_dataset(config()).table
    assert table["sex"][2] == "male" and table["sex"][5] == "" and table["anatom_site_general"][5] == ""
    assert len(load_dataset(config(metadata=None)).table.columns) == 3


def test_unknown_target_lists_the_diagnoses(config):
    with pytest.raises(ConfigError, match="data.target is 'mel'.*MEL, NV, UNK"):
        load_dataset(config(target="mel"))


def test_rows_must_name_exactly_one_diagnosis(config, isic_folder):
    replace_row(isic_folder / TRUTH, "ISIC_0000003,", "ISIC_0000003,1.0,1.0,0.0")
    replace_row(isic_folder / TRUTH, "ISIC_0000004,", "ISIC_0000004,0.0,0.0,0.0")
    with pytest.raises(DataError, match=r"2 of 40(.|\n)*ISIC_0000003.*: 2 diagnoses(.|\n)*ISIC_0000004.*: 0 diagnoses"):
        load_dataset(config())
    assert len(load_dataset(config(on_bad_sample="skip"))) == 38


def test_missing_files_name_their_key(config):
    with pytest.raises(DataError, match=r"data\.ground_truth.*" + TRUTH):
        load_dataset(config(ground_truth="truth.csv"))
    with pytest.raises(DataError, match=r"data\.metadata"):
        load_dataset(config(metadata="meta.csv"))
    with pytest.raises(DataError, match="40 of 40(.|\n)*missing file"):
        load_dataset(config(images="elsewhere"))
