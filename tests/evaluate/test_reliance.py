from __future__ import annotations

import csv
import importlib
import io
import math

import numpy as np
import pytest
import tiny
import torch
import torchvision
from torch import nn

from pipeline.attribution import Explainer, make_composite
from pipeline.concepts.sensitivity import random_directions
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.errors import DataError
from pipeline.evaluate.explanations import relevance_of
from pipeline.evaluate.pompom import pompom, pompom_scaled
from pipeline.evaluate.reliance import (
    RelevanceShares,
    along_directions,
    concept_sensitivity,
    explained_shares,
    grown_mask,
    mean_share,
    slope_shares,
)
from pipeline.statistics import bootstrap
from pipeline.workspace.metric_catalogue import METRICS
from pipeline.workspace.records import Contest, Metric

SIDE, COUNT = 8, 70
COMPOSITE = make_composite("epsilon")  # whose channels differ in sign
ON_ARTIFACT = ("artifact_relevance", "artifact_relevance_ratio", "artifact_relevance_grown", "pointing_artifact")
ON_REGION = ("background_relevance", "background_area", "pointing_foreground", "pompom", "pompom_scaled")


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


def shares(model: nn.Module, dataset: ArrayDataset, rows: np.ndarray, artifacts: list | None) -> RelevanceShares:
    x = torch.stack([dataset[int(row)].x for row in rows])
    y = torch.tensor([dataset[int(row)].y for row in rows])
    relevance = relevance_of(model, x, y, COMPOSITE, "cpu")
    return explained_shares(relevance, artifacts, [dataset.roi_mask(int(row)) for row in rows])


def test_shares_are_those_of_the_explanations_of_the_true_class(model, dataset):
    rows = np.arange(COUNT)[::-1]  # more than a batch, and not in order
    relevance = explained(model, dataset, rows)
    found = shares(model, dataset, rows, list(map(corner, rows)))
    for number, row in enumerate(rows):
        of_pixels, summed = np.abs(relevance[number]).sum(0), np.abs(relevance[number].sum(0))
        strongest = summed == summed.max()
        if row % 4:
            on_artifact = summed[corner(row)].sum() / summed.sum()
            assert found.artifact_relevance[number] == pytest.approx(on_artifact, rel=1e-4)
            over_area = on_artifact / corner(row).mean()
            assert found.artifact_relevance_ratio[number] == pytest.approx(over_area, rel=1e-4)
            on_grown = summed[grown_mask(corner(row))].sum() / summed.sum()
            assert found.artifact_relevance_grown[number] == pytest.approx(on_grown, rel=1e-4)
            assert found.pointing_artifact[number] == corner(row)[strongest].any()
        else:
            assert np.isnan([getattr(found, name)[number] for name in ON_ARTIFACT]).all()
        mask = inner(row)
        if mask is None:
            assert np.isnan([getattr(found, name)[number] for name in ON_REGION]).all()
        else:
            share = of_pixels[~mask].sum() / of_pixels.sum()
            assert found.background_relevance[number] == pytest.approx(share, rel=1e-4)
            assert found.background_area[number] == (~mask).mean()
            assert found.pointing_foreground[number] == mask[strongest].any()
            assert found.pompom[number] == pompom(summed, mask)
            assert found.pompom_scaled[number] == pompom_scaled(summed, mask)


def test_without_an_artifact_only_the_background_is_measured(model, dataset):
    rows = np.array([1, 2])
    found = shares(model, dataset, rows, None)
    for name in ON_ARTIFACT:
        assert np.isnan(getattr(found, name)).all() and getattr(found, name).shape == (2,)
    for name in ON_REGION:
        assert np.isfinite(getattr(found, name)).all()


def test_shares_have_the_names_of_the_metrics():
    assert set(RelevanceShares._fields) == {*ON_ARTIFACT, *ON_REGION} <= METRICS.keys()


