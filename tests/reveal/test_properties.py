from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, fisher_exact, mannwhitneyu

from pipeline.config.reveal import PropertiesConfig
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.errors import ConfigError
from pipeline.reveal.properties import (
    Association,
    Properties,
    associate,
    best_threshold,
    dot_plot,
    holm,
    numeric_association,
    read_column,
    value_association,
)
from pipeline.reveal.view import DataView
from pipeline.statistics import Interval, auroc, wilson

LABELS = np.arange(240) % 3
BRIGHT = (LABELS == 1) & (np.arange(240) // 3 % 2 == 0)


class LabelledStore:
    """As much of a feature store as the detector needs."""

    labels = LABELS


def make_view(groups=None, *, pixels: np.ndarray | None = None, rows: np.ndarray | None = None) -> DataView:
    if pixels is None:
        pixels = np.random.default_rng(0).integers(80, 120, (240, 3, 8, 8)).astype(np.uint8)
    ids, splits = [f"s{number}" for number in range(240)], ["train"] * 240
    dataset = ArrayDataset(pixels, make_table(ids, LABELS, splits, groups), ("cat", "dog", "fox"))
    return DataView(LabelledStore(), dataset, None, np.arange(240) if rows is None else rows)


def bright_pixels() -> np.ndarray:
    pixels = np.random.default_rng(0).integers(80, 120, (240, 3, 8, 8)).astype(np.uint8)
    pixels[BRIGHT] += 100
    return pixels


def detect(view: DataView, **changes):
    return Properties(PropertiesConfig(kind="properties", **changes)).detect(view)


def table_of(detection) -> dict[tuple[str, str, int], int]:
    keys = [detection.arrays[f"associations/{name}"] for name in ("name", "value", "class_id")]
    return {
        (name.decode(), value.decode(), int(each)): line
        for line, (name, value, each) in enumerate(zip(*keys, strict=True))
    }


def test_a_number_is_measured_by_the_auroc_and_the_rank_test():
    values = np.random.default_rng(0).normal(size=240).round(1) + 0.6 * (LABELS == 2)
    found = numeric_association("brightness", values, 2, LABELS)
    assert found.estimate == auroc(values, LABELS == 2) and found.baseline == 0.5 and found.above_baseline
    expected = mannwhitneyu(values[LABELS == 2], values[LABELS != 2]).pvalue
    assert found.p_value == pytest.approx(expected) and found.missing == 0


def test_missing_numbers_are_counted_and_left_out():
    values = np.random.default_rng(0).normal(size=240)
    holed = values.copy()
    holed[::5] = np.nan
    known = np.isfinite(holed)
    found = numeric_association("age", holed, 0, LABELS)
    assert found.missing == 48 and found.estimate == auroc(values[known], LABELS[known] == 0)


def test_a_constant_is_no_evidence_and_a_class_of_one_sample_no_question():
    found = numeric_association("saturation", np.zeros(240), 0, LABELS)
    assert found.estimate.value == 0.5 and found.p_value == 1
    assert numeric_association("age", np.arange(5.0), 1, np.array([0, 0, 0, 0, 1])) is None


def test_a_lower_property_has_the_strength_of_its_mirror_image():
    values = np.random.default_rng(0).normal(size=240) - (LABELS == 2)
    low, high = (numeric_association("x", sign * values, 2, LABELS) for sign in (1, -1))
    assert not low.above_baseline and low.strength == pytest.approx(high.estimate)
    assert low.strength.lower < low.strength.value < low.strength.upper


def test_a_value_is_measured_by_the_rate_of_the_class_against_its_share():
    values = np.array(["a", "b", ""], dtype=object)[np.random.default_rng(0).integers(0, 3, 240)]
    known = values != ""
    found = value_association("site", "a", values, 1, LABELS)
    having, inside = values == "a", LABELS == 1
    assert found.estimate == wilson((having & inside).sum(), having.sum())
    assert found.baseline == pytest.approx(inside[known].mean()) and found.missing == (~known).sum()
    table = pd.crosstab(having[known], inside[known]).to_numpy()
    assert found.p_value == pytest.approx(fisher_exact(table).pvalue)


def test_holm_equals_the_worked_example_and_never_exceeds_1():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1] and holm([]).shape == (0,)
    p_values = np.random.default_rng(0).random(50) ** 3
    # Between the single tests and Bonferroni's correction, and stricter than the false discovery rate.
    assert (holm(p_values) >= p_values).all() and (holm(p_values) <= np.minimum(50 * p_values, 1)).all()
    assert (holm(p_values) >= false_discovery_control(p_values) - 1e-12).all()


