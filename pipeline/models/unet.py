"""A small U-Net, and the losses by which it learns to tell foreground from background."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.errors import ConfigError

LEAST_SIDE = 2
"""Positions along each side that the coarsest map keeps: batch statistics need more than one, also of one image."""
CERTAIN = 10.0
"""A logit whose sigmoid is 1 but for 5e-5."""
LIKELY = 3.0
"""The first logit of all pixels: while little is learned, nearly everything is foreground."""


class UNet(nn.Module):
    """Encoder and decoder joined at every resolution: images `[N, C, H, W]` -> logits of the foreground `[N, 1, H, W]`.

    Every level has two 3 x 3 convolutions, each with BatchNorm and ReLU. Going down, pooling halves the sides (rounded
    up) and channels double; going up, the map is enlarged to the size of the level, convolved, and joined with what
    the encoder had there. Any size of images will do. Ronneberger et al. 2015, with padding, so that sizes stay.

    Args:
        channels: of the images.
        width: channels of the finest level.
        depth: how often the sides are halved.
    """

    def __init__(self, channels: int, width: int, depth: int):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            _two_convolutions(taken, given) for taken, given in zip([channels, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        steps = list(zip(widths, widths[1:], strict=False))[::-1]
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 3, padding=1) for fine, coarse in steps)
        self.decoder = nn.ModuleList(_two_convolutions(2 * fine, fine) for fine, _ in steps)
        self.last = nn.Conv2d(width, 1, 1)
        nn.init.constant_(self.last.bias, LIKELY)

    @property
    def deepest(self) -> int:
        """Channels of the coarsest map."""
        return self.encoder[-1][0].out_channels

    def encode(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps of all levels, the finest first."""
        maps = []
        for level, convolutions in enumerate(self.encoder):
            x = convolutions(self.pool(x) if level else x)
            maps.append(x)
        return maps

    def decode(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return logits of the foreground `[N, 1, H, W]` from the maps of all levels."""
        x = maps[-1]
        for up, convolutions, skipped in zip(self.up, self.decoder, maps[-2::-1], strict=True):
            enlarged = up(F.interpolate(x, size=skipped.shape[2:], mode="nearest"))
            x = convolutions(torch.cat([skipped, enlarged], 1))
        return self.last(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of the foreground `[N, 1, H, W]`."""
        return self.decode(self.encode(x))

    def see_foreground_everywhere(self) -> None:
        """Make every pixel foreground, whatever the image, in place."""
        nn.init.zeros_(self.last.weight)
        nn.init.constant_(self.last.bias, CERTAIN)


def _two_convolutions(taken: int, given: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(taken, given, 3, padding=1, bias=False), nn.BatchNorm2d(given), nn.ReLU(),
        nn.Conv2d(given, given, 3, padding=1, bias=False), nn.BatchNorm2d(given), nn.ReLU(),
    )  # fmt: skip


def usable_depth(shape: Sequence[int], depth: int) -> int:
    """Return how often the sides of images can be halved, at most `depth` times, until one is `LEAST_SIDE`.

    Args:
        shape: of one image, `(C, H, W)`.

    Raises:
        ConfigError: it is no image.
    """
    if len(shape) != 3:
        raise ConfigError(
            f"mitigate.methods: a U-Net needs images [C, H, W], but samples have the shape {list(shape)}. "
            "Leave out unet_classifier and multi_task_unet."
        )
    side, halvings = min(shape[1:]), 0
    while halvings < depth and (side := -(-side // 2)) >= LEAST_SIDE:
        halvings += 1
    return halvings


def dice_loss(probability: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Return 1 - (2 sum(p r) + 1) / (sum p + sum r + 1), in [0, 1): 0 where they agree. Milletari et al. 2016.

    The sums go over all samples: one by one, those without the region would have a loss near 1 for a few wrong pixels.
    The ones make a region that is nowhere, and found nowhere, perfect.

    Args:
        probability: `[N, 1, H, W]` in [0, 1].
        region: `[N, 1, H, W]` in [0, 1].
    """
    return 1 - (2 * (probability * region).sum() + 1) / (probability.sum() + region.sum() + 1)


def segmentation_loss(logits: torch.Tensor, foreground: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return binary cross-entropy + Dice loss of the samples whose foreground is known; 0 where there are none.

    The Dice loss is the mean of that of the foreground and that of the background: an artifact is small, and without
    its own loss a segmenter that never sees it would be nearly right.

    Args:
        logits: of the foreground `[N, 1, H, W]`.
        foreground: `[N, 1, H, W]` in [0, 1].
        present: whose foreground is known, booleans `[N]`.
    """
    if not present.any():
        return logits.sum() * 0.0
    logits, foreground = logits[present], foreground[present]
    found = logits.sigmoid()
    overlap = (dice_loss(found, foreground) + dice_loss(1 - found, 1 - foreground)) / 2
    return F.binary_cross_entropy_with_logits(logits, foreground) + overlap
