from __future__ import annotations

import pytest
import torch

from pipeline.models.small_cnn import small_cnn
from pipeline.models.trace import trace_layers


@pytest.mark.parametrize(("blocks", "side", "channels"), [(1, 8, 1), (3, 28, 1), (2, 9, 3), (4, 16, 3)])
def test_blocks_halve_the_resolution_and_double_the_channels(blocks, side, channels):
    network = small_cnn(5, channels, width=4, blocks=blocks, grid=2).eval()
    x = torch.rand(2, channels, side, side)
    shapes = {layer.name: layer.shape for layer in trace_layers(network, x)}
    assert network(x).shape == (2, 5)
    for block in range(1, blocks + 1):
        resolution = side // 2 ** (block - 1)
        assert shapes[f"relu{block}"] == (4 * 2 ** (block - 1), resolution, resolution)
    assert shapes["average"] == (4 * 2 ** (blocks - 1), 2, 2)
    assert "pool" + str(blocks) not in dict(network.named_children())
