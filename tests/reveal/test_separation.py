from __future__ import annotations

import numpy as np
import pytest

from pipeline.reveal import separation as module
from pipeline.reveal.candidates import Candidate
from pipeline.reveal.separation import Separations, separation

PER_CLASS = 150


@pytest.mark.parametrize(
    ("conductance", "usual", "expected"),
    [(0.06, 0.06, 1 / 7), (0.01, 0.06, 0.5), (0.12, 0.06, 0.5 / 6.5), (0.5, 0.0, 0)],
)
def test_separation_compares_with_the_usual(conductance, usual, expected):
    assert separation(conductance, usual) == pytest.approx(expected)


def test_an_island_is_separated_as_far_as_can_be_told():
    assert separation(0.0, 0.06) > 0.98


class Data:
    """Three classes of Gaussian samples in one layer; in class 1, ten percent sit far away."""

    def __init__(self, shift: float = 25.0):
        generator = np.random.default_rng(0)
        self.values = np.abs(generator.standard_normal((3 * PER_CLASS, 8))).astype(np.float32)
        self.planted = np.zeros(3 * PER_CLASS, bool)
        self.planted[PER_CLASS : PER_CLASS + 15] = True
        self.values[self.planted, 3] += shift
        self.asked = 0

    def classes(self):
        for number in range(3):
            yield type("Class", (), {"class_id": number, "rows": np.arange(PER_CLASS) + number * PER_CLASS})

    def features(self, data, rows, space, *, quantity):
        self.asked += 1
        return self.values[rows]


@pytest.fixture
def data(monkeypatch):
    data = Data()
    monkeypatch.setattr(module, "space_features", data.features)
    return data


def candidate(data, class_id, members):
    rows = np.arange(PER_CLASS) + class_id * PER_CLASS
    return Candidate("spray", class_id, "deep", rows, members)


def test_a_planted_group_is_separated_and_a_random_one_is_not(data):
    separations = Separations(data)
    planted = separations.measure(candidate(data, 1, data.planted[PER_CLASS : 2 * PER_CLASS]))
    random = separations.measure(candidate(data, 1, np.arange(PER_CLASS) % 4 == 0))
    assert planted > 0.6 and random < 0.05


def test_the_clearest_division_of_an_ordinary_class_is_usual(data):
    separations = Separations(data)
    rows = np.arange(PER_CLASS)
    cut = separations.divided(0, rows, "deep", "relevance").cuts[0]
    assert 0.08 < separations.measure(candidate(data, 0, cut.members)) < 0.3


def test_the_graph_of_a_class_is_made_once(data):
    separations = Separations(data)
    for _ in range(3):
        separations.measure(candidate(data, 1, data.planted[PER_CLASS : 2 * PER_CLASS]))
    assert data.asked == 3  # one for each class, for the usual conductance


def test_both_sides_of_a_division_are_equally_separated(data):
    separations = Separations(data)
    members = data.planted[PER_CLASS : 2 * PER_CLASS]
    assert separations.measure(candidate(data, 1, members)) == separations.measure(candidate(data, 1, ~members))