def test_masks_of_nothing_or_almost_everything_measure_nothing():
    relevance = np.random.default_rng(0).normal(size=(4, 1, 5, 8))
    most, enough = np.ones((5, 8), bool), np.ones((5, 8), bool)
    most[0, 0], enough[0, :2] = False, False  # 97.5 % and 95 %
    masks = [np.zeros((5, 8), bool), most, None, enough]
    found = explained_shares(relevance, masks, masks)
    for name in (*ON_ARTIFACT, *ON_REGION):
        assert np.isnan(getattr(found, name)).tolist() == [True, True, True, False]
    none = explained_shares(relevance, None, None)
    assert all(values.shape == (4,) and np.isnan(values).all() for values in none)


def test_a_mask_that_grows_to_almost_everything_has_no_grown_share():
    mask = np.zeros((60, 60), bool)
    mask[1:59, 1:59] = True  # 93 %
    found = explained_shares(np.random.default_rng(0).normal(size=(1, 1, 60, 60)), [mask], None)
    assert grown_mask(mask).mean() > 0.95
    assert np.isnan(found.artifact_relevance_grown[0]) and np.isfinite(found.artifact_relevance[0])


def test_without_relevance_there_are_no_shares():
    mask = corner(2)
    found = explained_shares(np.zeros((1, 2, SIDE, SIDE)), [mask], [mask])
    assert all(np.isnan(values).all() for values in found)


def test_the_artifact_counts_by_the_sum_of_channels_and_points_by_its_magnitude():
    relevance = np.zeros((1, 2, 4, 4))
    relevance[0, :, 0, 0] = [3, -3]  # cancels in the heatmap
    relevance[0, :, 1, 1] = [-2, -1]
    relevance[0, :, 3, 3] = [1, 0]
    mask = np.zeros((4, 4), bool)
    mask[:2, :2] = True
    found = explained_shares(relevance, [mask], [~mask])
    assert found.artifact_relevance[0] == 3 / 4 and found.artifact_relevance_ratio[0] == 3
    assert found.pointing_artifact[0] == 1 and found.pointing_foreground[0] == 0
    assert found.background_relevance[0] == 9 / 10 and found.background_area[0] == 0.25
    assert found.pompom[0] == pytest.approx(1 / 4, abs=1e-6)  # three of four pixels there are 0


def test_signals_have_shares_too():
    relevance, mask = np.ones((1, 3, 50)), np.zeros(50, bool)
    mask[10:20] = True
    found = explained_shares(relevance, [mask], [mask])
    assert found.artifact_relevance[0] == pytest.approx(0.2) and found.background_relevance[0] == pytest.approx(0.8)
    assert found.artifact_relevance_grown[0] == pytest.approx(grown_mask(mask).mean())


def test_masks_that_do_not_fit_are_refused():
    relevance = np.ones((2, 1, 4, 4))
    with pytest.raises(DataError, match="2 heatmaps and 1 masks of the artifact"):
        explained_shares(relevance, [None], None)
    with pytest.raises(DataError, match=r"mask of the region of interest is \[4, 5\], but its heatmap is \[4, 4\]"):
        explained_shares(relevance, None, [None, np.ones((4, 5), bool)])


def test_a_mask_grows_by_a_gaussian_of_41_pixels_cut_at_a_share_of_its_maximum():
    mask = np.zeros((224, 224), bool)
    mask[100:104, 60:64] = mask[0:7, 150:200] = mask[120:170, 90:170] = mask[180:190, 80:150] = True
    image = torch.from_numpy(mask[None].astype(np.float64))
    smooth = torchvision.transforms.functional.gaussian_blur(image, [41, 41], [8.0, 8.0])[0].numpy()
    found = grown_mask(mask)
    assert np.array_equal(found, mask | (smooth > 0.3 * smooth.max())) and found.sum() > 1.2 * mask.sum()
    half = grown_mask(mask[::2, ::2])  # half the side, half the blur
    assert half.mean() == pytest.approx(found.mean(), rel=0.1)


def test_thin_parts_of_a_mask_stay_in_what_it_grows_to():
    mask = np.zeros((224, 224), bool)
    mask[20:100, 20:100] = mask[200, :] = True
    assert (grown_mask(mask) >= mask).all()


def test_every_row_is_explained_once(model, dataset, monkeypatch):
    counted = []
    attribute = Explainer.attribute
    monkeypatch.setattr(Explainer, "attribute", lambda self, x, y: counted.append(len(x)) or attribute(self, x, y))
    shares(model, dataset, np.arange(COUNT), None)
    assert counted == [64, 6]


