from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.concepts.sensitivity import concept_signs, layer_gradients, random_directions


@pytest.fixture
def linear():
    """Logits that are linear in the activations of layer "0": their gradient is a row of weights over positions."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def test_gradients_of_a_linear_model_are_its_weights_over_the_number_of_positions(linear):
    x = torch.randn(5, 1, 8, 6)
    gradients = layer_gradients(linear, x, "0", 2)
    weights = np.tile(linear[3].weight[2].detach().numpy(), (5, 1))
    np.testing.assert_allclose(gradients, weights / (6 * 4), rtol=1e-5)
    np.testing.assert_allclose(layer_gradients(linear, x, "2", 2), weights, rtol=1e-5)


def test_gradients_leave_no_trace_on_the_model(linear):
    layer_gradients(linear, torch.randn(2, 1, 8, 6), "0", 0)
    assert all(parameter.grad is None for parameter in linear.parameters())
    assert not linear[0]._forward_hooks


def test_the_sign_says_whether_the_logit_rises_along_the_direction(linear):
    weights = linear[3].weight[1].detach().numpy()
    direction = weights / np.linalg.norm(weights)
    gradients = layer_gradients(linear, torch.randn(7, 1, 8, 6), "0", 1)
    assert concept_signs(gradients, direction).tolist() == [1.0] * 7
    assert concept_signs(gradients, -direction).tolist() == [0.0] * 7


def test_independence_of_the_direction_counts_one_half():
    gradients = np.array([[1.0, 0.0], [0.0, 0.0], [1e-3, 1e3], [-2.0, 1.0], [3e-20, 4e-20]])
    assert concept_signs(gradients, np.array([0.0, 1.0])).tolist() == [0.5, 0.5, 1.0, 1.0, 1.0]
    assert concept_signs(gradients, np.array([1.0, 0.0])).tolist() == [1.0, 0.5, 0.5, 0.0, 1.0]


def test_a_logit_that_does_not_see_the_concept_has_a_quotient_of_one_half(linear):
    with torch.no_grad():
        linear[3].weight[0, 1] = 0.0
    gradients = layer_gradients(linear, torch.randn(9, 1, 8, 6), "0", 0)
    assert concept_signs(gradients, np.eye(4)[1]).mean() == 0.5


def test_random_directions_are_unit_vectors_without_a_preference():
    directions = random_directions(4000, 5, 0)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    assert np.abs(directions.mean(0)).max() < 0.03
    np.testing.assert_allclose(np.cov(directions.T), np.eye(5) / 5, atol=0.02)


def test_random_directions_depend_on_the_seed_alone():
    assert np.array_equal(random_directions(3, 4, 7), random_directions(3, 4, 7))
    assert not np.allclose(random_directions(3, 4, 7), random_directions(3, 4, 8))
