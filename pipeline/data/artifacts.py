"""Controlled artifacts: pure functions that plant a known shortcut in an image and say where.

Each takes an image (float32 `[C, H, W]`, values in [0, 1], C = 1 or 3), a generator, the parameters of its
configuration class and the class that it should speak for, and returns the changed copy with the mask of what it
painted (booleans `[H, W]`). Most artifacts look the same whatever the class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..config.data import (
    AttackConfig,
    ClassMarkAttack,
    GlyphAttack,
    PatchAttack,
    TextAttack,
    TintAttack,
    VignetteAttack,
)
from ..errors import ConfigError, nearest
from .randomness import generator

Painted = tuple[np.ndarray, np.ndarray]


class Spoken(NamedTuple):
    """The class that an artifact speaks for, and of how many."""

    label: int
    classes: int


ALONE = Spoken(0, 1)


PATCH_SMALLEST = 3.0
"""Diameter in pixels below which a disc would not look like one."""
PATCH_RIM = 0.3
"""Outer share of the radius over which a patch darkens, as its edge lies in shadow."""
PATCH_SHADOW = 0.4
"""How much darker the outermost edge of a patch is."""
PATCH_NOISE = 0.02
"""Standard deviation of a patch's brightness from pixel to pixel."""


def apply_artifact(x: np.ndarray, params: AttackConfig, seed: int, sample_id: str, spoken: Spoken = ALONE) -> Painted:
    """Plant the artifact in one image; the same seed and sample id give the same picture in every run and order.

    Args:
        x: image `[C, H, W]`, values in [0, 1]; it is left as it is.
        params: section `data.attack`; its kind chooses the artifact.
        seed: seed of the artifact.
        sample_id: stable name of the sample.
        spoken: the class that the artifact speaks for; matters only to those that tell classes apart.

    Returns:
        The changed copy, float32 in [0, 1], and the mask `[H, W]` of the artifact.

    Raises:
        ConfigError: for an unknown kind, for anything but an image, and when the artifact does not fit the image.
    """
    if params.kind not in ARTIFACTS:
        raise ConfigError(
            f"data.attack.kind is '{params.kind}'; known artifacts are {', '.join(ARTIFACTS)}."
            + nearest(params.kind, list(ARTIFACTS))
        )
    if x.ndim != 3:
        raise ConfigError(
            f"data.attack.kind '{params.kind}' paints on images [C, H, W], but sample '{sample_id}' has shape "
            f"{list(x.shape)}. Remove data.attack, or choose image data."
        )
    return ARTIFACTS[params.kind](x, generator(seed, params.kind, sample_id), params, spoken)


def glyph(x: np.ndarray, rng: np.random.Generator, params: GlyphAttack, spoken: Spoken) -> Painted:
    """Stamp an opaque square with a bright plus sign on black near a corner. Mask: the square.

    The margin holds at all four borders; where the image leaves less room than the jitter, the jitter is cut to it.
    """
    height, width = x.shape[1:]
    room = np.array([height, width]) - params.size - 2 * params.margin
    if room.min() < 0:
        raise ConfigError(
            f"data.attack.size {params.size} with margin {params.margin} on both sides does not fit an image of "
            f"{height} x {width} pixels: size + 2 x margin may be at most {min(height, width)}. Make one of them "
            "smaller, or data.image_size larger."
        )
    shift = rng.integers(0, np.minimum(room, params.jitter), endpoint=True)
    window = _window(params.corner, x.shape, (params.size, params.size), params.margin + shift)
    mask = np.zeros((height, width), dtype=bool)
    mask[window] = True
    stamped = x.copy()
    stamped[(slice(None), *window)] = np.float32(params.value) * _plus_sign(params.size)
    return stamped, mask


