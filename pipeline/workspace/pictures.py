"""Pictures for people: image tiles, heatmaps, outlined masks, sheets of them, scatter plots."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont

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
RED, BLUE = (178, 24, 43), (33, 102, 172)
"""Ends of the scale of heatmaps, also told apart by people with any colour vision (ColorBrewer RdBu)."""
YELLOW = (255, 214, 0)


def to_image(x: np.ndarray, size: int = TILE) -> Image.Image:
    """Return an image `[C, H, W]` in [0, 1] as an RGB tile; small images are enlarged without smoothing.

    Of two channels the first is shown, of more than three the first three.
    """
    pixels = (np.clip(x, 0, 1) * 255).round().astype(np.uint8)
    pixels = np.repeat(pixels[:1], 3, axis=0) if len(pixels) < 3 else pixels[:3]
    resample = Image.Resampling.NEAREST if max(x.shape[1:]) < size else Image.Resampling.LANCZOS
    return Image.fromarray(pixels.transpose(1, 2, 0)).resize((size, size), resample)


def heatmap_image(heatmap: np.ndarray, size: int = TILE, scale: float | None = None) -> Image.Image:
    """Return a signed heatmap `[H, W]` in blue (against), white (nothing) and red (for).

    Args:
        heatmap: any values; nan is drawn white.
        size: side of the tile in pixels.
        scale: what the strongest colour stands for, so that several heatmaps can share it; 0 leaves all white. None
            takes the 99.5th percentile of the absolute values.
    """
    scale = heatmap_scale(heatmap) if scale is None else scale
    colors = Image.fromarray(_diverging(heatmap / scale if scale > 0 else np.zeros_like(heatmap)))
    resample = Image.Resampling.NEAREST if max(heatmap.shape) < size else Image.Resampling.BILINEAR
    return colors.resize((size, size), resample)


def heatmap_scale(*heatmaps: np.ndarray) -> float:
    """Return what the strongest colour stands for in heatmaps of one scale: the 99.5th percentile of all magnitudes."""
    scale = float(np.percentile(np.abs(np.concatenate([each.ravel() for each in heatmaps])), 99.5))
    return scale if np.isfinite(scale) else 0.0


def color_bar(scale: float, height: int, width: int = 90) -> Image.Image:
    """Return the colours of heatmaps as an upright strip, with the values of its ends and its middle on the right."""
    from PIL import ImageDraw

    bar, margin, letters = 14, 8, 12
    page = Image.new("RGB", (width, height), "white")
    colors = _diverging(np.linspace(1, -1, height - 2 * margin)[:, None].repeat(bar, 1))
    page.paste(Image.fromarray(colors), (0, margin))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, margin, bar - 1, height - margin - 1), outline="black")
    for share, value in ((0.0, scale), (0.5, 0.0), (1.0, -scale)):
        place = margin + round(share * (height - 2 * margin - 1))
        draw.line((bar, place, bar + 3, place), "black")
        text = f"{value:+.2g}".replace("-", "\N{MINUS SIGN}") if value else "0"
        draw.text((bar + 6, place), text, "black", letter_font(letters), anchor="lm")
    return page


def _diverging(strength: np.ndarray) -> np.ndarray:
    """Return the colours `[..., 3]` of strengths: -1 and less blue, 0 white, 1 and more red, nan white."""
    strength = np.clip(np.nan_to_num(strength, nan=0.0), -1, 1)[..., None]
    color = np.where(strength >= 0, np.array(RED), np.array(BLUE)) / 255
    return ((1 - np.abs(strength) * (1 - color)) * 255).round().astype(np.uint8)


def outlined(x: np.ndarray, mask: np.ndarray, size: int = TILE) -> Image.Image:
    """Return an image tile with the border of a mask `[H, W]` drawn in yellow, and a black line around that."""
    from scipy.ndimage import binary_dilation, binary_erosion

    tile = np.array(to_image(x, size))
    large = np.array(Image.fromarray(mask.astype(np.uint8) * 255).resize((size, size), Image.Resampling.NEAREST)) > 127
    tile[binary_dilation(large) & ~large] = (0, 0, 0)
    tile[large & ~binary_erosion(large, iterations=2)] = YELLOW
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
    from PIL import ImageDraw

    tiles = sheet(list(rows.values()))
    page = Image.new("RGB", (LABEL_WIDTH + tiles.width, tiles.height), "white")
    page.paste(tiles, (LABEL_WIDTH, 0))
    draw = ImageDraw.Draw(page)
    for number, name in enumerate(rows):
        middle = GAP + number * (TILE + GAP) + TILE // 2
        draw.multiline_text((GAP, middle), name, "black", ImageFont.load_default(12), anchor="lm")
    return page


def tile_size(side: int, wanted: int = 160) -> int:
    """Return the side of tiles for images of a side: of small ones a multiple, so that their pixels stay squares."""
    return side * round(wanted / side) if 2 * side <= wanted else wanted


def letter_font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return a font that has the letters of most languages, and arrows."""
    from matplotlib import get_data_path

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf" / name), size)


def text_tile(
    text: str, width: int, *, letters: int = 12, bold: bool = False, color: str = "black", middle: bool = True
) -> Image.Image:
    """Return text on white, as high as it needs; lines that are too long are broken, words that are too long cut.

    Args:
        text: "\\n" starts a new line; "" gives no height.
        width: of the tile in pixels.
        letters: height of the letters in pixels.
        bold, color: of the letters.
        middle: whether lines stand in the middle, not on the left.
    """
    from PIL import ImageDraw

    font = letter_font(letters, bold=bold)
    lines = [line for part in text.split("\n") for line in _broken(part, width, font)] if text else []
    step = round(letters * 1.35)
    page = Image.new("RGB", (width, step * len(lines)), "white")
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        place = (width / 2 if middle else 0, step * number + step / 2)
        draw.text(place, line, color, font, anchor="mm" if middle else "lm")
    return page


def _broken(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Return the lines of a paragraph."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(_shortened(word, width, font))
        else:
            lines[-1] = _shortened(longer, width, font)
    return lines


def _shortened(word: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    if font.getlength(word) <= width:
        return word
    while word and font.getlength(f"{word}…") > width:
        word = word[:-1]
    return f"{word}…"


def stacked(parts: list[Image.Image], gap: int = 2) -> Image.Image:
    """Return pictures below one another, on white, their middles in one line."""
    width = max(part.width for part in parts)
    height = sum(part.height for part in parts) + gap * (len(parts) - 1)
    page, top = Image.new("RGB", (width, max(height, 1)), "white"), 0
    for part in parts:
        page.paste(part, ((width - part.width) // 2, top))
        top += part.height + gap
    return page


def arranged(rows: list[list[Image.Image]], gap: int = 8) -> Image.Image:
    """Return pictures of any sizes in a table on white: columns as wide, rows as high as their largest one needs.

    Every picture begins at the upper left of its cell.
    """
    columns = max(len(row) for row in rows)
    widths = [max((row[place].width for row in rows if place < len(row)), default=0) for place in range(columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    page = Image.new("RGB", (sum(widths) + gap * (columns + 1), sum(heights) + gap * (len(rows) + 1)), "white")
    top = gap
    for row, height in zip(rows, heights, strict=True):
        left = gap
        for cell, width in zip(row, widths, strict=False):
            page.paste(cell, (left, top))
            left += width + gap
        top += height + gap
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
