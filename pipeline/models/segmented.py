"""A segmenter, then a classifier that sees nothing but the foreground."""

from __future__ import annotations

import torch
from torch import nn

from .unet import UNet
from .weighting import constant_for_relevance

REMOVED = 0.05
"""Foreground below which nothing at all is left of a pixel, so that no relevance comes back to it either."""


class Segmented(nn.Module):
    """Images `[N, C, H, W]` -> logits of the classifier on foreground x image + (1 - foreground) x fill.

    Attributes:
        network: the classifier.
        segmenter: images -> logits of the foreground `[N, 1, H, W]`.
        fill: what stands where background was, `[C, 1, 1]`, in the units of the images.
    """

    def __init__(self, network: nn.Module, channels: int, width: int, depth: int):
        super().__init__()
        self.network = network
        self.segmenter = UNet(channels, width, depth)
        self.register_buffer("fill", torch.zeros(channels, 1, 1))

    def foreground(self, x: torch.Tensor) -> torch.Tensor:
        """Return the soft foreground `[N, 1, H, W]` in [0, 1]; for relevance it is a constant."""
        with constant_for_relevance():
            return self.segmenter(x).sigmoid()

    def cut_out(self, x: torch.Tensor, foreground: torch.Tensor) -> torch.Tensor:
        """Return images whose background is the fill."""
        blended = x * foreground + (1 - foreground) * self.fill
        return torch.where(foreground < REMOVED, self.fill, blended)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `[N, K]`."""
        return self.network(self.cut_out(x, self.foreground(x)))
