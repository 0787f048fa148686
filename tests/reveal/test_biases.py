from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from tiny import write_store

from pipeline.concepts.cav import fit_cav, held_out_auroc
from pipeline.config.reveal import CavConfig, CavKind
from pipeline.errors import DataError
from pipeline.reveal.biases import choose, fit_candidates, make_bias
from pipeline.workspace.records import CavSummary, Finding, Verdict

COUNT = 60
MEMBERS = np.arange(40) < 15
ROWS = np.arange(10, 50)


def summary(kind: str, layer: str, area: float, localization: float | None = None) -> CavSummary:
    return CavSummary(
        kind=kind, layer=layer, auroc=area, auroc_lower=area, auroc_upper=area, n_positive=9, n_negative=9,
        localization=localization,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([("pattern", "a", 0.8), ("svm", "a", 0.9), ("pattern", "b", 0.85), ("svm", "b", 0.7)], 1),
        ([("pattern", "a", 0.9), ("pattern", "b", 0.904), ("pattern", "c", 0.8)], 0),
        ([("pattern", "a", 0.9), ("pattern", "b", 0.906), ("pattern", "c", 0.8)], 1),
        ([("pattern", "a", 0.7), ("svm", "a", 0.999), ("pattern", "b", 0.996), ("svm", "b", 1.0)], 2),
        ([("svm", "a", 0.996), ("pattern", "a", 0.999), ("svm", "b", 0.9), ("pattern", "b", 1.0)], 0),
    ],
    ids=["best", "first layer of equals", "no tie beyond 0.005", "first kind of equals", "kinds in their own order"],
)
def test_the_best_evidence_wins_and_ties_go_to_the_first_kind_then_layer(candidates, expected):
    assert choose([(None, summary(*each)) for each in candidates]) == expected


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([("pattern", "a", 0.9, 0.8), ("pattern", "b", 0.99, 0.3)], 0),
        ([("pattern", "a", 0.6, 0.5), ("pattern", "b", 0.99, 0.4)], 1),
        ([("pattern", "a", 0.8, 0.5), ("svm", "a", 0.9, 0.449), ("svm", "b", 0.9, 0.45)], 0),
        ([("svm", "a", 0.9, 0.5), ("pattern", "a", 0.9, 0.6), ("svm", "b", 0.9, 0.52)], 1),
        ([("pattern", "a", 1.0, None), ("pattern", "b", 0.6, 0.1)], 1),
        ([("pattern", "a", 0.9, 0.0), ("pattern", "b", 1.0, 0.0)], 0),
    ],
    ids=["sharper", "the product", "equals", "best product of any kind", "unknown beside known", "none points"],
)
def test_evidence_counts_as_far_as_heatmaps_point(candidates, expected):
    assert choose([(None, summary(*each)) for each in candidates]) == expected


def test_without_any_candidate_the_next_step_is_named():
    with pytest.raises(DataError, match=r"Add layers to precompute\.layers"):
        choose([])


@pytest.fixture
def store(tmp_path):
    generator = np.random.default_rng(0)
    layers = {name: generator.standard_normal((COUNT, 5)).astype(np.float32) for name in ("a", "b")}
    layers["b"][ROWS[MEMBERS], 2] += 4.0
    return write_store(tmp_path, layers | {"dead": np.zeros((COUNT, 5), np.float32)})


def test_every_kind_is_fitted_in_every_layer_that_responds(store):
    config = CavConfig(kinds=["svm", "pattern"])
    fitted = list(fit_candidates(config, store, ROWS, MEMBERS, ("a", "dead", "b"), 0))
    assert [(cav.layer, cav.kind) for cav, _ in fitted] == [
        ("a", "svm"), ("a", "pattern"), ("b", "svm"), ("b", "pattern"),
    ]  # fmt: skip
    for cav, found in fitted:
        features = store.activations(cav.layer, "max", ROWS)
        assert (found.layer, found.kind, found.n_positive, found.n_negative) == (cav.layer, cav.kind, 15, 25)
        np.testing.assert_allclose(cav.direction, fit_cav(features, MEMBERS, cav.kind).direction)
        evidence = held_out_auroc(features, MEMBERS, cav.kind, seed=0)
        assert (found.auroc, found.auroc_lower, found.auroc_upper) == (evidence.value, evidence.lower, evidence.upper)
        clean = features[~MEMBERS].astype(float)
        np.testing.assert_allclose(cav.position_without, (clean @ cav.direction).mean(), rtol=1e-5)
    assert fitted[choose(fitted)][0].layer == "b"


