"""The append-only journal `annotations.json`: people's verdicts on findings."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import StoreError

from .records import Verdict

_JOURNAL = TypeAdapter(list[Verdict])


def read_journal(path: Path) -> list[Verdict]:
    """Return all verdicts in order; a missing journal is an empty one.

    Raises:
        StoreError: the journal is not a list of verdicts.
    """
    if not path.exists():
        return []
    try:
        return _JOURNAL.validate_python(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise StoreError(
            f"{path} is not a list of verdicts ({str(error).splitlines()[0]}). Each entry needs finding, verdict "
            "(spurious, valid or unsure), by, when and optionally why."
        ) from None


def latest(verdicts: list[Verdict]) -> dict[str, Verdict]:
    """Return the last verdict on each finding."""
    return {entry.finding: entry for entry in verdicts}
