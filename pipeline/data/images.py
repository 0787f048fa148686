"""Images in files: decoding, masks, and the data set that all file adapters return."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from ..config.data import DataSection
from ..errors import DataError
from ..workspace.hashing import digest_json
from ..workspace.progress import Reporter, SilentReporter
from .checks import BadSample, check_ids, check_presence, refuse_bad_samples
from .memory import LabelledSamples, MaskSource, NaturalArtifact, make_table
from .splits import assign_splits, first_rows

try:
    from torchvision.io import ImageReadMode, decode_jpeg
except ImportError:  # torchvision 0.29 announces that its decoders will go; Pillow then takes their place.
    decode_jpeg = None

JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
NUMPY_START = b"\x93NUMPY"
LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey (ITU-R BT.601), as JPEG and Pillow use them."""


class UnusableImage(Exception):
    """Why a file cannot be used as an image."""


class Natural(NamedTuple):
    """An artifact as a table lists it: flags `[N]` and the files of its masks, if there are any."""

    flags: np.ndarray
    masks: list[Path] | None


@dataclass(frozen=True)
class ImageRows:
    """The rows of a data set of image files, before anything is decoded.

    Attributes:
        source: the table or folder that they come from, for messages.
        ids, paths: one per row.
        labels: class ids `[N]`; -1 where `problems` says what is wrong.
        classes: class names.
        problems: row -> why its label is unusable.
        splits: names of splits `[N]`, or None to have them drawn.
        split_groups: names of the groups that drawn splits must not divide.
        groups: group columns by name.
        roi_masks: mask files.
        artifacts: natural artifacts by name.
    """

    source: str
    ids: list[str]
    paths: list[Path]
    labels: np.ndarray
    classes: tuple[str, ...]
    problems: dict[int, str] = field(default_factory=dict)
    splits: np.ndarray | None = None
    split_groups: np.ndarray | None = None
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    roi_masks: list[Path] | None = None
    artifacts: dict[str, Natural] = field(default_factory=dict)

    def take(self, rows: Sequence[int]) -> ImageRows:
        """Return the chosen rows, without the problems of the others."""
        rows = np.asarray(rows, dtype=np.int64)
        pick = partial(_pick, rows=rows)
        return replace(
            self,
            ids=pick(self.ids),
            paths=pick(self.paths),
            labels=self.labels[rows],
            problems={new: self.problems[old] for new, old in enumerate(rows.tolist()) if old in self.problems},
            splits=pick(self.splits),
            split_groups=pick(self.split_groups),
            groups={name: values[rows] for name, values in self.groups.items()},
            roi_masks=pick(self.roi_masks),
            artifacts={name: Natural(each.flags[rows], pick(each.masks)) for name, each in self.artifacts.items()},
        )


class ImageFileDataset(LabelledSamples):
    """Images in files, kept decoded in memory where they fit, else decoded at each access.

    Args:
        paths: one file per row of the table.
        digests: hash of each file's bytes.
        pixels: all images, uint8 `[N, C, H, W]`, or None to decode at each access.
        shape: `(C, H, W)` of every image.
        image_size: side that images are resized to, or None for files that have this size already.
        table, classes, roi_masks, artifacts, skipped: as in `LabelledSamples`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        digests: Sequence[str],
        pixels: np.ndarray | None,
        table: pd.DataFrame,
        classes: Sequence[str],
        shape: tuple[int, int, int],
        image_size: int | None,
        *,
        roi_masks: MaskSource | None = None,
        artifacts: Mapping[str, NaturalArtifact] | None = None,
        skipped: Sequence[tuple[str, str]] = (),
    ):
        super().__init__(table, classes, shape, roi_masks=roi_masks, artifacts=artifacts, skipped=skipped)
        self.paths = list(paths)
        self.digests = list(digests)
        self.pixels = pixels
        self.image_size = image_size

    def pixels_at(self, index: int) -> np.ndarray:
        """Return the pixels of one item, uint8 `[C, H, W]`; raise a DataError when its file has changed meanwhile."""
        if self.pixels is not None:
            return self.pixels[index]
        path = self.paths[index]
        try:
            pixels, digest = read_image(path, self.shape[0], self.image_size, self.shape)
        except UnusableImage as error:
            raise DataError(f"{path} can no longer be read: {error}. Next step: restore it.") from error
        if digest != self.digests[index]:
            raise DataError(f"{path} has changed since the run began. Next step: start the same command again.")
        return pixels

    def content(self) -> str:
        """Return a hash over the bytes of all files; with the shape, they determine the pixels."""
        return digest_json(self.digests)


class MaskFiles:
    """Masks in files, read at each access.

    Args:
        paths: one file per item; a file that does not exist means that the item has no mask.
        size: (H, W) of the images; masks are resized to it, each pixel taking the nearest value.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int]):
        self.paths = list(paths)
        self.size = size

    def __call__(self, index: int) -> np.ndarray | None:
        """Return the mask of one item as booleans `[H, W]`, or None where there is no file.

        Values above 127 are inside; a mask that knows only 0 and 1 is taken as such.
        """
        path = self.paths[index]
        if not path.is_file():
            return None
        try:
            values, _ = read_image(path, channels=1, image_size=None)
        except UnusableImage as error:
            raise DataError(f"The mask {path} cannot be used: {error}. Next step: repair it, or remove it.") from error
        inside = values[0] > (127 if values.max() > 1 else 0)
        rows, columns = (
            ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(self.size, inside.shape, strict=True)
        )
        return inside[np.ix_(rows, columns)]


