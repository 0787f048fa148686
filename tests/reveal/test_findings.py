from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from tiny import make_dataset

from pipeline.concepts.cav import Cav
from pipeline.reveal.candidates import Candidate, overlap, same_side_overlap
from pipeline.reveal.findings import merge, to_finding
from pipeline.reveal.suspicion import Suspicion, combine

COUNT = 40


def cav_of(*direction: float, layer: str = "") -> Cav:
    vector = np.array(direction)
    return Cav(vector / np.linalg.norm(vector), 0.0, "pattern", np.zeros(len(vector)), layer=layer)


def group(
    members,
    score: float,
    *,
    class_id: int = 0,
    layer: str = "input",
    detector: str = "spray",
    cav: Cav | None = None,
    clear: float | None = None,
    separation: float = 0.5,
) -> Suspicion:
    """Return a measured candidate whose members are positions, whatever led to its score."""
    chosen = np.isin(np.arange(COUNT), list(members))
    candidate = Candidate(detector, class_id, layer, np.arange(COUNT) + COUNT * class_id, chosen)
    # directions of their own, unless a test gives one
    own = cav or cav_of(*np.eye(64)[hash((tuple(members), layer)) % 64])
    parts = {"separation": separation, "evidence": 1.0, "concentration": score if clear is None else clear}
    return Suspicion(candidate, score, parts, {"area": 0.1}, own)


def scores(candidates: list[Suspicion]) -> list[float]:
    return [each.suspicion.score for each in merge(candidates)]


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
    assert scores([group(range(12), 0.4), group(range(13), 0.6, layer="deep")]) == [0.6]


def test_a_group_and_its_complement_are_one_observation():
    assert scores([group(range(15), 0.6), group(range(15, COUNT), 0.7)]) == [0.7]


def test_groups_that_overlap_less_than_by_half_are_both_reported_best_first():
    found = [group(range(12), 0.4), group(range(9, 24), 0.6), group(range(12), 0.5, class_id=1)]
    assert scores(found) == [0.6, 0.5, 0.4]


def test_a_part_of_a_group_that_is_already_reported_is_no_other_observation():
    part, whole = group(range(10), 0.6), group(range(25), 0.8)
    assert overlap(part.candidate, whole.candidate) < 0.5
    assert scores([part, whole]) == [0.8]


def test_a_larger_group_that_is_less_suspicious_is_reported_beside_a_part_of_it():
    assert scores([group(range(10), 0.8), group(range(25), 0.6)]) == [0.8, 0.6]


def test_the_clearer_group_that_holds_the_islands_of_a_shortcut_stands_for_them_and_is_as_separate():
    first = group(range(10), 0.8, clear=0.8, separation=0.9)
    second = group(range(15, 25), 0.7, clear=0.8)
    both = group([*range(10), *range(15, 25)], 0.6, clear=0.95, separation=0.3)
    (merged,) = merge([first, second, both])
    assert np.array_equal(merged.suspicion.candidate.members, both.candidate.members)
    assert merged.suspicion.parts["separation"] == 0.9
    assert merged.suspicion.score == pytest.approx(combine(merged.suspicion.parts)) and merged.suspicion.score > 0.8
    assert {id(each) for each in merged.others} == {id(first), id(second)}


def test_a_larger_group_that_is_less_clear_does_not_stand_for_a_smaller_one():
    island, rest = group(range(10), 0.8, clear=0.9), group(range(25), 0.6, clear=0.7)
    assert merge([island, rest])[0].suspicion is island


def test_a_group_of_another_class_never_stands_for_one():
    island, other = group(range(10), 0.8, clear=0.5), group(range(25), 0.6, class_id=1, clear=0.9)
    assert merge([island, other])[0].suspicion is island


@pytest.mark.parametrize(("second", "expected"), [((-1, 0.1), [0.6]), ((1, 0.1), [0.6]), ((1, 1), [0.6, 0.5])])
def test_groups_whose_concepts_point_the_same_way_or_the_opposite_are_one_observation(second, expected):
    one = group(range(10), 0.6, cav=cav_of(1, 0, layer="deep"))
    other = group(range(10, 20), 0.5, cav=cav_of(*second, layer="deep"))
    assert scores([one, other]) == expected


