from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.attribution.baselines import gradient, smooth_grad


def test_of_a_linear_network_it_is_the_gradient_whatever_the_noise(scrambled, pixels):
    network = scrambled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2))).double()
    x = pixels(3, 3, 6, 6).double()
    expected = gradient(network, x, 1).relevance
    assert torch.allclose(smooth_grad(network, x, 1, noise=3.0).relevance, expected, atol=1e-12)
    times_input = smooth_grad(network, x, 1, noise=3.0, times_input=True).relevance
    assert torch.allclose(times_input, expected * x, atol=1e-12)


def test_less_noise_comes_closer_to_the_gradient(residual, pixels):
    network, x = residual().double(), pixels(3, 3, 13, 13).double()
    expected = gradient(network, x, 1).relevance
    errors = [
        float((smooth_grad(network, x, 1, noise=noise, samples=8).relevance - expected).abs().max())
        for noise in (0.3, 1e-2, 1e-6)
    ]
    assert errors[0] > 2 * errors[1] > errors[2] and errors[2] < 1e-12
    assert torch.allclose(smooth_grad(network, x, 1, noise=0, samples=2).relevance, expected, atol=1e-12)


def test_noise_is_a_share_of_each_samples_own_range(functional):
    """f = sum of x^3 / 3: the gradient x^2 averages to x^2 + deviation^2."""
    network = functional(lambda x: x.pow(3).flatten(1).sum(1, keepdim=True) / 3)
    x = torch.stack([torch.linspace(-1, 1, 5), torch.linspace(0, 6, 5), torch.full((5,), 2.0)])[:, None].double()
    found = smooth_grad(network, x, 0, samples=20000, noise=0.5, batch_size=60000).relevance
    deviation = torch.tensor([1.0, 3.0, 0.0]).double().reshape(3, 1, 1)
    error = (found - x**2 - deviation**2) / deviation.clamp(min=1) ** 2
    assert error.abs().max() < 0.1
    assert torch.allclose(found[2], x[2] ** 2), "a constant sample has no range"


def test_wrong_parameters_are_explained(plain, pixels, untouched):
    network, x = plain(), pixels(2, 3, 12, 12)
    untouched(network, lambda: smooth_grad(network, x, samples=0), ValueError, "samples=0 is too few")
    for noise in (-0.1, float("nan")):
        untouched(network, lambda noise=noise: smooth_grad(network, x, noise=noise), ValueError, f"noise={noise}")


def test_captum_agrees_up_to_the_draws(residual, pixels):
    """Its deviation is a number, not a share of the range; its draws are its own."""
    captum = pytest.importorskip("captum.attr")
    network, x = residual(), pixels(1, 3, 13, 13)
    torch.manual_seed(0)
    tunnel = captum.NoiseTunnel(captum.Saliency(network))
    deviation = 0.1 * float(x.max() - x.min())
    options = {"nt_samples": 500, "nt_samples_batch_size": 100, "stdevs": deviation, "abs": False}
    expected = tunnel.attribute(x.clone(), nt_type="smoothgrad", target=2, **options)
    found = smooth_grad(network, x, 2, samples=500, noise=0.1, batch_size=100).relevance
    far = gradient(network, x, 2).relevance
    assert (found - expected).norm() < 0.15 * expected.norm() < 0.5 * (far - expected).norm()