def text(x: np.ndarray, rng: np.random.Generator, params: TextAttack, spoken: Spoken) -> Painted:
    """Write letters near a corner, made smaller where the line would not fit. Mask: every pixel that ink touches."""
    height, width = x.shape[1:]
    margin = max(1, round(0.02 * min(height, width)))
    ink = _letters(params.text, params.height * height, width - 2 * margin, height - 2 * margin)
    room = np.array([height, width]) - ink.shape - 2 * margin
    reach = np.floor(params.jitter * np.array([height, width])).astype(int)
    shift = rng.integers(0, np.minimum(room, reach), endpoint=True)
    coverage = np.zeros((height, width), dtype=np.float32)
    coverage[_window(params.corner, x.shape, ink.shape, margin + shift)] = ink
    return _blend(x, coverage, params.value), coverage > 0


def vignette(x: np.ndarray, rng: np.random.Generator, params: VignetteAttack, spoken: Spoken) -> Painted:
    """Blacken everything outside a centred circle, with one pixel of transition. Mask: all that is darkened."""
    height, width = x.shape[1:]
    centre = (height - 1) / 2, (width - 1) / 2
    radius = params.radius * (1 + params.jitter * rng.uniform(-1, 1)) * min(height, width) / 2
    # However large the drawn radius, the corners stay black.
    radius = min(radius, math.hypot(*centre) - 0.5)
    rim = 1 - _disc(x.shape, centre, radius)[0]
    return _blend(x, rim, 0.0), rim > 0


def tint(x: np.ndarray, rng: np.random.Generator, params: TintAttack, spoken: Spoken) -> Painted:
    """Blend the whole image towards one colour. Mask: everything."""
    color = _color(params.color, len(x))[:, None, None]
    mask = np.ones(x.shape[1:], dtype=bool)
    return _blend(x, np.float32(params.alpha), color), mask


def patch(x: np.ndarray, rng: np.random.Generator, params: PatchAttack, spoken: Spoken) -> Painted:
    """Stick a coloured disc on the image, near one of the four borders. Mask: every pixel that the disc touches.

    It touches the border on average; jittered in place, it hangs over or keeps off by up to `jitter` of its radius.
    """
    height, width = x.shape[1:]
    color = _color(params.color, len(x))[:, None, None]
    side = min(height, width)
    diameter = params.diameter * (1 + params.jitter * rng.uniform(-1, 1)) * side
    radius = min(max(diameter, PATCH_SMALLEST), side) / 2
    depth = radius * (1 + params.jitter * rng.uniform(-1, 1)) - 0.5
    border, along = rng.integers(4), rng.uniform()
    length, across = (width, height) if border < 2 else (height, width)
    place = radius - 0.5 + along * (length - 2 * radius)
    depth = depth if border % 2 == 0 else across - 1 - depth
    centre = (depth, place) if border < 2 else (place, depth)
    coverage, distance = _disc(x.shape, centre, radius)
    shadow = PATCH_SHADOW * np.clip((distance / radius - (1 - PATCH_RIM)) / PATCH_RIM, 0, 1)
    noise = PATCH_NOISE * rng.standard_normal((height, width), dtype=np.float32)
    return _blend(x, coverage, color * (1 - shadow) + noise), coverage > 0


def class_mark(x: np.ndarray, rng: np.random.Generator, params: ClassMarkAttack, spoken: Spoken) -> Painted:
    """Put a bright square at the border; classes have places of their own, clockwise from the top left. Mask: it."""
    height, width = x.shape[1:]
    places = _border_places(height - params.size, width - params.size)
    apart = len(places) // spoken.classes
    if apart < params.size + 1:
        raise ConfigError(
            f"data.attack.size {params.size} leaves no room for {spoken.classes} separate places at the border of an "
            f"image of {height} x {width} pixels. Make it smaller, or data.image_size larger."
        )
    top, left = places[spoken.label * apart]
    window = slice(top, top + params.size), slice(left, left + params.size)
    mask = np.zeros((height, width), dtype=bool)
    mask[window] = True
    marked = x.copy()
    marked[(slice(None), *window)] = np.float32(params.value)
    return marked, mask


