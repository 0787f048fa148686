"""A U-Net that classifies and segments by the same encoder."""

from __future__ import annotations

import torch
from torch import nn

from .unet import UNet


class MultiTaskUNet(nn.Module):
    """Images `[N, C, H, W]` -> logits `[N, K]`, from the coarsest map; the decoder is for training only.

    Args:
        channels: of the images.
        classes: K.
        width, depth: of the U-Net.
        cells: along each side that the coarsest map is averaged to.
        hidden: units between it and the logits.
        dropout: share of hidden units that are left out in training.
    """

    def __init__(self, channels: int, classes: int, width: int, depth: int, cells: int, hidden: int, dropout: float):
        super().__init__()
        self.unet = UNet(channels, width, depth)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(cells),
            nn.Flatten(),
            nn.Linear(self.unet.deepest * cells**2, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def both(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits of the classes `[N, K]` and of the foreground `[N, 1, H, W]`."""
        maps = self.unet.encode(x)
        return self.head(maps[-1]), self.unet.decode(maps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `[N, K]`."""
        return self.head(self.unet.encode(x)[-1])


def multi_task_unet(
    _network: nn.Module,
    channels: int,
    classes: int,
    width: int,
    depth: int,
    cells: int,
    hidden: int,
    dropout: float,
) -> nn.Module:
    """Return a network instead of the one under audit, of which nothing is kept; see `MultiTaskUNet`."""
    return MultiTaskUNet(channels, classes, width, depth, cells, hidden, dropout)
