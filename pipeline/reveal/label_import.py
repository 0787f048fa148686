"""Labels of samples from a file: the names in it are matched with the data set's ids, and nothing is dropped unsaid."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from pipeline.errors import ConfigError, nearest
from pipeline.workspace.journal import first_problem
from pipeline.workspace.records import BIAS_NAME, SampleLabel

NAMED = 10
"""Most names that a message lists."""
ID_COLUMNS = ("id", "sample")
WORDS: dict[str, Literal["positive", "negative", "unsure"]] = {
    "positive": "positive",
    "negative": "negative",
    "unsure": "unsure",
    "1": "positive",
    "0": "negative",
}
# A suffix begins with a letter, so that the numbered parts of a DICOM identifier are none.
SUFFIX = re.compile(r"(?<=.)\.[A-Za-z][A-Za-z0-9]{0,4}$")


@dataclass(frozen=True)
class LabelImport:
    """What a file of labels says about the samples of a data set.

    Attributes:
        labels: one for each (bias, sample), in the file's order; their samples are ids of the data set.
        unmatched: names in the file that no sample has, each once, in the file's order.
        duplicates: how many entries said again what another one had said.
        by_row: how many labels were matched by a row number.
    """

    labels: list[SampleLabel]
    unmatched: list[str]
    duplicates: int
    by_row: int

    def summary(self) -> list[str]:
        """Return the counts in plain sentences, with the first ten names that no sample has."""
        words: dict[str, list[str]] = defaultdict(list)
        for label in self.labels:
            words[label.bias].append(label.label)
        lines = [
            f"{bias}: " + ", ".join(f"{said.count(word)} {word}" for word in ("positive", "negative", "unsure"))
            for bias, said in words.items()
        ]
        if self.by_row:
            lines.append(f"{self.by_row} labels were matched by row number")
        if self.duplicates:
            lines.append(f"{self.duplicates} entries say again what another one says")
        if self.unmatched:
            lines.append(f"WARNING: {len(self.unmatched)} names match no sample: {_some(self.unmatched)}")
        return lines


@dataclass(frozen=True)
class _Entry:
    """A label as it stands in the file: `place` says where, `is_number` whether its name may be a row number."""

    place: str
    bias: str
    name: str
    is_number: bool
    label: Literal["positive", "negative", "unsure"]
    by: str
    when: str
    why: str


def read_labels(path: Path, ids: Sequence[str], *, by: str, when: str, rows_allowed: bool = False) -> LabelImport:
    """Return the labels of a file for the samples of a data set.

    Args:
        path: a JSON object {bias: [names]} of positives, a JSON list of labels as in `annotations.json`, or a CSV or
            TSV file with the columns id (or sample), bias, label (positive, negative, unsure, 1, 0), optionally by,
            when and why. Verdicts in a list are passed over.
        ids: of the samples, row by row.
        by: who labelled, where the file does not say it.
        when: ISO 8601, where the file does not say it.
        rows_allowed: take a number that is no sample's name for a row, counted from 0. Off by default: row numbers
            mean another sample as soon as a file is added or skipped.

    A name is matched with an id exactly; else by its last part without suffix; where several ids share that, by the
    longest common end of the path. Of entries with different times the last word on a sample counts.

    Raises:
        ConfigError: the file cannot be read, a name matches several ids, the file contradicts itself, or no name
            matches.
    """
    entries = list(_entries(path, by, when))
    resolver = Resolver(ids)
    matched: dict[tuple[str, str], _Entry] = {}
    unmatched: dict[str, None] = {}
    by_row: set[tuple[str, str]] = set()
    contradictions: list[str] = []
    ambiguous: list[str] = []
    duplicates = 0
    for entry in entries:
        found = resolver.find(entry.name)
        row_used = not found and rows_allowed and entry.is_number and int(entry.name) in range(len(ids))
        if row_used:
            found = [str(ids[int(entry.name)])]
        if not found:
            unmatched[entry.name] = None
            continue
        if len(found) > 1:
            ambiguous.append(f"'{entry.name}' ({entry.place}) may be {_some(found)}")
            continue
        key = entry.bias, found[0]
        if row_used:
            by_row.add(key)
        known = matched.get(key)
        duplicates += known is not None and known.label == entry.label
        if known is not None and known.label != entry.label and entry.when == known.when:
            contradictions.append(
                f"'{found[0]}' is {known.label} ({known.place}) and {entry.label} ({entry.place}) for '{entry.bias}'"
            )
        matched[key] = entry
    if ambiguous:
        raise ConfigError(
            f"{path}: {len(ambiguous)} names match several samples: {_some(ambiguous)}. Write the whole ids."
        )
    if contradictions:
        raise ConfigError(
            f"{path} contradicts itself on {len(contradictions)} samples: {_some(contradictions)}. "
            "Keep one label of each."
        )
    if not matched:
        raise ConfigError(_nothing_matched(path, list(unmatched), ids, rows_allowed))
    labels = [
        SampleLabel(bias=bias, sample=sample, label=each.label, by=each.by, when=each.when, why=each.why)
        for (bias, sample), each in matched.items()
    ]
    return LabelImport(labels, list(unmatched), duplicates, len(by_row))


def new_labels(imported: Sequence[SampleLabel], known: Sequence[SampleLabel]) -> list[SampleLabel]:
    """Return the imported labels that are news: what the same person said last on that bias and sample is none."""
    said = {(label.bias, label.sample, label.by): label.label for label in known}
    return [label for label in imported if said.get((label.bias, label.sample, label.by)) != label.label]


class Resolver:
    """Finds the ids of a data set that a name in a file may mean."""

    def __init__(self, ids: Sequence[str]):
        self._ids = {str(each) for each in ids}
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for each in ids:
            self._by_stem[_parts(str(each))[-1]].append(str(each))

    def find(self, name: str) -> list[str]:
        """Return the ids that a name means: one where it is clear, none, or several where it is not."""
        if name in self._ids:
            return [name]
        found = self._by_stem.get(_parts(name)[-1], [])
        # "b/x.png" is "b/x.png" rather than "b/x.jpg", and "b/x" rather than "a/x"
        for comparable in (_whole_parts, _parts):
            if len(found) > 1:
                found = _sharing_longest_end(comparable(name), found, comparable)
        return found


def _sharing_longest_end(parts: list[str], found: list[str], comparable: Callable[[str], list[str]]) -> list[str]:
    """Return those of several ids whose path, or the name's, ends in all of the other; all of them if none does."""
    ends = []
    for each in found:
        other = comparable(each)
        length = min(len(parts), len(other))
        ends.append(length if parts[-length:] == other[-length:] else 0)
    return [each for each, length in zip(found, ends, strict=True) if length == max(ends)]


