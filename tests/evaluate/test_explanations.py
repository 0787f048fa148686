from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.attribution import Explainer, make_composite
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.evaluate.explanations import BATCH, evenly, hold, logits_of, relevance_of

COUNT, SIDE = BATCH + 6, 6
COMPOSITE = make_composite("epsilon")


@pytest.fixture(scope="module")
def dataset() -> ArrayDataset:
    pixels = np.random.default_rng(0).integers(1, 255, (COUNT, 1, SIDE, SIDE), dtype=np.uint8)
    table = make_table([f"s{row}" for row in range(COUNT)], np.arange(COUNT) % 3, ["test"] * COUNT)

    def region(row: int) -> np.ndarray | None:
        return np.eye(SIDE, dtype=bool) if row % 2 else None

    return ArrayDataset(pixels, table, ("a", "b", "c"), roi_masks=region)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 8), nn.ReLU(), nn.Dropout(0.9), nn.Linear(8, 3)).train()


@pytest.mark.parametrize(("count", "wanted"), [(10, 4), (7, 7), (3, 8), (100, 1), (5, 0)])
def test_places_are_spread_over_all_without_repeats(count, wanted):
    places = evenly(count, wanted)
    assert len(places) == min(count, wanted) == len(set(places.tolist()))
    assert ((0 <= places) & (places < count)).all() and (np.diff(places) > 0).all()
    if len(places) > 1:
        assert places[0] == 0 and places[-1] == count - 1


def test_held_samples_are_those_of_the_rows_with_their_masks(dataset):
    rows = np.array([5, 2, 9])
    held = hold(dataset, rows, lambda row: np.full((SIDE, SIDE), row == 2), dataset)
    assert held.ids == ["s5", "s2", "s9"] and held.y.tolist() == [2, 2, 0]
    assert torch.equal(held.x, torch.stack([dataset[int(row)].x for row in rows]))
    assert [mask.any() for mask in held.artifact] == [False, True, False]
    assert [mask is None for mask in held.region] == [False, True, False]
    assert held.has_masks and not hold(dataset, np.array([2]), lambda row: None, dataset).has_masks


def test_the_first_of_held_samples_stay_together(dataset):
    held = hold(dataset, np.arange(9), lambda row: np.full((SIDE, SIDE), row > 4), dataset)
    some = held.first(3)
    assert some.ids == ["s0", "s4", "s8"] and some.rows.tolist() == [0, 4, 8] and some.y.tolist() == [0, 1, 2]
    assert torch.equal(some.x, held.x[[0, 4, 8]])
    assert [mask.all() for mask in some.artifact] == [False, False, True]
    assert len(some.region) == 3 and held.first(20).ids == held.ids


def test_relevance_and_logits_do_not_depend_on_batches_and_leave_the_model_as_it_was(model, dataset):
    held = hold(dataset, np.arange(COUNT), lambda row: None, dataset)
    relevance = relevance_of(model, held.x, held.y, COMPOSITE, "cpu")
    logits = logits_of(model, held.x, "cpu")
    assert model.training and relevance.shape == (COUNT, 1, SIDE, SIDE) and logits.shape == (COUNT, 3)
    alone = Explainer(model, held.x[:1], COMPOSITE).attribute(held.x[-1:], held.y[-1:])
    assert relevance[-1:] == pytest.approx(alone.relevance.numpy(), abs=1e-6)
    assert logits[-1:] == pytest.approx(alone.logits.detach().numpy(), abs=1e-6)
