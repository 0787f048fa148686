"""Worlds in which what was localized is pasted in or filled in, and their controls: causal tests without ground truth.

Where nobody planted an artifact, this is the only test of cause: the localized region of real carriers goes into
samples that do not show it (`insertion_views`), or is taken out of those that do (`removal_view`). A control does the
same to a region of the same shape elsewhere: what changes there, too, is the work of pasting and filling as such.

Source: Pahde et al., "Reveal to Revise: An Explainable AI Life Cycle for Iterative Bias Correction of Deep Models",
MICCAI 2023, paste localized artifacts into clean samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.data.cleaned import CleanedView
from pipeline.data.dataset import AuditDataset
from pipeline.data.pasted import PastedView, rolled, shift_elsewhere
from pipeline.data.randomness import generator
from pipeline.workspace.masks import MaskSet
from pipeline.workspace.records import Bias

from .localization import dilate

MOST_DONORS = 64

Region = Callable[[str], np.ndarray | None]


@dataclass(frozen=True)
class Donors:
    """Samples that show an artifact, and where.

    Attributes:
        images: `[D, C, H, W]`, or signals `[D, C, T]`.
        regions: booleans `[D, H, W]` or `[D, T]`.
        ids: of the samples.
    """

    images: torch.Tensor
    regions: np.ndarray
    ids: list[str]

    def pasted_into(self, dataset: AuditDataset, seed: int, placement: int = 0) -> PastedView | None:
        """Return the data set with a donor's region in every sample; None with fewer than two donors."""
        if len(self.ids) < 2:
            return None
        return PastedView(dataset, self.images, self.regions, self.ids, seed, placement)


def donors_from(dataset: AuditDataset, sample_ids: Iterable[str], region: Region) -> Donors:
    """Return the first samples, at most `MOST_DONORS`, whose region is not empty.

    Args:
        dataset: where they come from.
        sample_ids: candidates, in this order.
        region: sample id -> region `[H, W]` or `[T]`, or None where there is none.
    """
    found: dict[str, np.ndarray] = {}
    for sample_id in sample_ids:
        mask = region(sample_id)
        if mask is not None and mask.any():
            found[sample_id] = mask
        if len(found) == MOST_DONORS:
            break
    row_of = _rows(dataset)
    images = [dataset[row_of[sample_id]].x for sample_id in found]
    shape = dataset.shape
    return Donors(
        torch.stack(images) if images else torch.zeros(0, *shape),
        np.stack(list(found.values())) if found else np.zeros((0, *shape[1:]), dtype=bool),
        list(found),
    )


def localized_donors(root: Path, dataset: AuditDataset, bias: Bias, grow: float) -> Donors:
    """Return training samples of a bias with their masks, grown as for training.

    Args:
        root: run directory.
        dataset: the training world.
        bias: accepted bias.
        grow: how far the region reaches beyond the mask, as a share of the image side.
    """
    masks = MaskSet(root / f"localize/{bias.id}")
    ids = [each.id for each in masks.index() if each.shows_artifact and each.split == "train"]
    return donors_from(dataset, ids, _grown(masks, set(ids), grow))


def pasted_world(root: Path, dataset: AuditDataset, biases: list[Bias], grow: float, seed: int) -> PastedView | None:
    """Return the data set with the first bias's regions pasted into every sample; None with fewer than two donors.

    Donors are training samples of the finding whose mask is not empty; the region is the mask, grown as for training,
    at the donor's own place.

    Args:
        root: run directory.
        dataset: the training world.
        biases: accepted biases, the most suspicious first.
        grow: how far the region reaches beyond the mask, as a share of the image side.
        seed: of the choice of donors.
    """
    if not biases:
        return None
    return localized_donors(root, dataset, biases[0], grow).pasted_into(dataset, seed)


def insertion_views(
    root: Path, dataset: AuditDataset, bias: Bias, grow: float, seed: int, placements: int
) -> list[PastedView]:
    """Return the data set with a bias's regions pasted in, once for every placement; none with fewer than two donors.

    Of what is measured on them count the samples of `without_bias_rows`. Other arguments: see `pasted_world`.

    Args:
        placements: the first one is the donor's own place, further ones are other donors at random places.
    """
    donors = localized_donors(root, dataset, bias, grow)
    return _placed(donors, dataset, seed, placements)


