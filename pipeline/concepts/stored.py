"""Directions on disk: data classes of arrays, numbers and texts, written as NPZ without pickled objects."""

from __future__ import annotations

import zlib
from dataclasses import fields
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np

from pipeline.errors import StoreError
from pipeline.workspace.atomic import atomic_path

READERS = {"np.ndarray": np.asarray, "float": float, "str": str}
"""Type of a field, as it is written in the class -> how it is read."""


class Stored:
    """What a frozen data class whose fields are arrays, floats and texts inherits to be saved and loaded."""

    def save(self, path: Path) -> None:
        """Write an NPZ file, an array for each field."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{name: np.asarray(value) for name, value in vars(self).items()})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            StoreError: the file is missing, damaged or of another version.
        """
        readers = {each.name: READERS[each.type] for each in fields(cls)}
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(**{name: read(stored[name]) for name, read in readers.items()})
        except (OSError, KeyError, ValueError, EOFError, BadZipFile, zlib.error) as error:
            raise StoreError(f"{path} cannot be read ({error}). Start reveal again, with --force.") from None
