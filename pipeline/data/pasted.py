"""A world in which a localized artifact is pasted into every sample: the causal test where none was planted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from .dataset import AuditDataset, Sample
from .randomness import generator, uniform

SEAM = 0.015
"""Deviation of the Gaussian by which a donor fades outside its region, as a share of the larger side of the image."""
LEAST_DEVIATION = 0.75
"""Of that Gaussian, in pixels: on images of 28 pixels a seam of one pixel remains."""
REACH = 3.0
"""Deviations from the region beyond which nothing of the donor is left."""
TRIES = 64
"""Places that are drawn where a region is to be moved off itself."""
FREE, LARGEST_OVERLAP = 0.1, 0.5
"""Share of a moved region that may lie on the old one: good enough to look no further, and at all."""


class Placed(NamedTuple):
    """Where a region goes in one sample.

    Attributes:
        donor: number of the donor.
        shift: how far the region moves along every axis, in pixels; 0 = to where the donor has it.
    """

    donor: int
    shift: tuple[int, ...]


class _Patch(NamedTuple):
    """A region's bounding box and, with the seam around it, how much of the donor shows there."""

    low: np.ndarray
    size: np.ndarray
    margin: int
    shares: np.ndarray


class PastedView:
    """A data set whose every sample carries the region of a donor; table, classes and shape are the data set's own.

    Inside the region a sample is its donor, pixel by pixel, so that a small artifact arrives whole. Outside, the donor
    fades over a narrow seam, and farther away nothing is touched; see `donor_shares`. Which donor a sample gets, and
    where, depends on seed, sample id and number of the placement alone. A donor never pastes into itself.

    Args:
        dataset: the receivers.
        donors: images `[D, C, H, W]`, or signals `[D, C, T]`.
        masks: what is cut out of each donor, booleans `[D, H, W]` or `[D, T]`; none may be empty.
        donor_ids: their ids.
        seed: of the choice.
        placement: 0 leaves the region at the donor's own place. Every further number takes another donor, as long as
            there are any, and moves its region to a random place where its bounding box stays within the image.
        seam: see `SEAM`; 0 cuts hard.

    Raises:
        ValueError: fewer than two donors, or a region is empty.
    """

    def __init__(
        self,
        dataset: AuditDataset,
        donors: torch.Tensor,
        masks: np.ndarray,
        donor_ids: list[str],
        seed: int,
        placement: int = 0,
        *,
        seam: float = SEAM,
    ):
        if len(donors) < 2:
            raise ValueError(f"pasting needs at least 2 donors, got {len(donors)}")
        self.dataset, self.donors, self.masks, self.donor_ids = dataset, donors, torch.as_tensor(masks), donor_ids
        for donor_id, mask in zip(donor_ids, self.masks, strict=True):
            if not mask.any():
                raise ValueError(f"donor '{donor_id}' has an empty region, so there is nothing to paste")
        self.seed, self.placement, self.seam = seed, placement, seam
        self.table, self.classes, self.shape = dataset.table, dataset.classes, dataset.shape
        self._ids = dataset.table["id"].astype(str).tolist()
        draws = uniform(seed, self._ids, "donor")
        self._first = np.minimum((draws * len(donors)).astype(int), len(donors) - 1)
        self._patches: dict[int, _Patch] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        placed = self.placed(index)
        patch, window, inside = self._window(placed)
        donor = self.donors[placed.donor]
        for axis, (places, shift) in enumerate(zip(window, placed.shift, strict=True), start=1):
            # where a moved donor has no more pixels, its last ones go on under the seam
            source = (torch.arange(places.start, places.stop) - shift).clamp(0, donor.shape[axis] - 1)
            donor = donor.index_select(axis, source)
        x = sample.x.clone()
        x[:, *window] = torch.lerp(x[:, *window], donor.to(x), torch.from_numpy(patch.shares[inside]).to(x))
        return sample._replace(x=x)

    def placed(self, index: int) -> Placed:
        """Return which donor's region a sample receives, and how far it moves."""
        donor = self._donor(index)
        if self.placement == 0:
            return Placed(donor, (0,) * (self.masks.ndim - 1))
        patch = self._patch(donor)
        draws = generator(self.seed, "placement", str(self.placement), self._ids[index])
        low = draws.integers(0, np.array(self.masks.shape[1:]) - patch.size + 1)
        return Placed(donor, tuple((low - patch.low).tolist()))

    def planted_mask(self, index: int) -> np.ndarray:
        """Return the region `[H, W]` or `[T]` that was pasted into a sample, without its seam."""
        donor, shift = self.placed(index)
        return rolled(self.masks[donor].numpy(), shift)

    def shares(self, index: int) -> np.ndarray:
        """Return how much of the donor a sample shows at every position, `[H, W]` or `[T]` in [0, 1]."""
        patch, window, inside = self._window(self.placed(index))
        shares = np.zeros(self.masks.shape[1:], dtype=np.float32)
        shares[tuple(window)] = patch.shares[inside]
        return shares

    def donor(self, index: int) -> tuple[torch.Tensor, np.ndarray]:
        """Return a sample's donor `[C, H, W]` or `[C, T]`, and its `donor_shares` at the place where it was cut out."""
        donor = self._donor(index)
        return self.donors[donor], donor_shares(self.masks[donor].numpy(), self.seam)

    def _donor(self, index: int) -> int:
        """Return the donor: around the circle from the sample's first one, the sample itself left out."""
        count = len(self.donors)
        circle = [(int(self._first[index]) + step) % count for step in range(count)]
        others = [each for each in circle if self.donor_ids[each] != self._ids[index]]
        return others[self.placement % len(others)]

    def _patch(self, donor: int) -> _Patch:
        if donor not in self._patches:
            self._patches[donor] = _patch(self.masks[donor].numpy(), self.seam)
        return self._patches[donor]

    def _window(self, placed: Placed) -> tuple[_Patch, list[slice], tuple[slice, ...]]:
        """Return the patch, its place in the sample, and the part of the patch that lies within the sample."""
        patch, window, inside = self._patch(placed.donor), [], []
        corner = patch.low + np.array(placed.shift) - patch.margin
        for start, length, whole in zip(corner.tolist(), patch.shares.shape, self.masks.shape[1:], strict=True):
            window.append(slice(max(start, 0), min(start + length, whole)))
            inside.append(slice(max(-start, 0), min(length, whole - start)))
        return patch, window, tuple(inside)