def _whole_parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")] or [name]


def _parts(name: str) -> list[str]:
    *folders, last = _whole_parts(name)
    return [*folders, SUFFIX.sub("", last)]


def _entries(path: Path, by: str, when: str) -> Iterator[_Entry]:
    try:
        # a byte order mark, as spreadsheets write it, is no part of the first column's name
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"--label {path}: {error.strerror}. Give a JSON, CSV or TSV file.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--label {path} is no text in UTF-8 ({error}). Give a JSON, CSV or TSV file.") from None
    if path.suffix.lower() in (".csv", ".tsv"):
        return _table_entries(path, text, by, when)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--label {path} is no JSON ({error}). Name it .csv or .tsv if it is a table.") from None
    if isinstance(content, dict):
        return _object_entries(path, content, by, when)
    if isinstance(content, list):
        return _list_entries(path, content, by, when)
    raise ConfigError(
        f"--label {path} holds a {type(content).__name__}; allowed: {{bias: [ids]}}, or a list of labels."
    )


def _object_entries(path: Path, content: dict, by: str, when: str) -> Iterator[_Entry]:
    for bias, names in content.items():
        if not isinstance(names, list):
            raise ConfigError(f"--label {path}: '{bias}' holds a {type(names).__name__}; allowed: a list of ids.")
        for position, name in enumerate(names):
            place = f"{bias}[{position}]"
            yield _Entry(
                place, _checked_bias(path, place, bias), *_json_name(path, place, name), "positive", by, when, ""
            )


