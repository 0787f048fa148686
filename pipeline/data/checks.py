"""What must hold before a data set is used; every refusal says where, what is allowed, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..errors import ConfigError, DataError, nearest
from .dataset import SPLITS, AuditDataset

LISTED_AT_MOST = 20
LONGEST_ID = 200
REQUIRED = ("table", "classes", "shape", "fingerprint", "roi_mask", "artifact_names", "artifact_flags", "artifact_mask")


class BadSample(NamedTuple):
    """A sample that cannot be used: its id, where it comes from (a file, or a row), and why."""

    id: str
    place: str
    reason: str


def refuse_bad_samples(bad: Sequence[BadSample], total: int) -> None:
    """Raise a DataError that lists up to 20 bad samples; do nothing when there are none."""
    if not bad:
        return
    lines = [f"{len(bad)} of {total} samples cannot be used:"]
    lines += [f"  {each.id} ({each.place}): {each.reason}" for each in bad[:LISTED_AT_MOST]]
    if len(bad) > LISTED_AT_MOST:
        lines.append(f"  ... and {len(bad) - LISTED_AT_MOST} more")
    lines.append("Next step: repair or remove them, or leave them out with --set data.on_bad_sample=skip")
    raise DataError("\n".join(lines))


def require_root(root: str) -> Path:
    """Return the root folder of a data set as an absolute path; raise a DataError where there is none."""
    path = Path(root).expanduser().resolve()
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise DataError(
            f"The data folder {path} {what} (key data.root, value '{root}'). "
            "Next step: point to the right folder with --set data.root=/path/to/the/folder"
        )
    return path


def require_file(path: Path, key: str) -> Path:
    """Return the path; raise a DataError that names the configuration key where there is no such file."""
    if not path.is_file():
        there = sorted(each.name for each in path.parent.glob(f"*{path.suffix}")) if path.parent.is_dir() else []
        found = f" Files beside it: {', '.join(there[:LISTED_AT_MOST])}." if there else ""
        raise DataError(
            f"The file {path} does not exist (key {key}).{found} Next step: put it there, or name another with "
            f"--set {key}=FILE, relative to data.root"
        )
    return path


def require_column(column: str, columns: Sequence[str], key: str, place: str) -> None:
    """Raise a ConfigError naming the nearest column when a table lacks the one that a key asks for."""
    if column not in columns:
        raise ConfigError(
            f"{key} names the column '{column}', which {place} does not have.{nearest(column, list(columns))} "
            f"Its columns are: {', '.join(columns)}."
        )


def check_ids(ids: Sequence[str], place: str) -> None:
    """Raise a DataError unless every id is unique and fit to be the name of a file."""
    repeated = [each for each, count in Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(
            f"{place}: {len(repeated)} sample ids occur more than once, for example {_some(repeated)}. "
            "Ids must be unique. Next step: remove the copies, or use another column as data.id_column"
        )
    unfit = [each for each in ids if not _fit_for_file_name(each)]
    if unfit:
        raise DataError(
            f"{place}: {len(unfit)} sample ids cannot be file names, for example {_some(unfit)}. Masks are stored "
            f"under the ids: they must not be empty, start with a dot, hold a slash or line break, or exceed "
            f"{LONGEST_ID} characters. Next step: use another column as data.id_column"
        )


def check_presence(labels: np.ndarray, splits: np.ndarray, classes: Sequence[str], note: str = "") -> None:
    """Raise a DataError unless every class has samples in every split.

    Args:
        labels: class ids `[N]`.
        splits: names of splits `[N]`.
        classes: class names.
        note: a sentence that may explain the gap.
    """
    counts = {split: np.bincount(labels[splits == split], minlength=len(classes)) for split in SPLITS}
    empty = [split for split in SPLITS if not counts[split].any()]
    gaps = [(name, split) for index, name in enumerate(classes) for split in SPLITS if counts[split][index] == 0]
    if not gaps:
        return
    what = f"split '{empty[0]}' is empty" if empty else f"class '{gaps[0][0]}' has no samples in split '{gaps[0][1]}'"
    lines = [
        f"  {name}: " + ", ".join(f"{split} {counts[split][index]}" for split in SPLITS)
        for index, name in enumerate(classes)
    ]
    more = "" if len(lines) <= LISTED_AT_MOST else f"\n  ... and {len(lines) - LISTED_AT_MOST} more"
    raise DataError(
        f"Unusable splits: {what}. Samples of each class:\n" + "\n".join(lines[:LISTED_AT_MOST]) + more + f"\n{note}"
        "Next step: correct the splits of the table, or change data.split (val, test, seed), or merge or remove the "
        "class"
    )


def check_dataset(dataset: AuditDataset, place: str) -> None:
    """Raise a DataError unless the data set keeps the promises of `AuditDataset` that every stage relies on.

    Checked: columns, ids, class ids, splits, every class in every split, and shape, type and range of the first sample.
    """
    absent = [name for name in REQUIRED if not hasattr(dataset, name)]
    if absent:
        raise DataError(
            f"{place} is no AuditDataset: it lacks {', '.join(absent)}. "
            "Next step: implement pipeline/data/dataset.py, or build a pipeline.data.memory.ArrayDataset"
        )
    table, classes = dataset.table, tuple(dataset.classes)
    for column in ("id", "label", "split"):
        if column not in table.columns:
            found = ", ".join(map(str, table.columns))
            raise DataError(f"{place}: the table lacks the column '{column}'. Its columns are: {found}.")
    if len(table) != len(dataset) or not len(table):
        raise DataError(
            f"{place}: {len(dataset)} samples and {len(table)} rows in the table; they must be as many, and > 0."
        )
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise DataError(f"{place}: the classes are {list(classes)}; at least two different names are needed.")
    check_ids(table["id"].tolist(), place)
    labels = table["label"].to_numpy()
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(classes):
        found = _some(table["label"].unique().tolist())
        raise DataError(f"{place}: labels must be class ids 0..{len(classes) - 1}, but are {found}.")
    splits = table["split"].to_numpy()
    foreign = sorted(set(splits) - set(SPLITS))
    if foreign:
        raise DataError(f"{place}: unknown splits {_some(foreign)}; allowed are {', '.join(SPLITS)}.")
    skipped = len(getattr(dataset, "skipped", ()))
    check_presence(labels, splits, classes, f"{skipped} bad samples were skipped. " if skipped else "")
    _check_first_sample(dataset, place)


def _check_first_sample(dataset: AuditDataset, place: str) -> None:
    sample = dataset[0]
    x = sample.x
    if not isinstance(x, torch.Tensor) or x.dtype != torch.float32 or tuple(x.shape) != tuple(dataset.shape):
        found = f"{x.dtype} {list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise DataError(f"{place}: sample '{sample.id}' is {found}; it must be a float32 tensor {list(dataset.shape)}.")
    if not (torch.isfinite(x).all() and x.min() >= 0 and x.max() <= 1):
        raise DataError(
            f"{place}: sample '{sample.id}' has values from {x.min():g} to {x.max():g}; they must be finite and lie in "
            "[0, 1]. Next step: scale them in the data set; what the network subtracts belongs to model.mean"
        )


def _fit_for_file_name(text: str) -> bool:
    if not isinstance(text, str):
        return False
    return 0 < len(text) <= LONGEST_ID and text[0] != "." and text.isprintable() and not set(text) & set("/\\")


def _some(values: Sequence) -> str:
    shown = ", ".join(f"'{value}'" for value in list(values)[:5])
    return shown + (", ..." if len(values) > 5 else "")
