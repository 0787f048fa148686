"""What every correction that trains shares."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from pipeline.config.model import AugmentConfig
from pipeline.data.memory import split_indices
from pipeline.errors import ConfigError
from pipeline.mitigate.fine_tuning import classification_loss, fine_tune, freeze_up_to
from pipeline.mitigate.training_masks import TrainingMasks


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_everything_up_to_a_layer_is_frozen_and_nothing_above(audited):
    model, _ = audited
    everything = trainable(model)
    freeze_up_to(model, "network.relu1", torch.rand(1, 1, 16, 16))
    assert trainable(model) == everything - {"network.conv1.weight", "network.norm1.weight", "network.norm1.bias"}


class Branched(nn.Module):
    """Parameters that a list of finished modules does not show: a bare one, a shared layer, and a branch of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.shared = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU()
        self.branch = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        aside = self.branch(x)
        found = self.relu(self.shared(self.shared(x * self.scale)))
        return self.head((found + aside).mean((2, 3)))


def test_what_a_layer_depends_on_is_frozen_however_it_is_used():
    network = Branched()
    freeze_up_to(network, "relu", torch.rand(1, 3, 4, 4))
    assert trainable(network) == {"branch.weight", "branch.bias", "head.weight", "head.bias"}


def test_what_any_of_several_layers_depends_on_is_frozen():
    network = Branched()
    freeze_up_to(network, "relu", torch.rand(1, 3, 4, 4))
    freeze_up_to(network, "branch", torch.rand(1, 3, 4, 4))
    assert trainable(network) == {"head.weight", "head.bias"}
    for _ in range(2):
        freeze_up_to(network, "head", torch.rand(1, 3, 4, 4))
    assert trainable(network) == set()


def test_freezing_leaves_no_gradients_hooks_or_flags_behind():
    network = Branched().train()
    freeze_up_to(network, "relu", torch.rand(1, 3, 4, 4))
    assert network.training and not network.relu._forward_hooks
    assert all(parameter.grad is None for parameter in network.parameters())


def plain(problem):
    return lambda network, batch: {"total": classification_loss(problem, network(batch.x), batch.y)}


def test_frozen_layers_stay_and_those_above_move(audited, section):
    model, problem = audited
    correction = fine_tune(model, problem, section("fine_tune"), plain(problem), frozen_up_to="network.relu1")
    old, new = model.state_dict(), correction.model.state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved == {
        f"network.{name}" for name in ("conv2.weight", "norm2.weight", "norm2.bias", "linear.weight", "linear.bias")
    }
    assert trainable(correction.model) == trainable(model)


def test_running_statistics_stay_as_they_were(audited, section):
    model, problem = audited
    corrected = fine_tune(model, problem, section("fine_tune"), plain(problem)).model
    for name, value in model.state_dict().items():
        if "running" in name:
            assert torch.equal(corrected.state_dict()[name], value)


def test_where_nothing_is_left_to_train_the_next_step_is_named(audited, section):
    model, problem = audited
    model = copy.deepcopy(model)
    model.network = nn.Sequential(model.network, nn.ReLU())
    with pytest.raises(
        ConfigError, match="'trial' trains what lies above layer 'network.1'.*no parameters above it. Name"
    ):
        fine_tune(model, problem, section("fine_tune", id="trial"), plain(problem), frozen_up_to="network.1")


def test_only_the_training_split_is_trained_on(audited, section):
    model, problem = audited
    seen = []

    def losses(network, batch):
        seen.append(batch.x)
        return plain(problem)(network, batch)

    fine_tune(model, problem, section("fine_tune", epochs=2), losses)
    train = torch.stack([problem.dataset[row].x for row in split_indices(problem.dataset, "train")])
    seen = torch.cat(seen)
    assert len(seen) == 2 * len(train)
    assert {bytes(x.numpy()) for x in seen} == {bytes(x.numpy()) for x in train}


AUGMENT = AugmentConfig(horizontal_flip=True, vertical_flip=True, translate=0.2)


@pytest.mark.parametrize("augment", [AugmentConfig(), AUGMENT], ids=["as they are", "augmented"])
def test_masks_move_along_with_the_images(audited, section, augment):
    model, problem = audited
    known = dataclasses.replace(
        problem.biases[0], mask=lambda name: tiny.square(int(name[1:])) if tiny.is_planted(int(name[1:])) else None
    )
    problem = dataclasses.replace(problem, biases=[known], augment=augment)
    inside, outside = [], []

    def losses(network, batch):
        x, mask = batch.x, batch.mask
        assert mask.shape == (len(x), 1, 16, 16) and mask.dtype == torch.float32
        assert torch.equal(batch.masked, mask.bool().any((1, 2, 3)))
        inside.append(x[mask.bool()])
        outside.append(x[~mask.bool()])
        return plain(problem)(network, batch)

    fine_tune(model, problem, section("fine_tune"), losses)
    assert len(torch.cat(inside)) > 100
    assert torch.cat(inside).min() == 1 and torch.cat(outside).max() < 1, "white is the planted square alone"


