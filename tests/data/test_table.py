from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.load import load_dataset
from pipeline.data.table import fill_pattern, match_classes, read_table
from pipeline.errors import ConfigError, DataError

ISIC2017 = Path(__file__).parents[2] / "../shared/data/isic2017"


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def damaged(table_folder):
    """Give five samples a defect each; return the reasons that must be named."""
    images = table_folder / "images"
    (images / "IM_004.png").unlink()
    (images / "IM_005.png").write_bytes((images / "IM_005.png").read_bytes()[:400])
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(images / "IM_006.png")
    edit(table_folder / "labels.csv", "IM_008,0.0", "IM_008,7")
    edit(table_folder / "labels.csv", "IM_009,1.0", "IM_009,")
    return {
        "IM_004": "missing file",
        "IM_005": "truncated or undecodable",
        "IM_006": r"shape \[3, 20, 24\].*set data.image_size",
        "IM_008": "label '7' is not one of the classes 0, 1",
        "IM_009": "empty label",
    }


def test_rows_become_items(table_config, picture):
    data = load_dataset(table_config())
    assert len(data) == 30 and data.shape == (3, 24, 24) and data.classes == ("0", "1") and data.skipped == []
    assert list(data.table.columns) == ["id", "label", "split", "sex"]
    for row in (0, 7, 29):
        sample = data[row]
        assert sample.id == f"IM_{row:03d}" and sample.y == row % 2
        assert np.array_equal(sample.x.numpy(), picture(row).transpose(2, 0, 1) / np.float32(255))
    assert data.table["split"].value_counts().to_dict() == {"train": 18, "val": 6, "test": 6}
    assert data.table["sex"].tolist() == ["f", "m"] * 15


def test_rows_without_a_known_split_are_left_out(table_config):
    assert not set(load_dataset(table_config()).table["id"]) & {"IM_900", "IM_901"}


def test_masks_and_flags_come_from_the_table(table_config):
    data = load_dataset(table_config())
    assert data.artifact_names() == ("ruler",)
    assert data.artifact_flags("ruler").tolist() == [row % 3 == 0 for row in range(30)]
    expected = np.zeros((24, 24), bool)
    expected[:12, 10:] = True
    assert np.array_equal(data.roi_mask(1), expected) and np.array_equal(data.artifact_mask("ruler", 1), ~expected)
    assert data.roi_mask(3) is None and data.artifact_mask("ruler", 3) is None


def test_artifact_without_masks_has_flags_only(table_config):
    data = load_dataset(table_config(artifacts={"ruler": {"column": "ruler"}}, roi_masks=None))
    assert data.artifact_flags("ruler").sum() == 10
    assert data.artifact_mask("ruler", 0) is None and data.roi_mask(0) is None


def test_image_size_and_channels_hold_for_images_and_masks(table_config):
    data = load_dataset(table_config(image_size=16, channels=1))
    assert data.shape == (1, 16, 16) and data[0].x.shape == (1, 16, 16) and data.roi_mask(0).shape == (16, 16)


def test_class_names_are_matched_as_text_in_the_given_order(table_config):
    data = load_dataset(table_config(classes=["1", "0.0"]))
    assert data.classes == ("1", "0") and data[0].y == 1 and data[1].y == 0


def test_split_is_drawn_by_group_where_there_is_no_column(table_config):
    data = load_dataset(table_config(split_column=None, split={"group_column": "patient"}, on_bad_sample="skip"))
    patients = np.arange(30) // 3
    assert len(data) == 30 and data.skipped == [("IM_900", "empty label"), ("IM_901", "empty label")]
    assert all(data.table["split"][patients == patient].nunique() == 1 for patient in range(10))


def test_bad_samples_stop_the_run_in_one_report(table_config, damaged):
    with pytest.raises(DataError, match="5 of 30 samples cannot be used") as caught:
        load_dataset(table_config(classes=["0", "1"]))
    text = str(caught.value)
    for name, reason in damaged.items():
        pytest.raises(DataError, load_dataset, table_config(classes=["0", "1"])).match(f"{name} .*{reason}")
    # One row of each split and class, one of them with a bad file, and the two without a class.
    with pytest.raises(DataError, match="3 of 8 samples"):
        load_dataset(table_config(classes=["0", "1"], limit=1))
    assert "data.on_bad_sample=skip" in text and str(Path("images") / "IM_004.png") in text and "labels.csv" in text


