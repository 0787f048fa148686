"""A small convolutional network for small images; trains in seconds on a CPU."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def small_cnn(classes: int, channels: int, width: int = 16, blocks: int = 3, grid: int = 4) -> nn.Module:
    """Return `blocks` times convolution, BatchNorm, ReLU, pooling; then average pooling to a grid and a linear layer.

    Args:
        classes: number of logits.
        channels: channels of the input.
        width: channels of the first block; doubled by each following block.
        grid: cells along each side that the linear layer sees.
        blocks: number of blocks; all but the last halve the resolution.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = channels
    for block in range(1, blocks + 1):
        outputs = width * 2 ** (block - 1)
        layers[f"conv{block}"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        layers[f"norm{block}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{block}"] = nn.ReLU()
        if block < blocks:
            layers[f"pool{block}"] = nn.MaxPool2d(2)
        inputs = outputs
    layers["average"] = nn.AdaptiveAvgPool2d(grid)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(inputs * grid**2, classes)
    return nn.Sequential(layers)