def test_the_threshold_has_the_most_hits_less_false_hits():
    assert best_threshold(np.array([1.0, 2, 3, 4, 5]), np.array([0, 0, 1, 0, 1], bool)) in (3.0, 5.0)
    assert best_threshold(np.array([1.0, 2, 3, 4]), np.array([0, 0, 1, 1], bool)) == 3
    # Two false hits of 22 cost less than half of the class, though they are more in number.
    rare = np.array([5.0, 3, 4, 4, *np.ones(20)]), np.arange(24) < 2
    assert best_threshold(*rare) == 3
    # Samples of equal value stand on one side together, whoever comes first.
    ties = np.array([5.0, 5, 4, 5, 5, 5, 5, 5, 1]), np.arange(9) < 3
    assert best_threshold(*ties) == 4
    generator = np.random.default_rng(0)
    values, inside = generator.integers(0, 20, 300).astype(float), generator.random(300) < 0.1
    values[inside] += 4
    youden = {v: (values[inside] >= v).mean() - (values[~inside] >= v).mean() for v in np.unique(values)}
    assert youden[best_threshold(values, inside)] == pytest.approx(max(youden.values()))


@pytest.mark.parametrize("number", ["1.5", 1.5])
def test_many_numbers_are_numbers_and_missing_ones_are_not_invented(number):
    cells = [*range(20), "", None, "nan", " None ", number]
    found = read_column(pd.DataFrame({"age": pd.Series(cells, dtype=object)}), "age")
    assert found.dtype == np.float64 and np.isnan(found[20:24]).all() and found[24] == 1.5
    assert found[:20].tolist() == list(range(20))


def test_words_and_a_few_numbers_are_codes():
    table = pd.DataFrame({"sex": ["m", "f", "", "nan"], "site": [1, 2, 2, 1], "width": [600, 1024, 600, 1024]})
    assert read_column(table, "sex").tolist() == ["m", "f", "", ""]
    assert read_column(table, "site").tolist() == ["1", "2", "2", "1"]
    assert read_column(table, "width").tolist() == [600, 1024, 600, 1024]


def test_a_column_without_any_value_is_text_without_values():
    assert read_column(pd.DataFrame({"age": ["", None, "nan"]}), "age").tolist() == ["", "", ""]