def load_image_files(
    rows: ImageRows, config: DataSection, channels: int, reporter: Reporter | None = None
) -> ImageFileDataset:
    """Check, divide, cut to `limit` and decode rows of image files; the way of all file adapters.

    Every file is decoded once, by as many threads as there are cores, even if the images do not fit into
    `cache_megabytes`: all bad samples are then known before anything is computed from the good ones.

    Args:
        rows: what an adapter found.
        config: section `data`; used are split, limit, image_size, cache_megabytes and on_bad_sample.
        channels: 1 or 3.
        reporter: shows progress.

    Raises:
        DataError: for ids that are not unique, for a class without samples in a split, and, unless
            `on_bad_sample` is "skip", for bad samples, all in one list.
    """
    check_ids(rows.ids, rows.source)
    bad = [BadSample(rows.ids[row], rows.source, reason) for row, reason in rows.problems.items()]
    rows = rows.take([row for row in range(len(rows.ids)) if row not in rows.problems])
    if rows.splits is None:
        rows = replace(rows, splits=assign_splits(rows.ids, rows.labels, rows.split_groups, config.split))
    if config.limit is not None:
        rows = rows.take(first_rows(rows.labels, rows.splits, config.limit))
    if not bad:
        check_presence(rows.labels, rows.splits, rows.classes)
    total = len(rows.ids) + len(bad)

    shape = _shape(rows.paths, channels, config.image_size)
    pixels, digests, reasons = _decode(rows.paths, shape, config, reporter or SilentReporter())
    unusable = sorted(reasons)
    bad += [BadSample(rows.ids[row], str(rows.paths[row]), reasons[row]) for row in unusable]
    if config.on_bad_sample == "stop":
        refuse_bad_samples(bad, total)
    if len(unusable) == len(rows.ids):
        raise DataError(f"{rows.source}: not one of {total} samples can be used; first: {bad[0].id}: {bad[0].reason}")
    if unusable:
        good = np.setdiff1d(np.arange(len(rows.ids)), unusable)
        rows, digests = rows.take(good), [digests[row] for row in good]
        pixels = None if pixels is None else pixels[good]
    size = shape[1:]
    return ImageFileDataset(
        rows.paths,
        digests,
        pixels,
        make_table(rows.ids, rows.labels, rows.splits, rows.groups),
        rows.classes,
        shape,
        config.image_size,
        roi_masks=MaskFiles(rows.roi_masks, size) if rows.roi_masks else None,
        artifacts={
            name: NaturalArtifact(each.flags, MaskFiles(each.masks, size) if each.masks else None)
            for name, each in rows.artifacts.items()
        },
        skipped=[(each.id, each.reason) for each in bad],
    )


def read_image(
    path: Path, channels: int, image_size: int | None, shape: tuple[int, ...] | None = None
) -> tuple[np.ndarray, str]:
    """Read one image file.

    Args:
        path: a JPEG, PNG or other image that Pillow reads, or a NumPy file, see `_from_numpy`.
        channels: 1 (grey) or 3 (red, green, blue); images are converted. An alpha channel is dropped.
        image_size: side of the square that the image is resized to (bilinear, antialiased), or None to keep its size.
        shape: `(C, H, W)` that must come out, or None for any.

    Returns:
        Pixels uint8 `[C, H, W]` and the hash of the file's bytes.

    Raises:
        UnusableImage: for a file that is missing, empty, truncated, damaged, of another kind or of another shape.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise UnusableImage("missing file") from None
    except OSError as error:
        raise UnusableImage(f"unreadable file: {error.strerror or error}") from error
    if not data.size:
        raise UnusableImage("empty file")
    try:
        pixels = _decoder(data)(data, channels)
        if image_size is not None and pixels.shape[1:] != (image_size, image_size):
            pixels = transforms.resize(torch.from_numpy(pixels), [image_size, image_size], antialias=True).numpy()
    except UnusableImage:
        raise
    except Exception as error:  # Decoders raise whatever they like; all of it means that the file is of no use.
        reason = re.sub(r"^.*\.cpp:\d+,\s*", "", str(error).strip().split("\n")[0])
        raise UnusableImage(f"truncated or undecodable: {reason or type(error).__name__}") from error
    if shape is not None and pixels.shape != shape:
        raise UnusableImage(f"shape {list(pixels.shape)}, but the first image has {list(shape)}; set data.image_size")
    return pixels, hashlib.blake2b(data, digest_size=16).hexdigest()


def _decoder(data: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return the decoder for a file's bytes, by what it is and not by what it is called."""
    start = data[: len(NUMPY_START)].tobytes()
    if start.startswith(JPEG_START) and decode_jpeg is not None:
        return _from_jpeg
    return _from_numpy if start == NUMPY_START else _with_pillow


