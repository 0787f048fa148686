from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from pipeline.config.reveal import NeuronsConfig, SprayConfig
from pipeline.reveal import stability
from pipeline.reveal.candidates import Candidate, Detection
from pipeline.reveal.stability import stabilities
from pipeline.workspace.progress import SilentReporter

GROUP = np.arange(100) < 30
DETECTORS = [SprayConfig(kind="spray"), NeuronsConfig(kind="neurons")]


@dataclass(frozen=True)
class View:
    rows: np.ndarray
    seed: int = 0
    reporter: SilentReporter = SilentReporter()

    def classes(self):
        yield type("Class", (), {"class_id": 0, "rows": self.rows})

    def restricted(self, rows, seed):
        return replace(self, rows=rows, seed=seed)


class Faithful:
    """Finds the true group among the samples it is shown."""

    def __init__(self, seen):
        self.seen = seen

    def detect(self, view):
        self.seen.append(view)
        return Detection([Candidate("spray", 0, "input", view.rows, GROUP[view.rows])])


class Fickle(Faithful):
    """Finds another group each time."""

    def detect(self, view):
        self.seen.append(view)
        members = np.random.default_rng(view.seed).random(len(view.rows)) < 0.3
        return Detection([Candidate("spray", 0, "input", view.rows, members)])


def run(monkeypatch, detector, runs: int = 4, class_id: int = 0):
    seen, asked = [], []

    def make(config):
        asked.append(config.kind)
        return detector(seen)

    monkeypatch.setattr(stability, "make_detector", make)
    group = Candidate("spray", class_id, "input", np.arange(100), GROUP)
    return stabilities(View(np.arange(100)), DETECTORS, [group], runs), seen, asked


def test_a_group_that_is_always_found_again_is_stable(monkeypatch):
    assert run(monkeypatch, Faithful)[0] == [1.0]


def test_a_group_that_changes_is_not(monkeypatch):
    (value,), *_ = run(monkeypatch, Fickle)
    assert 0.05 < value < 0.4


def test_groups_of_other_classes_do_not_count(monkeypatch):
    assert run(monkeypatch, Faithful, class_id=1)[0] == [0.0]


def test_every_repetition_sees_another_four_fifths_with_another_seed(monkeypatch):
    _, seen, _ = run(monkeypatch, Faithful)
    assert [len(view.rows) for view in seen] == [80] * 4
    assert len({view.seed for view in seen}) == 4 and len({tuple(view.rows) for view in seen}) == 4
    assert all((np.diff(view.rows) > 0).all() for view in seen)


def test_detectors_that_found_none_of_the_groups_are_not_repeated(monkeypatch):
    assert set(run(monkeypatch, Faithful)[2]) == {"spray"}


def test_without_repetitions_stability_is_unknown(monkeypatch):
    found, seen, _ = run(monkeypatch, Faithful, runs=0)
    assert found == [None] and not seen


@pytest.mark.parametrize("runs", [1, 3])
def test_the_result_is_the_same_each_time(monkeypatch, runs):
    assert run(monkeypatch, Fickle, runs)[0] == run(monkeypatch, Fickle, runs)[0]