def test_p_values_are_corrected_over_the_whole_table():
    values = np.random.default_rng(0).normal(size=240)
    texts = {"site": np.array(["a", "b"], dtype=object)[np.arange(240) // 3 % 2]}
    found = associate({"x": values, "y": values + (LABELS == 0)}, texts, LABELS, 3, 12)
    assert len(found) == 2 * 3 + 2 * 3
    np.testing.assert_allclose([each.adjusted for each in found], holm([each.p_value for each in found]))


def test_rare_values_and_columns_of_one_value_are_not_tested():
    texts = {
        "patient": np.array([f"p{number // 2}" for number in range(240)], dtype=object),
        "device": np.full(240, "a", dtype=object),
        "site": np.array(["a"] * 200 + ["b"] * 30 + ["c"] * 10, dtype=object),
    }
    found = associate({}, texts, LABELS, 3, 12)
    assert {(each.name, each.value) for each in found} == {("site", "a"), ("site", "b")}


def test_a_planted_brightness_is_a_candidate_with_the_bright_samples():
    found = detect(make_view(pixels=bright_pixels())).candidates
    mine = next(each for each in found if each.note.startswith("brightness"))
    assert mine.class_id == 1 and mine.layer == "input" and mine.neuron_ids == ()
    assert set(np.flatnonzero(BRIGHT)) <= set(mine.member_rows) and len(mine.member_rows) < BRIGHT.sum() + 6
    assert mine.note.startswith("brightness tells this class from the others: AUROC 0.7") and "higher" in mine.note


def test_a_planted_darkness_is_found_from_the_other_side():
    found = detect(make_view(pixels=255 - bright_pixels())).candidates
    mine = next(each for each in found if each.note.startswith("brightness"))
    assert mine.class_id == 1 and set(np.flatnonzero(BRIGHT)) <= set(mine.member_rows)
    assert mine.note.endswith("lower in the class")


def test_noise_has_no_candidates():
    generator = np.random.default_rng(1)
    groups = {"site": np.array(["a", "b"])[generator.integers(0, 2, 240)], "age": generator.integers(0, 80, 240)}
    detection = detect(make_view(groups))
    assert detection.candidates == [] and detection.arrays["associations/adjusted"].min() > 0.05


def test_a_planted_value_is_a_candidate_with_the_samples_that_have_it():
    site = np.where(BRIGHT, "north", np.array(["south", "east"])[np.arange(240) // 4 % 2])
    found = detect(make_view({"site": site})).candidates
    assert [each.member_rows.tolist() for each in found] == [np.flatnonzero(BRIGHT).tolist()]
    assert found[0].class_id == 1
    assert found[0].note.startswith("site = north: 100% [91%, 100%] of the samples with it are of this class")
    assert found[0].note.endswith("which has 33% of all")


def test_a_value_slightly_over_represented_is_significant_and_no_candidate():
    generator = np.random.default_rng(0)
    site = np.where(generator.random(240) < np.where(LABELS == 1, 0.75, 0.45), "a", "b")
    detection = detect(make_view({"site": site}))
    line = table_of(detection)["site", "a", 1]
    assert detection.arrays["associations/adjusted"][line] < 0.05 and detection.candidates == []


def test_what_stands_out_only_because_much_was_tried_is_no_candidate():
    rows, generator = np.arange(36), np.random.default_rng(0)
    age = np.where((LABELS == 1) & (np.arange(240) < 24), 60, 30) + 10 * np.sin(np.arange(240))
    noise = {f"noise {number}": generator.normal(size=240) for number in range(20)}
    detection = detect(make_view({"age": age, **noise}, rows=rows), min_group=3, min_auroc=0.59)
    line = table_of(detection)["age", "", 1]
    _, lower, _ = detection.arrays["associations/estimate"][line]
    assert lower > 0.59 and detection.arrays["associations/p_value"][line] < 0.01
    assert detection.arrays["associations/adjusted"][line] > 0.05 and detection.candidates == []


def test_a_numeric_column_is_a_property_and_its_gaps_are_reported():
    age = np.random.default_rng(0).integers(20, 50, 240).astype(object)
    age[BRIGHT] = 80
    age[:12] = ""
    detection = detect(make_view({"age": age}), metadata=["age"])
    assert ("age", "", 1) in table_of(detection)
    mine = next(each for each in detection.candidates if each.note.startswith("age"))
    assert "12 samples without a value left out" in mine.note and not set(range(12)) & set(mine.member_rows)
    assert detection.arrays["associations/missing"][table_of(detection)["age", "", 1]] == 12


def test_sizes_give_aspect_and_resolution_also_when_they_are_not_asked_for():
    groups = {"width": np.where(BRIGHT, 1024, 600), "height": np.full(240, 450), "site": np.full(240, "a")}
    detection = detect(make_view(groups), metadata=["site"])
    names = [name.decode() for name in detection.arrays["names"]]
    values = dict(zip(names, detection.arrays["values"].T, strict=True))
    np.testing.assert_allclose(values["aspect"], groups["width"] / 450)
    np.testing.assert_allclose(values["resolution"], groups["width"] * 450)


def test_only_configured_columns_are_looked_at():
    view = make_view({"site": np.where(BRIGHT, "a", "b"), "sex": np.where(BRIGHT, "m", "f")})
    names = {name for name, value, _ in table_of(detect(view, metadata=["sex"])) if value}
    assert names == {"sex"}
    assert {name for name, value, _ in table_of(detect(view)) if value} == {"site", "sex"}


@pytest.mark.parametrize("name", ["sitee", "label"])
def test_an_unknown_column_is_refused_with_the_nearest_one(name):
    with pytest.raises(ConfigError, match=f"column '{name}'.*Group columns of the data set: site, sex"):
        detect(make_view({"site": LABELS, "sex": LABELS}), metadata=[name])


def test_only_the_rows_of_the_view_count():
    rows = np.flatnonzero(~BRIGHT)
    detection = detect(make_view({"site": np.where(BRIGHT, "a", "b")}, pixels=bright_pixels(), rows=rows))
    assert detection.candidates == [] and detection.arrays["rows"].tolist() == rows.tolist()
    assert detection.arrays["values"].shape == (len(rows), 9)


def test_groups_must_be_large_enough_and_leave_a_rest():
    few_others = (LABELS == 0) & (np.arange(240) < 18)
    view = make_view({"site": np.where(BRIGHT & (np.arange(240) < 120) | few_others, "a", "b")})
    assert detect(view, min_group=20).candidates and detect(view, min_group=21).candidates == []
    whole_class = make_view({"site": np.where(LABELS == 1, "a", "b")})
    assert [each.class_id for each in detect(whole_class).candidates if "site = a" in each.note] == []


def test_values_are_kept_sample_by_sample():
    arrays = detect(make_view(pixels=bright_pixels())).arrays
    brightness = arrays["values"][:, arrays["names"].tolist().index(b"brightness")]
    np.testing.assert_allclose(brightness, bright_pixels().reshape(240, -1).mean(1) / 255, rtol=1e-5)
    assert all(array.dtype.kind in "fiS" for array in arrays.values())
    assert arrays["associations/estimate"].shape == (9 * 3, 3)


def test_there_is_a_plot_of_properties_and_one_of_values():
    site = np.where(BRIGHT, "north", np.array(["south", "east"])[np.arange(240) // 4 % 2])
    assert len(detect(make_view({"site": site})).pictures) == 2
    (caption,) = detect(make_view()).pictures
    assert caption.startswith("properties of samples")


def test_a_plot_has_a_blue_interval_for_each_association():
    some = [Association("x", "", 0, Interval(0.4 + 0.1 * k, 0.3, 0.9, 50), 0.5, 0.1, 0.1, 0) for k in range(4)]
    image = dot_plot(some, ("cat",), "AUROC")
    pixels = np.array(image).astype(int)
    blue = np.abs(pixels - [0, 114, 178]).sum(2) < 40
    assert image.mode == "RGB" and np.count_nonzero(np.diff(blue.any(1).astype(int)) == 1) == 4
    assert blue.any(0).sum() > 300


def test_a_data_set_of_one_class_has_nothing_to_compare():
    view = make_view()
    rows = np.flatnonzero(LABELS == 0)
    detection = detect(DataView(view.store, view.dataset, None, rows))
    assert detection.candidates == [] and detection.pictures == {}