def _border_places(down: int, across: int) -> list[tuple[int, int]]:
    """Return the rows and columns along a rectangle's border, clockwise from (0, 0)."""
    if min(down, across) < 1:
        return []
    upper, lower = [(0, column) for column in range(across)], [(down, column) for column in range(across, 0, -1)]
    right, left = [(row, across) for row in range(down)], [(row, 0) for row in range(down, 0, -1)]
    return upper + right + lower + left


ARTIFACTS: dict[str, Callable[..., Painted]] = {
    "glyph": glyph,
    "text": text,
    "vignette": vignette,
    "tint": tint,
    "patch": patch,
    "class_mark": class_mark,
}


def _blend(x: np.ndarray, coverage: np.ndarray, paint: np.ndarray | float) -> np.ndarray:
    """Return a float32 copy in [0, 1]: `paint` where coverage `[H, W]` is 1, the image where it is 0."""
    return np.clip(x + coverage * (paint - x), 0, 1).astype(np.float32)


def _window(corner: str, shape: tuple[int, ...], size: tuple[int, int], offset: np.ndarray) -> tuple[slice, slice]:
    """Return rows and columns of a box of `size` that keeps `offset` pixels (down, across) from the named corner."""
    (height, width), (box_height, box_width), (down, across) = shape[1:], size, offset
    top = down if corner.startswith("top") else height - box_height - down
    left = across if corner.endswith("left") else width - box_width - across
    return slice(top, top + box_height), slice(left, left + box_width)


def _plus_sign(size: int) -> np.ndarray:
    """Return a plus sign as booleans `[size, size]`; its bars take a fifth of the size, and lie in the middle."""
    bar = max(1, round(size / 5))
    bar += (size - bar) % 2
    middle = slice((size - bar) // 2, (size + bar) // 2)
    mask = np.zeros((size, size), dtype=bool)
    mask[middle] = mask[:, middle] = True
    return mask


@lru_cache(maxsize=64)
def _letters(line: str, letter_height: float, most_width: int, most_height: int) -> np.ndarray:
    """Return the coverage of a line of text in [0, 1], cropped to its ink: about `letter_height` pixels high, or less.

    The line is drawn several times larger and then reduced, so that any height is met; letters of a few pixels blur.
    """
    font = ImageFont.load_default(size=max(32.0, 4 * letter_height))
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), line, font=font)
    canvas = Image.new("L", (max(1, math.ceil(right - left)), max(1, math.ceil(bottom - top))))
    ImageDraw.Draw(canvas).text((-left, -top), line, fill=255, font=font)
    if canvas.getbbox() is None:
        raise ConfigError(f"data.attack.text {line!r} leaves no ink. Write at least one visible letter.")
    canvas = canvas.crop(canvas.getbbox())
    scale = min(letter_height / canvas.height, most_width / canvas.width, most_height / canvas.height)
    size = max(1, round(canvas.width * scale)), max(1, round(canvas.height * scale))
    coverage = np.asarray(canvas.resize(size, Image.Resampling.HAMMING), dtype=np.float32) / 255
    coverage.setflags(write=False)
    return coverage


def _disc(shape: tuple[int, ...], centre: tuple[float, float], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the coverage `[H, W]` of a disc, its edge one pixel soft, and every pixel's distance to the centre.

    Coverage comes in steps of 1/255: a mask of what is covered then never holds pixels that stay what they were.
    """
    rows, columns = np.ogrid[: shape[1], : shape[2]]
    distance = np.hypot(rows - centre[0], columns - centre[1]).astype(np.float32)
    coverage = np.clip(np.float32(radius + 0.5) - distance, 0, 1)
    return np.round(255 * coverage) / 255, distance


def _color(color: tuple[float, ...], channels: int) -> np.ndarray:
    """Return one value per channel; a single channel takes the mean of the colour, a single value serves all."""
    if channels == 1:
        return np.array([np.mean(color)], dtype=np.float32)
    if len(color) not in (1, channels):
        raise ConfigError(
            f"data.attack.color has {len(color)} values, the images have {channels} channels. "
            f"Give 1 or {channels} values in [0, 1]."
        )
    return np.broadcast_to(np.array(color, dtype=np.float32), (channels,))