def test_the_mean_leaves_out_what_is_not_defined():
    found = mean_share(np.array([0.2, np.nan, 0.4]), resamples=100, confidence=0.95, seed=0)
    assert (found.value, found.n) == (pytest.approx(0.3), 2) and 0.2 <= found.lower <= found.upper <= 0.4
    assert np.isnan(mean_share(np.array([np.nan]), resamples=100, confidence=0.95, seed=0).value)


class Read(nn.Module):
    """One logit per row of weights on the largest value of each channel."""

    def __init__(self, weights: list[list[float]]):
        super().__init__()
        self.layer = nn.Identity()
        self.head = nn.Linear(len(weights[0]), len(weights), bias=False)
        self.head.weight.data = torch.tensor(weights)

    def forward(self, x):
        return self.head(self.layer(x).amax((2, 3)))


def sensitivity_of(weights: list[list[float]], dataset: ArrayDataset, class_id: int = 0, **changes):
    options = {"random_count": 39, "confidence": 0.9, "resamples": 200, "seed": 0, "device": "cpu"} | changes
    members = np.arange(COUNT) % 2 == 0
    return concept_sensitivity(
        Read(weights), dataset, np.arange(COUNT), members, dataset, np.arange(30), "layer", class_id, **options
    )


@pytest.fixture(scope="module")
def with_concept() -> ArrayDataset:
    """Every other sample is brighter in channel 1 of 3."""
    pixels = np.random.default_rng(1).integers(0, 5, (COUNT, 3, SIDE, SIDE), dtype=np.uint8)
    pixels[::2, 1] += 200
    table = make_table([f"s{row}" for row in range(COUNT)], np.arange(COUNT) % 3, ["test"] * COUNT)
    return ArrayDataset(pixels, table, ("a", "b", "c"))


def test_a_logit_that_reads_the_concept_alone_is_as_sensitive_as_can_be(with_concept):
    found = sensitivity_of([[0.0, 2.0, 0.0], [0.0, -0.01, 0.0], [3.0, 0.0, 4.0], [0.0, 1.0, 1.0]], with_concept)
    assert found.quotient == (1, 1, 1, 30) and found.sensitivity.value == pytest.approx(1, abs=1e-3)
    assert found.random_sensitivity.n == found.random.n == found.p.n == 39
    assert found.random_sensitivity.upper < found.sensitivity.lower


def test_sensitivity_does_not_change_with_the_scale_of_the_logit_and_the_quotient_has_its_sign(with_concept):
    weights = [[0.0, 2.0, 2.0], [0.0, -0.01, -0.01], [3.0, 0.0, 4.0]]
    up, down, blind = (sensitivity_of(weights, with_concept, class_id) for class_id in range(3))
    assert up.sensitivity.value == pytest.approx(0.5**0.5, abs=1e-2)
    assert down.sensitivity.value == pytest.approx(up.sensitivity.value, rel=1e-4)
    assert (up.quotient.value, down.quotient.value) == (1, 0)
    assert blind.sensitivity.value < 0.02


def test_figures_of_gradients_and_directions_by_hand():
    gradients = np.array([[3.0, 4.0], [4.0, -3.0], [0.0, 0.0], [-6.0, 8.0]])
    controls = np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [-0.8, 0.6], [0.0, -1.0]])
    found = along_directions(
        gradients, np.array([1.0, 0.0]), controls, confidence=0.95, resamples=100, seed=0
    )  # fmt: skip
    assert found.quotient.value == (1 + 1 + 0.5 + 0) / 4  # .625, off 1/2 by .125
    quotients = [(1 + 0 + 0.5 + 1) / 4, 0.625, (1 + 0.5 + 0.5 + 1) / 4, (0.5 + 0 + 0.5 + 1) / 4, 0.375]
    assert found.random.value == pytest.approx(np.mean(quotients)) and found.random.n == 5
    assert (found.random.lower, found.random.upper) == pytest.approx(tuple(np.quantile(quotients, [0.025, 0.975])))
    assert found.p == (5 / 6, 5 / 6, 5 / 6, 5)  # four of five are as far, to either side
    assert found.sensitivity.value == pytest.approx((0.6 + 0.8 + 0 + 0.6) / 4)
    shares = [(0.8 + 0.6 + 0 + 0.8) / 4, 0.5, (1 + 0 + 0 + 0.28) / 4, (0 + 1 + 0 + 0.96) / 4, 0.55]
    assert found.random_sensitivity.value == pytest.approx(np.mean(shares))
    expected = tuple(np.quantile(shares, [0.025, 0.975]))
    assert (found.random_sensitivity.lower, found.random_sensitivity.upper) == pytest.approx(expected)


