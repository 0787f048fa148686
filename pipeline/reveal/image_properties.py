"""Simple properties of images and signals, one number per sample: what a classifier could use without any concept."""

from __future__ import annotations

import numpy as np

RIM = 0.1
"""Width of the rim, and side of a corner, as a share of the shorter side."""
TINY = 1e-8
"""Keeps logarithms and ratios of constant samples finite; far below what 8 bits resolve."""
CASTS = ("red cast", "green cast", "blue cast")
SIGNAL_NAMES = ("mean", "spread", "high frequencies")


def property_names(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return what `measure` measures of samples of a shape `(C, H, W)` or `(C, T)`; colors of three channels alone."""
    if len(shape) == 2:
        return SIGNAL_NAMES
    colors = (*CASTS, "saturation") if shape[0] == 3 else ()
    return ("brightness", "contrast", "sharpness", "dark border", "dark corners", *colors)


def measure(x: np.ndarray) -> np.ndarray:
    """Return the properties `[N, P]`, float64, in the order of `property_names`.

    Args:
        x: images `[N, C, H, W]` or signals `[N, C, T]` in [0, 1].
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim == 3:
        return np.column_stack([brightness(x), spread(x), high_frequencies(x)])
    columns = [brightness(x), contrast(x), sharpness(x), dark_border(x), dark_corners(x)]
    if x.shape[1] == 3:
        columns += [*color_cast(x).T, saturation(x)]
    return np.column_stack(columns)


def brightness(x: np.ndarray) -> np.ndarray:
    """Return the mean `[N]` over all values of a sample `[N, C, ...]`, in [0, 1]."""
    return x.reshape(len(x), -1).mean(1)


def contrast(images: np.ndarray) -> np.ndarray:
    """Return the standard deviation `[N]` over the pixels of grey images, in [0, 0.5]; of `[N, C, H, W]`."""
    return _grey(images).std((1, 2))


def color_cast(images: np.ndarray) -> np.ndarray:
    """Return how much each channel's mean exceeds the mean over channels `[N, C]`, in [-1, 1]; rows sum to 0."""
    means = images.mean((2, 3))
    return means - means.mean(1, keepdims=True)


def saturation(images: np.ndarray) -> np.ndarray:
    """Return the mean distance `[N]` between a pixel's largest and smallest channel, in [0, 1]; grey images have 0."""
    return (images.max(1) - images.min(1)).mean((1, 2))


def sharpness(images: np.ndarray) -> np.ndarray:
    """Return log10 of the variance `[N]` of the Laplacian (4 neighbours, inner pixels), at least -8; low = blurred.

    Images `[N, C, H, W]` with a side below 3 pixels have no inner pixels, and the lowest value.
    """
    grey = _grey(images)
    if min(grey.shape[1:]) < 3:
        return np.full(len(grey), np.log10(TINY))
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return np.log10((around - 4 * grey[:, 1:-1, 1:-1]).var((1, 2)) + TINY)


def dark_border(images: np.ndarray) -> np.ndarray:
    """Return how much darker the rim is than the middle `[N]`, in [-1, 1]; the rim is a tenth of the shorter side."""
    grey = _grey(images)
    inside = np.zeros(grey.shape[1:], dtype=bool)
    width = _rim_width(grey)
    inside[width:-width, width:-width] = True
    return _middle(grey) - grey[:, ~inside].mean(1)


def dark_corners(images: np.ndarray) -> np.ndarray:
    """Return how much darker the four corners are than the middle `[N]`, in [-1, 1]; as a vignette makes them."""
    grey = _grey(images)
    width = _rim_width(grey)
    near = np.r_[0:width, -width:0]
    return _middle(grey) - grey[:, near][:, :, near].mean((1, 2))


def spread(signals: np.ndarray) -> np.ndarray:
    """Return the standard deviation over time `[N]`, averaged over the leads of signals `[N, C, T]`; in [0, 0.5]."""
    return signals.std(2).mean(1)


def high_frequencies(signals: np.ndarray) -> np.ndarray:
    """Return the energy of steps over the signal's `[N]`, averaged over leads: 1 for white noise, 0 for slow waves.

    mean (x[t+1] - x[t])^2 / (2 var x), which is 1 - the correlation of neighbouring values; at most 2. Constant leads
    count as 0.
    """
    steps = (np.diff(signals, axis=2) ** 2).mean(2)
    return (steps / np.maximum(2 * signals.var(2), TINY)).mean(1)


def _grey(images: np.ndarray) -> np.ndarray:
    """Return the mean over channels `[N, H, W]`."""
    return images.mean(1)


def _rim_width(grey: np.ndarray) -> int:
    return max(1, round(RIM * min(grey.shape[1:])))


def _middle(grey: np.ndarray) -> np.ndarray:
    """Return the mean `[N]` over the middle half of both sides."""
    height, width = grey.shape[1:]
    return grey[:, height // 4 : -(height // 4) or None, width // 4 : -(width // 4) or None].mean((1, 2))
