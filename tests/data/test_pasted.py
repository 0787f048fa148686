from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.dataset import Sample
from pipeline.data.memory import Subset, make_table
from pipeline.data.pasted import PastedView, donor_shares, rolled, shift_elsewhere
from pipeline.data.randomness import generator

DONORS = [4, 9, 16, 25, 36]
PLACEMENTS = [0, 1, 2, 7]


class Signals:
    """30 signals `[2, 40]`."""

    def __init__(self):
        self.x = torch.rand(30, 2, 40, generator=torch.Generator().manual_seed(0))
        self.table = make_table([f"s{row}" for row in range(30)], [0] * 30, ["test"] * 30)
        self.classes, self.shape = ("a",), (2, 40)

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.x[index], 0, f"s{index}")


@pytest.fixture
def world(small_dataset):
    """Paste a region of five donors, a different one of each."""
    dataset = small_dataset()

    def make(dataset=dataset, seed: int = 0, count: int = len(DONORS), placement: int = 0, **options) -> PastedView:
        source = small_dataset()
        donors = torch.stack([source[row].x for row in DONORS[:count]])
        masks = np.zeros((count, 16, 16), dtype=bool)
        for number in range(count):
            masks[number, number : number + 4, :6] = True
            masks[number, number, 2] = False
        ids = [source[row].id for row in DONORS[:count]]
        return PastedView(dataset, donors, masks, ids, seed, placement, **options)

    return make


@pytest.fixture
def signals():
    """Paste regions of two signals into thirty."""
    dataset = Signals()
    masks = np.zeros((2, 40), dtype=bool)
    masks[0, 5:9], masks[1, 30:37] = True, True

    def make(placement: int) -> PastedView:
        return PastedView(dataset, dataset.x[:2], masks, ["s0", "s1"], 0, placement)

    return make


def donor_of(view: PastedView, row: int) -> int:
    """Return which donor's region a sample received."""
    return next(number for number in range(5) if np.array_equal(view.planted_mask(row), view.masks[number].numpy()))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_region_is_the_donor_pixel_by_pixel_and_far_from_it_nothing_is_touched(world, small_dataset, placement):
    view, dataset = world(placement=placement), small_dataset()
    assert len(view) == len(dataset)
    for row in range(len(view)):
        sample, mask, shares = view[row], view.planted_mask(row), view.shares(row)
        donor, shift = view.placed(row)
        assert torch.equal(sample.x[:, mask], view.donors[donor][:, view.masks[donor]])
        assert torch.equal(sample.x[:, shares == 0], dataset[row].x[:, shares == 0])
        far = np.abs(np.argwhere(mask)[:, None] - np.argwhere(shares == 0)).sum(2).min(0)
        assert (shares == 0).any() and far.min() == 3  # of least deviation .75 three are 2.25 pixels
        assert (sample.y, sample.id) == (dataset[row].y, dataset[row].id)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_in_the_seam_values_lie_between_both_images(world, small_dataset, placement):
    view, dataset = world(placement=placement), small_dataset()
    for row in range(0, len(view), 5):
        shares, (donor, shift) = view.shares(row), view.placed(row)
        seam = (shares > 0) & (shares < 1)
        moved = torch.roll(view.donors[donor], shift, (1, 2))
        inside = torch.from_numpy(seam & (rolled(np.ones((16, 16)), shift) > 0))
        if any(shift):  # beyond the donor's edge its last pixels go on
            rows, columns = (np.clip(np.arange(16) - step, 0, 15) for step in shift)
            moved = view.donors[donor][:, rows][:, :, columns]
        result, receiver = view[row].x[:, inside], dataset[row].x[:, inside]
        donated = moved[:, inside]
        assert (result >= torch.minimum(receiver, donated) - 1e-6).all()
        assert (result <= torch.maximum(receiver, donated) + 1e-6).all()
        expected = receiver + torch.from_numpy(shares)[inside] * (donated - receiver)
        torch.testing.assert_close(result, expected)


def test_the_data_set_is_not_changed(signals):
    view = signals(1)
    assert all(not torch.equal(view[row].x, view.dataset.x[row]) for row in range(30))
    assert torch.equal(view.dataset.x, Signals().x)


def test_a_seam_of_zero_cuts_hard(world, small_dataset):
    view, dataset = world(seam=0), small_dataset()
    for row in range(0, len(view), 7):
        mask = view.planted_mask(row)
        assert np.array_equal(view.shares(row), mask)
        assert torch.equal(view[row].x[:, ~mask], dataset[row].x[:, ~mask])


def test_shares_fall_like_a_gaussian_of_the_distance_and_a_single_pixel_stays_whole():
    mask = np.zeros((100, 100), dtype=bool)
    mask[50, 50] = True
    shares = donor_shares(mask, 0.02)
    assert shares[50, 50] == 1 and (shares[~mask] < 1).all()
    for distance in (1, 2, 5):
        assert shares[50, 50 + distance] == pytest.approx(np.exp(-(distance**2) / 8), rel=1e-6)
    assert shares[53, 54] == pytest.approx(np.exp(-25 / 8), rel=1e-6)
    assert shares[50, 56] > 0 == shares[50, 57]
    assert donor_shares(np.zeros((5, 5), bool)).max() == 0


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_donor_never_pastes_into_itself(world, placement):
    for seed in range(10):
        view = world(seed=seed, placement=placement)
        assert all(view.placed(row).donor != number for number, row in enumerate(DONORS))


