"""The layout of the ISIC 2019 challenge: an image folder, a one-hot ground truth and a metadata table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..config.data import IsicData
from ..errors import ConfigError, nearest
from ..workspace.progress import Reporter
from .checks import require_column, require_file, require_root
from .images import ImageFileDataset, ImageRows, load_image_files
from .table import fill_pattern, read_table

ID_COLUMN = "image"
LESION_COLUMN = "lesion_id"
GROUP_COLUMNS = ("sex", "anatom_site_general")
REST = "other"


def load(config: IsicData, reporter: Reporter | None = None) -> ImageFileDataset:
    """Return the dermoscopic images, split so that no lesion (or `split.group_column`) is in two splits.

    Classes are the diagnoses that occur, in the order of the ground truth's columns, or, with `target`, "other" and
    the target. Ids are kept as they stand, also those that end in "_downsampled". Metadata columns sex and
    anatom_site_general become group columns; an image without a lesion id is a lesion of its own.

    Source: ISIC 2019 challenge, https://challenge.isic-archive.com/landing/2019

    Raises:
        ConfigError: for a target that is no diagnosis, and for a group column that the metadata do not have.
        DataError: for missing files and bad samples; a row must name exactly one diagnosis.
    """
    root = require_root(config.root)
    truth = read_table(require_file(root / config.ground_truth, "data.ground_truth"))
    require_column(ID_COLUMN, truth.columns.tolist(), "data.ground_truth", config.ground_truth)
    ids = truth[ID_COLUMN].tolist()
    classes, labels, problems = _diagnoses(truth.drop(columns=ID_COLUMN), config.target)
    metadata = _metadata(config, ids)
    group_column = config.split.group_column
    if group_column is not None:
        require_column(
            group_column,
            metadata.columns.tolist(),
            "data.split.group_column",
            config.metadata or "a data set without data.metadata",
        )
    elif LESION_COLUMN in metadata.columns:
        group_column = LESION_COLUMN
    rows = ImageRows(
        source=config.ground_truth,
        ids=ids,
        paths=fill_pattern(root / config.images, "{id}.jpg", {"id": ids}, len(ids)),
        labels=labels,
        classes=classes,
        problems=problems,
        split_groups=metadata[group_column].to_numpy(object) if group_column is not None else None,
        groups={name: metadata[name].to_numpy(object) for name in GROUP_COLUMNS if name in metadata.columns},
    )
    return load_image_files(rows, config, 3, reporter)


def _diagnoses(one_hot: pd.DataFrame, target: str | None) -> tuple[tuple[str, ...], np.ndarray, dict[int, str]]:
    """Return class names, class ids `[N]` (-1 where unusable) and row -> reason of the unusable rows."""
    names = one_hot.columns.tolist()
    if target is not None and target not in names:
        raise ConfigError(
            f"data.target is '{target}', which is no diagnosis of the ground truth.{nearest(target, names)} "
            f"Its diagnoses are: {', '.join(names)}."
        )
    marks = one_hot.to_numpy(object) == "1"
    counts = marks.sum(1)
    wrong = np.flatnonzero(counts != 1).tolist()
    problems = {row: f"{counts[row]} diagnoses are marked with 1; exactly one must be" for row in wrong}
    if target is not None:
        classes = (REST, target)
        labels = marks[:, names.index(target)].astype(np.int64)
    else:
        # The challenge lists a diagnosis (UNK) that no training image has.
        occurring = np.flatnonzero(marks[counts == 1].any(0))
        classes = tuple(names[column] for column in occurring)
        labels = marks[:, occurring].argmax(1) if len(occurring) else np.zeros(len(marks), dtype=np.int64)
    return classes, np.where(counts == 1, labels, -1), problems


def _metadata(config: IsicData, ids: list[str]) -> pd.DataFrame:
    """Return the metadata in the order of the ids, empty text where there are none; no columns without a file."""
    if config.metadata is None:
        return pd.DataFrame(index=range(len(ids)))
    path = require_file(require_root(config.root) / config.metadata, "data.metadata")
    table = read_table(path)
    require_column(ID_COLUMN, table.columns.tolist(), "data.metadata", config.metadata)
    return table.drop_duplicates(ID_COLUMN).set_index(ID_COLUMN).reindex(ids).fillna("")