def insertion_control_views(
    root: Path, dataset: AuditDataset, bias: Bias, grow: float, seed: int, placements: int
) -> list[PastedView]:
    """Return the control of `insertion_views`: the same shapes, but of another place of the donor, without artifact.

    The donor is moved under its region, see `pipeline.data.pasted.shift_elsewhere`. Donors whose region leaves no such
    place take no part; with fewer than two others there is no control.
    """
    donors = localized_donors(root, dataset, bias, grow)
    images, kept = [], []
    for number, (image, region, sample_id) in enumerate(zip(donors.images, donors.regions, donors.ids, strict=True)):
        shift = _elsewhere(region, seed, sample_id)
        if shift is not None:
            images.append(torch.roll(image, [-step for step in shift], tuple(range(1, image.ndim))))
            kept.append(number)
    if len(kept) < 2:
        return []
    control = Donors(torch.stack(images), donors.regions[kept], [donors.ids[number] for number in kept])
    return _placed(control, dataset, seed, placements)


def removal_view(root: Path, dataset: AuditDataset, bias: Bias, grow: float) -> tuple[CleanedView, np.ndarray]:
    """Return the data set with a bias's localized regions filled in, and the rows where that was done, ascending.

    These are the test samples that have a mask. Most of them were retrieved: they belong to the bias's class and its
    CAV recognises them, which is no proof that they carry the artifact. All other samples are as they were.

    Args:
        root: run directory.
        dataset: the training world.
        bias: accepted bias.
        grow: how far the region reaches beyond the mask, as a share of the image side.
    """
    masks = MaskSet(root / f"localize/{bias.id}")
    shown = _shown_in_test(masks)
    return CleanedView(dataset, _grown(masks, shown, grow)), _rows_of(dataset, shown)


def removal_control_view(
    root: Path, dataset: AuditDataset, bias: Bias, grow: float, seed: int
) -> tuple[CleanedView, np.ndarray]:
    """Return the control of `removal_view`: regions of the same shape filled in elsewhere in the same samples.

    Rows are those of `removal_view` but for samples whose region leaves no such place, see
    `pipeline.data.pasted.shift_elsewhere`.
    """
    masks = MaskSet(root / f"localize/{bias.id}")
    shown = _shown_in_test(masks)
    region = _grown(masks, shown, grow)
    shifts = {sample_id: _elsewhere(region(sample_id), seed, sample_id) for sample_id in sorted(shown)}
    shifts = {sample_id: shift for sample_id, shift in shifts.items() if shift is not None}

    def moved(sample_id: str) -> np.ndarray | None:
        return rolled(region(sample_id), shifts[sample_id]) if sample_id in shifts else None

    return CleanedView(dataset, moved), _rows_of(dataset, set(shifts))


def without_bias_rows(root: Path, dataset: AuditDataset, bias: Bias) -> np.ndarray:
    """Return the test rows that do not show a bias, ascending: all of which `localize` left no mask.

    They are of all classes, also of the bias's own, whose samples with a mask are left out. In other classes nobody
    looked for the artifact, unless masks were imported: there its absence is assumed.

    Args:
        root: run directory.
        dataset: the training world.
        bias: accepted bias.
    """
    shown = _shown_in_test(MaskSet(root / f"localize/{bias.id}"))
    test = dataset.table["split"].to_numpy() == "test"
    return np.flatnonzero(test & ~np.isin(dataset.table["id"].astype(str).to_numpy(), sorted(shown)))


def _placed(donors: Donors, dataset: AuditDataset, seed: int, placements: int) -> list[PastedView]:
    views = [donors.pasted_into(dataset, seed, placement) for placement in range(placements)]
    return [view for view in views if view is not None]


def _shown_in_test(masks: MaskSet) -> set[str]:
    return {each.id for each in masks.index() if each.status == "ok" and each.split == "test"}


def _grown(masks: MaskSet, known: set[str], grow: float) -> Region:
    """Return what reads the grown mask of a sample, None for those that are not among the known ones."""
    return lambda sample_id: dilate(masks.read(sample_id)[None], grow)[0] if sample_id in known else None


def _elsewhere(region: np.ndarray, seed: int, sample_id: str) -> tuple[int, ...] | None:
    return shift_elsewhere(region, generator(seed, "elsewhere", sample_id))


def _rows(dataset: AuditDataset) -> dict[str, int]:
    return {sample_id: row for row, sample_id in enumerate(dataset.table["id"].astype(str))}


def _rows_of(dataset: AuditDataset, sample_ids: set[str]) -> np.ndarray:
    return np.flatnonzero(np.isin(dataset.table["id"].astype(str).to_numpy(), sorted(sample_ids)))
