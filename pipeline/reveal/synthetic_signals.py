"""Images that excite one channel of a layer most, made by gradient ascent (activation maximisation)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import nn

from pipeline.concepts.receptive_field import output_until
from pipeline.errors import ConfigError
from pipeline.models.modes import evaluation_mode
from pipeline.models.trace import ChannelAxes
from pipeline.workspace.progress import Reporter, SilentReporter

RATE = 0.5
CONTRAST = 0.5
"""Standard deviation of the first image before the sigmoid; each further draw has more, up to `MOST_CONTRAST`."""
MOST_CONTRAST = 4.0
DECAY = 0.03
"""Pull of the coefficients towards grey, beside a gradient of root mean square 1."""
SMALLEST_GRADIENT = 1e-30
ROTATION = np.pi / 18
SCALING = 0.1
TRANSLATION = 0.05
"""Largest shift, as a share of the side."""


class Maximizer:
    """Makes images `[B, channels, H, W]` in [0, 1] by ascending the activation of chosen channels of a layer.

    An image is the sigmoid of a Fourier transform whose coefficients are divided by their frequency, so that steps of
    equal size change coarse and fine structure alike. Before each step it is rotated, scaled and shifted a little, and
    what comes in at the border is grey: structure that only works at one place does not survive. Gradients are scaled
    to one size, and each signal has its own random numbers, so that neither the scale of the channel nor the other
    signals of the batch matter. While a channel is silent on an image (a ReLU lets no gradient through), the image is
    drawn anew with more contrast.

    Args:
        model: pixels in [0, 1] -> logits, on `device`; put into evaluation mode meanwhile.
        layer: name of a module of the model that runs once.
        shape: `(channels, H, W)` of an image.
        iterations: steps of Adam.
        objective: what is maximised: the "mean" or the "max" of the channel over positions.
        seed: the same seed gives the same images.
        device: of the model.

    Raises:
        ConfigError: its inputs are no images.
        ValueError: the model has no such layer.

    Source: Olah, Mordvintsev, Schubert, "Feature Visualization", Distill 2017.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        shape: tuple[int, ...],
        *,
        iterations: int = 128,
        objective: Literal["mean", "max"] = "mean",
        seed: int = 0,
        device: str = "cpu",
    ):
        if len(shape) != 3:
            raise ConfigError(
                f"reveal.detectors: signals 'synthetic' are images, but the samples have the shape {tuple(shape)}. "
                "Set signals: natural."
            )
        self.model, self.layer, self.shape = model, layer, tuple(shape)
        self.iterations, self.objective, self.seed, self.device = iterations, objective, seed, device
        self._channel_axis = ChannelAxes(model).of(layer, torch.zeros(1, *shape, device=device))

    def images(self, channels: np.ndarray, numbers: np.ndarray) -> torch.Tensor:
        """Return one image `[B, channels, H, W]` for each pair of a channel `[B]` and the number of the signal `[B]`.

        Memory holds the activations of all B images at once.
        """
        generators = [np.random.default_rng([self.seed, *pair]) for pair in zip(channels, numbers, strict=True)]
        contrast = np.full(len(generators), CONTRAST)
        noise = np.stack([self._noise(generator, CONTRAST) for generator in generators])
        coefficients = torch.tensor(noise, device=self.device, requires_grad=True)
        optimizer = torch.optim.Adam([coefficients], lr=RATE, weight_decay=DECAY)
        own = torch.arange(len(channels), device=self.device), torch.as_tensor(channels, device=self.device)
        with evaluation_mode(self.model), torch.enable_grad():
            for _ in range(self.iterations):
                transforms = np.stack([random_transform(generator) for generator in generators])
                maps = self._activations(jitter(decode(coefficients), transforms))[own]
                (gradient,) = torch.autograd.grad(_pooled(maps.flatten(1), self.objective).sum(), coefficients)
                size = gradient.square().mean((1, 2, 3)).sqrt()
                for index in torch.nonzero(size == 0).flatten().tolist():
                    contrast[index] = min(contrast[index] + CONTRAST, MOST_CONTRAST)
                    drawn = self._noise(generators[index], contrast[index])
                    coefficients.data[index] = torch.from_numpy(drawn).to(self.device)
                coefficients.grad = -gradient / size.clamp(min=SMALLEST_GRADIENT).view(-1, 1, 1, 1)
                optimizer.step()
        return decode(coefficients.detach())

    def responses(self, images: torch.Tensor) -> np.ndarray:
        """Return all channels' activations `[B, C]`, the largest over positions, on images `[B, channels, H, W]`."""
        with evaluation_mode(self.model), torch.no_grad():
            found = self._activations(images.to(self.device))
            return _pooled(found.reshape(*found.shape[:2], -1), "max").cpu().numpy()

    def _noise(self, generator: np.random.Generator, contrast: float) -> np.ndarray:
        return generator.normal(0, contrast, self.shape).astype(np.float32)

    def _activations(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output `[B, C, ...]`; what follows it does not run."""
        return output_until(self.model, self.layer, x).movedim(self._channel_axis, 1)


def signal_responses(
    maximizer: Maximizer, channels: np.ndarray, per_neuron: int, *, batch_size: int, reporter: Reporter | None = None
) -> np.ndarray:
    """Return how strongly channels answer to one another's signals `[len(channels), len(channels)]`.

    Entry (i, j) is the max-pooled activation of channel j, averaged over the `per_neuron` signals of channel i. No
    more than `batch_size` images are held at once.
    """
    owners = np.repeat(np.arange(len(channels)), per_neuron)
    numbers = np.tile(np.arange(per_neuron), len(channels))
    total = np.zeros((len(channels), len(channels)))
    starts = range(0, len(owners), batch_size)
    for start in (reporter or SilentReporter()).track(starts, f"signals of {maximizer.layer}"):
        part = slice(start, start + batch_size)
        images = maximizer.images(channels[owners[part]], numbers[part])
        np.add.at(total, owners[part], maximizer.responses(images)[:, channels])
    return total / per_neuron


def decode(coefficients: torch.Tensor) -> torch.Tensor:
    """Return images in (0, 1) of real Fourier coefficients (Hartley's, an orthogonal transform) `[B, channels, H, W]`.

    Coefficients are divided by their frequency and scaled so that those of variance 1 give a field of variance 1, of
    which the image is the sigmoid.
    """
    height, width = coefficients.shape[2:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    scale = 1 / np.maximum(frequency, 1 / max(height, width))
    scale = torch.as_tensor(scale / np.sqrt((scale**2).mean()), dtype=coefficients.dtype, device=coefficients.device)
    spectrum = torch.fft.fft2(coefficients * scale, norm="ortho")
    return torch.sigmoid(spectrum.real - spectrum.imag)


def random_transform(generator: np.random.Generator) -> np.ndarray:
    """Return a rotation (up to 10 degrees), scaling (10 %) and shift (5 % of the side) as an affine matrix `[2, 3]`."""
    angle, scaling, down, right = generator.uniform(-1, 1, 4) * (ROTATION, SCALING, 2 * TRANSLATION, 2 * TRANSLATION)
    cosine, sine = (1 + scaling) * np.cos(angle), (1 + scaling) * np.sin(angle)
    return np.array([[cosine, -sine, right], [sine, cosine, down]])


def jitter(images: torch.Tensor, transforms: np.ndarray) -> torch.Tensor:
    """Return images `[B, channels, H, W]` moved by affine matrices `[B, 2, 3]`; what comes in at the border is 0.5."""
    matrices = torch.as_tensor(transforms, dtype=images.dtype, device=images.device)
    grid = nn.functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images - 0.5, grid, align_corners=False) + 0.5


def _pooled(values: torch.Tensor, how: Literal["mean", "max"]) -> torch.Tensor:
    return values.amax(-1) if how == "max" else values.mean(-1)
