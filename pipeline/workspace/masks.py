"""Masks of one bias on disk: `localize/<bias>/masks/<id>.png`, `soft/<id>.png`, `foreground/<id>.png`, `index.csv`.

A mask of a signal `[T]` is a picture of one line that carries a note of its one axis, and is read as `[T]` again.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.errors import StoreError

from .atomic import atomic_path, write_text

COLUMNS = ("id", "split", "source", "score", "area", "status")
AXES = "axes"


@dataclass(frozen=True)
class MaskEntry:
    """One line of the index.

    Attributes:
        id: sample.
        split: train, val or test.
        source: "finding" = member of the finding; "retrieved" = test sample that the CAV recognises; "imported" = its
            mask was made elsewhere.
        score: CAV score; above 0 the concept is present.
        area: share of the sample that the mask covers, 0 without mask.
        status: "ok", or "no evidence" where the heatmap was empty or constant and no mask was made.
    """

    id: str
    split: str
    source: str
    score: float
    area: float
    status: str

    @property
    def shows_artifact(self) -> bool:
        """Whether there is a mask, of a sample that is known to carry the artifact: retrieved ones only may."""
        return self.status == "ok" and self.source != "retrieved"


class MaskSet:
    """The masks of one bias.

    Args:
        folder: `localize/<bias>`.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, entry_id: str, soft: np.ndarray, mask: np.ndarray, foreground: np.ndarray) -> None:
        """Store the soft heatmap [0, 1], the binary mask (255 = artifact) and the foreground mask (0 = artifact).

        Args:
            entry_id: sample.
            soft, mask, foreground: `[H, W]`, or `[T]` of a signal.

        Raises:
            StoreError: the id is no file name, or the files cannot be written.
        """
        for kind, values in (("soft", np.round(soft * 255)), ("masks", mask * 255), ("foreground", foreground * 255)):
            save_mask(self.folder / kind / mask_name(entry_id), values)

    def write_index(self, entries: list[MaskEntry]) -> None:
        """Store the index; written last, so that its presence says that all masks are there."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(entry) for entry in entries)
        write_text(self.folder / "index.csv", text.getvalue())

    def index(self) -> list[MaskEntry]:
        """Read the index.

        Raises:
            StoreError: it is missing or has other columns.
        """
        path = self.folder / "index.csv"
        try:
            with open(path, newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
            if tuple(header) != COLUMNS:
                raise ValueError(f"columns {', '.join(COLUMNS)} expected")
            return [
                MaskEntry(sample_id, split, source, float(score), float(area), status)
                for sample_id, split, source, score, area, status in rows
            ]
        except (OSError, ValueError, csv.Error) as error:
            raise StoreError(f"{path} cannot be read ({error}). Start localize again, with --force.") from None

    def read(self, entry_id: str, kind: Literal["masks", "soft", "foreground"] = "masks") -> np.ndarray:
        """Return a mask `[H, W]`, or `[T]` of a signal: booleans for masks and foreground, [0, 1] for soft.

        Raises:
            StoreError: the id is no file name, or the file is missing or damaged.
        """
        from PIL import Image

        path = self.folder / kind / mask_name(entry_id)
        try:
            with Image.open(path) as image:
                values = np.asarray(image.convert("L"))
                if image.info.get(AXES) == "1":
                    values = values.reshape(-1)
        except (OSError, SyntaxError) as error:  # Pillow calls a broken chunk a syntax error
            raise StoreError(f"{path} cannot be read ({error}). Start localize again, with --force.") from None
        return values / 255.0 if kind == "soft" else values > 127


def mask_name(entry_id: str) -> str:
    """Return the file name of a sample's mask.

    Raises:
        StoreError: the id would lead out of the folder, as "../x" does.
    """
    if not entry_id or "/" in entry_id or "\\" in entry_id or "\0" in entry_id:
        raise StoreError(
            f"The sample id {entry_id!r} cannot be the name of a mask: it must not be empty or hold a slash, a "
            "backslash or a zero byte. Rename the sample in the data set."
        )
    return f"{entry_id}.png"


def save_mask(path: Path, values: np.ndarray) -> None:
    """Write a mask as a grey 8-bit PNG, atomically; equal masks are equal bytes.

    Args:
        path: of the file; missing folders are made.
        values: whole numbers 0..255, `[H, W]`, or `[T]` of a signal, which is written as one line.
    """
    from PIL import Image, PngImagePlugin

    notes = None
    if values.ndim == 1:
        notes = PngImagePlugin.PngInfo()
        notes.add_text(AXES, "1")
    with atomic_path(path) as temporary:
        Image.fromarray(np.atleast_2d(values).astype(np.uint8)).save(temporary, format="PNG", pnginfo=notes)
