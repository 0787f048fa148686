from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.small_cnn import small_cnn
from pipeline.reveal.synthetic_signals import Maximizer, decode, jitter, random_transform, signal_responses

SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    network = small_cnn(3, 3, width=4, blocks=2)
    network.train()
    return network


def pairs(count: int, numbers: int = 1) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(count), numbers), np.tile(np.arange(numbers), count)


@pytest.mark.parametrize("objective", ["mean", "max"])
@pytest.mark.parametrize(("layer", "count"), [("relu1", 4), ("relu2", 8), ("conv2", 8)])
def test_signals_excite_their_channel_more_than_95_percent_of_noise_images_do(model, layer, count, objective):
    channels, numbers = pairs(count)
    maximizer = Maximizer(model, layer, SHAPE, iterations=30, objective=objective)
    found = maximizer.responses(maximizer.images(channels, numbers))[channels, channels]
    noise = maximizer.responses(torch.rand(200, *SHAPE, generator=torch.Generator().manual_seed(0)))
    assert (found > np.quantile(noise, 0.95, axis=0)).all()


def test_more_steps_excite_more(model):
    channels, numbers = pairs(8)
    few, many = (
        maximizer.responses(maximizer.images(channels, numbers))[channels, channels]
        for maximizer in (Maximizer(model, "relu2", SHAPE, iterations=count) for count in (2, 25))
    )
    assert (many > few).all()


def test_signals_are_images_and_the_model_stays_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = Maximizer(model, "relu2", SHAPE, iterations=3).images(*pairs(2))
    assert images.shape == (2, *SHAPE) and 0 <= images.min() and images.max() <= 1 and not images.requires_grad
    assert model.training and not model.relu2._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_hook_is_removed_when_the_model_fails(model):
    with pytest.raises(RuntimeError):
        Maximizer(model, "relu2", SHAPE).responses(torch.zeros(1, 1, 16, 16))
    assert not model.relu2._forward_hooks and model.training


