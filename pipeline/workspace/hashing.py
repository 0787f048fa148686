"""Content hashes: the only keys under which results are found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

_DIGEST_BYTES = 16
SOURCE_SUFFIXES = (".py", ".j2", ".css")


def digest_json(value: Any) -> str:
    """Return the hash of a JSON-like value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def digest_file(path: Path, algorithm: str = "blake2b") -> str:
    """Return the hash of a file's bytes: 128 bits of BLAKE2b as a key, or another algorithm by name."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES) if algorithm == "blake2b" else hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@cache
def digest_sources(packages: tuple[str, ...]) -> str:
    """Return the hash of the sources and templates of rooms of this package, e.g. ("reveal", "concepts")."""
    root = Path(__file__).parents[1]
    return digest_json([(str(path.relative_to(root)), digest_file(path)) for path in _sources(root, packages)])


def _sources(root: Path, packages: Iterable[str]) -> list[Path]:
    files = (path for package in packages for path in (root / package).rglob("*"))
    return sorted(path for path in files if path.suffix in SOURCE_SUFFIXES and not path.name.startswith("."))