def test_directions_of_different_layers_are_not_compared():
    one = group(range(10), 0.6, cav=cav_of(1, 0, layer="deep"))
    assert scores([one, group(range(10, 20), 0.5, cav=cav_of(1, 0, layer="early"))]) == [0.6, 0.5]


def test_the_result_does_not_depend_on_the_order_of_candidates():
    candidates = [
        group(range(10), 0.8),
        group(range(15, 25), 0.7),
        group([*range(10), *range(15, 25)], 0.6),
        group(range(30), 0.5),
        group(range(12), 0.45, class_id=1),
    ]
    results = {tuple(scores(list(order))) for order in itertools.permutations(candidates)}
    assert len(results) == 1


def test_an_observation_names_who_else_saw_it_and_not_who_saw_the_other_side():
    best = group(range(10), 0.8, layer="deep")
    again = group(range(11), 0.7, layer="early", detector="neurons")
    complement = group(range(10, COUNT), 0.6, layer="input", detector="prototypes")
    (merged,) = merge([best, again, complement])
    assert len(merged.others) == 2
    finding = to_finding(merged, 1, make_dataset())
    assert finding.also_seen == ["neurons in early"]
    assert (finding.detector, finding.layer, finding.score, finding.details) == ("spray", "deep", 0.8, {"area": 0.1})


def test_the_id_of_a_finding_depends_on_its_content_alone():
    dataset = make_dataset()
    ids = [
        to_finding(merge([each])[0], rank, dataset).id
        for rank, each in enumerate([group(range(9), 0.8), group(range(9), 0.4), group(range(8), 0.8)], start=1)
    ]
    assert ids[0] == ids[1] != ids[2]


def test_a_group_that_a_person_described_keeps_the_persons_name_as_id():
    one = group(range(9), 0.8)
    candidate = Candidate("labels", 0, "deep", one.candidate.rows, one.candidate.members, name="ruler")
    described = Suspicion(candidate, 0.3, one.parts, one.details, one.cav)
    (merged,) = merge([one, described])
    assert to_finding(merged, 1, make_dataset()).id == "ruler"
    assert merged.others == (one,)


def named(name: str, members, score: float, detector: str = "earlier", **changes) -> Suspicion:
    found = group(members, score, detector=detector, **changes)
    return replace(found, candidate=replace(found.candidate, name=name))


def test_what_has_a_name_stands_for_the_same_group_but_never_for_another_name():
    first, second = named("marker", range(10), 0.3), named("band", range(11), 0.2)
    described = named("ruler", range(10), 0.1, detector="labels")
    merged = merge([group(range(10), 0.9), first, second, described])
    assert [each.suspicion.candidate.name for each in merged] == ["marker", "band", "ruler"]
    assert [len(each.others) for each in merged] == [1, 0, 0]


def own_direction(number: int) -> dict:
    return {"cav": cav_of(*np.eye(8)[number])}


@pytest.mark.parametrize(
    ("members", "count"),
    [
        (range(5, 23), 1),  # 18 of 18 inside
        (range(4, 34), 1),  # 28 of 30 inside, and half the class at that
        (range(30, 40), 1),  # the rest of the class
        (range(23, 35), 2),  # 9 of 12 inside; the rest of the class overlaps the earlier group by 62 %
        (range(22, 34), 2),  # 10 of 12 inside: four fifths, but no more than by chance
        ([*range(20), *range(32, 38)], 2),  # 20 of 26 inside, and more than half of all samples shared
    ],
)
@pytest.mark.parametrize("clear", [0.01, 0.9])
def test_another_artifact_of_a_class_most_of_which_carries_a_known_one_is_another_finding(members, count, clear):
    known = named("marker", range(32), 0.3, clear=0.5, **own_direction(0))
    other = group(members, 0.8, clear=clear, **own_direction(1))
    assert len(merge([known, other])) == count
    detected = group(range(32), 0.9, clear=0.5, **own_direction(0))
    assert len(merge([detected, other])) == 1, "between new findings the rules are wider"


def test_a_part_of_the_group_of_an_earlier_run_is_no_other_finding():
    earlier = named("marker", range(20), 0.3, clear=0.9)
    assert len(merge([earlier, group(range(8), 0.8)])) == 1