def test_bad_samples_are_skipped_and_counted(table_config, damaged):
    data = load_dataset(table_config(classes=["0", "1"], on_bad_sample="skip"))
    assert sorted(name for name, _ in data.skipped) == sorted(damaged)
    assert len(data) == 25 and not set(data.table["id"]) & set(damaged)
    rows = [int(name[3:]) for name in data.table["id"]]
    assert data.artifact_flags("ruler").tolist() == [row % 3 == 0 for row in rows]
    assert data[4].id == "IM_007" and data[4].y == 1
    direct = load_dataset(table_config(classes=["0", "1"], on_bad_sample="skip", cache_megabytes=0))
    assert all(np.array_equal(data[row].x, direct[row].x) for row in range(25))
    assert np.array_equal(data.roi_mask(2), direct.roi_mask(2)) and data.roi_mask(3) is None


def test_report_lists_twenty_and_counts_the_rest(table_config, table_folder):
    for path in sorted((table_folder / "images").iterdir())[:25]:
        path.unlink()
    with pytest.raises(DataError, match="25 of 30 samples") as caught:
        load_dataset(table_config())
    assert str(caught.value).count("missing file") == 20 and "and 5 more" in str(caught.value)


def test_nothing_usable_is_an_error_even_when_skipping(table_config, table_folder):
    for path in (table_folder / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="not one of 30 samples.*IM_000: missing file"):
        load_dataset(table_config(on_bad_sample="skip"))


def test_arrays_are_allowed_and_their_defects_listed(table_config, table_folder):
    arrays = table_folder / "arrays"
    arrays.mkdir()
    for row in range(30):
        np.save(arrays / f"IM_{row:03d}.npy", np.full((8, 8), row / 30, np.float32))
    data = load_dataset(table_config(path="arrays/{id}.npy", channels=1))
    assert data.shape == (1, 8, 8) and np.allclose(data[10].x, 1 / 3)
    np.save(arrays / "IM_003.npy", np.full((8, 8), np.nan))
    np.save(arrays / "IM_004.npy", np.full((9, 8), 0.5))
    np.save(arrays / "IM_005.npy", np.full((8, 8), 3.0))
    defects = r"(?s)3 of 30.*IM_003[^\n]*NaN.*IM_004[^\n]*shape \[1, 9, 8\].*IM_005[^\n]*from 3 to 3"
    with pytest.raises(DataError, match=defects):
        load_dataset(table_config(path="arrays/{id}.npy", channels=1))


