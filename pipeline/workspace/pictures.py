"""Pictures for people: image tiles, heatmaps, outlined masks, sheets of them, scatter plots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from .atomic import atomic_path

TILE = 96
GAP = 4


def to_image(x: np.ndarray, size: int = TILE) -> Image.Image:
    """Return an image `[C, H, W]` in [0, 1] as an RGB tile; small images are enlarged without smoothing.

    Of two channels the first is shown, of more than three the first three.
    """
    pixels = (np.clip(x, 0, 1) * 255).round().astype(np.uint8)
    pixels = np.repeat(pixels[:1], 3, axis=0) if len(pixels) < 3 else pixels[:3]
    resample = Image.Resampling.NEAREST if max(x.shape[1:]) < size else Image.Resampling.LANCZOS
    return Image.fromarray(pixels.transpose(1, 2, 0)).resize((size, size), resample)


def heatmap_image(heatmap: np.ndarray, size: int = TILE) -> Image.Image:
    """Return a signed heatmap `[H, W]` in blue (against), white (nothing) and red (for).

    The strongest colour stands for the 99.5th percentile of the absolute values.
    """
    scale = np.percentile(np.abs(heatmap), 99.5)
    strength = np.clip(heatmap / scale, -1, 1) if scale > 0 else np.zeros_like(heatmap)
    red = np.array([178, 24, 43]) / 255
    blue = np.array([33, 102, 172]) / 255
    color = np.where(strength[..., None] >= 0, red, blue)
    rgb = 1 - np.abs(strength)[..., None] * (1 - color)
    resample = Image.Resampling.NEAREST if max(heatmap.shape) < size else Image.Resampling.BILINEAR
    return Image.fromarray((rgb * 255).round().astype(np.uint8)).resize((size, size), resample)


def outlined(x: np.ndarray, mask: np.ndarray, size: int = TILE) -> Image.Image:
    """Return an image tile with the border of a mask `[H, W]` drawn in yellow."""
    from scipy.ndimage import binary_erosion

    tile = np.array(to_image(x, size))
    large = np.array(Image.fromarray(mask.astype(np.uint8) * 255).resize((size, size), Image.Resampling.NEAREST)) > 127
    border = large & ~binary_erosion(large, iterations=2)
    tile[border] = (255, 214, 0)
    return Image.fromarray(tile)


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Return tiles arranged in rows on white."""
    columns = max(len(row) for row in rows)
    width, height = columns * (TILE + GAP) + GAP, len(rows) * (TILE + GAP) + GAP
    page = Image.new("RGB", (width, height), "white")
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            page.paste(tile, (GAP + j * (TILE + GAP), GAP + i * (TILE + GAP)))
    return page


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def embedding_plot(points: np.ndarray, members: np.ndarray, title: str, path: Path) -> None:
    """Write a scatter plot of samples `[N, 2]`, the members of the finding in colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*points[~members].T, s=9, c="#9aa5b1", label=f"others in class ({(~members).sum()})", linewidths=0)
    axes.scatter(*points[members].T, s=9, c="#b2182b", label=f"finding ({members.sum()})", linewidths=0)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
