from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import tiny
import torch

from pipeline.concepts.features import layer_features
from pipeline.data.memory import ArrayDataset, NaturalArtifact, split_indices
from pipeline.data.worlds import WorldView
from pipeline.errors import ConfigError
from pipeline.mitigate.groups import (
    CounterExamples,
    Groups,
    NoCounterExamples,
    balanced_rows,
    bias_carriers,
    carriers,
    counter_example_warnings,
    counter_examples,
    divide,
    find_groups,
    warn_without_counter_examples,
)

CLASSES = ("cat", "dog", "eel")
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
CARRIER = np.array([1, 1, 0, 1, 0, 0, 0, 1, 1, 1], bool)


def test_groups_are_classes_divided_by_the_artifact():
    found = divide(LABELS, CARRIER, np.arange(10), CLASSES)
    assert found.names == ("cat without the artifact", "cat with the artifact", "dog", "eel")
    assert found.ids.tolist() == [1, 1, 0, 1, 2, 2, 2, 3, 3, 3]
    assert found.sizes.tolist() == [1, 3, 3, 3]
    assert found.divided == ("cat",)
    assert found.of(np.array([9, 2, 0])).tolist() == [3, 0, 1]


def test_groups_of_some_rows_speak_of_those_alone():
    found = divide(LABELS, CARRIER, np.array([9, 3, 2]), CLASSES)
    assert found.names == ("cat without the artifact", "cat with the artifact", "eel")
    assert found.ids.tolist() == [2, 1, 0]
    assert found.of(np.array([2, 9])).tolist() == [0, 2]


def test_few_samples_are_no_group_of_their_own():
    found = divide(LABELS, CARRIER, np.arange(10), CLASSES, smallest=2)
    assert found.names == CLASSES and found.divided == () and np.array_equal(found.ids, LABELS)


def numbered(*sizes: int) -> Groups:
    ids = np.repeat(np.arange(len(sizes)), sizes)
    return Groups(100 + np.arange(len(ids)), ids, tuple("abcdef"[: len(sizes)]), ("a",))