def test_the_same_seed_gives_the_same_signals_and_another_others(model):
    first, second, other = (
        Maximizer(model, "relu1", SHAPE, iterations=3, seed=seed).images(*pairs(2, 2)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.allclose(first, other, atol=0.05)
    assert not torch.allclose(first[0], first[1], atol=0.05)


def test_a_signal_does_not_depend_on_the_others_in_its_batch(model):
    channels, numbers = pairs(4, 2)
    maximizer = Maximizer(model, "relu1", SHAPE, iterations=3)
    alone = maximizer.images(channels[5:6], numbers[5:6])
    np.testing.assert_allclose(maximizer.images(channels, numbers)[5:6], alone, atol=1e-3)


def test_responses_are_max_pooled_activations_of_the_layer(model):
    x = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        evaluated = model.eval()[:3](x).amax((2, 3))
    model.train()
    np.testing.assert_allclose(Maximizer(model, "relu1", SHAPE).responses(x), evaluated, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_responses_to_signals_are_means_over_the_signals_whatever_the_batch(model, batch_size):
    maximizer, channels = Maximizer(model, "relu2", SHAPE, iterations=2), np.array([1, 6, 7])
    found = signal_responses(maximizer, channels, 2, batch_size=batch_size)
    each = maximizer.responses(maximizer.images(*(np.repeat(channels, 2), np.tile([0, 1], 3))))
    np.testing.assert_allclose(found, each.reshape(3, 2, -1).mean(1)[:, channels], rtol=1e-3)


class Tokens(nn.Module):
    """A layer whose channels lie last: 16 tokens of 4 channels, of which each is the brightness of one colour."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 4, stride=4)
        self.mix = nn.Linear(4, 4)
        weights = torch.cat([torch.eye(3), -torch.ones(1, 3)])
        self.patches.weight.data = (weights / 16).view(4, 3, 1, 1).expand(4, 3, 4, 4).clone()
        self.patches.bias.data.zero_()
        self.mix.weight.data, self.mix.bias.data = torch.eye(4), torch.zeros(4)

    def forward(self, x):
        return self.mix(self.patches(x).flatten(2).movedim(1, 2)).mean(1)


def test_channels_that_lie_last_are_ascended_as_channels():
    images = Maximizer(Tokens(), "mix", SHAPE, iterations=60).images(*pairs(4))
    brightness = images.mean((2, 3))
    assert (brightness[:3].diagonal() > 0.85).all()
    assert (brightness[3] < 0.15).all()


class Silent(nn.Module):
    """A channel that only sees an image whose upper left is brighter than 0.6; another that never fires."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(torch.stack([x[:, 0, :8, :8].mean((1, 2)) - 0.6, x[:, 0, 0, 0] - 2], 1)[..., None, None])


def test_an_image_on_which_the_channel_is_silent_is_drawn_anew_until_it_answers():
    maximizer = Maximizer(Silent(), "relu", (1, 16, 16), iterations=80)
    channels, numbers = np.zeros(6, dtype=int), np.arange(6)
    start = Maximizer(Silent(), "relu", (1, 16, 16), iterations=0)
    assert (start.responses(start.images(channels, numbers))[:, 0] == 0).any()
    assert (maximizer.responses(maximizer.images(channels, numbers))[:, 0] > 0.1).all()


def test_a_channel_that_never_answers_leaves_finite_images():
    maximizer = Maximizer(Silent(), "relu", (1, 16, 16), iterations=5)
    assert torch.isfinite(maximizer.images(np.array([1]), np.array([0]))).all()


@pytest.mark.parametrize("size", [(16, 16), (15, 20), (32, 8)])
def test_coefficients_of_variance_1_give_fields_of_variance_1_with_more_coarse_than_fine_structure(size):
    images = decode(torch.randn(400, 1, *size, generator=torch.Generator().manual_seed(0)))
    field = torch.logit(images.double(), eps=1e-9)
    assert images.shape[2:] == size
    assert field.var().item() == pytest.approx(1, abs=0.1)
    steps = (field[..., 1:] - field[..., :-1]).var()
    assert steps < 1  # white noise has 2


def test_every_coefficient_moves_the_field_on_its_own():
    field = torch.logit(decode(torch.eye(30).view(30, 1, 5, 6)).double()).flatten(1)
    products = field @ field.T
    lengths = products.diagonal()
    torch.testing.assert_close(products, torch.diag(lengths), atol=1e-5, rtol=0)
    assert lengths.sum() == pytest.approx(30, rel=1e-4)


def test_zero_coefficients_are_grey():
    assert torch.equal(decode(torch.zeros(1, 3, 8, 9)), torch.full((1, 3, 8, 9), 0.5))


def test_the_identity_moves_nothing_and_a_shift_brings_in_grey():
    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    identity = np.array([[[1.0, 0, 0], [0, 1, 0]]])
    torch.testing.assert_close(jitter(images, identity), images)
    shifted = jitter(images, identity + [[[0, 0, 0.5], [0, 0, 0]]])  # by a quarter of the width
    torch.testing.assert_close(shifted[..., :6], images[..., 2:])
    torch.testing.assert_close(shifted[..., 6:], torch.full((1, 1, 8, 2), 0.5))


def test_random_transforms_keep_within_their_ranges_and_use_them():
    generator = np.random.default_rng(0)
    found = np.stack([random_transform(generator) for _ in range(500)])
    scaling = np.sqrt(found[:, 0, 0] ** 2 + found[:, 1, 0] ** 2)
    angle = np.degrees(np.arctan2(found[:, 1, 0], found[:, 0, 0]))
    np.testing.assert_allclose(np.linalg.det(found[:, :, :2]), scaling**2)
    for values, low, high in (
        (scaling, 0.9, 1.1),
        (angle, -10, 10),
        (found[:, 0, 2], -0.1, 0.1),
        (found[:, 1, 2], -0.1, 0.1),
    ):
        assert low <= values.min() < low + 0.05 * (high - low) and high - 0.05 * (high - low) < values.max() <= high


def test_an_unknown_layer_and_inputs_that_are_no_images_are_refused(model):
    with pytest.raises(ValueError, match="'relu9'.* Did you mean 'relu"):
        Maximizer(model, "relu9", SHAPE)
    with pytest.raises(ConfigError, match="shape .12, 1000.*natural"):
        Maximizer(model, "relu1", (12, 1000))
