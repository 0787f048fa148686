"""Progress on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
PLAIN_INTERVAL_SECONDS = 15.0


class Reporter(Protocol):
    """Where a stage says what it does."""

    def say(self, text: str) -> None:
        """Print one line."""

    def track(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """Yield the items while showing how far the loop is."""
        ...


class SilentReporter:
    """Says nothing; for use from Python."""

    def say(self, text: str) -> None:
        """Drop the line."""

    def track(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """Yield the items."""
        yield from items


class PlainReporter:
    """Lines with times, for log files."""

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stdout

    def say(self, text: str) -> None:
        """Print one line at once."""
        print(text, file=self.stream, flush=True)

    def track(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """Yield the items; print a line at most every 15 seconds."""
        total = total if total is not None else getattr(items, "__len__", lambda: None)()
        last = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            if time.monotonic() - last > PLAIN_INTERVAL_SECONDS:
                last = time.monotonic()
                self.say(f"    {label}: {done}{f'/{total}' if total else ''}")


class TerminalReporter:
    """A bar per loop, drawn by rich, gone when the loop ends; loops within loops are drawn below each other."""

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console

        self.console = Console(file=stream, highlight=False, emoji=False, force_terminal=stream is not None or None)
        self._open = None

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self.console.print(text, markup=False, soft_wrap=True)

    def track(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """Yield the items under a bar with elapsed and remaining time."""
        with self._bar() as bar:
            total = total if total is not None else getattr(items, "__len__", lambda: None)()
            task = bar.add_task(f"  {label}", total=total)
            try:
                for item in items:
                    yield item
                    bar.advance(task)
            finally:
                bar.remove_task(task)

    @contextmanager
    def _bar(self) -> Iterator[Progress]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        # A terminal can show one live display at a time.
        if self._open is not None:
            yield self._open
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as self._open:
            try:
                yield self._open
            finally:
                self._open = None


def make_reporter() -> Reporter:
    """Return the terminal reporter where standard output is a terminal, else the plain one."""
    return TerminalReporter() if sys.stdout.isatty() else PlainReporter()
