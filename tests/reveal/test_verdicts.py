from __future__ import annotations

import pytest

from pipeline.reveal.verdicts import accepted
from pipeline.workspace.records import Finding, Verdict


def finding(name: str, rank: int, score: float) -> Finding:
    return Finding(
        id=name, rank=rank, detector="spray", class_id=0, class_name="a", layer="input", score=score, score_parts={},
        sample_ids=[],
    )  # fmt: skip


FINDINGS = [finding("first", 1, 0.8), finding("second", 2, 0.5), finding("third", 3, 0.1), finding("last", 4, 0.0)]


def names(words: dict[str, str], top: int = 2, least_score: float = 0.0) -> list[str]:
    verdicts = {name: Verdict(finding=name, verdict=word, by="ann", when="now") for name, word in words.items()}
    found = accepted(FINDINGS, verdicts, top, least_score)
    assert all(verdict is verdicts.get(each.id) for each, verdict in found)
    return [each.id for each, _ in found]


@pytest.mark.parametrize(("top", "expected"), [(0, []), (1, ["first"]), (2, ["first", "second"])])
def test_without_verdicts_the_first_ones_are_accepted(top, expected):
    assert names({}, top) == expected


def test_a_score_below_the_least_is_not_accepted_without_a_verdict():
    assert names({}, 3, 0.5) == ["first", "second"]
    assert names({}, 3, 0.9) == []


def test_a_score_of_zero_is_never_accepted_without_a_verdict():
    assert names({}, 4) == ["first", "second", "third"]


@pytest.mark.parametrize("word", ["valid", "unsure"])
def test_what_a_person_called_valid_or_unsure_is_not_accepted(word):
    assert names({"first": word}, 1) == ["second"]
    assert names({each.id: word for each in FINDINGS}, 4) == []


def test_what_a_person_called_spurious_is_accepted_alone_whatever_its_score():
    assert names({"last": "spurious"}) == ["last"]
    assert names({"third": "spurious", "second": "spurious", "first": "unsure"}, 4, 0.9) == ["second", "third"]


def test_a_verdict_on_an_unknown_finding_changes_nothing():
    assert names({"elsewhere": "spurious"}, 1) == ["first"]


def test_what_a_person_described_by_labels_is_accepted_unless_judged_otherwise():
    described = finding("ruler", 3, 0.05).model_copy(update={"detector": "labels"})
    findings = [finding("first", 1, 0.8), described]
    assert accepted(findings, {}, 1, 0.0) == [(described, None)]
    valid = Verdict(finding="ruler", verdict="valid", by="ann", when="now")
    assert [each.id for each, _ in accepted(findings, {"ruler": valid}, 1, 0.0)] == ["first"]
