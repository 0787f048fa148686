from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter

from pipeline.config.data import AttackUnion
from pipeline.data.memory import ArrayDataset, NaturalArtifact, make_table
from pipeline.data.worlds import WorldView
from pipeline.evaluate.worlds import TestWorlds

ATTACK = TypeAdapter(AttackUnion).validate_python({"kind": "glyph", "classes": ["b"], "probability": 1.0, "size": 3})


def worlds_of(attack, artifacts=None) -> TestWorlds:
    pixels = np.zeros((6, 1, 12, 12), np.uint8)
    table = make_table([f"s{row}" for row in range(6)], np.arange(6) % 2, ["test"] * 6)
    asis = WorldView(ArrayDataset(pixels, table, ("a", "b"), artifacts=artifacts), attack, "asis", 0)
    return TestWorlds(asis, {"asis": asis}, None, "nothing", "asis")


def test_as_it_is_a_group_says_who_carries_what_was_planted():
    found = worlds_of(ATTACK).groups("asis", np.array([0, 1, 4, 5]))
    assert found.tolist() == ["a, without", "b, with", "a, without", "b, with"]


def test_as_it_is_a_group_also_says_who_is_listed_with_a_natural_artifact():
    ruler = NaturalArtifact(np.array([True, False, False, False, False, True]))
    found = worlds_of(None, {"ruler": ruler}).groups("asis", np.arange(6))
    assert found.tolist() == ["a, with", "b, without", "a, without", "b, without", "a, without", "b, with"]


@pytest.mark.parametrize(("world", "word"), [("clean", "without"), ("attacked", "with")])
def test_in_the_other_worlds_all_samples_are_alike(world, word):
    assert worlds_of(ATTACK).groups(world, np.arange(4)).tolist() == [f"{name}, {word}" for name in "abab"]
