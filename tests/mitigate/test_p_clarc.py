from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from pipeline.attribution import attribute
from pipeline.concepts.corrected import load_corrected, method_weights
from pipeline.concepts.projection import own_layer
from pipeline.config.mitigate import PClarcMethod
from pipeline.errors import ConfigError
from pipeline.mitigate import make_mitigation
from pipeline.models.checkpoints import save_weights
from pipeline.workspace.records import MethodRecord

LAYER = "network.relu1"


@pytest.fixture
def images(audited):
    return torch.stack([audited[1].dataset[row].x for row in range(len(audited[1].dataset))])


def another(known, seed: int):
    """Return a second bias in every layer: its directions are slanted against those of the first."""
    generator = np.random.default_rng(seed)

    def turned(cav):
        drawn = generator.standard_normal(len(cav.direction))
        direction = cav.direction + 0.8 * drawn / np.linalg.norm(drawn)
        return dataclasses.replace(
            cav, direction=direction / np.linalg.norm(direction), position_without=0.3, mean_without=0.6
        )

    # every other sample of class 0, of the first 90, which are s000, s003, ...
    ids = [f"s{index:03d}" for index in range(0, 90, 6)]
    bias = known.bias.model_copy(update={"id": "another", "class_id": 0, "class_name": "across", "sample_ids": ids})
    return dataclasses.replace(known, bias=bias, cavs={name: turned(cav) for name, cav in known.cavs.items()})


