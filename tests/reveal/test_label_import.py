from __future__ import annotations

import csv
import json

import pytest

from pipeline.errors import ConfigError
from pipeline.reveal.label_import import Resolver, new_labels, read_labels
from pipeline.workspace.journal import append, read_journal
from pipeline.workspace.records import SampleLabel, Verdict

IDS = ["ISIC_001", "ISIC_002", "ISIC_003", "left/a.png", "right/a.png", "right/b.jpg", "1.2.840.10008"]
GIVEN = {"by": "ann", "when": "2026-01-01T10:00:00Z"}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file of labels and returns its path."""

    def write_file(content, name: str = "labels.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write_file


def said(imported) -> dict[tuple[str, str], str]:
    return {(label.bias, label.sample): label.label for label in imported.labels}


# Formats


def test_object_of_ids_holds_positives_of_each_bias(write):
    imported = read_labels(write({"ruler": ["ISIC_001", "ISIC_003"], "ink": ["ISIC_001"]}), IDS, **GIVEN)
    assert imported.labels == [
        SampleLabel(bias=bias, sample=sample, label="positive", **GIVEN)
        for bias, sample in (("ruler", "ISIC_001"), ("ruler", "ISIC_003"), ("ink", "ISIC_001"))
    ]


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.TSV", "\t")])
@pytest.mark.parametrize("id_column", ["id", "sample", "Sample"])
def test_table_holds_positives_negatives_and_doubts(write, name, delimiter, id_column):
    rows = [[id_column, "bias", "label"], ["ISIC_001", "ruler", "1"], ["ISIC_002", "ruler", "Negative"]]
    rows += [["ISIC_003", "ruler", "unsure"], ["ISIC_003", "ink", "0"]]
    text = "\n".join(delimiter.join(row) for row in rows)
    assert said(read_labels(write(text, name), IDS, **GIVEN)) == {
        ("ruler", "ISIC_001"): "positive",
        ("ruler", "ISIC_002"): "negative",
        ("ruler", "ISIC_003"): "unsure",
        ("ink", "ISIC_003"): "negative",
    }


def test_table_may_say_who_when_and_why_and_blank_cells_are_filled(write):
    text = '\ufeffid,bias,label,by,when,why\nISIC_001,ruler,1,bob,2025-12-24,"at the rim, left"\nISIC_002,ruler,1,,,\n'
    first, second = read_labels(write(text, "a.csv"), IDS, **GIVEN).labels
    assert (first.by, first.when, first.why) == ("bob", "2025-12-24", "at the rim, left")
    assert (second.by, second.when, second.why) == (GIVEN["by"], GIVEN["when"], "")


def test_a_journal_is_read_as_it_was_written_without_its_verdicts(write, tmp_path):
    path = tmp_path / "annotations.json"
    labels = [
        SampleLabel(bias="ruler", sample="ISIC_001", label="positive", by="bob", when="2025-01-01", why="seen"),
        SampleLabel(bias="ruler", sample="ISIC_002", label="unsure", by="eve", when="2025-01-02"),
    ]
    append(path, [labels[0], Verdict(finding="f", verdict="valid", by="b", when="w"), labels[1]])
    assert read_labels(path, IDS, **GIVEN).labels == labels == read_journal(path).labels


def test_who_and_when_of_a_list_are_filled_where_they_are_missing(write):
    (label,) = read_labels(write([{"bias": "ink", "sample": "ISIC_002", "label": "negative"}]), IDS, **GIVEN).labels
    assert (label.by, label.when, label.label) == (GIVEN["by"], GIVEN["when"], "negative")


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ISIC_001", "ISIC_001"),
        ("ISIC_001.jpg", "ISIC_001"),
        ("images/train/ISIC_002.JPEG", "ISIC_002"),
        ("C:\\images\\ISIC_003.png", "ISIC_003"),
        ("./left/a.png", "left/a.png"),
        ("left/a", "left/a.png"),
        ("old/names/right/a.png", "right/a.png"),
        ("an_older_folder/b.jpg", "right/b.jpg"),
        ("b", "right/b.jpg"),
        ("1.2.840.10008", "1.2.840.10008"),
        ("1.2.840.10008.dcm", "1.2.840.10008"),
    ],
)
def test_ids_are_found_by_name_by_stem_and_by_end_of_path(write, name, expected):
    assert said(read_labels(write({"ruler": [name]}), IDS, **GIVEN)) == {("ruler", expected): "positive"}


@pytest.mark.parametrize("name", ["1.2.840", "ISIC_00", "SIC_001", "isic_001", "1.2.840.10009"])
def test_a_part_of_an_id_is_not_the_id(name):
    assert Resolver(IDS).find(name) == []


def test_the_end_of_the_path_with_its_suffix_decides_before_the_one_without():
    resolver = Resolver(["x/a.png", "x/a.jpg", "y/a.png"])
    assert resolver.find("data/x/a.jpg") == ["x/a.jpg"]
    assert sorted(resolver.find("data/x/a")) == ["x/a.jpg", "x/a.png"]


@pytest.mark.parametrize("name", ["a", "a.png", "middle/a.png"])
def test_a_name_of_several_samples_is_an_error_that_lists_them(write, name):
    with pytest.raises(
        ConfigError, match=rf"1 names match several.*'{name}' \(ruler\[1\]\) may be left/a.png, right/a.png"
    ):
        read_labels(write({"ruler": ["ISIC_001", name]}), IDS, **GIVEN)


# Numbers


def test_a_number_is_an_id_where_there_is_one_even_if_rows_are_allowed(write):
    ids = ["3", "img/2.png", "1", "0"]
    assert said(read_labels(write({"tube": [0, 2]}), ids, **GIVEN, rows_allowed=True)) == {
        ("tube", "0"): "positive",
        ("tube", "img/2.png"): "positive",
    }


def test_numbers_are_rows_only_on_request_and_row_0_is_one(write):
    path = write({"tube": [0, 6]})
    with pytest.raises(ConfigError, match=r"none of its 2 names matches.*such as 0, 6\..*add --by-row"):
        read_labels(path, IDS, **GIVEN)
    imported = read_labels(path, IDS, **GIVEN, rows_allowed=True)
    assert [label.sample for label in imported.labels] == [IDS[0], IDS[6]]
    assert imported.by_row == 2
    assert "2 labels were matched by row number" in imported.summary()


def test_numbers_in_tables_may_be_rows_and_texts_in_json_may_not(write):
    table = write("id,bias,label\n0,tube,1\n", "a.csv")
    assert said(read_labels(table, IDS, **GIVEN, rows_allowed=True)) == {("tube", IDS[0]): "positive"}
    with pytest.raises(ConfigError, match="none of its 1 names"):
        read_labels(write({"tube": ["0"]}), IDS, **GIVEN, rows_allowed=True)


@pytest.mark.parametrize("row", [-1, 7, 10**30])
def test_rows_outside_the_data_set_match_nothing(write, row):
    imported = read_labels(write({"tube": [0, row]}), IDS, **GIVEN, rows_allowed=True)
    assert (len(imported.labels), imported.unmatched) == (1, [str(row)])


# What is left over


def test_unmatched_names_are_counted_and_the_first_ten_named(write):
    gone = [f"gone_{number}" for number in range(12)]
    imported = read_labels(write({"ruler": ["ISIC_001", *gone, gone[0]]}), IDS, **GIVEN)
    assert imported.unmatched == gone
    summary = imported.summary()
    assert summary[0] == "ruler: 1 positive, 0 negative, 0 unsure"
    assert summary[-1].startswith("WARNING: 12 names match no sample: gone_0, gone_1, ")
    assert summary[-1].endswith("gone_9 and 2 more")


def test_a_file_that_matches_nothing_is_an_error_of_usage(write):
    with pytest.raises(ConfigError, match="none of its 1 names matches a sample, such as x. Ids .* look like ISIC_001"):
        read_labels(write({"ruler": ["x"]}), IDS, **GIVEN)
    assert ConfigError.exit_code == 2


def test_the_same_sample_under_several_names_is_one_label(write):
    imported = read_labels(write({"ruler": ["ISIC_001", "ISIC_001.jpg", "x/ISIC_001.jpg"]}), IDS, **GIVEN)
    assert (len(imported.labels), imported.duplicates) == (1, 2)
    assert "2 entries say again what another one says" in imported.summary()


def test_a_file_that_contradicts_itself_is_an_error_that_names_the_samples(write):
    text = "id,bias,label\nISIC_001,ruler,1\nISIC_001,ink,0\nISIC_001.jpg,ruler,0\n"
    expected = r"contradicts itself on 1 samples: 'ISIC_001' is positive \(line 2\) and negative \(line 4\) for 'ruler'"
    with pytest.raises(ConfigError, match=expected):
        read_labels(write(text, "a.csv"), IDS, **GIVEN)


def test_a_later_word_in_a_list_with_times_is_a_change_of_mind(write):
    label = {"bias": "ruler", "sample": "ISIC_001", "by": "bob"}
    first, second = (
        label | {"label": "positive", "when": "2026-01-01"},
        label | {"label": "negative", "when": "2026-02-01"},
    )
    assert said(read_labels(write([first, second]), IDS, **GIVEN)) == {("ruler", "ISIC_001"): "negative"}
    with pytest.raises(ConfigError, match="contradicts itself"):
        read_labels(write([first, second | {"when": "2026-01-01"}]), IDS, **GIVEN)


def test_what_the_same_person_already_said_last_is_no_news(write):
    def label(word: str, by: str = "ann") -> SampleLabel:
        return SampleLabel(bias="ruler", sample="ISIC_001", label=word, by=by, when="w")

    assert new_labels([label("positive")], []) == [label("positive")]
    assert new_labels([label("positive")], [label("positive")]) == []
    assert new_labels([label("positive")], [label("positive", "bob")]) == [label("positive")]
    assert new_labels([label("positive")], [label("positive"), label("negative")]) == [label("positive")]


# Files that are no labels


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", "{", "is no JSON"),
        ("a.json", '"x"', "holds a str"),
        ("a.json", "[]", "holds no label"),
        ("a.json", {"ruler": "ISIC_001"}, "'ruler' holds a str; allowed: a list of ids"),
        ("a.json", {"ruler": [True]}, r"ruler\[0\]: True is no id"),
        ("a.json", {"ruler": [1.0]}, r"ruler\[0\]: 1.0 is no id"),
        ("a.json", {"ruler": [None]}, r"ruler\[0\]: None is no id"),
        ("a.json", {" ": ["ISIC_001"]}, "the bias ' ' is no name"),
        ("a.json", {"a\nb": ["ISIC_001"]}, r"the bias 'a\\nb' is no name"),
        ("a.json", ["ISIC_001"], "entry 1: 'ISIC_001' is no label"),
        ("a.json", [{"bias": "a", "sample": "ISIC_001", "label": "yes"}], "entry 1: label: Input should be"),
        ("a.json", [{"bias": "a", "sample": "ISIC_001", "label": "positive", "x": 1}], "entry 1: x: Extra"),
        ("a.csv", "", "has no column id"),
        ("a.csv", "name,bias,label\n", "has no column id"),
        ("a.csv", "id,label\nISIC_001,1\n", "has no column bias. Its columns: id, label"),
        ("a.csv", "id,bias,lable\n", "has no column label. Did you mean 'lable'"),
        (
            "a.csv",
            "id,bias,label\nISIC_001,ruler,positiv\n",
            "line 2: label 'positiv' is unknown. Did you mean 'positive'",
        ),
        ("a.csv", "id,bias,label\n,ruler,1\n", "line 2: the id is empty"),
        ("a.csv", "id,bias,label\nISIC_001\n", "line 2: label '' is unknown"),
    ],
)
def test_files_that_are_no_labels_are_refused_with_the_place(write, name, content, expected):
    with pytest.raises(ConfigError, match=expected):
        read_labels(write(content, name), IDS, **GIVEN)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_labels(tmp_path / "gone.json", IDS, **GIVEN)
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        read_labels(tmp_path / "a.json", IDS, **GIVEN)


def test_cells_may_hold_delimiters_and_line_breaks(tmp_path):
    path = tmp_path / "a.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "bias", "label", "why"], ["ISIC_001", "ruler", "1", "two\nlines, quoted"]])
    (label,) = read_labels(path, IDS, **GIVEN).labels
    assert label.why == "two\nlines, quoted"
