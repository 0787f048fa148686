"""Seals: a finished file with its hash beside it, so that the next start knows it for whole and undamaged."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from pipeline.workspace.atomic import write_text
from pipeline.workspace.hashing import digest_file
from pipeline.workspace.records import Record


class Seal(Record):
    """The file `<name>.seal.json`.

    Attributes:
        key: hash of what the file was computed from.
        bytes, digest: of the file.
    """

    key: str
    bytes: int
    digest: str


def seal_path(path: Path) -> Path:
    """Return where the seal of a file lies: beside it."""
    return path.with_suffix(".seal.json")


def break_seal(path: Path) -> None:
    """Remove the seal, before the file is written anew."""
    seal_path(path).unlink(missing_ok=True)


def seal(path: Path, key: str) -> None:
    """Say that a file is finished and was computed from `key`."""
    sealed = Seal(key=key, bytes=path.stat().st_size, digest=digest_file(path))
    write_text(seal_path(path), sealed.model_dump_json(indent=1) + "\n")


def is_sealed(path: Path, key: str) -> bool:
    """Tell whether a file is finished, of this key, and still what it was when it was sealed."""
    try:
        found = Seal.model_validate(json.loads(seal_path(path).read_text(encoding="utf-8")))
        return found.key == key and path.stat().st_size == found.bytes and digest_file(path) == found.digest
    except (FileNotFoundError, ValueError, ValidationError):
        return False
