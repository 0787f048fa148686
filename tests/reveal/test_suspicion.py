from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_dataset, write_store

from pipeline.concepts.cav import fit_cav
from pipeline.reveal import suspicion
from pipeline.reveal.candidates import Candidate
from pipeline.reveal.effect import Effect
from pipeline.reveal.evidence import Evidence
from pipeline.reveal.suspicion import (
    WEIGHTS,
    Settings,
    SuspicionMeter,
    best_cav,
    combine,
    consistency,
    effect_part,
    outside_share,
)
from pipeline.reveal.view import DataView

NAMES = tuple(WEIGHTS)
COUNT = 80
MEMBERS = np.arange(COUNT) < 30


def test_the_score_is_the_geometric_mean_by_weight():
    parts = {"separation": 0.5, "evidence": 0.8, "concentration": 0.9, "effect": 0.2}
    expected = (0.5 * 0.8 * 0.9**3 * 0.2**0.5) ** (1 / 5.5)
    assert combine(parts) == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_zero_makes_the_score_zero(name):
    assert combine({each: 0.0 if each == name else 1.0 for each in NAMES}) == 0


@given(st.lists(st.floats(0, 1), min_size=len(NAMES), max_size=len(NAMES)))
def test_the_score_lies_between_the_smallest_and_the_largest_part(values):
    score = combine(dict(zip(NAMES, values, strict=True)))
    assert min(values) - 1e-9 <= score <= max(values) + 1e-9


def test_parts_beyond_their_range_count_as_its_ends():
    assert combine(dict.fromkeys(NAMES, 4.0)) == 1


def test_no_effect_leaves_a_floor_and_the_largest_of_the_four_counts():
    nothing = effect_part(Effect(0, 0, -0.4, 0))
    assert nothing == pytest.approx(0.1 / 1.1)
    assert effect_part(Effect(0.0, 1.0, 0.2, -0.1)) == 1
    assert nothing < effect_part(Effect(0.1, 0.3, 0.2, 0.0)) == effect_part(Effect(0.3, 0.0, 0.0, 0.0))


def test_the_share_outside_of_the_region_of_interest():
    heatmaps = np.ones((3, 4, 4))
    upper = np.arange(4)[:, None].repeat(4, 1) < 1
    assert outside_share(heatmaps, [upper, None, ~upper]) == pytest.approx((0.75 + 0.25) / 2)
    assert outside_share(heatmaps, [None, None, None]) is None
    assert outside_share(0 * heatmaps, [upper, upper, upper]) is None


def test_consistency_is_one_for_equal_maps_and_zero_for_maps_without_a_common_place():
    assert consistency(np.ones((5, 3, 3)) * np.arange(1, 6)[:, None, None]) == pytest.approx(1)
    assert consistency(np.eye(9).reshape(9, 3, 3)) == pytest.approx(0)
    assert np.isnan(consistency(np.zeros((4, 3, 3))))


def test_consistency_is_the_mean_over_pairs_of_different_maps():
    maps = np.random.default_rng(0).random((6, 4, 4))
    unit = [each.ravel() / np.linalg.norm(each) for each in maps]
    pairs = [unit[i] @ unit[j] for i in range(6) for j in range(6) if i != j]
    assert consistency(maps) == pytest.approx(np.mean(pairs))


@pytest.fixture
def candidate():
    return Candidate("spray", 0, "input", np.arange(COUNT), MEMBERS)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((COUNT, 6))


def layer_view(tmp_path) -> DataView:
    shifted = noise(1)
    shifted[:, 0] += 12 * MEMBERS
    layers = {"noise": noise(0), "dead": np.zeros((COUNT, 6)), "early": shifted, "late": shifted * 2}
    store = write_store(tmp_path, {name: values.astype(np.float32) for name, values in layers.items()})
    return DataView(store, None, None, np.arange(COUNT))


def test_the_cav_comes_from_the_earliest_of_the_layers_with_the_best_evidence(candidate, tmp_path):
    cav = best_cav(candidate, layer_view(tmp_path), Settings(("noise", "dead", "early", "late")))
    assert cav.layer == "early" and cav.kind == "pattern"
    assert abs(cav.direction[0]) > 0.95


@pytest.mark.parametrize("layers", [("dead",), ("noise",), ()])
def test_without_evidence_there_is_no_cav(candidate, tmp_path, layers):
    assert best_cav(candidate, layer_view(tmp_path), Settings(layers)) is None


class SquareModel(torch.nn.Module):
    """Says class 2 exactly where the upper left corner is white."""

    def __init__(self):
        super().__init__()
        self.seen = torch.nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        white = self.seen((x[:, :1, :6, :6] > 0.9).float()).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(white), torch.zeros_like(white), 4 * white - 20], 1)


class Corner:
    """A store whose one layer sees whether the square is planted."""

    def __init__(self, dataset):
        self.labels = dataset.table["label"].to_numpy()

    def activations(self, layer, pooling, rows):
        planted = rows // 15 % 3 != 0
        return np.stack([planted * 0.4, np.zeros(len(rows))], 1).astype(np.float32)[:, :1]


def measure(monkeypatch, region: np.ndarray, model: torch.nn.Module, members: str):
    """Measure a group of class 2 whose concept sits in a given region."""
    dataset = make_dataset()
    labels, splits = dataset.table["label"].to_numpy(), dataset.table["split"].to_numpy()
    usable = np.flatnonzero(splits != "test")
    rows = usable[labels[usable] == 2]
    planted = rows // 15 % 3 != 0
    group = planted if members == "planted" else ~planted
    monkeypatch.setattr(
        suspicion, "concept_heatmaps", lambda explainer, x, cav, axis: np.repeat(region[None].astype(float), len(x), 0)
    )
    cav = fit_cav(np.eye(4), np.arange(4) < 2, layer="seen")
    monkeypatch.setattr(suspicion, "best_cav", lambda *_: cav)
    view = DataView(Corner(dataset), dataset, model, usable)
    meter = SuspicionMeter(view, None, Settings(("seen",), blur=0.0, pairs=20, batch_size=7))
    evidence = Evidence("seen", "max", int(group.sum()), 0.9, 0.8, 0.1, group)
    return meter.measure(Candidate("spray", 2, "input", rows, group), 0.5, evidence)


def corner(side: int = 7) -> np.ndarray:
    region = np.zeros((16, 16), bool)
    region[:side, :side] = True
    return region


def test_pasting_what_the_model_looks_at_has_an_effect(monkeypatch):
    found = measure(monkeypatch, corner(), SquareModel(), "planted")
    assert found.details["effect_pasted"] > 0.95 and found.details["effect_removed"] > 0.95
    assert found.parts["separation"] == 0.5
    assert found.parts["evidence"] == pytest.approx(0.8)
    assert found.details["area"] == pytest.approx(49 / 256)
    assert found.score == pytest.approx(combine(found.parts))


@pytest.mark.parametrize("case", ["elsewhere", "clean group", "indifferent model"])
def test_pasting_what_the_model_ignores_has_none(monkeypatch, case):
    region = np.roll(corner(), 8, (0, 1)) if case == "elsewhere" else corner()
    model = SquareModel()
    if case == "indifferent model":
        model.forward = lambda x: torch.zeros(len(x), 3) + 0 * model.seen(x).sum()
    found = measure(monkeypatch, region, model, "clean" if case == "clean group" else "planted")
    assert found.details["effect_pasted"] < 0.01 and found.details["effect_removed"] < 0.01
