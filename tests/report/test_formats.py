import pytest

from pipeline.report.formats import (
    breakable,
    change,
    clipped,
    duration,
    figure,
    has_interval,
    measured,
    plain,
    sample_size,
    subgroup_text,
    words,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.500"),
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (-0.25, "−0.250"),
        (0.0, "0.000"),
        (2.7e20, "2.7e+20"),
    ],
)
def test_figures_are_written_alike_everywhere(value, text):
    assert figure(value) == text


def test_changes_carry_their_sign():
    assert [change(value) for value in (0.1, -0.1, 0.0001)] == ["▲0.100", "▼0.100", "±0"]


def test_small_p_values_are_written_as_a_bound_and_other_small_figures_are_not(build_metric):
    assert measured(build_metric(name="mcnemar_p_adjusted", value=0.00004)) == "< 0.001"
    assert measured(build_metric(name="mcnemar_p_adjusted", value=0.04)) == "0.040"
    assert measured(build_metric(name="accuracy", value=0.00004)) == "4e−05"


def test_exact_figures_have_no_interval(build_metric):
    assert has_interval(build_metric(value=0.5, half=0.1))
    assert not has_interval(build_metric(value=0.5, half=0.0))
    assert not has_interval(build_metric().model_copy(update={"lower": float("nan")}))


def test_the_number_of_samples_is_a_range_where_models_differ(build_metric):
    assert sample_size([build_metric(n=5), None, build_metric(n=5)]) == "5"
    assert sample_size([build_metric(n=7), build_metric(n=5), build_metric(n=6)]) == "5 to 7"
    assert sample_size([None]) == "–"


def test_values_of_the_provenance_read_as_text():
    assert plain({"train": 3, "classes": ["a", "b"], "none": None}) == "train: 3, classes: a, b, none: not recorded"
    assert plain([]) == plain({}) == "none"
    assert (plain(0), plain(0.001), plain(False)) == ("0", "0.001", "False")


def test_long_texts_are_cut_at_a_word_and_never_longer_than_allowed():
    assert clipped("short", 5) == "short"
    assert clipped("one two three, four", 16) == "one two three…"
    assert clipped("x" * 40, 10) == "x" * 9 + "…"
    assert all(len(clipped("some words, of a text " * 9, length)) <= length for length in range(2, 100))


@pytest.mark.parametrize(("seconds", "text"), [(12.5, "12.5 s"), (600, "10.0 min"), (36000, "10.0 h")])
def test_times_stand_in_the_unit_in_which_they_read_best(seconds, text):
    assert duration(seconds) == text


def test_names_of_subgroups_and_metrics_are_words():
    assert [subgroup_text(name) for name in ("all", "class=8", "site=", "b-8-glyph")] == [
        *("", "class 8", "site (missing)", "b-8-glyph"),
    ]
    assert words("worst_group_auroc") == "worst group AUROC"


def test_names_may_break_behind_underscores_and_are_escaped():
    assert breakable("a_<b>_c") == "a_<wbr>&lt;b&gt;_<wbr>c"
