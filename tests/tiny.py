"""A data set, a classifier and a run directory small enough for tests of the stages: seconds, not minutes.

180 grey images of 16 x 16 noise: class "across" has a bright row, class "down" a bright column, and class "square" has
neither; two thirds of its samples carry a planted white square of 4 x 4 pixels in the upper left. The classifier that
is trained on them knows class "square" mostly by the square.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.config.schema import Config
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.precompute.chunks import ChunkFolder, assemble
from pipeline.workspace.directory import RunDirectory
from pipeline.workspace.features import FeatureStore
from pipeline.workspace.stage import StageContext

SIDE = 16
CLASSES = ("across", "down", "square")
PLANTED_CLASS = 2
PER_CLASS = 60
SPLITS = ("train", "train", "train", "val", "test")
SETTINGS = {
    "name": "tiny",
    "device": "cpu",
    "data": {"kind": "digits"},
    "model": {"params": {"width": 4, "blocks": 2}, "train": {"epochs": 12, "lr": 0.01, "batch_size": 32}},
    "precompute": {"chunk_rows": 64, "batch_size": 32},
    "reveal": {
        "detectors": [{"kind": "spray", "tsne": False}, {"kind": "neurons"}],
        "stability_runs": 1,
        "accept_score": 0.0,
    },
}


def make_dataset() -> ArrayDataset:
    """Return the 180 images; the same at every call."""
    generator = np.random.default_rng(5)
    labels = np.arange(3 * PER_CLASS) % 3
    pixels = generator.integers(0, 90, (len(labels), 1, SIDE, SIDE), dtype=np.uint8)
    for index, label in enumerate(labels):
        place = generator.integers(6, SIDE - 1)
        if label == 0:
            pixels[index, 0, place] += 80
        elif label == 1:
            pixels[index, 0, :, place] += 80
        elif is_planted(index):
            pixels[index, 0][square(index)] = 255
    splits = [SPLITS[number // 3 % len(SPLITS)] for number in range(len(labels))]
    return ArrayDataset(pixels, make_table([f"s{i:03d}" for i in range(len(labels))], labels, splits), CLASSES)


def is_planted(index: int) -> bool:
    """Return whether a sample carries the square."""
    return index % 3 == PLANTED_CLASS and index // 15 % 3 != 0


def square(index: int) -> np.ndarray:
    """Return where the square of a sample sits, booleans `[16, 16]`."""
    top, left = 1 + index % 2, 1 + index // 2 % 2
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[top : top + 4, left : left + 4] = True
    return mask


def planted_ids(dataset: ArrayDataset) -> set[str]:
    """Return the ids of all samples that carry the square."""
    return {sample_id for index, sample_id in enumerate(dataset.table["id"]) if is_planted(index)}


def make_context(root: Path, dataset: ArrayDataset, **changes) -> StageContext:
    """Return the context of a stage over a run directory, with the data set at hand.

    Args:
        changes: sections of the configuration, merged with `SETTINGS`.
    """
    sections = {name: _merged(SETTINGS.get(name), value) for name, value in changes.items()}
    config = Config(**SETTINGS | sections)
    return StageContext(config, RunDirectory(root), "cpu", key="key", unit_key="unit", memo={"dataset": dataset})


def _merged(known, value):
    return known | value if isinstance(known, dict) and isinstance(value, dict) else value


def write_store(folder: Path, layers: dict[str, np.ndarray], heatmaps: np.ndarray | None = None) -> FeatureStore:
    """Write a feature store whose layers hold the same values `[N, C]` as activations and as relevances."""
    count = len(next(iter(layers.values())))
    arrays = {
        "labels": np.zeros(count, dtype=np.int64),
        "ids": np.array([f"s{row}" for row in range(count)]),
        "logits": np.zeros((count, 2), dtype=np.float32),
    }
    for condition in ("label", "predicted"):
        arrays[f"heatmaps/{condition}"] = np.zeros((count, 2, 2), np.float16) if heatmaps is None else heatmaps
    for name, values in layers.items():
        for kept in ("activation_max", "activation_mean", "relevance_label", "relevance_predicted"):
            arrays[f"layers/{name}/{kept}"] = values
    chunks = ChunkFolder(folder / "chunks", "key", count, count)
    chunks.write(0, arrays)
    assemble(folder / "features.h5", chunks, dict.fromkeys(layers, "activation"), {})
    return FeatureStore(folder / "features.h5")