def test_the_first_placement_is_the_donors_own_place(world):
    view = world()
    for row in range(60):
        donor, shift = view.placed(row)
        assert shift == (0, 0) and donor == donor_of(view, row)


def test_further_placements_take_other_donors_to_other_places_within_the_image(world):
    views = [world(placement=number) for number in range(4)]
    for row in range(60):
        donors = [view.placed(row).donor for view in views]
        assert len(set(donors)) == 4
        for view, donor in zip(views, donors, strict=True):
            mask, own = view.planted_mask(row), view.masks[donor].numpy()
            low, high = np.argwhere(mask).min(0), np.argwhere(mask).max(0) + 1
            first, last = np.argwhere(own).min(0), np.argwhere(own).max(0) + 1
            assert np.array_equal(mask[low[0] : high[0], low[1] : high[1]], own[first[0] : last[0], first[1] : last[1]])
    places = {views[1].placed(row).shift for row in range(60)}
    assert len(places) > 30
    tops = [np.argwhere(views[1].planted_mask(row)).min(0) for row in range(60)]
    assert np.min(tops, 0).tolist() == [0, 0] and np.max(tops, 0).tolist() == [12, 10]  # boxes are 4 x 6


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_what_is_pasted_depends_on_the_id_and_not_on_place_or_number_of_samples(world, small_dataset, placement):
    rows = np.random.default_rng(0).permutation(60)[:25]
    whole = world(placement=placement)
    part = world(Subset(small_dataset(), rows), placement=placement)
    assert [part.placed(place) for place in range(25)] == [whole.placed(int(row)) for row in rows]


@pytest.mark.parametrize("placement", [0, 1])
def test_what_is_pasted_depends_on_the_seed(world, placement):
    first, second = ([world(seed=seed, placement=placement).placed(row) for row in range(60)] for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("placement", [0, 1])
def test_all_donors_are_used(world, placement):
    view = world(placement=placement)
    assert {view.placed(row).donor for row in range(60)} == set(range(5))


def test_one_donor_or_an_empty_region_is_not_enough(world, small_dataset):
    with pytest.raises(ValueError, match="at least 2 donors, got 1"):
        world(count=1)
    donors, masks = torch.zeros(2, 1, 16, 16), np.ones((2, 16, 16), bool)
    masks[1] = False
    with pytest.raises(ValueError, match="'b' has an empty region"):
        PastedView(small_dataset(), donors, masks, ["a", "b"], 0)


@pytest.mark.parametrize("placement", [0, 1, 2])
def test_signals_are_pasted_along_time(signals, placement):
    view, dataset = signals(placement), Signals()
    for row in range(30):
        donor, (shift,) = view.placed(row)
        mask, x = view.planted_mask(row), view[row].x
        assert mask.shape == (40,) and mask.sum() == (4, 7)[donor]
        assert torch.equal(x[:, mask], dataset.x[donor][:, view.masks[donor]])
        assert torch.equal(x[:, view.shares(row) == 0], dataset.x[row][:, view.shares(row) == 0])
        assert donor != row and (placement or shift == 0)


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9))
def test_a_region_is_moved_off_itself_within_the_image_where_there_is_room(seed, height, width):
    mask = np.zeros((20, 24), dtype=bool)
    top, left = np.random.default_rng(seed).integers(0, [21 - height, 25 - width])
    mask[top : top + height, left : left + width] = True
    moved = rolled(mask, shift_elsewhere(mask, generator(seed, "test")))
    assert moved.sum() == mask.sum() and (moved & mask).sum() <= 0.1 * mask.sum()
    assert np.ptp(np.argwhere(moved), axis=0).tolist() == [height - 1, width - 1]


def test_a_region_that_spans_the_image_leaves_at_one_side_and_enters_at_the_other():
    mask = np.zeros((20, 20), dtype=bool)
    mask[:3, :3] = mask[-3:, -3:] = True
    moved = rolled(mask, shift_elsewhere(mask, generator(0, "test")))
    assert moved.sum() == mask.sum() and (moved & mask).sum() <= 1


def test_a_region_that_fills_the_image_has_no_elsewhere():
    mask = np.ones((10, 10), dtype=bool)
    assert shift_elsewhere(mask, generator(0, "test")) is None
    mask[:3] = False
    assert shift_elsewhere(mask, generator(0, "test")) is None  # of 7 rows at least 4 meet the old ones
    mask[:4] = False
    assert shift_elsewhere(mask, generator(0, "test")) is not None  # of 6 rows 2 do


def test_a_signals_region_is_moved_along_time():
    mask = np.arange(50) < 12
    (shift,) = shift_elsewhere(mask, generator(3, "test"))
    assert 11 <= shift <= 38
