from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pipeline.concepts.corrected import differs, load_corrected, method_weights
from pipeline.concepts.projection import Projection, insert_projection, own_layer
from pipeline.concepts.reactive import ClassConditioned, ReactiveProjection
from pipeline.config.model import ModelConfig
from pipeline.errors import CheckpointError
from pipeline.models.build import build_model
from pipeline.models.checkpoints import load_weights, save_weights
from pipeline.workspace.records import (
    Change,
    ClassConditionChange,
    MethodRecord,
    ProjectionChange,
    ReactiveProjectionChange,
)

LAYERS = ("network.relu1", "network.conv2", "network.relu1")


@pytest.fixture
def original():
    return build_model(ModelConfig(params={"width": 4, "blocks": 2}, mean=(0.5,), std=(0.25,)), 3, 1).eval()


def record(changes: list[Change]) -> MethodRecord:
    return MethodRecord.model_construct(id="trial", changes=changes)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_corrected_model_comes_back_with_its_weights_and_projections(original, tmp_path, count):
    corrected = copy.deepcopy(original)
    with torch.no_grad():
        corrected.network.linear.weight += 0.1
    projections = []
    for number, layer in enumerate(LAYERS[:count]):
        channels = 4 if layer == "network.relu1" else 8
        direction = torch.nn.functional.normalize(torch.randn(channels), dim=0)
        mode = "pooled" if number == 2 else "position"
        insert_projection(corrected, layer, Projection(direction, number - 0.5, mode))
        projections.append(ProjectionChange(layer=layer, mode=mode, channels=channels))
    save_weights(corrected.network, method_weights(tmp_path, "trial"))
    state = copy.deepcopy(original.state_dict())
    loaded = load_corrected(tmp_path, record(projections), original)
    x = torch.rand(5, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), corrected(x), rtol=0, atol=1e-6)
        assert not torch.allclose(loaded(x), original(x), atol=1e-3)
    assert differs(loaded, original)
    assert not loaded.training
    assert original.state_dict().keys() == state.keys() and not differs(original, copy.deepcopy(original))


def test_weights_that_do_not_fit_are_refused(original, tmp_path):
    save_weights(original.network, method_weights(tmp_path, "trial"))
    projections = [ProjectionChange(layer="network.relu1", mode="position", channels=4)]
    with pytest.raises(CheckpointError, match="missing 3: relu1.projections.0"):
        load_corrected(tmp_path, record(projections), original)


def test_missing_weights_are_named(original, tmp_path):
    with pytest.raises(CheckpointError, match="trial/model.pt does not exist"):
        load_corrected(tmp_path, record([]), original)


def test_a_copy_does_not_differ_and_any_changed_tensor_does(original):
    assert not differs(copy.deepcopy(original), original)
    for name in original.network.state_dict():
        changed = copy.deepcopy(original)
        changed.network.state_dict()[name].add_(1)
        assert differs(changed, original), name


def test_a_projection_alone_makes_a_model_differ(original):
    changed = copy.deepcopy(original)
    insert_projection(changed, "network.relu1", Projection(torch.eye(4)[0], 0.0, "position"))
    assert differs(changed, original) and differs(original, changed)


def test_several_directions_come_back_and_project_as_often_as_they_like(original, tmp_path):
    corrected = copy.deepcopy(original)
    directions = torch.nn.functional.normalize(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), dim=0)
    projection = Projection(directions, torch.tensor([0.3, -0.4]), "position", moving=directions + 0.1, pooling="mean")
    insert_projection(corrected, "network.relu1", projection)
    save_weights(corrected.network, method_weights(tmp_path, "trial"))
    change = ProjectionChange(layer="network.relu1", mode="position", channels=4, rank=2, pooling="mean")
    loaded = load_corrected(tmp_path, record([change]), original)
    (found,) = loaded.get_submodule("network.relu1").projections
    values = torch.randn(3, 4, 5, 5)
    assert torch.equal(found(values), projection(values))
    torch.testing.assert_close(found(found(values)), found(values), rtol=1e-4, atol=1e-5)


def reactive(gated: bool, classes: list[int] | None) -> ReactiveProjection:
    generator = np.random.default_rng(0)
    directions = generator.standard_normal((4, 3))
    gates = (generator.standard_normal((4, 2)), np.array([0.1, -0.2])) if gated else None
    return ReactiveProjection(directions, np.array([0.3, 1, -1]), [1, 2], "pooled", gates=gates, classes=classes)


@pytest.mark.parametrize(("gated", "classes"), [(True, None), (False, [0, 2]), (True, [1, 1])])
def test_reactive_projections_come_back_with_what_they_react_to(original, tmp_path, gated, classes):
    corrected, changes = copy.deepcopy(original), []
    if classes is not None:
        corrected.network = ClassConditioned(corrected.network)
        changes.append(ClassConditionChange())
    insert_projection(corrected, "network.relu1", reactive(gated, classes))
    changes.append(
        ReactiveProjectionChange(
            layer="network.relu1", mode="pooled", channels=4, ranks=[1, 2], gated=gated, conditioned=classes is not None
        )
    )
    save_weights(corrected.network, method_weights(tmp_path, "trial"))
    loaded = load_corrected(tmp_path, record(changes), original)
    x = torch.rand(20, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), corrected(x))
        assert not torch.allclose(loaded(x), original(x), atol=1e-3)
    inner = "network.network." if classes is not None else "network."
    assert own_layer(loaded, "network.relu1") == f"{inner}relu1.layer"
    with pytest.raises(CheckpointError, match="is a corrected model with projections .*relu1"):
        load_weights(copy.deepcopy(original).network, method_weights(tmp_path, "trial"))
