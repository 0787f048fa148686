"""A small encoder-decoder that draws one map per image: how much of each place a classifier may use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

LEVELS = 3
"""Resolutions of the encoder; each is half of the one before."""
LEAK = 0.01
"""What `leaky_tanh_relu` lets through where the published gate begins to close."""


class MapExplainer(nn.Module):
    """Images `[N, C, H, W]` of any size -> maps `[N, 1, H, W]` in [0, 1], near 1 everywhere before any training.

    Two convolutions per resolution, skips that are added, and a head of convolution, BatchNorm and gate function
    (Rio-Torto et al., Pattern Recognition Letters 2020). Sizes that the poolings do not divide are padded by their
    last row and column, and the maps are cut back.

    Args:
        channels: of the images.
        width: channels of the first resolution; the next have twice and four times as many.
        gate: a key of `GATES`: what turns the head's values into [0, 1].
        bias: that the head starts with.

    Raises:
        ValueError: an unknown gate.
    """

    def __init__(self, channels: int, width: int = 32, *, gate: str = "leaky_tanh_relu", bias: float = 3.0):
        super().__init__()
        if gate not in GATES:
            raise ValueError(f"gate '{gate}' is unknown; allowed: {', '.join(GATES)}")
        widths = [width * 2**level for level in range(LEVELS)]
        self.encoder = nn.ModuleList(map(_two_convolutions, [channels, *widths[:-1]], widths))
        falling = widths[::-1]
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 2, stride=2)
            for before, after in zip([falling[0], *falling[:-1]], falling, strict=True)
        )
        self.decoder = nn.ModuleList(map(_two_convolutions, falling, falling))
        self.head = nn.Conv2d(width, 1, 1)
        self.norm = nn.BatchNorm2d(1)
        nn.init.constant_(self.norm.bias, bias)
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return maps `[N, 1, H, W]`."""
        height, width = x.shape[-2:]
        step = 2**LEVELS
        x = F.pad(x, (0, -width % step, 0, -height % step), mode="replicate")
        skips = []
        for convolutions in self.encoder:
            x = convolutions(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        for enlarge, convolutions in zip(self.enlarge, self.decoder, strict=True):
            x = convolutions(enlarge(x) + skips.pop())
        return GATES[self.gate](self.norm(self.head(x)))[..., :height, :width]


def _two_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU()
    )


def tanh_relu(values: torch.Tensor) -> torch.Tensor:
    """Return ReLU(tanh(a)) in [0, 1), as published; it has no gradient where a < 0."""
    return F.relu(torch.tanh(values))


def leaky_tanh_relu(values: torch.Tensor) -> torch.Tensor:
    """Return a gate in [0, 1) that rises everywhere, so that a map which closed everywhere can open again.

    With t = tanh(a) and a leak e: e (1 + t) where t < 0, and e + (1 - e) t above, which differs from `tanh_relu` by e
    at most.
    """
    t = torch.tanh(values)
    return (1 - LEAK) * F.relu(t) + LEAK * (1 + t.clamp(max=0))


def sigmoid(values: torch.Tensor) -> torch.Tensor:
    """Return the logistic function of 2 a in (0, 1), which is (1 + tanh(a)) / 2."""
    return torch.sigmoid(2 * values)


GATES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "leaky_tanh_relu": leaky_tanh_relu,
    "tanh_relu": tanh_relu,
    "sigmoid": sigmoid,
}
