"""The penalties of RRR and RR-ClArC: shares of a squared gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.mitigate.explained import explained_quantity
from pipeline.mitigate.rr_clarc import rr_clarc_loss
from pipeline.mitigate.rrr import rrr_loss


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(dimension: int, seed: int = 1) -> torch.Tensor:
    return nn.functional.normalize(random(dimension, seed=seed), dim=0)


def masks(count: int, seed: int = 2) -> torch.Tensor:
    return (random(count, 1, 6, 5, seed=seed) > 0.5).double()


def test_rrr_is_the_share_of_the_squared_gradient_inside_the_masks():
    gradient = torch.tensor([[[[3.0, 4.0]], [[0.0, 12.0]]]])
    assert float(rrr_loss(gradient, torch.tensor([[[[1.0, 0.0]]]]))) == pytest.approx(9 / 169)
    assert float(rrr_loss(gradient, torch.tensor([[[[0.0, 1.0]]]]))) == pytest.approx(160 / 169)


@pytest.mark.parametrize("positions", [(), (1,), (4, 3)])
def test_rr_clarc_is_the_squared_cosine_weighted_by_length(positions):
    gradient, direction = random(3, 4, *positions), unit(4)
    expected = []
    for sample in gradient.reshape(3, 4, -1):
        columns = sample.unbind(1)
        cosines = [float(column @ direction / column.norm()) for column in columns]
        lengths = [float(column.norm()) for column in columns]
        along = sum((cosine * length) ** 2 for cosine, length in zip(cosines, lengths, strict=True))
        expected.append(along / sum(length**2 for length in lengths))
    assert float(rr_clarc_loss(gradient, direction)) == pytest.approx(sum(expected) / 3)


@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_both_lie_between_0_and_1_and_have_no_scale(seed, scale):
    gradient = random(4, 3, 6, 5, seed=seed)
    mask, direction = masks(4, seed + 1), unit(3, seed + 1)
    inside, along = rrr_loss(gradient, mask), rr_clarc_loss(gradient, direction)
    assert 0 <= inside <= 1 and 0 <= along <= 1
    each = torch.logspace(-2, 2, 4, dtype=torch.float64).view(-1, 1, 1, 1)
    torch.testing.assert_close(rrr_loss(gradient * scale * each, mask), inside)
    torch.testing.assert_close(rr_clarc_loss(gradient * scale * each, direction), along)


def test_both_are_0_without_and_1_with_nothing_but_the_wrong_reason():
    gradient, mask, direction = random(4, 3, 6, 5), masks(4), unit(3)
    assert rrr_loss(gradient * (1 - mask), mask) == 0
    assert rrr_loss(gradient * mask, mask) == pytest.approx(1)
    along = torch.einsum("nchw,c->nhw", gradient, direction)[:, None] * direction.view(1, -1, 1, 1)
    assert rr_clarc_loss(gradient - along, direction) == pytest.approx(0, abs=1e-12)
    assert rr_clarc_loss(along, direction) == pytest.approx(1)


def test_samples_without_a_mask_do_not_count():
    gradient, mask = random(4, 3, 6, 5), masks(4)
    mask[1:3] = 0
    torch.testing.assert_close(rrr_loss(gradient, mask), rrr_loss(gradient[[0, 3]], mask[[0, 3]]))


def test_without_any_mask_rrr_is_0_and_can_still_be_differentiated():
    gradient = random(4, 3, 6, 5).requires_grad_(True)
    loss = rrr_loss(gradient, torch.zeros(4, 1, 6, 5))
    assert loss == 0
    (second,) = torch.autograd.grad(loss, gradient)
    assert not second.any()


def test_a_gradient_of_zero_is_no_wrong_reason():
    assert rrr_loss(torch.zeros(2, 3, 6, 5), torch.ones(2, 1, 6, 5)) == 0
    assert rr_clarc_loss(torch.zeros(2, 3, 6, 5), torch.eye(3)[0]) == 0


@pytest.fixture
def network():
    """A smooth network: the curvature that a penalty on gradients needs is not zero almost everywhere."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Softplus(), nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 2 * 1, 3)
    ).double()


@pytest.mark.parametrize("penalty", ["rrr", "rr_clarc"])
@pytest.mark.parametrize("kind", ["target_logit", "log_probabilities"])
def test_gradients_of_the_penalty_agree_with_finite_differences(network, penalty, kind):
    x, y, mask = random(3, 2, 6, 5), torch.tensor([0, 2, 1]), masks(3)

    def loss() -> torch.Tensor:
        images = x.clone().requires_grad_(True)
        latent = network[:2](images)
        explained = explained_quantity(network[2:](latent), y, kind)
        (gradient,) = torch.autograd.grad(explained, images if penalty == "rrr" else latent, create_graph=True)
        return rrr_loss(gradient, mask) if penalty == "rrr" else rr_clarc_loss(gradient, unit(3))

    parameters = list(network.parameters())
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    step, checked = 1e-6, 0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        flat = parameter.data.view(-1)
        for position in range(0, flat.numel(), max(1, flat.numel() // 5)):
            value = flat[position].item()
            flat[position] = value + step
            above = loss().item()
            flat[position] = value - step
            below = loss().item()
            flat[position] = value
            expected = (above - below) / (2 * step)
            found = 0.0 if gradient is None else gradient.flatten()[position].item()
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-8)
            checked += abs(expected) > 1e-6
    assert checked > 10
