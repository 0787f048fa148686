"""Pictures for people: image tiles, heatmaps, outlined masks, sheets of them, scatter plots."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from .atomic import atomic_path

TILE = 96
GAP = 4
LABEL_WIDTH = 112
FADED_BLUR = 0.04
"""Deviation of the Gaussian that smooths a heatmap before it decides what stays, as a share of the tile's side."""
FADED_STRENGTH = 0.2
"""What is left of the difference to white where an image is faded."""
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
"""Told apart by people with any colour vision (Okabe and Ito 2008)."""


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


def faded(x: np.ndarray, heatmap: np.ndarray, threshold: float = 0.2, size: int = TILE) -> Image.Image:
    """Return an image tile that fades to white except where a heatmap is strong, and a line around that region.

    Args:
        x: `[C, H, W]` in [0, 1].
        heatmap: `[H, W]`, any sides; it is enlarged to the tile, negative values count as 0, and it is smoothed.
        threshold: share in (0, 1) of the smoothed heatmap's maximum beyond which the image stays as it is. A heatmap
            without positive values leaves nothing.
        size: side of the tile in pixels.
    """
    from scipy.ndimage import binary_dilation, gaussian_filter

    positive = Image.fromarray(np.clip(np.nan_to_num(heatmap), 0, None).astype(np.float32))
    large = np.array(positive.resize((size, size), Image.Resampling.BILINEAR))
    smooth = gaussian_filter(large, FADED_BLUR * size)
    strong = smooth > threshold * max(float(smooth.max()), 1e-30)
    tile = np.array(to_image(x, size)).astype(np.float32)
    tile[~strong] = 255 - FADED_STRENGTH * (255 - tile[~strong])
    tile[binary_dilation(strong, iterations=2) & ~strong] = (0, 0, 0)
    return Image.fromarray(tile.round().astype(np.uint8))


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Return tiles arranged in rows on white."""
    columns = max(len(row) for row in rows)
    width, height = columns * (TILE + GAP) + GAP, len(rows) * (TILE + GAP) + GAP
    page = Image.new("RGB", (width, height), "white")
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            page.paste(tile, (GAP + j * (TILE + GAP), GAP + i * (TILE + GAP)))
    return page


def labelled_sheet(rows: dict[str, list[Image.Image]]) -> Image.Image:
    """Return tiles arranged in rows on white, each row with its name on the left; "\\n" in a name breaks the line."""
    from PIL import ImageDraw, ImageFont

    tiles = sheet(list(rows.values()))
    page = Image.new("RGB", (LABEL_WIDTH + tiles.width, tiles.height), "white")
    page.paste(tiles, (LABEL_WIDTH, 0))
    draw = ImageDraw.Draw(page)
    for number, name in enumerate(rows):
        middle = GAP + number * (TILE + GAP) + TILE // 2
        draw.multiline_text((GAP, middle), name, "black", ImageFont.load_default(12), anchor="lm")
    return page


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def scatter_image(points: np.ndarray, groups: np.ndarray, named: dict[int, str], title: str) -> Image.Image:
    """Return a scatter plot of points `[N, 2]`, coloured by group number `[N]`; `named` ones bear a ring and a text.

    Seven groups have a colour of their own; all others are grey.
    """
    from textwrap import fill

    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    axes = figure.subplots()
    colors = np.array([*COLORS, "#9aa5b1"])[np.minimum(groups, len(COLORS))]
    axes.scatter(*points.T, s=14, c=colors, linewidths=0)
    for index, text in named.items():
        axes.scatter(*points[index], s=60, facecolors="none", edgecolors="black", linewidths=1)
        axes.annotate(text, points[index], xytext=(5, 5), textcoords="offset points", fontsize=9)
    axes.set(xticks=[], yticks=[])
    axes.set_title(fill(title, 60), fontsize=9)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return Image.open(buffer).convert("RGB")
