from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from pipeline.concepts import pasting
from pipeline.concepts.localization import dilate
from pipeline.concepts.pasting import (
    MOST_DONORS,
    donors_from,
    insertion_control_views,
    insertion_views,
    pasted_world,
    removal_control_view,
    removal_view,
    without_bias_rows,
)
from pipeline.workspace.masks import MaskSet
from pipeline.workspace.records import Biases


@pytest.fixture
def biases(tiny_run):
    return Biases.model_validate_json((tiny_run / "reveal/biases.json").read_text()).biases


def test_donors_are_training_samples_of_the_finding_with_their_masks(tiny_run, tiny_dataset, biases):
    world = pasted_world(tiny_run, tiny_dataset, biases, 0.02, 0)
    table = tiny_dataset.table.set_index("id")
    assert 2 <= len(world.donors) <= MOST_DONORS
    assert set(world.donor_ids) <= set(biases[0].sample_ids)
    assert set(table.loc[world.donor_ids, "split"]) == {"train"}
    masks = MaskSet(tiny_run / f"localize/{biases[0].id}")
    for donor, mask, sample_id in zip(world.donors, world.masks, world.donor_ids, strict=True):
        row = tiny_dataset.table.index[tiny_dataset.table["id"] == sample_id][0]
        assert torch.equal(donor, tiny_dataset[row].x)
        assert np.array_equal(mask.numpy(), ~masks.read(sample_id, "foreground"))


def test_what_is_pasted_carries_the_planted_square(tiny_run, tiny_dataset, biases):
    world = pasted_world(tiny_run, tiny_dataset, biases, 0.02, 0)
    white = [float((world[row].x >= 0.99).sum()) for row in range(0, len(world), 3)]
    assert np.mean(np.array(white) >= 12) > 0.9, "16 white pixels were planted, and no other image has any"


def test_without_a_bias_there_is_nothing_to_paste(tiny_run, tiny_dataset):
    assert pasted_world(tiny_run, tiny_dataset, [], 0.02, 0) is None


@pytest.mark.parametrize(("donors", "possible"), [(1, False), (2, True)])
def test_two_donors_are_needed(tiny_context, tiny_dataset, biases, donors, possible):
    root = tiny_context().directory.root
    path = root / f"localize/{biases[0].id}/index.csv"
    rows = list(csv.DictReader(path.open()))
    training = [row for row in rows if row["split"] == "train" and row["status"] == "ok"]
    for row in training[donors:]:
        row["status"] = "no evidence"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert (pasted_world(root, tiny_dataset, biases, 0.02, 0) is not None) == possible


@pytest.fixture
def bias(biases):
    return biases[0]


def index_of(root, bias):
    return MaskSet(root / f"localize/{bias.id}").index()


def shift_of(before: np.ndarray, after: np.ndarray) -> tuple[int, ...]:
    """Return by how much the first region is rolled to become the second; the pieces may wrap around."""
    shifts = np.ndindex(*before.shape)
    return next(shift for shift in shifts if np.array_equal(np.roll(before, shift, (0, 1)), after))


def test_every_placement_pastes_the_regions_of_the_same_donors(tiny_run, tiny_dataset, biases, bias):
    views = insertion_views(tiny_run, tiny_dataset, bias, 0.02, 0, 3)
    world = pasted_world(tiny_run, tiny_dataset, biases, 0.02, 0)
    assert [view.placement for view in views] == [0, 1, 2]
    assert all(view.donor_ids == world.donor_ids and torch.equal(view.masks, world.masks) for view in views)
    for row in without_bias_rows(tiny_run, tiny_dataset, bias):
        assert torch.equal(views[0][row].x, world[row].x)
        mask = views[1].planted_mask(row)
        donor = views[1].placed(row).donor
        assert torch.equal(views[1][row].x[:, mask], world.donors[donor][:, world.masks[donor]])


def test_the_control_pastes_the_same_shapes_from_another_place_of_the_donor(tiny_run, tiny_dataset, bias):
    views = insertion_views(tiny_run, tiny_dataset, bias, 0.02, 0, 2)
    controls = insertion_control_views(tiny_run, tiny_dataset, bias, 0.02, 0, 2)
    assert len(controls) == 2
    known = {donor: number for number, donor in enumerate(views[0].donor_ids)}
    for number, donor_id in enumerate(controls[0].donor_ids):
        image, region = views[0].donors[known[donor_id]], views[0].masks[known[donor_id]]
        assert torch.equal(controls[0].masks[number], region)
        pasted = controls[0].donors[number][:, region]
        assert pasted.shape == image[:, region].shape and not torch.equal(pasted, image[:, region])
        assert torch.equal(controls[0].donors[number].flatten().sort()[0], image.flatten().sort()[0])
    rows = without_bias_rows(tiny_run, tiny_dataset, bias)
    white = [[float((view[row].x >= 0.99).sum()) for row in rows] for view in (views[0], controls[0])]
    assert np.mean(white[0]) > 12 and np.mean(white[1]) < 4, "the planted square is white, its surroundings are not"


