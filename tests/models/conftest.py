from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.memory import ArrayDataset, make_table


@pytest.fixture
def striped():
    """60 noisy grey images of 2 classes, 8 x 8: class 1 has a bright left half."""

    def make(n: int = 60) -> ArrayDataset:
        pixels = np.random.default_rng(0).integers(0, 120, (n, 1, 8, 8), dtype=np.uint8)
        labels = np.arange(n) % 2
        pixels[labels == 1, :, :, :4] += 100
        splits = np.where(np.arange(n) < 2 * n // 3, "train", "val")
        return ArrayDataset(pixels, make_table([f"s{i}" for i in range(n)], labels, splits), ["dark", "bright"])

    return make
