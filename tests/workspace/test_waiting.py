from __future__ import annotations

import pytest

from pipeline.errors import StoreError
from pipeline.workspace import waiting
from pipeline.workspace.progress import SilentReporter
from pipeline.workspace.waiting import NotYet, wait_for


class Lines(SilentReporter):
    def __init__(self):
        self.lines = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that goes on by half a minute at every look."""
    now = [1000.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(waiting.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + 30))
    return now


def test_what_is_there_is_returned_at_once(clock):
    assert wait_for(lambda: "found", 1, SilentReporter()) == "found"
    assert clock == [1000.0]


def test_waiting_goes_on_as_long_as_something_changes():
    looks = iter([*(NotYet("rank 1", number) for number in range(50)), "found"])
    assert wait_for(lambda: next(looks), 1, SilentReporter()) == "found"


def test_without_progress_it_ends_after_the_patience_and_names_who_is_missing(clock):
    with pytest.raises(StoreError, match=r"no progress for 2 minutes while waiting for rank 3.*patience_minutes"):
        wait_for(lambda: NotYet("rank 3 (1 of 4 chunks)", 1), 2, SilentReporter())
    assert clock == [1000.0 + 150]


def test_who_is_missing_is_said_at_once_and_then_once_in_a_while():
    looks = iter([*(NotYet(f"rank {number}", number) for number in range(6)), "found"])
    reporter = Lines()
    wait_for(lambda: next(looks), 1, reporter)
    assert reporter.lines == ["    waiting for rank 0", "    waiting for rank 3"]
