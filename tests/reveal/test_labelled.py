from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from torch import nn

from pipeline.reveal.candidates import Candidate
from pipeline.reveal.labelled import (
    LabelledBias,
    labelled_biases,
    labelled_candidates,
    refined,
    without_unsure,
)
from pipeline.reveal.view import DataView
from pipeline.workspace.journal import Journal
from pipeline.workspace.records import LabelCounts, SampleLabel

COUNT = 60
IDS = [f"s{row}" for row in range(COUNT)]


def say(sample: int | str, label: str = "positive", bias: str = "ink", by: str = "ann") -> SampleLabel:
    sample = f"s{sample}" if isinstance(sample, int) else sample
    return SampleLabel(bias=bias, sample=sample, label=label, by=by, when="2026-01-01")


def make_bias(positives=(), negatives=(), unsure=(), name: str = "ink", **more) -> LabelledBias:
    rows = (np.array(each, dtype=np.int64) for each in (positives, negatives, unsure))
    return LabelledBias(name, *rows, by=("ann",), **more)


@pytest.fixture
def view(tmp_path) -> DataView:
    """Two classes, rows 0-39 and 40-59, the last ten are test; layer "clear" tells rows divisible by 4, "dull" none."""
    generator = np.random.default_rng(0)
    clear, dull = generator.normal(size=(2, COUNT, 6))
    clear[::4] += 4
    store = tiny.write_store(tmp_path, {"clear": clear.astype(np.float32), "dull": dull.astype(np.float32)})
    vars(store)["labels"] = (np.arange(COUNT) >= 40).astype(int)
    dataset = SimpleNamespace(classes=("nevus", "melanoma"))
    return DataView(store, dataset, nn.Identity(), np.arange(50))


# Labels of a journal


def test_labels_become_rows_of_each_bias_and_the_last_word_counts():
    labels = [
        say(7),
        say(3),
        say(5, "negative"),
        say(9, "unsure"),
        say(3, bias="ruler"),
        say(7, "negative"),
        say("gone"),
    ]
    ink, ruler = labelled_biases(Journal([], labels), IDS)
    assert (ink.name, ink.by, ink.missing, ink.disputed) == ("ink", ("ann",), 1, 0)
    assert (ink.positives.tolist(), ink.negatives.tolist(), ink.unsure.tolist()) == ([3], [5, 7], [9])
    assert (ruler.name, ruler.positives.tolist()) == ("ruler", [3])
    assert ink.counts() == LabelCounts(positive=1, negative=2, unsure=1, by=["ann"])


def test_samples_on_which_people_disagree_are_counted():
    labels = [say(1), say(1, "negative", by="bob"), say(2), say(2, by="bob"), say(3), say(3, "negative")]
    (bias,) = labelled_biases(Journal([], labels), IDS)
    assert (bias.disputed, bias.by) == (1, ("ann", "bob"))
    assert bias.negatives.tolist() == [1, 3]


# Candidates


def test_positives_become_a_candidate_of_the_class_that_shows_most_of_them(view):
    positives = [0, 4, 40, 44, 48, 52, 56]
    (found,) = labelled_candidates(view, [make_bias(positives, negatives=[1], disputed=2)])
    assert (found.detector, found.class_id) == ("labels", 1)
    assert found.rows.tolist() == list(range(40, 50))
    assert found.member_rows.tolist() == [40, 44, 48]
    assert "ann labelled 7 samples as showing 'ink' and 1 as not showing it" in found.note
    # 3 of 10 in the class, against 5 of 50
    assert "3 of the 5 in training and validation are of class melanoma, 3.0 times as many as by chance" in found.note
    assert found.note.endswith("people disagree on 2.")


def test_a_class_of_few_samples_wins_only_with_enough_of_them(view):
    # 1 of 10 is more than 3 of 40, but on one sample; 4 of 10 against 9 of 40 is clear
    for positives, expected in (([40, *range(3)], 0), ([40, 41, 42, 43, *range(9)], 1)):
        (found,) = labelled_candidates(view, [make_bias(positives)])
        assert found.class_id == expected


def test_the_layer_is_the_one_that_tells_the_members_best(view):
    (found,) = labelled_candidates(view, [make_bias(range(0, 40, 4))])
    assert found.layer == "clear"
    (alone,) = labelled_candidates(view, [make_bias([0])])
    assert alone.layer == view.deep_layers[0] == "dull"


def test_labels_on_findings_and_biases_without_a_positive_to_see_are_no_candidates(view):
    biases = [make_bias([0, 4], name="spray-1"), make_bias([55], name="in test"), make_bias([], [3], name="none")]
    assert labelled_candidates(view, biases, findings=["spray-1"]) == []
    assert len(labelled_candidates(view, biases)) == 1


def test_labels_refine_a_finding_by_what_people_saw():
    rows = np.arange(10, 20)
    candidate = Candidate("spray", 0, "clear", rows, np.isin(rows, [10, 11, 12, 13]), note="seen")
    found = refined(candidate, make_bias([17, 3], [11, 18], [12]))
    assert found.member_rows.tolist() == [10, 12, 13, 17]
    assert (found.detector, found.layer, found.note) == ("spray", "clear", "seen")
    assert candidate.member_rows.tolist() == [10, 11, 12, 13]


# What a CAV is fitted on


def test_unsure_rows_are_left_out_wherever_they_were_detected():
    rows = np.arange(10, 20)
    candidate = Candidate("spray", 0, "clear", rows, np.isin(rows, [10, 11, 12]), note="seen")
    found = without_unsure(candidate, make_bias([17], [18], [12, 15, 3]))
    assert found.rows.tolist() == [10, 11, 13, 14, 16, 17, 18, 19]
    assert found.member_rows.tolist() == [10, 11]
    assert (found.detector, found.layer, found.note) == ("spray", "clear", "seen")
    assert candidate.rows.tolist() == rows.tolist()


@pytest.mark.parametrize("unsure", [[10, 11], range(13, 19)], ids=["members", "others"])
def test_all_rows_stay_where_too_few_would_be_left(unsure):
    rows = np.arange(10, 20)
    candidate = Candidate("spray", 0, "clear", rows, np.isin(rows, [10, 11, 12]))
    assert without_unsure(candidate, make_bias(unsure=unsure)) is candidate
