"""Masks that were made elsewhere: PNG folders named by sample id or row, binary or heat maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config.mask_import import ImportedMasks
from pipeline.data.dataset import AuditDataset
from pipeline.errors import ConfigError, DataError
from pipeline.workspace.masks import MaskEntry, MaskSet
from pipeline.workspace.progress import Reporter, SilentReporter

from .training_masks import merge_masks, resize_mask

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".npy", ".png", ".tif", ".tiff", ".webp")
NAMED_AT_MOST = 10
BINARY_LEVELS = ({0.0, 255.0}, {0.0, 1.0})


@dataclass(frozen=True)
class MatchedFiles:
    """Which file of a folder shows which sample.

    Attributes:
        files: row of the data set -> file, by ascending row.
        unmatched: names of the files that show no sample, sorted.
    """

    files: dict[int, Path]
    unmatched: list[str]


def imported(
    config: ImportedMasks, dataset: AuditDataset, size: tuple[int, ...], reporter: Reporter | None = None
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (row, soft mask in [0, 1], binary mask) for every sample that a folder has a mask of, by ascending row.

    Args:
        config: the folder, and how its files are to be read.
        dataset: whose rows and ids name the files.
        size: (H, W) of the samples, or (T,) of signals; masks are resized to it, see `resize_mask`.
        reporter: is told how many files matched, and which did not.

    Raises:
        ConfigError: the folder is missing or empty, no file matches, or two files or ids claim the same.
        DataError: a file cannot be read, is colored, or has another number of axes than the samples.
    """
    yield from imported_and_merged([config], dataset, size, reporter)


