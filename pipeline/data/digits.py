"""1,797 digits of 8x8 pixels that come inside scikit-learn."""

from __future__ import annotations

from ..config.data import DigitsData
from ..workspace.progress import Reporter
from .memory import ArrayDataset, make_table, to_pixels
from .splits import assign_splits, refuse_group_column

DEFAULT_SIZE = 32
GREY_LEVELS = 16


def load(config: DigitsData, reporter: Reporter | None = None) -> ArrayDataset:
    """Return the digits enlarged to `image_size` (32 by default), one channel; ids are digit-0000 and so on.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository (the test part).
    """
    from sklearn.datasets import load_digits

    refuse_group_column(config.split, config.kind)
    digits = load_digits()
    ids = [f"digit-{row:04d}" for row in range(len(digits.target))]
    splits = assign_splits(ids, digits.target, None, config.split)
    pixels = to_pixels(digits.images[:, None] / GREY_LEVELS, config.image_size or DEFAULT_SIZE)
    return ArrayDataset(pixels, make_table(ids, digits.target, splits), [str(digit) for digit in range(10)])