def test_missing_root_names_path_key_and_next_step(table_config, tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/nowhere does not exist.*data\.root.*--set data\.root="):
        load_dataset(table_config(root=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match="is not a folder"):
        load_dataset(table_config(root=str(tmp_path / "table/labels.csv")))


def test_missing_table_names_the_files_beside_it(table_config):
    with pytest.raises(DataError, match=r"label\.csv does not exist \(key data\.table\).*labels\.csv"):
        load_dataset(table_config(table="label.csv"))


@pytest.mark.parametrize(
    "values, key",
    [
        ({"id_column": "imageid"}, "data.id_column.*'imageid'.*Did you mean 'image_id'"),
        ({"label_column": "melanomas"}, "data.label_column.*Did you mean 'melanoma'"),
        ({"split_column": "folds"}, "data.split_column.*Did you mean 'fold'"),
        ({"group_columns": ["sx"]}, "data.group_columns.*Did you mean 'sex'"),
        ({"split": {"group_column": "patients"}}, "data.split.group_column.*Did you mean 'patient'"),
        ({"path": "images/{imge_id}.png"}, "data.path.*Did you mean 'image_id'"),
        ({"roi_masks": "{foldd}/{id}.png"}, "data.roi_masks.*Did you mean 'fold'"),
        ({"artifacts": {"tape": {"column": "rulr"}}}, "data.artifacts.tape.column.*Did you mean 'ruler'"),
        ({"artifacts": {"tape": {"column": "ruler", "masks": "{sexx}"}}}, "data.artifacts.tape.masks.*mean 'sex'"),
    ],
)
def test_unknown_column_names_the_nearest(table_config, values, key):
    with pytest.raises(ConfigError, match=key):
        load_dataset(table_config(**values))


def test_group_column_cannot_take_the_name_of_a_fixed_column(table_config, table_folder):
    edit(table_folder / "labels.csv", ",sex,", ",label,")
    with pytest.raises(ConfigError, match="data.group_columns names 'label'"):
        load_dataset(table_config(group_columns=["label"]))


def test_split_that_no_row_has_shows_what_there_is(table_config, table_folder):
    edit(table_folder / "labels.csv", ",val,", ",validation,")
    with pytest.raises(DataError, match=r"'val' in the column 'fold'.*train 18.*validation 6"):
        load_dataset(table_config())


def test_flags_must_be_yes_or_no(table_config):
    with pytest.raises(DataError, match="'patient' holds 'p0'; allowed are 1, true"):
        load_dataset(table_config(artifacts={"ruler": {"column": "patient"}}))


def test_classes_given_twice_are_refused(table_config):
    with pytest.raises(ConfigError, match="lists a name twice: 1, 1.0"):
        load_dataset(table_config(classes=["1", "1.0"]))


def test_ids_must_be_unique_and_fit_for_files(table_config, table_folder):
    edit(table_folder / "labels.csv", "IM_001,", "IM_000,")
    with pytest.raises(DataError, match="labels.csv: 1 sample ids occur more than once, for example 'IM_000'"):
        load_dataset(table_config())
    edit(table_folder / "labels.csv", "IM_000,1.0", "../IM_001,1.0")
    with pytest.raises(DataError, match="cannot be file names, for example '../IM_001'"):
        load_dataset(table_config())


def test_table_is_read_as_tidy_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffid, name ,x,y\n007, a ,1.0,NA\n1e3,b,0.50,\n-2.000,c,-0.0,1.\n".encode())
    table = read_table(path)
    assert table.columns.tolist() == ["id", "name", "x", "y"]
    assert table.to_numpy().tolist() == [["007", "a", "1", "NA"], ["1e3", "b", "0.50", ""], ["-2", "c", "0", "1"]]


def test_unreadable_tables_are_named(tmp_path):
    path = tmp_path / "t.csv"
    for content in (b"", b'a,b\n1,"2\n', b"\xff\xfe\x00\x01"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"t\.csv is no readable CSV file"):
            read_table(path)
    path.write_text("a,b\n")
    with pytest.raises(DataError, match=r"t\.csv has no rows"):
        read_table(path)


def test_whole_numbers_are_ordered_by_value_and_names_by_letter():
    assert match_classes(["10", "9", "", "-1"], None)[0] == ("-1", "9", "10")
    assert match_classes(["b", "10", "nan", "9"], None)[0] == ("10", "9", "b")


def test_patterns_take_any_column():
    columns = {"id": ["a", "b"], "a folder": ["x", "y"]}
    paths = fill_pattern(Path("root"), "{a folder}/{id}_{id}.png", columns, 2)
    assert paths == [Path("root/x/a_a.png"), Path("root/y/b_b.png")]
    assert fill_pattern(Path("root"), "one.png", columns, 2) == [Path("root/one.png")] * 2


@pytest.mark.real_data
def test_dermoscopy_images_load(data_config):
    if not (ISIC2017 / "labels.csv").is_file():
        pytest.skip("the dermoscopy images are not beside the repository")
    config = data_config(
        kind="table",
        root=str(ISIC2017),
        id_column="image_id",
        label_column="melanoma",
        split_column="audit_split",
        group_columns=["sex"],
        roi_masks="lesion_masks/{id}.png",
        artifacts={"ruler": {"column": "ruler", "masks": "artifact_masks/ruler/{id}.png"}},
        image_size=64,
        limit=5,
    )
    data = load_dataset(config)
    assert len(data) == 30 and data.shape == (3, 64, 64) and data.classes == ("0", "1")
    assert data.table.groupby(["split", "label"]).size().tolist() == [5] * 6
    x = np.stack([sample.x for sample in data])
    assert 0.3 < x.mean() < 0.9 and x.std() > 0.1
    roi = [data.roi_mask(row) for row in range(30)]
    assert any(mask is not None and 0.01 < mask.mean() < 0.99 for mask in roi)
