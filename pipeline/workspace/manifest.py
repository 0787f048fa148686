"""The manifest of a run: what each stage was made from, and what it left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import StoreError

from .atomic import write_json

MANIFEST_VERSION = 1


class FileEntry(BaseModel):
    """An output file. Size and time of change tell cheaply that the content is still what was hashed."""

    model_config = ConfigDict(extra="forbid")

    bytes: int
    modified_ns: int
    digest: str


class StageEntry(BaseModel):
    """One stage of the run. `started` stands until it ends, so that a killed stage does not look finished."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["started", "done", "failed"]
    key: str
    parts: dict[str, Any]
    outputs: dict[str, FileEntry] = {}
    seconds: float = 0.0
    finished: str = ""
    versions: dict[str, str] = {}
    command: str = ""
    error: str = ""
    notes: dict[str, Any] = {}


class DatasetEntry(BaseModel):
    """The data set as it was last read; the signature spares reading it again while the files are unchanged."""

    model_config = ConfigDict(extra="forbid")

    signature: str
    fingerprint: str
    skipped: list[tuple[str, str]] = []


class Manifest(BaseModel):
    """The file `manifest.json`."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = MANIFEST_VERSION
    dataset: DatasetEntry | None = None
    stages: dict[str, StageEntry] = {}

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest; a missing file is an empty manifest.

        Raises:
            StoreError: the file is damaged or of another version.
        """
        if not path.exists():
            return cls()
        try:
            manifest = cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, ValidationError) as error:
            raise StoreError(
                f"{path} cannot be read: {str(error).splitlines()[0]}. "
                "Move it away to start this run directory afresh; results of unchanged inputs are computed again."
            ) from error
        if manifest.schema_version != MANIFEST_VERSION:
            raise StoreError(
                f"{path} has schema version {manifest.schema_version}, this program reads {MANIFEST_VERSION}. "
                "Choose another name or output_dir."
            )
        return manifest

    def save(self, path: Path) -> None:
        """Write the manifest atomically."""
        write_json(path, self.model_dump(mode="json"))