def _from_jpeg(data: np.ndarray, channels: int) -> np.ndarray:
    # Twice as fast as Pillow, with the same pixels.
    return decode_jpeg(torch.from_numpy(data), ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB).numpy()


def _with_pillow(data: np.ndarray, channels: int) -> np.ndarray:
    # Not with torchvision: a PNG with one damaged byte ends the whole process there (segmentation fault).
    if data[:3].tobytes() == JPEG_START and data[-1] == 0 and not data.tobytes().rstrip(b"\0").endswith(JPEG_END):
        raise UnusableImage("truncated or undecodable: the end of the file is empty")
    stream = io.BytesIO(data)
    with Image.open(stream) as image:
        image.verify()
    with Image.open(stream) as image:
        if image.mode.startswith("I"):  # 16 bits per pixel; Pillow's own conversion would clip them at 255.
            wide = np.asarray(image)
            if wide.min() < 0 or wide.max() > 65535:
                raise UnusableImage("pixel values outside 0..65535")
            return _to_channels((wide >> 8).astype(np.uint8)[None], channels)
        if image.mode == "F":
            raise UnusableImage("floating-point pixels; store them as 8 bits, or as a NumPy file")
        values = np.atleast_3d(np.asarray(image.convert("L" if channels == 1 else "RGB")))
    return values.transpose(2, 0, 1).copy()


def _from_numpy(data: np.ndarray, channels: int) -> np.ndarray:
    """Return a NumPy file `[H, W]`, `[1, H, W]` or `[3, H, W]`, uint8 or floats in [0, 1], as uint8 `[C, H, W]`."""
    values = np.load(io.BytesIO(data), allow_pickle=False)
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise UnusableImage(f"array of shape {list(values.shape)}; allowed are [H, W], [1, H, W] and [3, H, W]")
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise UnusableImage("NaN or infinite values")
        if values.min() < 0 or values.max() > 1:
            raise UnusableImage(f"values from {values.min():g} to {values.max():g}; floats must lie in [0, 1]")
        values = np.round(values.astype(np.float64) * 255).astype(np.uint8)
    if values.dtype != np.uint8:
        raise UnusableImage(f"array of type {values.dtype}; allowed are uint8 and floats in [0, 1]")
    return _to_channels(np.ascontiguousarray(values), channels)


def _to_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    if len(pixels) == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=0)
    return np.round(np.tensordot(LUMA, pixels, axes=1)).astype(np.uint8)[None]


def _shape(paths: Sequence[Path], channels: int, image_size: int | None) -> tuple[int, int, int]:
    """Return the shape that every image must have: the configured one, or that of the first image that can be read."""
    if image_size is not None:
        return channels, image_size, image_size
    for path in paths:
        try:
            return read_image(path, channels, None)[0].shape
        except UnusableImage:
            continue
    return channels, 0, 0


def _decode(
    paths: Sequence[Path], shape: tuple[int, int, int], config: DataSection, reporter: Reporter
) -> tuple[np.ndarray | None, list[str], dict[int, str]]:
    """Return all pixels (None where they exceed the cache), the files' hashes, and row -> reason of the bad ones."""
    fits = len(paths) * int(np.prod(shape)) <= config.cache_megabytes * 2**20
    pixels = np.empty((len(paths), *shape), dtype=np.uint8) if fits else None

    def decode_one(row: int) -> tuple[str, str]:
        try:
            image, digest = read_image(paths[row], shape[0], config.image_size, shape)
        except UnusableImage as error:
            return "", str(error)
        if pixels is not None:
            pixels[row] = image
        return digest, ""

    results = list(reporter.track(_in_threads(decode_one, len(paths)), "decode images", len(paths)))
    reasons = {row: reason for row, (_, reason) in enumerate(results) if reason}
    return pixels, [digest for digest, _ in results], reasons


def _in_threads(work: Callable[[int], tuple[str, str]], n: int) -> Iterator[tuple[str, str]]:
    """Yield `work(0)` .. `work(n - 1)` in order, computed by one thread per core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield from pool.map(work, range(n))
        finally:
            # Ctrl-C: drop what waits, or the pool would first finish all of it.
            pool.shutdown(wait=False, cancel_futures=True)


def _pick(values, rows: np.ndarray):
    if values is None:
        return None
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows.tolist()]
