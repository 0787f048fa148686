"""Sheets of pictures: what an artifact's insertion or removal did to samples, and what a correction did to heatmaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.special import softmax

from pipeline.workspace.pictures import (
    arranged,
    color_bar,
    heatmap_image,
    heatmap_scale,
    outlined,
    stacked,
    text_tile,
    tile_size,
    to_image,
)

from .causal import Direction

NAMES_WIDTH = 124
BAR_WIDTH = 90
LEGEND = (
    "Red speaks for the explained class, blue against it, white does neither. In the difference, red stands where the "
    "corrected model finds more that speaks for it, or less against it, and blue where it finds less for it. The "
    "heatmaps of a row share the scale on their right."
)
CHANGED = "#b34700"
"""Colour of predictions that changed; they are bold, too."""
INSERTED, REMOVED = "artifact pasted in", "artifact filled in"


@dataclass(frozen=True)
class Prediction:
    """What a model says of a sample.

    Attributes:
        name: of the predicted class.
        probability: of that class, in [0, 1].
    """

    name: str
    probability: float

    def __str__(self) -> str:
        return f"{self.name} ({self.probability:.0%})"


@dataclass(frozen=True)
class Changes:
    """What one model says of samples, before and after.

    Attributes:
        model: its name.
        before, after: of every sample.
    """

    model: str
    before: list[Prediction]
    after: list[Prediction]


@dataclass(frozen=True)
class Explained:
    """Heatmaps of a model.

    Attributes:
        model: its name.
        heatmaps: signed relevance of the input `[N, H, W]`.
        predictions: of the same samples.
    """

    model: str
    heatmaps: np.ndarray
    predictions: list[Prediction]


def predictions(logits: np.ndarray, classes: tuple[str, ...]) -> list[Prediction]:
    """Return the predicted class of each row of logits `[N, K]` with its softmax probability."""
    probabilities = softmax(logits.astype(np.float64), axis=1)
    return [Prediction(classes[int(row.argmax())], float(row.max())) for row in probabilities]


def intervention_sheet(
    originals: np.ndarray,
    changed: np.ndarray,
    masks: np.ndarray,
    headings: list[str],
    changes: list[Changes],
    direction: Direction,
) -> Image.Image:
    """Return a sheet: one column for each sample, as it is and changed, and where that was.

    The region is outlined where the artifact is to be seen: in what it was pasted into, or in what it was taken from.
    Below stand the predictions of every model, before and after; those that changed are bold and orange.

    Args:
        originals: images `[N, C, H, W]` in [0, 1], N at least 1.
        changed: the same with the artifact inserted or removed.
        masks: where, booleans `[N, H, W]`.
        headings: above each column, such as the true class `[N]`.
        changes: of the models, in this order.
        direction: whether the artifact was inserted or removed.
    """
    size = tile_size(max(originals.shape[2:]))
    outline = [
        outlined(x, mask, size)
        for x, mask in zip(changed if direction == "inserted" else originals, masks, strict=True)
    ]
    asis, other = [to_image(x, size) for x in originals], [to_image(x, size) for x in changed]
    images = (
        {"as it is": asis, INSERTED: other, "what was pasted": outline}
        if direction == "inserted"
        else {"as it is": asis, "what was filled": outline, REMOVED: other}
    )
    rows = [[_name(""), *[text_tile(heading, size, bold=True) for heading in headings]]]
    rows += [[_name(name, size), *tiles] for name, tiles in images.items()]
    for each in changes:
        cells = [_change(pair, size) for pair in zip(each.before, each.after, strict=True)]
        height = max(cell.height for cell in cells)
        rows.append([_name(f"{each.model} says", height), *cells])
    return arranged(rows)


def heatmap_sheet(
    images: np.ndarray,
    captions: list[str],
    original: Explained,
    corrected: Explained,
    masks: np.ndarray | None = None,
) -> Image.Image:
    """Return a sheet: one row for each sample, with its heatmaps by two models and their difference.

    The three heatmaps of a row share one scale, whose values stand on the right; see `heatmap_scale`. Differences mean
    something only where both models' heatmaps are in the same unit, such as shares of all relevance.

    Args:
        images: `[N, C, H, W]` in [0, 1], N at least 1.
        captions: below each image, such as id, true and explained class `[N]`.
        original: heatmaps of the model under audit.
        corrected: of the same samples and classes by the corrected model.
        masks: artifacts to outline in the images, booleans `[N, H, W]`; None outlines nothing.
    """
    size = tile_size(max(images.shape[2:]))
    names = ["input", original.model, corrected.model, f"difference:\n{corrected.model} − {original.model}"]
    rows = [[*[text_tile(name, size, bold=True) for name in names], text_tile("relevance", BAR_WIDTH, middle=False)]]
    for number, image in enumerate(images):
        maps = [original.heatmaps[number], corrected.heatmaps[number]]
        maps.append(maps[1].astype(np.float64) - maps[0])
        scale = heatmap_scale(*maps)
        tile = to_image(image, size) if masks is None else outlined(image, masks[number], size)
        below = [captions[number], *[f"says {each.predictions[number]}" for each in (original, corrected)], ""]
        tiles = [tile, *[_framed(heatmap_image(each, size, scale)) for each in maps]]
        cells = [stacked([each, text_tile(text, size)]) for each, text in zip(tiles, below, strict=True)]
        rows.append([*cells, color_bar(scale, size, BAR_WIDTH)])
    page = arranged(rows)
    return stacked([page, text_tile(LEGEND, page.width - 16, middle=False), Image.new("RGB", (1, 4), "white")])


def _framed(tile: Image.Image) -> Image.Image:
    """Return a tile with a grey line at its edge, which shows where a white one ends."""
    tile = tile.copy()
    ImageDraw.Draw(tile).rectangle((0, 0, tile.width - 1, tile.height - 1), outline="#b0b0b0")
    return tile


def _name(text: str, height: int = 0) -> Image.Image:
    """Return the name of a row, in the middle of its height."""
    tile = text_tile(text, NAMES_WIDTH, middle=False)
    page = Image.new("RGB", (NAMES_WIDTH, max(height, tile.height, 1)), "white")
    page.paste(tile, (0, (page.height - tile.height) // 2))
    return page


def _change(pair: tuple[Prediction, Prediction], width: int) -> Image.Image:
    before, after = pair
    flipped = before.name != after.name
    return text_tile(f"{before}\n→ {after}", width, bold=flipped, color=CHANGED if flipped else "black")
