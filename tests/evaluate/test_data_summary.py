from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from pipeline.config.data import GlyphAttack
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.data.worlds import WorldView
from pipeline.errors import ConfigError
from pipeline.evaluate.data_summary import MOST_VALUES, OTHER, group_columns, summarize_data

N = 90
CLASSES = ("a", "b", "c")
GENERATOR = np.random.default_rng(2)
PIXELS = GENERATOR.integers(0, 256, (N, 1, 16, 16), dtype=np.uint8)
LABELS = GENERATOR.integers(0, 3, N)
SPLITS = np.repeat(np.array(["train", "val", "test"], dtype=object), [50, 20, 20])
SITES = np.array([f"site {int(number)}" for number in GENERATOR.geometric(0.05, N)], dtype=object)


def dataset(pixels=PIXELS, **columns) -> ArrayDataset:
    groups = {name: np.array(values, dtype=object) for name, values in columns.items()}
    return ArrayDataset(pixels, make_table([f"s{row}" for row in range(N)], LABELS, SPLITS, groups), CLASSES)


def silent(text: str) -> None:
    """Say nothing."""


def frame(counts) -> pd.DataFrame:
    return pd.DataFrame([each.model_dump() for each in counts])


def test_classes_are_counted_in_every_split_also_where_there_are_none():
    data = dataset()
    data.table.loc[(data.table["split"] == "val") & (data.table["label"] == 1), "label"] = 2
    counts = frame(summarize_data(data, [], None, silent).classes)
    expected = pd.crosstab(data.table["split"], data.table["label"])
    assert len(counts) == 9 and counts["n"].sum() == N
    for row in counts.itertuples():
        assert row.n == expected.loc[row.split, CLASSES.index(row.class_name)]
    assert counts.loc[(counts["split"] == "val") & (counts["class_name"] == "b"), "n"].item() == 0


def test_subgroups_are_counted_by_class_and_split():
    sexes = GENERATOR.choice(np.array(["f", "m", "", np.nan], dtype=object), N)
    data = dataset(sex=sexes)
    summary = summarize_data(data, ["sex"], None, silent)
    table = data.table.assign(sex=[value if value in ("f", "m") else "" for value in sexes])
    expected = table.groupby(["sex", "split", "label"]).size()
    assert len(summary.subgroups) == len(expected)
    for each in summary.subgroups:
        assert each.column == "sex" and each.n == expected[each.value, each.split, CLASSES.index(each.class_name)]
    assert summary.missing == {"sex": int((table["sex"] == "").sum())}
    values = list(dict.fromkeys(each.value for each in summary.subgroups))
    assert values == ["f", "m", ""], "what is missing comes last"


def test_rare_values_are_summed_up():
    assert len(set(SITES)) > MOST_VALUES + 5
    counts = frame(summarize_data(dataset(site=SITES), ["site"], None, silent).subgroups)
    by_value = counts.groupby("value")["n"].sum()
    assert len(by_value) == MOST_VALUES + 1 and by_value.sum() == N
    frequent = [n for _, n in Counter(SITES).most_common(MOST_VALUES)]
    assert sorted(by_value.drop(OTHER)) == sorted(frequent)
    for value, n in by_value.drop(OTHER).items():
        assert n == (value == SITES).sum()
    assert counts["value"].iloc[-1] == OTHER


def test_a_value_that_is_called_other_is_not_lost():
    sites = np.where(np.arange(N) % 2, "other", SITES)
    counts = frame(summarize_data(dataset(site=sites), ["site"], None, silent).subgroups)
    assert counts["n"].sum() == N


def test_numbers_are_values_too():
    data = dataset()
    data.table["age"] = np.where(np.arange(N) % 3, 55.0, np.nan)
    summary = summarize_data(data, ["age"], None, silent)
    assert {each.value for each in summary.subgroups} == {"55.0", ""} and summary.missing == {"age": 30}


def test_an_unknown_column_is_named():
    with pytest.raises(ConfigError, match="evaluate.subgroups names the column 'sax'.*Did you mean 'sex'"):
        summarize_data(dataset(sex=["f"] * N), ["sax"], None, silent)


def test_copies_are_looked_for_behind_what_is_planted():
    pixels = PIXELS.copy()
    pixels[75] = pixels[3]
    view = WorldView(dataset(pixels), GlyphAttack(kind="glyph", classes=["a", "b", "c"], size=9), "attacked", 0)
    said = []
    summary = summarize_data(view, [], None, said.append)
    assert [check.check for check in summary.leakage] == ["identical pixels", "nearly identical pixels", "same group"]
    assert [check.status for check in summary.leakage] == ["leak", "leak", "not_run"]
    assert summary.leakage[0].examples == [("s75", "s3")]
    assert sum("1 test samples (1 pairs)" in text for text in said) == 2


def test_groups_are_those_that_are_named_and_those_that_tell_identities():
    columns = ["id", "label", "split", "sex", "Patient_ID", "ward"]
    assert group_columns(columns, None) == ["Patient_ID"]
    assert group_columns(columns, "ward") == ["ward", "Patient_ID"]
    assert group_columns(columns, "Patient_ID") == ["Patient_ID"]
    assert group_columns(columns[:4], None) == []


def test_same_patients_are_a_leak():
    patients = [f"p{row % 80}" for row in range(N)]
    patients[5] = ""
    summary = summarize_data(dataset(patient=patients), [], None, silent)
    assert (summary.leakage[2].status, summary.leakage[2].pairs) == ("leak", 9)
    assert summary.missing == {"patient": 1}
    summary = summarize_data(dataset(ward=patients), [], "ward", silent)
    assert summary.leakage[2].pairs == 9
    assert summarize_data(dataset(), [], "ward", silent).leakage[2].status == "not_run"


def test_the_same_data_give_the_same_summary():
    first, second = (summarize_data(dataset(site=SITES), ["site"], None, silent) for _ in range(2))
    assert first.model_dump_json() == second.model_dump_json()


def test_a_thousand_images_take_no_time():
    count = 1000
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 64, 64), dtype=np.uint8)
    splits = ["test" if row % 5 == 0 else "train" for row in range(count)]
    data = ArrayDataset(pixels, make_table([f"s{row}" for row in range(count)], [0] * count, splits), CLASSES)
    start = time.process_time()
    summarize_data(data, [], None, silent)
    assert time.process_time() - start < 5
