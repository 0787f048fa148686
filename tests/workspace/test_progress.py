"""Items pass unchanged, lines appear at once, and loops may be nested."""

from __future__ import annotations

import io

import pytest

from pipeline.workspace import progress
from pipeline.workspace.progress import PlainReporter, SilentReporter, TerminalReporter, make_reporter


@pytest.mark.parametrize(
    "make", [SilentReporter, lambda: PlainReporter(io.StringIO()), lambda: TerminalReporter(io.StringIO())]
)
def test_items_pass_unchanged_also_from_iterators_and_in_nested_loops(make):
    reporter = make()
    seen = [
        (outer, inner)
        for outer in reporter.track(range(2), "outer")
        for inner in reporter.track(iter("ab"), "inner", total=2)
    ]
    assert seen == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]
    assert list(reporter.track([1, 2], "again")) == [1, 2]


def test_plain_lines_tell_how_far_the_loop_is(monkeypatch):
    times = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    stream = io.StringIO()
    list(PlainReporter(stream).track(range(4), "epochs"))
    assert stream.getvalue().splitlines() == ["    epochs: 2/4", "    epochs: 4/4"]


def test_plain_line_without_total(monkeypatch):
    times = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    stream = io.StringIO()
    list(PlainReporter(stream).track(iter([1]), "rows"))
    assert stream.getvalue() == "    rows: 1\n"


def test_terminal_prints_lines_above_the_bar_as_they_are():
    stream = io.StringIO()
    reporter = TerminalReporter(stream)
    for _ in reporter.track(range(2), "epochs"):
        reporter.say("layers.3 [bold] :x: " + "long " * 40)
    assert stream.getvalue().count("layers.3 [bold] :x: " + "long " * 40) == 2


def test_terminal_bar_ends_with_its_loop_also_when_the_loop_fails():
    reporter = TerminalReporter(io.StringIO())
    with pytest.raises(ZeroDivisionError):
        for item in reporter.track([0], "epochs"):
            1 / item
    assert list(reporter.track([1], "again")) == [1]


def test_output_that_is_no_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert isinstance(make_reporter(), PlainReporter)