def donor_shares(mask: np.ndarray, seam: float = SEAM) -> np.ndarray:
    """Return how much of a donor shows at every position, float32 in [0, 1].

    1 in the region; outside exp(-d^2 / 2 s^2) at the distance d from it, 0 beyond three s. So the step at the border
    of what is pasted becomes a slope, and the region itself, however small, loses nothing: a smoothed mask would take
    half of what lies at the border, and nearly all of a single pixel.

    Args:
        mask: the region, booleans `[H, W]` or `[T]`.
        seam: s as a share of the larger side; at least `LEAST_DEVIATION` pixels. 0 returns the mask.
    """
    return _faded(mask, _deviation(mask.shape, seam))


def shift_elsewhere(mask: np.ndarray, draws: np.random.Generator) -> tuple[int, ...] | None:
    """Return a random shift that moves a region off itself; None where at least half of it stays on its old place.

    Of places where the bounding box stays within the image the first is taken on which at most a tenth of the region
    meets the old one. Where none of those drawn is so free, what leaves the image at one side may enter at the other;
    last, the drawn place with the smallest overlap is taken.

    Args:
        mask: the region, booleans `[H, W]` or `[T]`, not empty.
        draws: decides on the place.
    """
    low, size = _box(mask)
    whole = np.array(mask.shape)
    within = draws.integers(0, whole - size + 1, (TRIES, mask.ndim)) - low
    around = draws.integers(0, whole, (TRIES, mask.ndim))
    best, least = None, LARGEST_OVERLAP
    for shift in [tuple(each) for each in np.concatenate([within, around]).tolist()]:
        overlap = (mask & rolled(mask, shift)).sum() / mask.sum()
        if overlap < least:
            best, least = shift, overlap
        if least <= FREE:
            break
    return best


def rolled(values: np.ndarray, shift: tuple[int, ...]) -> np.ndarray:
    """Return values `[..., *positions]` moved along their last axes; what leaves at one side enters at the other."""
    return np.roll(values, shift, axis=tuple(range(-len(shift), 0)))


def _deviation(shape: tuple[int, ...], seam: float) -> float:
    return max(LEAST_DEVIATION, seam * max(shape)) if seam > 0 else 0.0


def _faded(mask: np.ndarray, deviation: float) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    if deviation == 0 or not mask.any():
        return mask.astype(np.float32)
    distance = distance_transform_edt(~mask)
    return np.where(distance <= REACH * deviation, np.exp(-0.5 * (distance / deviation) ** 2), 0.0).astype(np.float32)


def _box(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest place along every axis and the size of a region's bounding box."""
    places = np.argwhere(mask)
    return places.min(0), np.ptp(places, axis=0) + 1


def _patch(mask: np.ndarray, seam: float) -> _Patch:
    low, size = _box(mask)
    deviation = _deviation(mask.shape, seam)
    margin = int(np.ceil(REACH * deviation))
    window = tuple(slice(start, start + length) for start, length in zip(low, size, strict=True))
    return _Patch(low, size, margin, _faded(np.pad(mask[window], margin), deviation))
