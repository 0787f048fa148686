"""Progress on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO, TypeVar

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
    """A bar per loop, drawn by rich, gone when the loop ends."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(highlight=False)

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self.console.print(text, markup=False)

    def track(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """Yield the items under a bar with elapsed and remaining time."""
        with self._bar() as bar:
            total = total if total is not None else getattr(items, "__len__", lambda: None)()
            task = bar.add_task(f"  {label}", total=total)
            for item in items:
                yield item
                bar.advance(task)

    @contextmanager
    def _bar(self) -> Iterator:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            yield bar


def make_reporter() -> Reporter:
    """Return the terminal reporter where standard output is a terminal, else the plain one."""
    return TerminalReporter() if sys.stdout.isatty() else PlainReporter()
