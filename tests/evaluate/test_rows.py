from __future__ import annotations

import math

import pytest

from pipeline.evaluate.rows import by_method, held_back
from pipeline.workspace.records import Contestant, Metric


def contestant(name: str, family: str, seed: int = 0) -> Contestant:
    return Contestant(id=name, family=family, seed=seed, clean=1, worst=1, on_front=True, chosen=True)


def metric(model: str, value: float, name: str = "accuracy") -> Metric:
    return Metric(model=model, world="clean", subgroup="all", metric=name, value=value, lower=value, upper=value, n=50)


def test_without_further_seeds_rows_stay_as_they_are():
    rows = [metric("original", 0.5), metric("rrr", 0.7)]
    assert by_method([contestant("rrr", "rrr")], rows, 0.95) == rows


def test_several_seeds_become_a_mean_and_stay_readable_one_by_one():
    contestants = [contestant("rrr_weight-9", "rrr"), contestant("p_clarc", "p_clarc")]
    contestants += [contestant(f"rrr_weight-9_seed-{seed}", "rrr", seed) for seed in (1, 2)]
    rows = [metric("original", 0.5), metric("rrr_weight-9", 0.7), metric("p_clarc", 0.6)]
    rows += [metric("rrr_weight-9_seed-1", 0.8), metric("rrr_weight-9_seed-2", 0.9)]
    found = by_method(contestants, rows, 0.95)
    assert [each.model for each in found] == [
        "original", "rrr_weight-9", "p_clarc", "rrr_weight-9_seed-0", "rrr_weight-9_seed-1", "rrr_weight-9_seed-2",
    ]  # fmt: skip
    mean = found[1]
    assert mean.value == pytest.approx(0.8) and mean.lower < 0.7 and mean.upper > 0.9 and mean.n == 50
    assert [each.value for each in found[3:]] == [0.7, 0.8, 0.9]


def test_what_only_some_seeds_have_is_the_mean_of_those():
    contestants = [contestant("rrr", "rrr"), contestant("rrr_seed-1", "rrr", 1)]
    rows = [metric("rrr", 0.7, "auroc"), metric("rrr", 0.7), metric("rrr_seed-1", 0.9)]
    found = {(each.model, each.metric): each.value for each in by_method(contestants, rows, 0.95)}
    assert found["rrr", "auroc"] == 0.7 and found["rrr", "accuracy"] == pytest.approx(0.8)


def test_of_p_values_the_largest_over_the_seeds_counts():
    contestants = [contestant("rrr", "rrr"), contestant("rrr_seed-1", "rrr", 1)]
    rows = [metric("rrr", 0.001, "mcnemar_p"), metric("rrr_seed-1", 0.2, "mcnemar_p")]
    found = {each.model: each for each in by_method(contestants, rows, 0.95)}
    assert (found["rrr"].value, found["rrr"].lower, found["rrr"].upper) == (0.2, 0.2, 0.2)
    assert found["rrr_seed-0"].value == 0.001


def test_a_p_value_that_one_seed_leaves_undefined_is_undefined():
    contestants = [contestant("rrr", "rrr"), contestant("rrr_seed-1", "rrr", 1)]
    rows = [metric("rrr", math.nan, "delong_p"), metric("rrr_seed-1", 0.2, "delong_p")]
    assert math.isnan(by_method(contestants, rows, 0.95)[0].value)


def test_figures_on_too_few_samples_are_held_back_and_their_number_stays():
    few = metric("rrr", 0.7).model_copy(update={"n": 9})
    enough = metric("rrr", 0.7).model_copy(update={"n": 10})
    held, kept = held_back([few, enough], 10)
    assert all(map(math.isnan, (held.value, held.lower, held.upper))) and held.n == 9
    assert kept == enough


@pytest.mark.parametrize("name", ["tcav_random", "finding_rank"])
def test_what_does_not_rest_on_samples_is_never_held_back(name):
    row = metric("rrr", 0.7, name).model_copy(update={"n": 5})
    assert held_back([row], 10) == [row]