def test_the_quality_of_each_cav_is_asked_for_once_and_decides(store):
    asked = []

    def localization(cav):
        asked.append((cav.layer, cav.kind))
        return {"a": 0.9, "b": 0.1}[cav.layer] if cav.kind == "pattern" else float("nan")

    config = CavConfig(kinds=["svm", "pattern"])
    fitted = list(fit_candidates(config, store, ROWS, MEMBERS, ("a", "dead", "b"), 0, localization=localization))
    assert asked == [(cav.layer, cav.kind) for cav, _ in fitted]
    assert [found.localization for _, found in fitted] == [None, 0.9, None, 0.1]
    assert fitted[choose(fitted)][0].layer == "a"
    assert all(found.localization is None for _, found in fit_candidates(config, store, ROWS, MEMBERS, ("a",), 0))


def test_an_estimator_that_sees_nothing_in_a_layer_is_left_out_there(tmp_path):
    values = np.zeros((COUNT, 3), np.float32)
    values[ROWS[[0, 1, 30]]] = 1.0  # rare in both groups: equal medians
    store = write_store(tmp_path, {"sparse": values})
    fitted = list(fit_candidates(CavConfig(kinds=["median", "pattern"]), store, ROWS, MEMBERS, ("sparse",), 0))
    assert [cav.kind for cav, _ in fitted] == ["pattern"]


def test_every_kind_of_the_configuration_can_be_fitted(store):
    kinds = get_args(CavKind)
    fitted = list(fit_candidates(CavConfig(kinds=list(kinds)), store, ROWS, MEMBERS, ("b",), 0))
    assert [cav.kind for cav, _ in fitted] == list(kinds)
    assert all(found.auroc > 0.9 and abs(cav.direction[2]) > 0.8 for cav, found in fitted)


def test_flattened_maps_are_used_where_nothing_is_pooled():
    generator = np.random.default_rng(0)
    maps = generator.standard_normal((COUNT, 3, 4, 4)).astype(np.float32)
    maps[ROWS[MEMBERS], 1, 2, 3] += 6.0

    class Maps:
        def activation_maps(self, layer, rows):
            return maps[rows]

    ((cav, found),) = fit_candidates(CavConfig(kinds=["pattern"], pooling="full"), Maps(), ROWS, MEMBERS, ("a",), 0)
    assert cav.pooling == "full" and cav.direction.shape == (48,) and found.auroc > 0.95
    assert np.abs(cav.direction).argmax() == np.ravel_multi_index((1, 2, 3), (3, 4, 4))
    assert cav.position_without == cav.mean_without


@pytest.mark.parametrize("verdict", [None, Verdict(finding="f", verdict="spurious", by="ann", when="now", why="glare")])
def test_a_bias_keeps_the_id_of_its_finding_and_says_who_judged_it(verdict):
    finding = Finding(
        id="f", rank=2, detector="spray", class_id=1, class_name="b", layer="a", score=0.5, score_parts={},
        sample_ids=["s1", "s2"],
    )  # fmt: skip
    candidates = [summary("pattern", "a", 0.9), summary("svm", "a", 0.8)]
    bias = make_bias(finding, verdict, candidates[0], candidates)
    assert bias.id == bias.finding == "f" and bias.sample_ids == ["s1", "s2"]
    assert (bias.class_id, bias.class_name, bias.cav, bias.candidates) == (1, "b", candidates[0], candidates)
    assert bias.verdict is verdict and bias.status == ("reviewed" if verdict else "unreviewed")