def imported_and_merged(
    configs: Sequence[ImportedMasks], dataset: AuditDataset, size: tuple[int, ...], reporter: Reporter | None = None
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the same for several folders at once, as the entries of one bias: their masks are merged sample by sample.

    The binary mask is the union, the soft one the largest value. An empty one is yielded, too: it says that there is
    nothing to see. All folders are matched before the first mask is read. Arguments and errors as in `imported`.
    """
    reporter = reporter or SilentReporter()
    ids = [str(each) for each in dataset.table["id"]]
    matched = [match_files(config, ids) for config in configs]
    for config, found in zip(configs, matched, strict=True):
        _report(config, found, reporter)
    for row in sorted(set().union(*(found.files for found in matched))):
        masks = [
            read_mask(found.files[row], config, size)
            for config, found in zip(configs, matched, strict=True)
            if row in found.files
        ]
        yield row, merge_masks([soft for soft, _ in masks]), merge_masks([binary for _, binary in masks])


def carried_over(
    masks: MaskSet, dataset: AuditDataset, size: tuple[int, ...]
) -> Iterator[tuple[int, MaskEntry, np.ndarray, np.ndarray | None]]:
    """Yield (row, entry, soft mask in [0, 1], binary mask) of what an earlier run localized, in its own order.

    The binary mask is None where the earlier run had no evidence; samples that are not in the data set are left out.

    Args:
        masks: of the bias, in the earlier run.
        dataset: whose ids are meant.
        size: (H, W) of the samples, or (T,) of signals; masks of another size are resized, see `resize_mask`.

    Raises:
        StoreError: the index or a mask is missing or damaged.
        DataError: masks of images are to be those of signals, or the other way round.
    """
    rows = {str(each): row for row, each in enumerate(dataset.table["id"])}
    for entry in masks.index():
        if entry.id not in rows:
            continue
        if entry.status != "ok":
            yield rows[entry.id], entry, np.zeros(size), None
            continue
        soft, mask = masks.read(entry.id, "soft"), masks.read(entry.id)
        if mask.ndim != len(size):
            raise DataError(
                f"The mask of sample '{entry.id}' in {masks.folder} is {list(mask.shape)}, but the samples are "
                f"{list(size)}. Take the run of other data out of reveal.earlier."
            )
        yield rows[entry.id], entry, resize_mask(soft, size), resize_mask(mask, size)


def match_files(config: ImportedMasks, ids: Sequence[str]) -> MatchedFiles:
    """Return which PNG of the folder shows which row.

    By id: the file's name without ".png" is the id, else the whole name is, else it is the id without the suffix of an
    image ("a" for "a.jpg"). By row: the name is a whole number, leading zeros allowed, and row 0 is the first sample.

    Args:
        config: folder and naming.
        ids: ids of the data set, by row.

    Raises:
        ConfigError: the folder is missing or has no PNG, no file matches, or two files or ids claim the same.
    """
    folder = Path(config.folder).expanduser()
    paths = _png_files(folder)
    find = _RowsByNumber(len(ids)) if config.names == "row" else _RowsById(ids)
    files: dict[int, Path] = {}
    unmatched: list[str] = []
    for path in paths:
        row = find(path)
        if row is None:
            unmatched.append(path.name)
        elif row in files:
            raise ConfigError(
                f"localize.import_masks: in {folder}, {files[row].name} and {path.name} both show row {row}, sample "
                f"'{ids[row]}'. Keep one of them, or put them into two folders, each with an entry of its own: then "
                "they are merged."
            )
        else:
            files[row] = path
    if not files:
        raise ConfigError(_nothing_matched(config, folder, paths, ids))
    return MatchedFiles(dict(sorted(files.items())), unmatched)


def read_mask(path: Path, config: ImportedMasks, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the soft mask, float64 in [0, 1], and the binary mask of a file.

    A binary file is inside above half of the range (holds it only 0 and 1: at 1). A heat map is divided by its maximum
    and is inside where it exceeds the threshold; a constant one shows nothing, so its masks are empty.

    Args:
        path: a grey PNG of 1, 8 or 16 bits; an image of one line for a signal.
        config: kind and threshold.
        size: (H, W), or (T,).

    Raises:
        DataError: the file cannot be read, is colored or transparent, or has another number of axes.
    """
    levels = _read_levels(path)
    if (len(levels) == 1) != (size[0] == 1 or len(size) == 1):
        wanted = "a signal is a mask of one line" if len(size) == 1 else f"the samples are images {list(size)}"
        raise DataError(f"The mask {path} is an image {list(levels.shape)}, but {wanted}. Remove or repair the file.")
    levels = levels[0] if len(size) == 1 else levels
    if config.kind == "binary" or (config.kind == "auto" and _is_binary(levels)):
        inside = resize_mask(levels > (127.5 if levels.max() > 1 else 0), size)
        return inside.astype(np.float64), inside
    if levels.min() == levels.max():
        return np.zeros(size), np.zeros(size, dtype=bool)
    soft = resize_mask(levels, size)
    soft = soft / soft.max() if soft.max() > 0 else soft
    return soft, soft > config.threshold


class _RowsByNumber:
    def __init__(self, count: int):
        self.count = count

    def __call__(self, path: Path) -> int | None:
        number = path.stem
        return int(number) if _is_number(number) and int(number) < self.count else None


class _RowsById:
    def __init__(self, ids: Sequence[str]):
        self.ids = ids
        self.exact = {each: row for row, each in enumerate(ids)}
        self.stems: dict[str, list[int]] = {}
        for row, each in enumerate(ids):
            self.stems.setdefault(_without_image_suffix(each), []).append(row)

    def __call__(self, path: Path) -> int | None:
        for name in (path.stem, path.name):
            if name in self.exact:
                return self.exact[name]
        rows = self.stems.get(path.stem, [])
        if len(rows) > 1:
            raise ConfigError(
                f"localize.import_masks: {path} may show any of {_some([self.ids[row] for row in rows])}. Name the "
                f"file by the whole id, as in '{self.ids[rows[0]]}.png'."
            )
        return rows[0] if rows else None


def _png_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(
            f"localize.import_masks: the folder {folder} {what}. Point to a folder with one PNG per sample."
        )
    paths = sorted(each for each in folder.iterdir() if each.suffix.lower() == ".png" and not each.name.startswith("."))
    if not paths:
        raise ConfigError(
            f"localize.import_masks: the folder {folder} holds no PNG files. Point to a folder with one PNG per "
            "sample; folders within it are not searched."
        )
    return paths


def _nothing_matched(config: ImportedMasks, folder: Path, paths: list[Path], ids: Sequence[str]) -> str:
    numbers = [path for path in paths if _is_number(path.stem)]
    if config.names == "row":
        hint = f"Rows are 0 to {len(ids) - 1}; set names: id if the files are named by sample id."
    elif len(numbers) == len(paths):
        hint = "All names are numbers: set names: row if they are rows of the data set."
    else:
        hint = "Rename them, or correct the folder."
    return (
        f"localize.import_masks: none of {len(paths)} PNG files in {folder} shows a sample of the data set. Files: "
        f"{_some([path.name for path in paths])}. Sample ids: {_some(ids)}. {hint}"
    )


def _report(config: ImportedMasks, found: MatchedFiles, reporter: Reporter) -> None:
    total = len(found.files) + len(found.unmatched)
    text = f"    {config.bias}: {len(found.files)} of {total} masks in {config.folder} show samples of the data set"
    if found.unmatched:
        text += f"; WARNING: {len(found.unmatched)} match none: {_some(found.unmatched)}"
    reporter.say(text)


def _read_levels(path: Path) -> np.ndarray:
    """Return the levels of a grey PNG, float64 `[H, W]` in [0, 255]; 16 bits keep their fractions."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.mode.startswith("I"):
                return np.asarray(image).astype(np.float64) / 257
            colors = np.asarray(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"The mask {path} cannot be read ({error}). Repair or remove the file.") from None
    if (colors[..., :3] != colors[..., :1]).any() or (colors[..., 3] != 255).any():
        raise DataError(
            f"The mask {path} has colors or transparent pixels, so what is inside cannot be told. "
            "Store it as a grey image."
        )
    return colors[..., 0].astype(np.float64)


def _is_binary(levels: np.ndarray) -> bool:
    found = set(np.unique(levels).tolist())
    return any(found <= allowed for allowed in BINARY_LEVELS)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _without_image_suffix(name: str) -> str:
    path = Path(name)
    return name[: -len(path.suffix)] if path.suffix.lower() in IMAGE_SUFFIXES else name


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:NAMED_AT_MOST])
    return shown + (", ..." if len(names) > NAMED_AT_MOST else "")
