from __future__ import annotations

import numpy as np
import pytest
from tiny import write_store

from pipeline.concepts.cav import fit_cav, held_out_auroc
from pipeline.config.reveal import CavConfig
from pipeline.reveal.biases import choose, fit_candidates, make_bias
from pipeline.workspace.records import CavSummary, Finding, Verdict

COUNT = 60
MEMBERS = np.arange(40) < 15
ROWS = np.arange(10, 50)


def summary(kind: str, layer: str, area: float) -> CavSummary:
    return CavSummary(
        kind=kind, layer=layer, auroc=area, auroc_lower=area, auroc_upper=area, n_positive=9, n_negative=9
    )


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
