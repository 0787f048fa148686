"""The directory of a run: paths, lock, manifest."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from stat import S_ISDIR
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import BusyError, StoreError

from .atomic import TEMPORARY_SUFFIX, write_text
from .hashing import digest_file
from .manifest import FileEntry, Manifest

R = TypeVar("R", bound=BaseModel)

STAGE_FOLDERS = {
    "train": "model",
    "precompute": "precompute",
    "reveal": "reveal",
    "localize": "localize",
    "mitigate": "mitigate",
    "evaluate": "evaluate",
    "report": "report",
}


class RunDirectory:
    """`<output_dir>/<name>/`: all files of one run."""

    def __init__(self, root: Path | str):
        self.root = Path(root)

    def folder(self, stage: str) -> Path:
        """Return the folder that the stage writes."""
        return self.root / STAGE_FOLDERS[stage]

    @property
    def manifest_path(self) -> Path:
        """The manifest's place."""
        return self.root / "manifest.json"

    @property
    def annotations_path(self) -> Path:
        """The journal of people's verdicts; it is input of reveal and never removed by a run."""
        return self.root / "annotations.json"

    def manifest(self) -> Manifest:
        """Read the manifest."""
        return Manifest.load(self.manifest_path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run directory for this process.

        Raises:
            BusyError: another process holds it.
            StoreError: the directory cannot be created or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = open(self.root / ".lock", "a+")  # noqa: SIM115 - closed below, in the `with`
        except OSError as error:
            raise StoreError(f"cannot write in {self.root} ({error.strerror}). Choose another output_dir.") from error
        # Workers of a data loader would else hold the lock for seconds after this process was killed.
        os.register_at_fork(after_in_child=handle.close)
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                owner = handle.read().strip() or "unknown"
                raise BusyError(
                    f"{self.root} is in use by process {owner}. Wait for it to end, or give this run another "
                    "name: --set name=..."
                ) from None
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield

    def clear(self, stage: str) -> None:
        """Remove what the stage wrote."""
        folder = self.folder(stage)
        for entry in folder.iterdir() if folder.exists() else ():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def written(self, stage: str) -> dict[Path, tuple[int, int]]:
        """Return every file below the stage's folder with what changes when it is written: inode and time of change."""
        found = {}
        for path in self.folder(stage).rglob("*"):
            # Another process that shares the stage may rename its temporary file meanwhile.
            with suppress(FileNotFoundError):
                state = path.lstat()
                if not S_ISDIR(state.st_mode):
                    found[path] = state.st_ino, state.st_mtime_ns
        return found

    def clear_old(self, stage: str, before: dict[Path, tuple[int, int]], keep: tuple[str, ...] = ()) -> None:
        """Remove the files that have not been written since `before`, and folders that are empty then.

        Args:
            stage: name of the stage.
            before: what `written` returned.
            keep: shell patterns; entries of the stage's folder that match one stay.
        """
        folder = self.folder(stage)
        for path, mark in self.written(stage).items():
            kept = any(fnmatchcase(path.relative_to(folder).parts[0], pattern) for pattern in keep)
            if before.get(path) == mark and not kept:
                path.unlink()
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()

    def outputs(self, stage: str) -> dict[str, FileEntry]:
        """Return every file below the stage's folder with size, time of change and hash."""
        found = {}
        for path in sorted(self.folder(stage).rglob("*")):
            if path.is_file() and not path.name.endswith(TEMPORARY_SUFFIX):
                state = path.stat()
                found[str(path.relative_to(self.root))] = FileEntry(
                    bytes=state.st_size, modified_ns=state.st_mtime_ns, digest=digest_file(path)
                )
        return found

    def damage(self, outputs: dict[str, FileEntry]) -> str | None:
        """Return what is wrong with recorded outputs, or None. Contents are hashed only where size or time differ."""
        for name, entry in outputs.items():
            path = self.root / name
            if not path.exists():
                return f"{name} is missing"
            state = path.stat()
            if state.st_size != entry.bytes:
                return f"{name} has {state.st_size:,} bytes instead of {entry.bytes:,}"
            if state.st_mtime_ns != entry.modified_ns and digest_file(path) != entry.digest:
                return f"{name} was changed"
        return None

    def read_record(self, relative: str, kind: type[R]) -> R:
        """Read a JSON record of the run.

        Raises:
            StoreError: the file is missing, damaged or of another version.
        """
        path = self.root / relative
        try:
            return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise StoreError(f"{path} is missing. Start the stage that writes it again, with --force.") from None
        except (ValueError, ValidationError) as error:
            raise StoreError(
                f"{path} cannot be read as {kind.__name__}: {str(error).splitlines()[0]}. "
                "Start the stage that writes it again, with --force."
            ) from error

    def write_record(self, relative: str, record: BaseModel) -> None:
        """Write a JSON record of the run atomically."""
        write_text(self.root / relative, record.model_dump_json(indent=1) + "\n")
