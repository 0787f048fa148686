from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from pipeline.concepts.pasting import MOST_DONORS, pasted_world
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
