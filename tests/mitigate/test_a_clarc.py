from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from pipeline.concepts.projection import Projected
from pipeline.mitigate import a_clarc, make_mitigation
from pipeline.mitigate.directions import carriers_of

LAYER = "network.relu1"


def test_the_corrected_model_is_the_plain_architecture_and_its_lower_layers_are_the_old_ones(audited, section):
    model, problem = audited
    correction = make_mitigation(section("a_clarc", layer=LAYER)).fit(model, problem)
    corrected = correction.model
    assert correction.changes == [] and len(correction.history) == 1
    assert not any(isinstance(module, Projected) for module in corrected.modules())
    assert [type(module) for module in corrected.modules()] == [type(module) for module in model.modules()]
    old, new = model.state_dict(), corrected.state_dict()
    moved = {name.rsplit(".", 1)[0] for name in old if not torch.equal(old[name], new[name])}
    assert moved == {"network.conv2", "network.norm2", "network.linear"}
    assert all(torch.equal(new[name], old[name]) for name in old if "running" in name)


@pytest.fixture
def training_activations(audited, section, monkeypatch):
    """Return a function that gives activations of 120 samples as a training step has them, and as they are."""

    def of(**values) -> tuple[torch.Tensor, torch.Tensor]:
        model, problem = audited
        x = torch.stack([problem.dataset[row].x for row in range(120)])
        seen = []

        def watching(given, problem, config, losses, **options):
            network = copy.deepcopy(given).eval()
            with torch.no_grad():
                upto = network.network[:3]
                own = upto(network.normalize(x))
                network.get_submodule(LAYER).projections.train()
                seen.extend([upto(network.normalize(x)), own])
            assert options["frozen_up_to"] == LAYER
            return fine_tune(given, problem, config, losses, **options)

        fine_tune = a_clarc.fine_tune
        monkeypatch.setattr(a_clarc, "fine_tune", watching)
        make_mitigation(section("a_clarc", layer=LAYER, **values)).fit(model, problem)
        with torch.no_grad():
            assert torch.equal(seen[1], model.network[:3](model.normalize(x))), (
                "validation sees activations as they are"
            )
        return seen[0], seen[1]

    return of


def test_pooled_all_activations_have_the_artifacts_mean_value(audited, training_activations):
    cav = audited[1].biases[0].correction_cav(LAYER)
    found, _ = training_activations(mode="pooled", amplified=1.0)
    along = found.amax((2, 3)) @ torch.tensor(cav.direction).float()
    torch.testing.assert_close(along, torch.full_like(along, cav.mean_with), rtol=1e-3, atol=1e-3)
    assert cav.mean_with - cav.mean_without > 0.1


def test_by_position_samples_have_the_values_of_a_carrier_along_the_direction_and_their_own_across(
    audited, training_activations
):
    model, problem = audited
    direction = torch.tensor(problem.biases[0].correction_cav(LAYER).direction).float()
    found, own = training_activations(amplified=0.5)
    moved = (found != own).flatten(1).any(1)
    assert 0.3 < moved.float().mean() < 0.7
    carriers = carriers_of(problem, problem.biases[0])
    x = torch.stack([problem.dataset[int(row)].x for row in carriers.rows[carriers.members]])
    with torch.no_grad():
        maps = torch.einsum("nchw,c->nhw", model.network[:3](model.normalize(x)), direction)
    along = torch.einsum("nchw,c->nhw", found[moved], direction)
    nearest = (along[:, None] - maps[None]).abs().flatten(2).amax(2).min(1)
    assert nearest.values.max() < 1e-3 and len(nearest.indices.unique()) > 5
    change = found - own
    torch.testing.assert_close(
        change.norm(dim=1), torch.einsum("nchw,c->nhw", change, direction).abs(), atol=1e-3, rtol=1e-3
    )


def test_the_layers_above_learn_not_to_take_the_artifacts_values_for_its_class(audited, section):
    model, problem = audited
    cav = problem.biases[0].correction_cav(LAYER)
    direction = torch.tensor(cav.direction).float().view(1, -1, 1, 1)
    members = carriers_of(problem, problem.biases[0])
    others = np.flatnonzero((problem.dataset.table["label"] != 2) & (problem.dataset.table["split"] == "test"))
    rows = members.rows[members.members][: len(others)]

    def fooled(network) -> float:
        """Return how often a sample of another class that is given the values of a carrier is taken for its class."""
        with torch.no_grad():
            carrying, plain = (
                network.network[:3](network.normalize(torch.stack([problem.dataset[int(row)].x for row in each])))
                for each in (rows, others[: len(rows)])
            )
            moved = plain + ((carrying - plain) * direction).sum(1, keepdim=True) * direction
            return float((network.network[3:](moved).argmax(1) == 2).float().mean())

    values = {"epochs": 8, "lr": 0.01}
    corrected = make_mitigation(section("a_clarc", layer=LAYER, amplified=1.0, **values)).fit(model, problem).model
    plain = make_mitigation(section("fine_tune", **values)).fit(model, problem).model
    assert fooled(corrected) < 0.5 * min(fooled(model), fooled(plain))


@pytest.mark.parametrize("amplified", [0.5, 1.0])
def test_two_biases_in_two_layers_train_what_lies_above_the_lower_one(audited, section, amplified):
    model, problem = audited
    known = problem.biases[0]
    deeper = dataclasses.replace(
        known, cavs={name: cav for name, cav in known.cavs.items()}, bias=known.bias.model_copy(update={"id": "deeper"})
    )
    only = {
        layer: [each for each in known.bias.candidates if each.layer == layer] for layer in (LAYER, "network.relu2")
    }
    biases = [
        dataclasses.replace(each, bias=each.bias.model_copy(update={"candidates": only[layer]}))
        for each, layer in ((deeper, "network.relu2"), (known, LAYER))
    ]
    corrected = (
        make_mitigation(section("a_clarc", amplified=amplified))
        .fit(model, dataclasses.replace(problem, biases=biases))
        .model
    )
    old, new = model.state_dict(), corrected.state_dict()
    assert old.keys() == new.keys() and torch.equal(old["network.conv1.weight"], new["network.conv1.weight"])
    assert not torch.equal(old["network.conv2.weight"], new["network.conv2.weight"])


@pytest.mark.parametrize("mode", ["position", "pooled"])
def test_a_bias_none_of_whose_samples_is_of_its_class_is_no_obstacle(audited, section, mode):
    model, problem = audited
    known = problem.biases[0]
    bare = dataclasses.replace(known, bias=known.bias.model_copy(update={"sample_ids": []}))
    method = make_mitigation(section("a_clarc", layer=LAYER, mode=mode))
    correction = method.fit(model, dataclasses.replace(problem, biases=[bare]))
    assert all(value.isfinite().all() for value in correction.model.state_dict().values())


def test_without_biases_it_is_plain_fine_tuning(audited, section):
    model, problem = audited
    nothing = dataclasses.replace(problem, biases=[])
    found = make_mitigation(section("a_clarc")).fit(model, nothing).model.state_dict()
    expected = make_mitigation(section("fine_tune")).fit(model, nothing).model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