def test_masks_are_the_union_over_biases_and_empty_elsewhere(audited):
    _, problem = audited
    left, right = np.zeros((16, 16), bool), np.zeros((16, 16), bool)
    left[:, :3], right[:, 10:] = True, True
    first = dataclasses.replace(problem.biases[0], mask={"s000": left, "s001": left}.get)
    second = dataclasses.replace(problem.biases[0], mask={"s001": right}.get)
    masks = TrainingMasks(dataclasses.replace(problem, biases=[first, second]), range(3))
    found = masks.of(np.array([2, 1, 0]))
    assert found.shape == (3, 1, 16, 16)
    assert not found[0].any()
    assert np.array_equal(found[1, 0].bool(), left | right) and np.array_equal(found[2, 0].bool(), left)


class WithRois:
    """A data set whose first two samples have a region of interest."""

    def __init__(self, dataset, roi):
        self.dataset, self.roi = dataset, roi

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def roi_mask(self, index):
        return self.roi if index < 2 else None


@pytest.mark.parametrize("background", ["artifact", "roi", "union"])
def test_background_is_the_artifact_or_all_outside_the_region_of_interest_or_both(audited, background):
    _, problem = audited
    artifact, roi = np.zeros((16, 16), bool), np.zeros((16, 16), bool)
    artifact[:4, :4], roi[2:10, 2:10] = True, True
    bias = dataclasses.replace(problem.biases[0], mask={"s001": artifact, "s002": artifact}.get)
    problem = dataclasses.replace(problem, biases=[bias], dataset=WithRois(problem.dataset, roi))
    nothing = np.zeros_like(roi)
    expected = {
        "artifact": [nothing, artifact, artifact, nothing],
        "roi": [~roi, ~roi, nothing, nothing],
        "union": [~roi, artifact | ~roi, artifact, nothing],
    }[background]
    found = TrainingMasks(problem, range(4), background).of(np.arange(4))
    assert np.array_equal(found[:, 0].bool(), np.stack(expected))


@pytest.mark.parametrize("select", ["last", "loss"])
def test_losses_of_the_validation_split_join_its_metrics(audited, section, select):
    model, problem = audited
    seen = []

    def validated(network, batch):
        assert not network.training
        seen.append(batch)
        return {"brightness": batch.x.mean()}

    correction = fine_tune(model, problem, section("fine_tune", select=select), plain(problem), validated=validated)
    rows = split_indices(problem.dataset, "val")
    assert sum(len(batch.x) for batch in seen) == len(rows)
    mean = np.mean([problem.dataset[row].x.mean() for row in rows])
    assert correction.history[0].validation["brightness"] == pytest.approx(float(mean), rel=1e-5)


@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_algorithms_are_asked_for_during_the_training_alone(audited, section, deterministic):
    model, problem = audited
    seen = set()

    def losses(network, batch):
        seen.add(torch.are_deterministic_algorithms_enabled())
        return plain(problem)(network, batch)

    fine_tune(model, problem, section("fine_tune", deterministic=deterministic), losses)
    assert seen == {deterministic} and not torch.are_deterministic_algorithms_enabled()


def test_several_labels_at_once_have_a_binary_cross_entropy_each(audited):
    _, problem = audited
    logits, y = torch.randn(6, 3), torch.tensor([[1, 0, 1], [0, 0, 0]] * 3)
    p = logits.sigmoid()
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    torch.testing.assert_close(classification_loss(problem, logits, y), expected)


def test_class_weights_of_the_original_training_are_used(audited):
    _, problem = audited
    logits, y = torch.randn(6, 3), torch.arange(6) % 3
    each = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    torch.testing.assert_close(classification_loss(problem, logits, y), each.mean())
    weights = torch.tensor([1.0, 0.0, 3.0])
    weighted = classification_loss(dataclasses.replace(problem, class_weights=weights), logits, y)
    torch.testing.assert_close(weighted, (each * weights[y]).sum() / weights[y].sum())


def test_the_cav_of_a_correction_is_the_acting_one_or_that_of_a_named_layer(audited):
    _, problem = audited
    known = problem.biases[0]
    assert known.correction_cav().kind == "pattern"
    assert known.correction_cav("network.relu1").layer == "network.relu1"
    with pytest.raises(ConfigError, match="'network.relu3'. Did you mean 'network.relu[12]'.*reveal.cav.layers"):
        known.correction_cav("network.relu3")