def projected(model, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.network[:3](model.normalize(x))


@pytest.mark.parametrize("mode", ["position", "pooled"])
def test_two_biases_in_a_layer_both_have_their_clean_values(audited, section, images, mode):
    model, problem = audited
    pair = [problem.biases[0], another(problem.biases[0], 1)]
    correction = make_mitigation(section("p_clarc", layer=LAYER, mode=mode)).fit(
        model, dataclasses.replace(problem, biases=pair)
    )
    (change,) = correction.changes
    assert (change.rank, change.layer) == (2, LAYER)
    activation = projected(correction.model, images)
    for known in pair:
        cav = known.correction_cav(LAYER)
        source = activation if mode == "position" else activation.amax((2, 3), keepdim=True)
        along = torch.einsum("nchw,c->nhw", source, torch.tensor(cav.direction).float())
        clean = cav.position_without if mode == "position" else cav.mean_without
        torch.testing.assert_close(along, torch.full_like(along, clean), rtol=1e-3, atol=1e-4)


def test_measured_by_a_filter_its_value_is_reached_by_moving_along_the_pattern(audited, section, images):
    model, problem = audited
    config = section("p_clarc", layer=LAYER, measured_by="svm")
    corrected = make_mitigation(config).fit(model, problem).model
    measuring, acting = (problem.biases[0].cavs[LAYER, kind] for kind in ("svm", "pattern"))
    change = projected(corrected, images) - projected(model, images)
    along = torch.einsum("nchw,c->nhw", projected(corrected, images), torch.tensor(measuring.direction).float())
    torch.testing.assert_close(along, torch.full_like(along, measuring.position_without), rtol=1e-3, atol=1e-4)
    lengths = torch.einsum("nchw,c->nhw", change, torch.tensor(acting.direction).float()).abs()
    torch.testing.assert_close(change.norm(dim=1), lengths, rtol=1e-3, atol=1e-4)


def test_a_filter_that_was_not_fitted_or_does_not_respond_is_refused(audited, section):
    model, problem = audited
    with pytest.raises(ConfigError, match="measured_by is 'lasso'.*pattern, svm.*reveal.cav.kinds"):
        make_mitigation(section("p_clarc", layer=LAYER, measured_by="lasso")).fit(model, problem)
    known = problem.biases[0]
    svm = known.cavs[LAYER, "svm"]
    pattern = known.cavs[LAYER, "pattern"].direction
    across = svm.direction - (svm.direction @ pattern) * pattern
    cavs = known.cavs | {(LAYER, "svm"): dataclasses.replace(svm, direction=across / np.linalg.norm(across))}
    turned = dataclasses.replace(problem, biases=[dataclasses.replace(known, cavs=cavs)])
    with pytest.raises(ConfigError, match="does not respond to moving along the pattern CAV"):
        make_mitigation(section("p_clarc", layer=LAYER, measured_by="svm")).fit(model, turned)
    with pytest.raises(ValueError, match="measured_by is for rank: 1"):
        PClarcMethod(kind="p_clarc", rank=2, measured_by="svm")


@pytest.mark.parametrize("masked", [True, False], ids=["pasted pairs", "filters"])
@pytest.mark.parametrize("mode", ["position", "pooled"])
def test_further_directions_stand_beside_the_cav(audited, section, images, masked, mode):
    model, problem = audited
    # a CAV that is off its mark leaves something to be found
    known = dataclasses.replace(another(problem.biases[0], 1), bias=problem.biases[0].bias)
    known = known if masked else dataclasses.replace(known, mask=lambda name: None)
    problem = dataclasses.replace(problem, biases=[known])
    cav = known.correction_cav(LAYER)
    config = section("p_clarc", layer=LAYER, rank=3, mode=mode)
    correction = make_mitigation(config).fit(model, problem)
    directions = correction.model.get_submodule(LAYER).projections[0].measured
    assert 2 <= directions.shape[1] <= 3 and correction.changes[0].rank == directions.shape[1]
    torch.testing.assert_close(directions[:, 0], torch.tensor(cav.direction).float())
    torch.testing.assert_close(directions.T @ directions, torch.eye(directions.shape[1]), rtol=1e-4, atol=1e-5)
    # clean values are means of the samples of the class that are not of the finding
    table = problem.dataset.table
    clean = (table["label"] == 2) & (table["split"] != "test") & ~table["id"].isin(problem.biases[0].bias.sample_ids)
    activation = projected(model, images[torch.tensor(clean.tolist())])
    features = activation.mean((2, 3)) if mode == "position" else activation.amax((2, 3))
    expected = (features.mean(0) @ directions)[1:]
    found = correction.model.get_submodule(LAYER).projections[0].clean_value
    assert float(found[0]) == pytest.approx(0.3 if mode == "position" else 0.6)
    torch.testing.assert_close(found[1:], expected, rtol=1e-3, atol=1e-3)


def test_a_bias_with_fewer_than_two_samples_keeps_its_one_direction(audited, section):
    model, problem = audited
    known = problem.biases[0]
    bare = dataclasses.replace(known, bias=known.bias.model_copy(update={"sample_ids": known.bias.sample_ids[:1]}))
    correction = make_mitigation(section("p_clarc", layer=LAYER, rank=3)).fit(
        model, dataclasses.replace(problem, biases=[bare])
    )
    assert correction.changes[0].rank == 1


@pytest.mark.parametrize("rank", [1, 2])
def test_it_is_idempotent_also_when_it_was_stored(audited, section, images, tmp_path, rank):
    model, problem = audited
    pair = [problem.biases[0], another(problem.biases[0], 1)]
    correction = make_mitigation(section("p_clarc", layer=LAYER, rank=rank)).fit(
        model, dataclasses.replace(problem, biases=pair)
    )
    save_weights(correction.model.network, method_weights(tmp_path, "trial"))
    record = MethodRecord.model_construct(id="trial", changes=correction.changes)
    loaded = load_corrected(tmp_path, record, model)
    (projection,) = loaded.get_submodule(LAYER).projections
    once = projection(projected(model, images))
    assert torch.equal(once, projected(correction.model, images))
    torch.testing.assert_close(projection(once), once, rtol=1e-3, atol=1e-4)


def test_full_maps_are_projected_where_cavs_were_fitted_on_them(audited, section, images):
    model, problem = audited
    flat = projected(model, images).flatten(1).numpy().astype(np.float64)
    direction = flat[0] - flat[1]
    known = problem.biases[0]
    cav = dataclasses.replace(
        known.correction_cav(LAYER), direction=direction / np.linalg.norm(direction), pooling="full",
        mean_without=0.4, position_without=0.4,
    )  # fmt: skip
    known = dataclasses.replace(known, cavs={(LAYER, cav.kind): cav})
    correction = make_mitigation(section("p_clarc", layer=LAYER)).fit(
        model, dataclasses.replace(problem, biases=[known])
    )
    found = projected(correction.model, images).flatten(1).double() @ torch.tensor(cav.direction)
    torch.testing.assert_close(found, torch.full_like(found, 0.4), rtol=1e-3, atol=1e-3)
    assert correction.changes[0].channels == len(direction)


def test_cavs_of_a_layer_that_were_pooled_differently_are_refused(audited, section):
    model, problem = audited
    known, other = problem.biases[0], another(problem.biases[0], 1)
    other = dataclasses.replace(
        other, cavs={name: dataclasses.replace(cav, pooling="mean") for name, cav in other.cavs.items()}
    )
    with pytest.raises(ConfigError, match="max and mean|mean and max"):
        make_mitigation(section("p_clarc", layer=LAYER)).fit(model, dataclasses.replace(problem, biases=[known, other]))


@pytest.mark.parametrize("kind", ["p_clarc", "a_clarc", "rp_clarc", "r_clarc", "leace"])
def test_a_bias_without_a_cav_is_refused_with_a_next_step(audited, section, kind):
    model, problem = audited
    known = problem.biases[0]
    bare = dataclasses.replace(known, bias=known.bias.model_copy(update={"candidates": []}), cavs={})
    with pytest.raises(ConfigError, match="has no concept activation vector.*reveal.cav.layers"):
        make_mitigation(section(kind)).fit(model, dataclasses.replace(problem, biases=[bare]))
    with pytest.raises(ConfigError, match="no CAV was fitted in layer 'network.nowhere'"):
        make_mitigation(section(kind, layer="network.nowhere")).fit(model, problem)


CASES = [
    ("p_clarc", {}),
    ("p_clarc", {"mode": "pooled", "rank": 2}),
    ("rp_clarc", {}),
    ("rp_clarc", {"mode": "pooled"}),
    ("r_clarc", {"condition": "class"}),
    ("r_clarc", {"condition": "detector"}),
    ("r_clarc", {"condition": "both", "rank": 2}),
    ("leace", {}),
    ("leace", {"mode": "pooled"}),
]


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.parametrize(("kind", "values"), CASES)
def test_a_correction_without_training_is_copied_traced_stored_and_explained(
    audited, section, images, tmp_path, kind, values
):
    model, problem = audited
    pair = [problem.biases[0], another(problem.biases[0], 1)]
    problem = dataclasses.replace(problem, biases=pair)
    correction = make_mitigation(section(kind, layer=LAYER, **values)).fit(model, problem)
    corrected = correction.model
    with torch.no_grad():
        expected = corrected(images)
        assert (expected - model(images)).abs().max() > 1e-3
        assert torch.equal(copy.deepcopy(corrected)(images), expected)
        traced = torch.jit.trace(corrected, images[:2])
        torch.testing.assert_close(traced(images), expected, rtol=1e-4, atol=1e-4)
        save_weights(corrected.network, method_weights(tmp_path, "trial"))
        loaded = load_corrected(tmp_path, MethodRecord.model_construct(id="trial", changes=correction.changes), model)
        assert torch.equal(loaded(images), expected)
    layer = own_layer(loaded, LAYER)
    found = attribute(loaded, images[:12], composite="epsilon_plus_flat", layers=[layer])
    assert found.relevance.isfinite().all() and found.relevances[layer].isfinite().all()
    assert (found.relevance != 0).flatten(1).any(1).all()
    activation = found.activations[layer]
    torch.testing.assert_close(activation, projected(model, images[:12]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "values"), CASES)
def test_what_is_added_stands_on_the_models_device(audited, section, monkeypatch, kind, values):
    """A model without memory cannot give features; with those of another model all else works on its device."""
    model, problem = audited
    from pipeline.mitigate import directions

    monkeypatch.setattr(
        directions, "layer_features",
        lambda reader, dataset, rows, *_, **__: np.random.default_rng(0).random((len(rows), 4), dtype=np.float32),
    )  # fmt: skip
    corrected = make_mitigation(section(kind, layer=LAYER, **values)).fit(model.to("meta"), problem).model
    assert {value.device.type for value in corrected.state_dict().values()} == {"meta"}
    assert {value.device.type for value in corrected.buffers()} == {"meta"}
