"""Waiting for another process by looking at files, as long as it gets on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.errors import StoreError

from .progress import Reporter

T = TypeVar("T")
POLL_SECONDS = 0.5
SAY_SECONDS = 60.0


@dataclass(frozen=True)
class NotYet:
    """What is not there yet.

    Attributes:
        missing: in words.
        progress: anything that changes as long as the others get on.
    """

    missing: str
    progress: Hashable


def wait_for(look: Callable[[], T | NotYet], patience_minutes: float, reporter: Reporter) -> T:
    """Return what `look` finds, looking again and again; say once in a minute what is missing.

    Raises:
        StoreError: nothing has changed for `patience_minutes`.
    """
    before: NotYet | None = None
    changed, said = 0.0, -math.inf
    while isinstance(found := look(), NotYet):
        now = time.monotonic()
        if before is None or found.progress != before.progress:
            before, changed = found, now
        if now - changed > 60 * patience_minutes:
            raise StoreError(
                f"no progress for {patience_minutes:g} minutes while waiting for {found.missing}. See why it stopped, "
                "and start the same command again: what is finished is kept. "
                "precompute.patience_minutes sets how long to wait."
            )
        if now - said > SAY_SECONDS:
            said = now
            reporter.say(f"    waiting for {found.missing}")
        time.sleep(POLL_SECONDS)
    return found
