from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.data.memory import Subset
from pipeline.data.pasted import PastedView

DONORS = [4, 9, 16, 25, 36]


@pytest.fixture
def world(small_dataset):
    """Paste a region of five donors, a different one of each."""
    dataset = small_dataset()

    def make(dataset=dataset, seed: int = 0, count: int = len(DONORS)) -> PastedView:
        source = small_dataset()
        donors = torch.stack([source[row].x for row in DONORS[:count]])
        masks = np.zeros((count, 16, 16), dtype=bool)
        for number in range(count):
            masks[number, number : number + 4, :6] = True
        return PastedView(dataset, donors, masks, [source[row].id for row in DONORS[:count]], seed)

    return make


def donor_of(view: PastedView, row: int) -> int:
    """Return which donor's region a sample received."""
    return next(number for number in range(5) if np.array_equal(view.planted_mask(row), view.masks[number].numpy()))


def test_a_sample_shows_its_donor_inside_the_region_and_itself_outside(world, small_dataset):
    view, dataset = world(), small_dataset()
    assert len(view) == len(dataset)
    for row in range(len(view)):
        sample, mask = view[row], view.planted_mask(row)
        donor = view.donors[donor_of(view, row)]
        assert torch.equal(sample.x[:, mask], donor[:, mask])
        assert torch.equal(sample.x[:, ~mask], dataset[row].x[:, ~mask])
        assert (sample.y, sample.id) == (dataset[row].y, dataset[row].id)


def test_a_donor_never_pastes_into_itself(world):
    for seed in range(10):
        view = world(seed=seed)
        assert all(donor_of(view, row) != number for number, row in enumerate(DONORS))


def test_the_donor_depends_on_the_id_and_not_on_place_or_number_of_samples(world, small_dataset):
    rows = np.random.default_rng(0).permutation(60)[:25]
    whole, part = world(), world(Subset(small_dataset(), rows))
    assert [donor_of(part, place) for place in range(25)] == [donor_of(whole, int(row)) for row in rows]


def test_the_donor_depends_on_the_seed(world):
    first, second = ([donor_of(world(seed=seed), row) for row in range(60)] for seed in (0, 1))
    assert first != second


def test_all_donors_are_used(world):
    assert {donor_of(world(), row) for row in range(60)} == set(range(5))


def test_one_donor_is_not_enough(world):
    with pytest.raises(ValueError, match="at least 2 donors, got 1"):
        world(count=1)
