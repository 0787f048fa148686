from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.concepts.projection import Projection, insert_projection, own_layer
from pipeline.concepts.reactive import ReactiveProjection
from pipeline.errors import ConfigError
from pipeline.mitigate import make_mitigation
from pipeline.mitigate.directions import carriers_of, other_rows

LAYER = "network.relu1"


@pytest.fixture
def images(audited):
    return torch.stack([audited[1].dataset[row].x for row in range(len(audited[1].dataset))])


@pytest.fixture
def fires(audited):
    """Return a function that says which samples the detector of a corrected model fires on."""

    def of(corrected, x: torch.Tensor, number: int = 0) -> torch.Tensor:
        found = next(each for each in corrected.modules() if isinstance(each, ReactiveProjection))
        model = audited[0]
        with torch.no_grad():
            features = model.network[:3](model.normalize(x)).amax((2, 3))
            return (features @ found.gate_weights + found.gate_offsets > 0)[:, number]

    return of


def changed(corrected, model, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return (corrected(x) != model(x)).any(1)


@pytest.mark.parametrize("rate", [0.05, 0.25])
@pytest.mark.parametrize("kind", ["rp_clarc", "r_clarc"])
def test_the_detector_raises_no_more_false_alarms_than_wanted_and_finds_the_artifact(
    audited, section, images, fires, kind, rate
):
    model, problem = audited
    values = {"condition": "detector"} if kind == "r_clarc" else {}
    correction = make_mitigation(section(kind, layer=LAYER, false_alarms=rate, **values)).fit(model, problem)
    members = problem.dataset.table["id"].isin(problem.biases[0].bias.sample_ids).to_numpy()
    test = (problem.dataset.table["split"] == "test").to_numpy()
    flags = fires(correction.model, images).numpy()
    labels = problem.dataset.table["label"].to_numpy()
    # other classes have no artifact, and their test samples were seen by nobody
    held_out = flags[test & (labels != 2)]
    assert held_out.mean() <= rate + 3 * np.sqrt(rate * (1 - rate) / len(held_out))
    assert flags[members].mean() > 0.9
    detected, false_alarms = correction.notes.values()
    assert detected == pytest.approx(flags[members].mean()) and false_alarms <= rate


@pytest.mark.parametrize("mode", ["position", "pooled"])
def test_where_the_detector_is_silent_the_logits_stay_to_the_bit_and_elsewhere_it_is_p_clarc(
    audited, section, images, fires, mode
):
    model, problem = audited
    corrected = make_mitigation(section("rp_clarc", layer=LAYER, mode=mode)).fit(model, problem).model
    always = make_mitigation(section("p_clarc", layer=LAYER, mode=mode)).fit(model, problem).model
    alarmed = fires(corrected, images)
    assert alarmed.any() and not alarmed.all()
    with torch.no_grad():
        found, before, projected = corrected(images), model(images), always(images)
    assert torch.equal(found[~alarmed], before[~alarmed])
    torch.testing.assert_close(found[alarmed], projected[alarmed], rtol=1e-4, atol=1e-4)
    silent = images[~alarmed]
    with torch.no_grad():
        assert torch.equal(corrected(silent), model(silent))


def test_by_class_the_samples_that_are_predicted_to_be_of_the_biased_class_are_projected(audited, section, images):
    model, problem = audited
    corrected = make_mitigation(section("r_clarc", layer=LAYER, condition="class")).fit(model, problem).model
    always = make_mitigation(section("p_clarc", layer=LAYER)).fit(model, problem).model
    with torch.no_grad():
        predicted, found, projected = model(images).argmax(1), corrected(images), always(images)
    biased = predicted == problem.biases[0].bias.class_id
    assert biased.any() and not biased.all()
    assert not changed(corrected, model, images)[~biased].any()
    torch.testing.assert_close(found[biased], projected[biased], rtol=1e-4, atol=1e-4)


def test_with_both_conditions_class_and_detector_must_agree(audited, section, images, fires):
    model, problem = audited
    corrected = (
        make_mitigation(section("r_clarc", layer=LAYER, condition="both", false_alarms=0.3)).fit(model, problem).model
    )
    with torch.no_grad():
        biased = model(images).argmax(1) == problem.biases[0].bias.class_id
    alarmed = fires(corrected, images)
    assert (alarmed & ~biased).any()
    assert torch.equal(changed(corrected, model, images), alarmed & biased)


def test_each_class_has_its_own_bias(audited, section, images):
    """Two biases of two classes: samples of the third are left alone, the others get the one of their class."""
    model, problem = audited
    known = problem.biases[0]
    cavs = {name: dataclasses.replace(cav, direction=np.roll(cav.direction, 1)) for name, cav in known.cavs.items()}
    other = dataclasses.replace(known, cavs=cavs, bias=known.bias.model_copy(update={"id": "other", "class_id": 0}))
    corrected = (
        make_mitigation(section("r_clarc", layer=LAYER)).fit(model, dataclasses.replace(problem, biases=[known, other]))
    ).model
    with torch.no_grad():
        predicted, found, before = model(images).argmax(1), corrected(images), model(images)
    assert torch.equal(found[predicted == 1], before[predicted == 1])
    for each in (known, other):
        expected = (
            make_mitigation(section("p_clarc", layer=LAYER))
            .fit(model, dataclasses.replace(problem, biases=[each]))
            .model
        )
        own = predicted == each.bias.class_id
        with torch.no_grad():
            torch.testing.assert_close(found[own], expected(images)[own], rtol=1e-4, atol=1e-4)


def test_layers_stay_findable_behind_two_passes(audited, section, images):
    model, problem = audited
    corrected = make_mitigation(section("r_clarc", layer=LAYER)).fit(model, problem).model
    assert own_layer(corrected, LAYER) == "network.network.relu1.layer"
    assert own_layer(corrected, "network.relu2") == "network.network.relu2"
    assert len(list(corrected.parameters())) == len(list(model.parameters()))


def test_detectors_never_see_the_test_split(audited):
    problem = audited[1]
    known = problem.biases[0]
    test = set(np.flatnonzero(problem.dataset.table["split"] == "test"))
    carriers, others = carriers_of(problem, known), other_rows(problem, known)
    assert not test & set(carriers.rows) and not test & set(others)
    assert set(carriers.rows[carriers.members]).isdisjoint(others)
    assert set(carriers.rows) | set(others) == set(range(len(problem.dataset))) - test


def test_a_bias_without_samples_has_no_detector(audited, section):
    model, problem = audited
    known = problem.biases[0]
    bare = dataclasses.replace(known, bias=known.bias.model_copy(update={"sample_ids": []}))
    with pytest.raises(ConfigError, match="cannot make a detector of bias .*p_clarc"):
        make_mitigation(section("rp_clarc", layer=LAYER)).fit(model, dataclasses.replace(problem, biases=[bare]))


def test_more_biases_than_can_be_kept_apart_are_refused(audited, section):
    model, problem = audited
    many = dataclasses.replace(problem, biases=problem.biases * 11)
    with pytest.raises(ConfigError, match="at most 10 biases in one layer.*p_clarc"):
        make_mitigation(section("r_clarc", layer=LAYER)).fit(model, many)


def test_biases_in_two_layers_act_in_turn(audited, section, images):
    model, problem = audited
    known = problem.biases[0]
    parts = [
        known.bias.model_copy(
            update={"id": layer, "candidates": [each for each in known.bias.candidates if each.layer == layer]}
        )
        for layer in (LAYER, "network.relu2")
    ]
    biases = [dataclasses.replace(known, bias=part) for part in parts]
    correction = make_mitigation(section("r_clarc")).fit(model, dataclasses.replace(problem, biases=biases))
    assert len(correction.changes) == 3
    expected = make_mitigation(section("p_clarc", layer=LAYER)).fit(model, problem).model
    cav = known.correction_cav("network.relu2")
    insert_projection(expected, cav.layer, Projection(cav.direction, cav.position_without, "position"))
    with torch.no_grad():
        biased = model(images).argmax(1) == known.bias.class_id
        torch.testing.assert_close(correction.model(images)[biased], expected(images)[biased], rtol=1e-4, atol=1e-4)
