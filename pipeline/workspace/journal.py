"""The append-only journal `annotations.json`: people's verdicts on findings, and their labels of single samples."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pipeline.errors import StoreError

from .atomic import write_text
from .records import SampleLabel, Verdict

Entry = Verdict | SampleLabel
NEEDED = (
    "A verdict needs finding, verdict (spurious, valid or unsure), by, when and optionally why; a label needs bias, "
    "sample, label (positive, negative or unsure), by, when and optionally why."
)


@dataclass(frozen=True)
class Journal:
    """What people said, in the order in which they said it.

    Attributes:
        verdicts: on findings.
        labels: of samples.
    """

    verdicts: list[Verdict]
    labels: list[SampleLabel]


def read_journal(path: Path) -> Journal:
    """Return all entries in order; a missing journal is an empty one.

    Raises:
        StoreError: the journal is not a list of verdicts and labels.
    """
    entries = _parse(path, _read_text(path))
    return Journal(
        [entry for entry in entries if isinstance(entry, Verdict)],
        [entry for entry in entries if isinstance(entry, SampleLabel)],
    )


def append(path: Path, entries: Sequence[Entry]) -> None:
    """Add entries at the end of the journal, all or none; what was written before stays byte for byte.

    Several processes and threads may append to one journal: they wait for one another.

    Raises:
        StoreError: the journal is not a list of verdicts and labels, or cannot be written; it is left as it was.
    """
    if not entries:
        return
    with _alone(path):
        text = _read_text(path)
        earlier = _parse(path, text)
        added = ",\n ".join(entry.model_dump_json() for entry in entries)
        # without the closing bracket
        start = text.rstrip()[:-1].rstrip()
        write_text(path, f"{start}{',' if earlier else ''}\n {added}\n]\n")


def latest(journal: Journal) -> dict[str, Verdict]:
    """Return the last verdict on each finding."""
    return {verdict.finding: verdict for verdict in journal.verdicts}


def latest_labels(journal: Journal) -> dict[tuple[str, str], SampleLabel]:
    """Return the last label of each (bias, sample)."""
    return {(label.bias, label.sample): label for label in journal.labels}


def parse_entry(value: object) -> Entry:
    """Return an entry of a journal as a record: one that names a sample is a label, any other a verdict.

    Raises:
        ValidationError: a field is missing, unknown, or not allowed.
    """
    is_label = isinstance(value, dict) and "sample" in value
    return (SampleLabel if is_label else Verdict).model_validate(value)


def _read_text(path: Path) -> str:
    if not path.exists():
        return "[]\n"
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _not_a_journal(path, str(error)) from None


def _parse(path: Path, text: str) -> list[Entry]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise _not_a_journal(path, str(error)) from None
    if not isinstance(values, list):
        raise _not_a_journal(path, f"it is a JSON {type(values).__name__}")
    entries = []
    for number, value in enumerate(values, start=1):
        try:
            entries.append(parse_entry(value))
        except ValidationError as error:
            raise _not_a_journal(path, f"entry {number}: {first_problem(error)}") from None
    return entries


def first_problem(error: ValidationError) -> str:
    """Return the first thing that is wrong with a record, with its place."""
    problem = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def _not_a_journal(path: Path, reason: str) -> StoreError:
    return StoreError(f"{path} is not a list of verdicts and labels ({reason}). {NEEDED} Correct it, or move it away.")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one writer at a time read, extend and replace the journal."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path.with_name(f".{path.name}.lock"), "a")  # noqa: SIM115 - closed below, in the `with`
    except OSError as error:
        raise StoreError(f"cannot write {path} ({error.strerror}). Choose another output_dir.") from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
