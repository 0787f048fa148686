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
from pipeline.reveal.suspicion import Settings, SuspicionMeter, best_cav, combine, compactness, separation


@pytest.mark.parametrize(("conductance", "expected"), [(0.0, 1.0), (0.02, 0.5), (0.06, 0.25), (0.98, 0.02)])
def test_separation(conductance, expected):
    assert separation(conductance) == pytest.approx(expected)


@pytest.mark.parametrize(("area", "expected"), [(0.0, 1.0), (0.05, 0.8), (0.125, 0.5), (0.25, 0.05), (0.9, 0.05)])
def test_compactness(area, expected):
    assert compactness(area) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [([0.5], 0.5), ([1, 1, 1, 1], 1), ([0.25, 1], 0.5), ([0.1, 0.1, 0.8], 0.2), ([0.9, 0.0], 0), ([4.0, -1.0], 0)],
)
def test_the_score_is_the_geometric_mean(parts, expected):
    assert combine({str(number): part for number, part in enumerate(parts)}) == pytest.approx(expected)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_the_score_lies_between_the_smallest_and_the_largest_part(parts):
    score = combine({str(number): part for number, part in enumerate(parts)})
    assert min(parts) - 1e-9 <= score <= max(parts) + 1e-9


COUNT = 80
MEMBERS = np.arange(COUNT) < 30


@pytest.fixture
def candidate():
    return Candidate("spray", 0, "input", np.arange(COUNT), MEMBERS, 0.0)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((COUNT, 6))


def layer_store(tmp_path):
    shifted = noise(1)
    shifted[:, 0] += 12 * MEMBERS
    layers = {"noise": noise(0), "dead": np.zeros((COUNT, 6)), "early": shifted, "late": shifted * 2}
    return write_store(tmp_path, {name: values.astype(np.float32) for name, values in layers.items()})


def test_the_cav_comes_from_the_earliest_of_the_layers_with_the_best_evidence(candidate, tmp_path):
    cav, evidence = best_cav(candidate, layer_store(tmp_path), Settings(("noise", "dead", "early", "late")))
    assert cav.layer == "early" and cav.kind == "pattern" and evidence > 0.99
    assert abs(cav.direction[0]) > 0.95


@pytest.mark.parametrize("layers", [("dead",), ("noise",), ()])
def test_without_evidence_there_is_no_cav(candidate, tmp_path, layers):
    assert best_cav(candidate, layer_store(tmp_path), Settings(layers)) is None


class SquareModel(torch.nn.Module):
    """Says class 2 exactly where the upper left corner is white."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        white = (x[:, 0, :6, :6] > 0.9).float().sum((1, 2))
        return torch.stack([torch.zeros_like(white), torch.zeros_like(white), 4 * white - 20], 1)


def measure(monkeypatch, region: np.ndarray, model: torch.nn.Module, members: str):
    """Measure a group of class 2 whose concept sits in a given region."""
    dataset = make_dataset()
    labels, splits = dataset.table["label"].to_numpy(), dataset.table["split"].to_numpy()
    rows = np.flatnonzero((labels == 2) & (splits != "test"))
    planted = rows // 15 % 3 != 0
    group = planted if members == "planted" else ~planted
    monkeypatch.setattr(
        suspicion, "concept_heatmaps", lambda explainer, x, cav: np.repeat(region[None].astype(float), len(x), 0)
    )
    meter = SuspicionMeter(None, model, dataset, None, Settings(("a",), blur=0.0, pairs=20, batch_size=7), "cpu")
    cav = fit_cav(np.eye(4), np.arange(4) < 2)
    return meter.measure(Candidate("spray", 2, "input", rows, group, 0.02), cav, 0.9)


def corner(side: int = 7) -> np.ndarray:
    region = np.zeros((16, 16), bool)
    region[:side, :side] = True
    return region


def test_pasting_what_the_model_looks_at_has_an_effect(monkeypatch):
    found = measure(monkeypatch, corner(), SquareModel(), "planted")
    assert found.parts["effect"] > 0.95
    assert found.parts["compactness"] == pytest.approx(compactness(49 / 256))
    assert found.parts["separation"] == pytest.approx(0.5)
    assert found.parts["evidence"] == pytest.approx(0.8)
    assert found.score == pytest.approx(combine(found.parts))


@pytest.mark.parametrize("case", ["elsewhere", "clean group", "indifferent model"])
def test_pasting_what_the_model_ignores_has_none(monkeypatch, case):
    region = np.roll(corner(), 8, (0, 1)) if case == "elsewhere" else corner()
    model = (lambda x: torch.zeros(len(x), 3)) if case == "indifferent model" else SquareModel()
    found = measure(monkeypatch, region, model, "clean" if case == "clean group" else "planted")
    assert found.parts["effect"] < 0.01 and found.score < 0.35


def test_no_region_at_all_is_compact_but_has_no_effect(monkeypatch):
    found = measure(monkeypatch, np.zeros((16, 16)), SquareModel(), "planted")
    assert found.parts["compactness"] == 1 and found.parts["effect"] == 0 and found.score == 0


def test_measuring_twice_gives_the_same(monkeypatch):
    first, second = (measure(monkeypatch, corner(4), SquareModel(), "planted") for _ in range(2))
    assert first.parts == second.parts
