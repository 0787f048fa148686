from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.attribution.baselines import integrated_gradients
from pipeline.attribution.baselines.integrated_gradients import unit_quadrature


def test_of_a_quadratic_it_has_a_closed_form_with_a_single_step(functional, pixels):
    """f = x'Ax + b'x: the gradient is linear on the way, so the middle of the way says all."""
    matrix, linear = pixels(6, 6, seed=2).double() - 0.5, pixels(6, seed=3).double() - 0.5
    network = functional(lambda x: ((x.flatten(1) @ matrix * x.flatten(1)).sum(1) + x.flatten(1) @ linear)[:, None])
    x, baseline = pixels(3, 2, 3).double(), pixels(3, 2, 3, seed=1).double()
    middle = (x + baseline).flatten(1) / 2
    expected = (x - baseline).flatten(1) * (middle @ (matrix + matrix.T) + linear)
    for steps in (1, 5):
        found = integrated_gradients(network, x, 0, steps=steps, baseline=baseline)
        assert torch.allclose(found.relevance.flatten(1), expected, atol=1e-12)


def test_of_a_product_of_three_it_shares_equally_with_two_steps(functional):
    network = functional(lambda x: x.flatten(1).prod(1, keepdim=True))
    x = torch.tensor([[[2.0, 3.0, 5.0]]])
    found = integrated_gradients(network, x, 0, steps=2)
    assert torch.allclose(found.relevance, torch.full((1, 1, 3), 10.0))


@pytest.mark.parametrize("baseline", [0.0, 0.5, "own"])
def test_it_sums_to_the_difference_of_the_logits(baseline, residual, pixels):
    network, x = residual().double(), pixels(4, 3, 13, 13).double()
    baseline = pixels(3, 13, 13, seed=3) if baseline == "own" else baseline
    start = baseline.double().expand_as(x) if isinstance(baseline, torch.Tensor) else torch.full_like(x, baseline)
    rows, target = torch.arange(4), torch.tensor([0, 2, 1, 3])
    with torch.no_grad():
        difference = (network(x) - network(start))[rows, target]
    found = integrated_gradients(network, x, target, baseline=baseline, steps=256)
    error = (found.relevance.flatten(1).sum(1) - difference).abs().max() / difference.abs().max()
    assert error < 0.005, "the rest is the kinks of ReLU on the way"


def test_more_steps_come_closer_where_the_network_is_smooth(scrambled, pixels):
    network = scrambled(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 2), nn.Tanh())
    ).double()
    x = pixels(2, 3, 6, 6).double() * 4
    with torch.no_grad():
        difference = (network(x) - network(x * 0))[:, 1]
    errors = [
        float((integrated_gradients(network, x, 1, steps=s).relevance.flatten(1).sum(1) - difference).abs().max())
        for s in (2, 8, 32)
    ]
    assert errors[0] > 10 * errors[1] > 100 * errors[2] and errors[2] < 1e-6


def test_pixels_that_equal_the_baseline_get_nothing(residual, pixels):
    x = pixels(2, 3, 13, 13)
    x[:, :, 4:7] = 0.25
    found = integrated_gradients(residual(), x, 1, baseline=0.25)
    assert found.relevance[:, :, 4:7].abs().max() == 0 and found.relevance.abs().max() > 0


def test_the_quadrature_integrates_polynomials_exactly():
    points, weights = unit_quadrature(4)
    integrals = [float((weights * points**power).sum()) for power in range(8)]
    assert integrals == pytest.approx([1 / (power + 1) for power in range(8)])
    assert points.min() > 0 and points.max() < 1


def test_wrong_parameters_are_explained(plain, pixels, untouched):
    network, x = plain(), pixels(2, 3, 12, 12)
    untouched(network, lambda: integrated_gradients(network, x, steps=0), ValueError, "steps=0 is too few")
    wrong = torch.zeros(3, 5, 5)
    untouched(network, lambda: integrated_gradients(network, x, baseline=wrong), ValueError, r"shape \(3, 5, 5\)")


def test_captum_finds_the_same(residual, pixels):
    captum = pytest.importorskip("captum.attr")
    network, target = residual().double(), torch.tensor([0, 2, 1])
    x, baseline = pixels(3, 3, 13, 13).double(), pixels(3, 3, 13, 13, seed=1).double()
    expected = captum.IntegratedGradients(network).attribute(x, baseline, target, n_steps=20, method="gausslegendre")
    found = integrated_gradients(network, x, target, baseline=baseline, steps=20)
    assert torch.allclose(found.relevance, expected, atol=1e-10)