def test_removal_fills_the_grown_mask_of_test_samples_and_touches_nothing_else(tiny_run, tiny_dataset, bias):
    view, rows = removal_view(tiny_run, tiny_dataset, bias, 0.05)
    table, masks = tiny_dataset.table, MaskSet(tiny_run / f"localize/{bias.id}")
    expected = {each.id for each in index_of(tiny_run, bias) if each.split == "test" and each.status == "ok"}
    assert set(table["id"][rows]) == expected and len(rows) > 3
    assert set(table["split"][rows]) == {"test"}
    for row in range(len(table)):
        before, after = tiny_dataset[row].x, view[row].x
        if row not in rows:
            assert torch.equal(after, before)
            continue
        region = dilate(masks.read(table["id"][row])[None], 0.05)[0]
        assert torch.equal(after[:, ~region], before[:, ~region]) and not torch.equal(after, before)


def test_the_control_of_removal_fills_the_same_shape_elsewhere(tiny_run, tiny_dataset, bias):
    view, rows = removal_view(tiny_run, tiny_dataset, bias, 0.02)
    control, kept = removal_control_view(tiny_run, tiny_dataset, bias, 0.02, 0)
    assert len(kept) > 3 and set(kept) <= set(rows)
    for row in kept:
        sample_id = tiny_dataset.table["id"][row]
        region, moved = view.mask(sample_id), control.mask(sample_id)
        assert moved.sum() == region.sum() and any(shift_of(region, moved))
        assert (region & moved).sum() < region.sum() / 2
        before, after = tiny_dataset[row].x, control[row].x
        assert torch.equal(after[:, ~moved], before[:, ~moved]) and not torch.equal(after, before)
    again, _ = removal_control_view(tiny_run, tiny_dataset, bias, 0.02, 0)
    other, _ = removal_control_view(tiny_run, tiny_dataset, bias, 0.02, 1)
    ids = tiny_dataset.table["id"][kept]
    assert all(np.array_equal(control.mask(each), again.mask(each)) for each in ids)
    assert any(not np.array_equal(control.mask(each), other.mask(each)) for each in ids)


def test_without_room_elsewhere_there_is_no_control(tiny_context, tiny_dataset, bias):
    root = tiny_context().directory.root
    masks = MaskSet(root / f"localize/{bias.id}")
    full = np.ones(tiny_dataset.shape[1:], dtype=bool)
    for entry in masks.index():
        masks.write(entry.id, full.astype(float), full, ~full)
    assert len(insertion_views(root, tiny_dataset, bias, 0.02, 0, 2)) == 2
    assert insertion_control_views(root, tiny_dataset, bias, 0.02, 0, 2) == []
    assert len(removal_view(root, tiny_dataset, bias, 0.02)[1])
    view, rows = removal_control_view(root, tiny_dataset, bias, 0.02, 0)
    assert len(rows) == 0 and torch.equal(view[5].x, tiny_dataset[5].x)


def test_rows_without_the_bias_and_rows_with_it_make_up_the_test_split(tiny_run, tiny_dataset, bias):
    table = tiny_dataset.table
    without = without_bias_rows(tiny_run, tiny_dataset, bias)
    shown = removal_view(tiny_run, tiny_dataset, bias, 0.02)[1]
    assert sorted([*without, *shown]) == np.flatnonzero(table["split"] == "test").tolist()
    assert set(table["label"][without]) == {0, 1, 2}, "of the bias's own class those without a mask belong to it"


def test_at_most_so_many_donors_are_kept_and_empty_regions_are_passed_over(tiny_dataset, monkeypatch):
    ids = tiny_dataset.table["id"].tolist()[:10]
    region = np.zeros((16, 16), dtype=bool)
    masks = {ids[0]: region, ids[1]: None} | dict.fromkeys(ids[2:], ~region)
    found = donors_from(tiny_dataset, ids, masks.get)
    assert found.ids == ids[2:] and torch.equal(found.images[0], tiny_dataset[2].x) and found.regions.all()
    monkeypatch.setattr(pasting, "MOST_DONORS", 3)
    assert donors_from(tiny_dataset, ids, masks.get).ids == ids[2:5]
    none = donors_from(tiny_dataset, ids[:2], masks.get)
    assert none.ids == [] and none.pasted_into(tiny_dataset, 0) is None