@pytest.mark.parametrize("sizes", [(7, 2, 30), (1, 1), (5, 40)])
def test_every_group_is_drawn_equally_often_in_an_epoch_about_as_long_as_the_data(sizes):
    groups = numbered(*sizes)
    for epoch in range(3):
        drawn = np.bincount(groups.of(balanced_rows(groups, 0, epoch)), minlength=len(sizes))
        assert set(drawn) == {-(-sum(sizes) // len(sizes))}
    assert len(balanced_rows(groups, 0, 0, count=4)) == 4 * len(sizes)


def test_within_a_group_samples_are_drawn_equally_often_over_the_epochs():
    groups = numbered(7, 2, 30)
    drawn = np.concatenate([balanced_rows(groups, 3, epoch) for epoch in range(1, 31)])
    times = np.bincount(drawn - 100, minlength=39)
    for group in range(3):
        assert np.ptp(times[groups.ids == group]) <= 2


def test_draws_depend_on_seed_and_epoch_alone_and_are_shuffled():
    groups = numbered(7, 2, 30)
    first = balanced_rows(groups, 0, 1)
    assert np.array_equal(first, balanced_rows(groups, 0, 1))
    for seed, epoch in ((1, 1), (0, 2)):
        other = balanced_rows(groups, seed, epoch)
        assert len(other) == len(first) and not np.array_equal(np.sort(other), np.sort(first))
    assert 10 < np.count_nonzero(np.diff(groups.of(first))), "groups alternate"


def found_rows(problem) -> np.ndarray:
    return np.flatnonzero(np.isin(problem.dataset.table["id"], problem.biases[0].bias.sample_ids))


def test_found_carriers_are_the_members_of_the_findings(audited):
    model, problem = audited
    known = problem.biases[0]
    assert np.array_equal(np.flatnonzero(carriers(model, problem, "found")), found_rows(problem))
    other = dataclasses.replace(known, bias=known.bias.model_copy(update={"sample_ids": ["s000", "s012"]}))
    both = carriers(model, dataclasses.replace(problem, biases=[known, other]), "found")
    test = problem.dataset.table["split"] == "test"
    assert test[12], "of the test split nobody"
    assert set(np.flatnonzero(both)) == {*found_rows(problem), 0}
    assert np.flatnonzero(bias_carriers(model, problem, other, "found")).tolist() == [0]
    assert not carriers(model, dataclasses.replace(problem, biases=[]), "found").any()


def test_detected_carriers_score_above_the_boundary_in_every_class_but_not_in_the_test_split(audited):
    model, problem = audited
    known = problem.biases[0]
    test = problem.dataset.table["split"].to_numpy() == "test"
    features = layer_features(model, problem.dataset, np.arange(180), known.cav.layer, known.cav.pooling)
    found = carriers(model, problem, "detected")
    assert np.array_equal(found, (features @ known.cav.direction + known.cav.intercept > 0) & ~test)
    truth = np.array([tiny.is_planted(row) for row in range(180)])
    assert (found == truth)[~test].mean() > 0.95
    everybody = dataclasses.replace(known, cav=dataclasses.replace(known.cav, intercept=1e6))
    assert np.array_equal(bias_carriers(model, problem, everybody, "detected"), ~test)
    scores = features @ known.cav.direction
    halves = dataclasses.replace(known, cav=dataclasses.replace(known.cav, intercept=-np.median(scores)))
    assert np.array_equal(bias_carriers(model, problem, halves, "detected"), (scores > np.median(scores)) & ~test)
    with pytest.raises(ConfigError, match="groups: detected needs a CAV on pooled.*groups: found"):
        bias_carriers(
            model, problem, dataclasses.replace(known, cav=dataclasses.replace(known.cav, pooling="full")), "detected"
        )


def listed(problem, flags: np.ndarray):
    dataset = problem.dataset.dataset
    told = ArrayDataset(
        dataset.pixels, dataset.table, dataset.classes, artifacts={"square": NaturalArtifact(np.asarray(flags, bool))}
    )
    return dataclasses.replace(problem, dataset=WorldView(told, None, "asis", 0))


def test_true_carriers_are_those_that_the_data_set_lists(audited):
    model, problem = audited
    flags = np.arange(180) % 7 == 0
    test = problem.dataset.table["split"].to_numpy() == "test"
    found = carriers(model, listed(problem, flags), "truth")
    assert np.array_equal(found, flags & ~test) and flags[test].any()
    assert np.array_equal(bias_carriers(model, listed(problem, flags), problem.biases[0], "truth"), found)


def test_groups_of_a_problem_are_those_of_the_named_splits(audited):
    model, problem = audited
    train, val = split_indices(problem.dataset, "train"), split_indices(problem.dataset, "val")
    found = find_groups(model, problem, "found", 2)
    assert np.array_equal(found.rows, train)
    assert found.names == ("across", "down", "square without the artifact", "square with the artifact")
    assert found.divided == ("square",)
    truth = [tiny.is_planted(row) for row in train]
    assert np.array_equal(found.ids == 3, truth)
    assert np.array_equal(find_groups(model, problem, "found", 2, ("train", "val")).rows, np.union1d(train, val))


def test_without_counter_examples_there_are_no_groups(audited):
    model, problem = audited
    labels = problem.dataset.table["label"].to_numpy()
    for flags, carrying in ((labels == 2, 36), (labels == 9, 0), (labels > 0, 72)):
        with pytest.raises(NoCounterExamples, match=rf"in train no class has at least 4.*\({carrying} of 108"):
            find_groups(model, listed(problem, flags), "truth", 4)
    smallest = find_groups(model, problem, "found", 2).sizes.min()
    with pytest.raises(NoCounterExamples, match="lower min_group"):
        find_groups(model, problem, "found", int(smallest) + 1)


def test_the_table_of_class_and_artifact_is_counted():
    assert counter_examples(LABELS, CARRIER, 0, CLASSES) == CounterExamples("cat", 3, 1, 3, 3)
    assert counter_examples(LABELS, CARRIER, 1, CLASSES) == CounterExamples("dog", 0, 3, 6, 1)


@pytest.mark.parametrize(
    ("table", "identifiable", "text"),
    [
        ((9, 1, 1, 20), True, ""),
        ((9, 0, 0, 20), False, "WARNING: no counter-examples.*cat with the artifact: 9,.*no method can tell"),
        ((9, 0, 3, 20), True, "no sample of class cat is without the artifact.*other classes with the artifact: 3"),
        ((9, 4, 0, 20), True, "no sample of another class than cat.*cat without the artifact: 4,"),
        ((0, 9, 0, 20), True, "no sample is known to carry"),
        ((0, 0, 0, 20), False, "no sample is known to carry"),
    ],
)
def test_what_is_missing_among_the_four_groups_is_said(table, identifiable, text):
    found = CounterExamples("cat", *table)
    assert found.identifiable == identifiable
    said = warn_without_counter_examples(found)
    assert (said == "") == (text == "")
    assert text == "" or re.search(text, said)
    assert said.startswith("WARNING") == (table == (9, 0, 0, 20))


def test_every_bias_is_looked_at_on_the_training_samples(audited):
    model, problem = audited
    labels, known = problem.dataset.table["label"].to_numpy(), problem.biases[0]
    (note,) = counter_example_warnings(model, problem, "found")
    assert note.startswith(f"{known.bias.id}: no sample of another class than square")
    planted = np.array([tiny.is_planted(row) for row in range(180)])
    assert counter_example_warnings(model, listed(problem, planted | (labels == 0)), "truth") == []
    only = listed(problem, labels == 2)
    (warning,) = counter_example_warnings(model, only, "truth")
    assert "WARNING" in warning and "square with the artifact: 36," in warning
    # a counter-example in the validation split does not help the training
    val = int(split_indices(problem.dataset, "val")[0])
    assert (
        "WARNING"
        in counter_example_warnings(model, listed(problem, (labels == 2) | (np.arange(180) == val)), "truth")[0]
    )


def test_processes_agree_about_who_is_detected(audited):
    model, problem = audited

    class Group:
        def agree(self, value):
            return ~value

    other = dataclasses.replace(problem, group=Group())
    known = problem.biases[0]
    with torch.no_grad():
        assert np.array_equal(
            bias_carriers(model, other, known, "detected"), ~bias_carriers(model, problem, known, "detected")
        )
