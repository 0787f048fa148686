from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.reveal.candidates import Candidate, overlap, same_side_overlap
from pipeline.reveal.findings import concept_clarity, distinct, to_finding
from pipeline.reveal.suspicion import Suspicion

COUNT = 40


def group(
    members, score: float, *, class_id: int = 0, layer: str = "input", clarity: float = 0.5, effect: float = 0.5
) -> Suspicion:
    """Return a measured candidate whose members are positions, whatever led to its score."""
    chosen = np.isin(np.arange(COUNT), list(members))
    candidate = Candidate("spray", class_id, layer, np.arange(COUNT) + COUNT * class_id, chosen, 0.0)
    parts = {"separation": 0.5, "evidence": clarity, "compactness": clarity, "effect": effect}
    return Suspicion(candidate, score, parts, cav=None)


def scores(found: list[Suspicion]) -> list[float]:
    return [each.score for each in found]


def test_overlap_of_a_group_with_its_complement_is_whole_but_they_share_no_side():
    one, other = group(range(10), 0.5).candidate, group(range(10, COUNT), 0.5).candidate
    assert overlap(one, other) == 1 and same_side_overlap(one, other) == 0
    assert overlap(one, group(range(5, 15), 0.5).candidate) == pytest.approx(max(5 / 15, 5 / 35))
    assert overlap(one, group(range(10, 30), 0.5).candidate) == pytest.approx(max(10 / 20, 20 / 30))
    assert overlap(one, group(range(10), 0.5, class_id=1).candidate) == 0


def test_overlap_is_the_same_from_both_ends():
    generator = np.random.default_rng(0)
    for _ in range(50):
        one, other = (group(np.flatnonzero(generator.random(COUNT) < 0.4), 0.5).candidate for _ in range(2))
        assert overlap(one, other) == overlap(other, one)


def test_the_same_group_in_two_spaces_is_reported_once_with_the_better_score():
    assert scores(distinct([group(range(12), 0.4), group(range(13), 0.6, layer="deep")])) == [0.6]


def test_a_group_and_its_complement_are_one_observation():
    assert scores(distinct([group(range(15), 0.6), group(range(15, COUNT), 0.7)])) == [0.7]


def test_groups_that_overlap_less_than_by_half_are_both_reported_best_first():
    found = distinct([group(range(12), 0.4), group(range(9, 24), 0.6), group(range(12), 0.5, class_id=1)])
    assert scores(found) == [0.6, 0.5, 0.4]


def test_of_nested_groups_the_larger_one_with_the_cleaner_line_stands_for_all():
    island, all_islands = group(range(10), 0.8, clarity=0.5), group(range(25), 0.6, clarity=0.9)
    assert distinct([island, all_islands]) == [all_islands]


def test_of_nested_groups_the_smaller_one_stays_where_its_line_is_cleaner():
    island, rest = group(range(10), 0.8, clarity=0.9), group(range(25), 0.6, clarity=0.5)
    assert distinct([island, rest])[0] is island


def test_a_smaller_part_of_a_group_that_is_already_reported_is_no_other_observation():
    part, whole = group(range(10), 0.6, clarity=0.9), group(range(25), 0.8, clarity=0.5)
    assert overlap(part.candidate, whole.candidate) < 0.5
    assert distinct([part, whole]) == [whole]


def test_a_larger_group_without_effect_does_not_stand_for_a_smaller_one():
    island, rest = group(range(10), 0.8, clarity=0.5, effect=0.8), group(range(25), 0.6, clarity=0.9, effect=0.1)
    assert distinct([island, rest])[0] is island


def test_two_islands_in_one_larger_group_are_reported_as_that_group_once():
    first, second = group(range(10), 0.8, clarity=0.5), group(range(15, 25), 0.7, clarity=0.5)
    both = group([*range(10), *range(15, 25)], 0.6, clarity=0.9)
    assert distinct([first, second, both]) == [both]


def test_the_result_does_not_depend_on_the_order_of_candidates():
    candidates = [
        group(range(10), 0.8),
        group(range(15, 25), 0.7),
        group([*range(10), *range(15, 25)], 0.6, clarity=0.9),
        group(range(30), 0.5),
        group(range(12), 0.45, class_id=1),
    ]
    expected = scores(distinct(candidates))
    assert all(scores(distinct(list(order))) == expected for order in itertools.permutations(candidates))


def test_no_two_reported_groups_of_a_class_overlap_by_half():
    generator = np.random.default_rng(0)
    candidates = [
        group(generator.permutation(COUNT)[: generator.integers(8, 32)], score, clarity=generator.random())
        for score in np.linspace(0.9, 0.1, 40)
    ]
    found = distinct(candidates)
    assert len(found) > 1
    assert all(overlap(a.candidate, b.candidate) < 0.5 for a, b in itertools.combinations(found, 2))


def test_clarity_is_the_mean_of_evidence_and_compactness():
    assert concept_clarity({"evidence": 0.25, "compactness": 1.0, "effect": 0.0, "separation": 0.1}) == 0.5


def test_a_finding_names_class_and_samples(tiny_dataset):
    finding = to_finding(group([0, 3, 5], 0.3, class_id=1), 4, tiny_dataset)
    assert (finding.rank, finding.class_id, finding.class_name, finding.score) == (4, 1, "down", 0.3)
    assert finding.sample_ids == ["s040", "s043", "s045"]
    assert finding.id.startswith("spray-down-")


def test_ids_depend_on_the_content_and_not_on_rank_or_score(tiny_dataset):
    def name(suspicion, rank=1):
        return to_finding(suspicion, rank, tiny_dataset).id

    first = name(group(range(12), 0.4))
    assert name(group(range(12), 0.9, clarity=0.1), 7) == first
    others = [group(range(13), 0.4), group(range(12), 0.4, class_id=1), group(range(12), 0.4, layer="deep")]
    assert len({first, *map(name, others)}) == 4


def test_an_id_is_the_same_in_every_process(tiny_dataset):
    assert to_finding(group(range(12), 0.4), 1, tiny_dataset).id == "spray-across-0514354a"


@pytest.mark.parametrize(
    ("name", "slug"), [("a/b c", "a_b_c"), ("Äpfel", "_pfel"), ("", "class"), ("x" * 99, "x" * 24)]
)
def test_ids_can_be_names_of_files(tiny_dataset, name, slug):
    class Named:
        table, classes = tiny_dataset.table, (name,)

    assert to_finding(group(range(12), 0.4), 1, Named).id.startswith(f"spray-{slug}-")