def _list_entries(path: Path, content: list, by: str, when: str) -> Iterator[_Entry]:
    for number, value in enumerate(content, start=1):
        place = f"entry {number}"
        if not isinstance(value, dict):
            raise ConfigError(f"--label {path}, {place}: {value!r} is no label with bias, sample and label.")
        if "verdict" in value and "sample" not in value:
            continue
        filled = {"by": by, "when": when} | value
        name, is_number = _json_name(path, place, filled.get("sample"))
        try:
            label = SampleLabel.model_validate(filled | {"sample": name})
        except ValidationError as error:
            raise ConfigError(f"--label {path}, {place}: {first_problem(error)}.") from None
        yield _Entry(
            place, _checked_bias(path, place, label.bias), name, is_number, label.label, label.by, label.when, label.why
        )


def _table_entries(path: Path, text: str, by: str, when: str) -> Iterator[_Entry]:
    header = text.partition("\n")[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    id_column = next((name for name in ID_COLUMNS if name in columns), None)
    for wanted, name in (("id (or sample)", id_column), ("bias", "bias"), ("label", "label")):
        if name not in columns:
            raise ConfigError(
                f"--label {path} has no column {wanted}.{nearest(wanted, columns)} Its columns: {', '.join(columns)}."
            )
    for row in reader:
        place = f"line {reader.line_num}"
        cells = {name: (cell or "").strip() for name, cell in row.items() if isinstance(name, str)}
        word = cells["label"].lower()
        if word not in WORDS:
            raise ConfigError(
                f"--label {path}, {place}: label '{cells['label']}' is unknown.{nearest(word, list(WORDS))} "
                f"Allowed: {', '.join(WORDS)}."
            )
        name = cells[id_column]
        if not name:
            raise ConfigError(f"--label {path}, {place}: the {id_column} is empty.")
        yield _Entry(
            place,
            _checked_bias(path, place, cells["bias"]),
            name,
            name.isdecimal(),
            WORDS[word],
            cells.get("by") or by,
            cells.get("when") or when,
            cells.get("why", ""),
        )


def _json_name(path: Path, place: str, name: object) -> tuple[str, bool]:
    """Return a sample's name as text, and whether it is a number; text is never one, since ids may look like it."""
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise ConfigError(f"--label {path}, {place}: {name!r} is no id; allowed: text, or whole numbers.")
    return str(name), isinstance(name, int)


def _checked_bias(path: Path, place: str, bias: str) -> str:
    # it becomes the name of files
    if not re.fullmatch(BIAS_NAME, bias):
        raise ConfigError(
            f"--label {path}, {place}: the bias {bias!r} is no name; allowed: up to 80 letters, digits, '.', '_' and "
            "'-', the first one a letter or digit."
        )
    return bias


def _nothing_matched(path: Path, unmatched: list[str], ids: Sequence[str], rows_allowed: bool) -> str:
    if not unmatched:
        return f"--label {path} holds no label."
    hint = ""
    if not rows_allowed and any(name.isdecimal() for name in unmatched):
        hint = " If its numbers are rows of the data set, counted from 0, add --by-row."
    examples = _some([str(each) for each in ids], 3)
    return (
        f"--label {path}: none of its {len(unmatched)} names matches a sample, such as {_some(unmatched)}. "
        f"Ids of the data set look like {examples}.{hint}"
    )


def _some(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first names, and how many are left out."""
    left_out = max(0, len(names) - most)
    return ", ".join(names[:most]) + (f" and {left_out} more" if left_out else "")
