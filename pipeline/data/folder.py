"""Images in one folder per class: root/<class>/* or root/<split>/<class>/*."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..config.data import FolderData
from ..errors import DataError
from ..workspace.progress import Reporter
from .checks import require_root
from .dataset import SPLITS
from .images import ImageFileDataset, ImageRows, load_image_files
from .splits import refuse_group_column

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".npy")


def load(config: FolderData, reporter: Reporter | None = None) -> ImageFileDataset:
    """Return the images below root; class names are the sorted folder names, other files are ignored.

    An id is the path below root without suffix, its parts joined by "__": "cat__001", or "train__cat__001".

    Raises:
        DataError: for a missing root, for a root without class folders, and for bad samples.
    """
    refuse_group_column(config.split, config.kind)
    root = require_root(config.root)
    top = _folders(root)
    divided = bool(top) and all(folder.name in SPLITS for folder in top)
    class_folders = [each for folder in top for each in _folders(folder)] if divided else top
    files = [file for folder in class_folders for file in _images(folder)]
    if not files:
        raise DataError(
            f"{root} holds no images in class folders. Expected are root/<class>/<image> or "
            f"root/<{'|'.join(SPLITS)}>/<class>/<image> with the suffixes {', '.join(SUFFIXES)}. "
            "Next step: arrange the images so, or point elsewhere with --set data.root=/path/to/the/folder"
        )
    classes = sorted({folder.name for folder in class_folders})
    rows = ImageRows(
        source=str(root),
        ids=["__".join(file.relative_to(root).with_suffix("").parts) for file in files],
        paths=files,
        labels=np.array([classes.index(file.parent.name) for file in files]),
        classes=tuple(classes),
        splits=np.array([file.parent.parent.name for file in files], dtype=object) if divided else None,
    )
    return load_image_files(rows, config, config.channels, reporter)


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))


def _images(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES and not each.name.startswith("."))
