from __future__ import annotations

import copy

import pytest
import torch

from pipeline.concepts.corrected import differs, load_corrected, method_weights
from pipeline.concepts.projection import Projection, insert_projection
from pipeline.config.model import ModelConfig
from pipeline.errors import CheckpointError
from pipeline.models.build import build_model
from pipeline.models.checkpoints import save_weights
from pipeline.workspace.records import MethodRecord, ProjectionChange

LAYERS = ("network.relu1", "network.conv2", "network.relu1")


@pytest.fixture
def original():
    return build_model(ModelConfig(params={"width": 4, "blocks": 2}, mean=(0.5,), std=(0.25,)), 3, 1).eval()


def record(projections: list[ProjectionChange]) -> MethodRecord:
    return MethodRecord(
        key="k", id="trial", kind="p_clarc", parameters={}, trained=False, biases=[], status="unreviewed", seconds=1.0,
        validation={}, changes=projections,
    )  # fmt: skip


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
    with pytest.raises(CheckpointError, match="missing 2: relu1.projections.0"):
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
