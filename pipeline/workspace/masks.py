"""Masks of one bias on disk: `localize/<bias>/masks/<id>.png`, `soft/<id>.png`, `foreground/<id>.png`, `index.csv`."""

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


@dataclass(frozen=True)
class MaskEntry:
    """One line of the index.

    Attributes:
        id: sample.
        split: train, val or test.
        source: "finding" = member of the finding; "retrieved" = test sample that the CAV recognises.
        score: CAV score; above 0 the concept is present.
        area: share of the image that the mask covers, 0 without mask.
        status: "ok", or "no evidence" where the heatmap was empty or constant and no mask was made.
    """

    id: str
    split: str
    source: str
    score: float
    area: float
    status: str


class MaskSet:
    """The masks of one bias.

    Args:
        folder: `localize/<bias>`.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, entry_id: str, soft: np.ndarray, mask: np.ndarray, foreground: np.ndarray) -> None:
        """Store the soft heatmap [0, 1], the binary mask (255 = artifact) and the foreground mask (0 = artifact)."""
        _save_png(self.folder / "soft" / f"{entry_id}.png", np.round(soft * 255))
        _save_png(self.folder / "masks" / f"{entry_id}.png", mask * 255)
        _save_png(self.folder / "foreground" / f"{entry_id}.png", foreground * 255)

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
        """Return a mask `[H, W]`: booleans for masks and foreground, [0, 1] for soft.

        Raises:
            StoreError: the file is missing or damaged.
        """
        from PIL import Image

        path = self.folder / kind / f"{entry_id}.png"
        try:
            with Image.open(path) as image:
                values = np.asarray(image.convert("L"))
        except (OSError, SyntaxError) as error:  # Pillow calls a broken chunk a syntax error
            raise StoreError(f"{path} cannot be read ({error}). Start localize again, with --force.") from None
        return values / 255.0 if kind == "soft" else values > 127


def _save_png(path: Path, values: np.ndarray) -> None:
    from PIL import Image

    with atomic_path(path) as temporary:
        Image.fromarray(values.astype(np.uint8)).save(temporary, format="PNG")
