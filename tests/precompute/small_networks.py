"""Networks small enough for tests, one for each shape of data: images, signals, tokens."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Linear(width, 2 * width)
        self.activation = nn.ReLU()
        self.second = nn.Linear(2 * width, width)

    def forward(self, x):
        return self.second(self.activation(self.first(x)))


class TokenNetwork(nn.Module):
    """Patches -> tokens `[N, T, C]` -> two blocks -> tokens `[N, H, W, C]` -> logits."""

    def __init__(self, classes: int = 3, channels: int = 1):
        super().__init__()
        self.patches = nn.Conv2d(channels, 4, 4, stride=4)
        self.blocks = nn.Sequential(Block(4), Block(4))
        self.mix = nn.Linear(4, 6)
        self.head = nn.Linear(6, classes)

    def forward(self, x):
        grid = self.patches(x)
        tokens = self.blocks(grid.flatten(2).transpose(1, 2))
        mixed = self.mix(tokens.unflatten(1, grid.shape[2:]))
        return self.head(mixed.mean((1, 2)))


class SignalNetwork(nn.Module):
    """Signals `[N, 2, T]` -> logits."""

    def __init__(self, classes: int = 3, channels: int = 2):
        super().__init__()
        self.convolution = nn.Conv1d(channels, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        return self.head(self.pool(self.relu(self.convolution(x))).flatten(1))


class ImageNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Linear(4, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.hidden(self.pool(self.relu(self.convolution(x))).flatten(1)))


SHAPES = {"images": (1, 9, 7), "signals": (2, 11), "tokens": (1, 12, 8)}


def make_case(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Return a network and a batch of 6 images or signals; the same at every call."""
    torch.manual_seed(3)
    network = {"images": ImageNetwork, "signals": SignalNetwork, "tokens": TokenNetwork}[name]()
    return network.eval(), torch.rand(6, *SHAPES[name])
