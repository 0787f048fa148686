from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from pipeline.attribution import Explainer, make_composite
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.evaluate import reliance, stage
from pipeline.evaluate.reliance import mean_share, relevance_shares
from pipeline.workspace.records import Contest, Metric

SIDE, COUNT = 8, 70
COMPOSITE = make_composite("epsilon")  # whose channels differ in sign


def inner(row: int) -> np.ndarray | None:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[2:6, 1 + row % 3 : 6] = True
    return None if row % 5 == 0 else mask


def corner(row: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[: row % 4, :3] = True
    return mask


@pytest.fixture(scope="module")
def dataset() -> ArrayDataset:
    pixels = np.random.default_rng(0).integers(1, 255, (COUNT, 2, SIDE, SIDE), dtype=np.uint8)
    table = make_table([f"s{row}" for row in range(COUNT)], np.arange(COUNT) % 3, ["test"] * COUNT)
    return ArrayDataset(pixels, table, ("a", "b", "c"), roi_masks=inner)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * SIDE**2, 3)).eval()


def explained(model: nn.Module, dataset: ArrayDataset, rows: np.ndarray) -> np.ndarray:
    x = torch.stack([dataset[int(row)].x for row in rows])
    y = torch.tensor([dataset[int(row)].y for row in rows])
    return Explainer(model, x[:1], COMPOSITE).attribute(x, y).relevance.numpy()


def test_shares_are_those_of_the_explanations_of_the_true_class(model, dataset):
    rows = np.arange(COUNT)[::-1]  # more than a batch, and not in order
    relevance = explained(model, dataset, rows)
    found = relevance_shares(model, dataset, rows, corner, dataset.roi_mask, COMPOSITE, "cpu")
    for number, row in enumerate(rows):
        of_pixels, summed = np.abs(relevance[number]).sum(0), np.abs(relevance[number].sum(0))
        if row % 4:
            on_artifact = summed[corner(row)].sum() / summed.sum()
            assert found.artifact[number] == pytest.approx(on_artifact, rel=1e-4)
        else:
            assert np.isnan(found.artifact[number])
        mask = inner(row)
        if mask is None:
            assert np.isnan(found.background.relevance[number]) and np.isnan(found.background.area[number])
        else:
            share = of_pixels[~mask].sum() / of_pixels.sum()
            assert found.background.relevance[number] == pytest.approx(share, rel=1e-4)
            assert found.background.area[number] == (~mask).mean()


def test_without_an_artifact_only_the_background_is_measured(model, dataset):
    rows = np.array([1, 2])
    found = relevance_shares(model, dataset, rows, None, dataset.roi_mask, COMPOSITE, "cpu")
    assert np.isnan(found.artifact).all() and found.artifact.shape == (2,)
    assert np.isfinite(found.background.relevance).all()


def test_every_row_is_explained_once(model, dataset, monkeypatch):
    counted = []
    attribute = Explainer.attribute
    monkeypatch.setattr(Explainer, "attribute", lambda self, x, y: counted.append(len(x)) or attribute(self, x, y))
    relevance_shares(model, dataset, np.arange(COUNT), corner, dataset.roi_mask, COMPOSITE, "cpu")
    assert counted == [64, 6]


def test_the_mean_leaves_out_what_is_not_defined():
    found = mean_share(np.array([0.2, np.nan, 0.4]), resamples=100, confidence=0.95, seed=0)
    assert (found.value, found.n) == (pytest.approx(0.3), 2) and 0.2 <= found.lower <= found.upper <= 0.4
    assert np.isnan(mean_share(np.array([np.nan]), resamples=100, confidence=0.95, seed=0).value)


def evaluated(context) -> dict[tuple[str, str], Metric]:
    contest = Contest(rule="", original_clean=1, original_worst=1, contestants=[], recommended=None)
    context.directory.write_record("mitigate/contest.json", contest)
    stage.run(context)
    text = (context.directory.root / stage.METRICS).read_text()
    rows = [Metric.model_validate(row) for row in csv.DictReader(io.StringIO(text))]
    return {(row.world, row.metric): row for row in rows if (row.model, row.subgroup) == ("original", "all")}


QUICK = {"evaluate": {"resamples": 100, "relevance_samples": 12, "random_directions": 5}, "mitigate": {"methods": []}}


def test_the_stage_measures_the_background_where_regions_of_interest_are_known(tiny_context, tiny_dataset, monkeypatch):
    region = np.zeros((tiny.SIDE, tiny.SIDE), bool)
    region[5:, 5:] = True
    monkeypatch.setattr(tiny_dataset, "_roi_masks", lambda row: region if row % 2 else None)
    explained_rows = []
    shares = reliance.relevance_shares

    def counting(model, dataset, rows, *rest):
        explained_rows.append(rows)
        return shares(model, dataset, rows, *rest)

    monkeypatch.setattr(stage, "relevance_shares", counting)
    found = evaluated(tiny_context(**QUICK))
    known, some = explained_rows
    assert len(some) == 12 and known.tolist() == [row for row in some if row % 2] and 0 < len(known) < 12
    for world in ("asis", "attacked"):
        assert 0 < found[world, "macro_f1"].value <= 1
        share, area = found[world, "background_relevance"], found[world, "background_area"]
        assert share.n == area.n == len(known)
        assert 0 < share.lower <= share.value <= share.upper < 1
        assert area.value == pytest.approx(1 - region.mean())
    assert ("asis", "artifact_relevance") not in found and found["attacked", "artifact_relevance"].n == 12


def test_the_stage_measures_no_background_without_regions_of_interest(tiny_context):
    found = evaluated(tiny_context(**QUICK))
    assert ("attacked", "artifact_relevance") in found
    assert not {metric for _, metric in found if metric.startswith("background")}