def test_p_is_never_zero_and_small_for_a_consistent_slope():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(200, 30))
    gradients[:, 0] = np.abs(gradients[:, 0])
    options = {"confidence": 0.95, "resamples": 100, "seed": 0}
    controls = random_directions(39, 30, 0)
    assert along_directions(gradients, np.eye(30)[0], controls, **options).p.value == 1 / 40
    assert along_directions(np.zeros((5, 30)), np.eye(30)[0], controls, **options).p.value == 1


def test_random_directions_reach_the_mean_cosine_of_their_dimension():
    gradients = np.random.default_rng(0).normal(size=(50, 12))
    controls = random_directions(4000, 12, 1)
    expected = math.gamma(6) / (math.sqrt(math.pi) * math.gamma(6.5))
    assert slope_shares(gradients, controls).mean() == pytest.approx(expected, rel=0.01)
    np.testing.assert_allclose(slope_shares(1e6 * gradients, controls), slope_shares(gradients, controls))


def test_intervals_of_the_sensitivity_are_over_samples():
    gradients = np.random.default_rng(0).normal(size=(60, 5))
    found = along_directions(
        gradients, np.eye(5)[0], random_directions(9, 5, 0), confidence=0.9, resamples=300, seed=7
    )  # fmt: skip
    shares = np.abs(gradients[:, 0]) / np.linalg.norm(gradients, axis=1)
    assert found.sensitivity == pytest.approx(bootstrap(shares, confidence=0.9, resamples=300, seed=7))
    assert found.sensitivity.n == found.quotient.n == 60


def evaluated(context) -> dict[tuple[str, str], Metric]:
    contest = Contest(rule="", original_clean=1, original_worst=1, contestants=[], recommended=None)
    context.directory.write_record("mitigate/contest.json", contest)
    importlib.import_module("pipeline.evaluate.stage").run(context)
    text = (context.directory.root / "evaluate/metrics.csv").read_text()
    rows = [Metric.model_validate(row) for row in csv.DictReader(io.StringIO(text))]
    return {(row.world, row.metric): row for row in rows if (row.model, row.subgroup) == ("original", "all")}


QUICK = {
    "evaluate": {"resamples": 100, "relevance_samples": 12, "random_directions": 5, "min_n": 1},
    "mitigate": {"methods": []},
}


def test_the_stage_measures_the_background_where_regions_of_interest_are_known(tiny_context, tiny_dataset, monkeypatch):
    region = np.zeros((tiny.SIDE, tiny.SIDE), bool)
    region[5:, 5:] = True
    monkeypatch.setattr(tiny_dataset, "_roi_masks", lambda row: region if row % 2 else None)
    found = evaluated(tiny_context(**QUICK))
    known = found["asis", "background_relevance"].n
    assert 0 < known < 12
    for world in ("asis", "attacked"):
        assert 0 < found[world, "macro_f1"].value <= 1
        share, area = found[world, "background_relevance"], found[world, "background_area"]
        assert share.n == area.n == known
        assert 0 < share.lower <= share.value <= share.upper < 1
        assert area.value == pytest.approx(1 - region.mean())
    assert ("asis", "artifact_relevance") not in found and found["attacked", "artifact_relevance"].n == 12


def test_the_stage_measures_no_background_without_regions_of_interest(tiny_context):
    found = evaluated(tiny_context(**QUICK))
    assert ("attacked", "artifact_relevance") in found
    assert not {metric for _, metric in found if metric.startswith("background")}
