from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from central_differences import check
from torch import nn

from pipeline.attribution import COMPOSITES


class Block(nn.Module):
    """A transformer block of PyTorch's own parts."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 10), nn.GELU(), nn.Dropout(0.1), nn.Linear(10, width))

    def forward(self, x):
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class TinyTransformer(nn.Module):
    """Patches, class token, positions, two blocks, head."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 5, width))
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def of_timm() -> nn.Module:
    transformer = pytest.importorskip("timm.models.vision_transformer")
    return transformer.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=6, depth=2, num_heads=2, num_classes=3, init_values=0.5
    )


@pytest.mark.parametrize("without_biases", [False, True])
@pytest.mark.parametrize("attention", ["values", "shared"])
@pytest.mark.parametrize("make", [TinyTransformer, of_timm])
def test_transformers(make, attention, without_biases, scrambled, pixels):
    composite = replace(COMPOSITES["epsilon"], attention=attention)
    check(scrambled(make(), 4), pixels(2, 3, 8, 8), composite, without_biases=without_biases)
