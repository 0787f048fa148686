"""Filling regions of images smoothly from what surrounds them."""

from __future__ import annotations

import torch
from torch.nn import functional as F

STEPS = 2000
TOLERANCE = 1e-5
"""Of a filled value's distance from the mean of its neighbors; values are in [0, 1]."""


def inpaint(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return images whose masked positions are filled with the membrane that the surrounding pixels span.

    The fill solves the Laplace equation: every filled value is the mean of its neighbors along the axes; at the border
    of the image nothing flows. So brightness and color go on smoothly, without texture, and no value leaves the range
    of the known ones. Positions outside the masks are not touched. An image that is masked as a whole stays as it is:
    nothing is known of what might be there.

    Args:
        images: `[N, C, H, W]`, or signals `[N, C, T]`, floating point.
        masks: `[N, 1, H, W]` or `[N, 1, T]`, nonzero = fill.

    Raises:
        ValueError: the shapes do not belong together.

    Source: harmonic inpainting, Chan and Shen, "Mathematical models for local nontexture inpaintings", 2002.
    """
    if masks.shape != (len(images), 1, *images.shape[2:]):
        raise ValueError(f"masks {list(masks.shape)} do not fit images {list(images.shape)}")
    inside = masks.bool()
    rows = [row for row, mask in enumerate(inside) if mask.any() and not mask.all()]
    if not rows:
        return images
    windows = _windows(inside[rows, 0])
    parts = torch.stack([images[row, :, *window] for row, window in zip(rows, windows, strict=True)])
    holes = torch.stack([inside[row, :, *window] for row, window in zip(rows, windows, strict=True)])
    filled = images.clone()
    for row, window, part in zip(rows, windows, _with_membrane(parts, holes), strict=True):
        filled[row, :, *window] = part
    return filled


def _windows(masks: torch.Tensor) -> list[tuple[slice, ...]]:
    """Return windows of one size, each around one of the masks `[N, ...]` and, within the image, a margin of one."""
    corners = []
    for mask in masks:
        places = mask.nonzero()
        corners.append(
            [(low - 1, high + 2) for low, high in zip(places.amin(0).tolist(), places.amax(0).tolist(), strict=True)]
        )
    windows = []
    for corner in corners:
        window = []
        for axis, (low, _) in enumerate(corner):
            whole = masks.shape[1 + axis]
            length = min(whole, max(each[axis][1] - each[axis][0] for each in corners))
            start = min(max(low, 0), whole - length)
            window.append(slice(start, start + length))
        windows.append(tuple(window))
    return windows


def _with_membrane(images: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
    """Return images `[N, C, ...]` with solved holes `[N, 1, ...]`, by conjugate gradients; the border is insulated."""
    places = tuple(range(2, images.ndim))
    hole = holes.to(images)
    fill = torch.zeros_like(images)
    rest = -hole * _differences(images.masked_fill(holes, 0))  # what the known neighbors bring in
    direction, energy = rest, (rest * rest).sum(places, keepdim=True)
    for _ in range(STEPS):
        # what is solved stays, so that an image's fill does not depend on the others in the batch
        open_ones = rest.abs().amax(places, keepdim=True) > TOLERANCE
        if not open_ones.any():
            break
        moved = hole * _differences(direction)
        step = open_ones * energy / (direction * moved).sum(places, keepdim=True).clamp(min=1e-30)
        fill, rest = fill + step * direction, rest - step * moved
        before, energy = energy, (rest * rest).sum(places, keepdim=True)
        direction = rest + energy / before.clamp(min=1e-30) * direction
    lowest = images.masked_fill(holes, torch.inf).amin(places, keepdim=True)
    highest = images.masked_fill(holes, -torch.inf).amax(places, keepdim=True)
    return torch.where(holes, fill.clamp(lowest, highest), images)


def _differences(values: torch.Tensor) -> torch.Tensor:
    """Return at every position the sum over its neighbors along the axes of the value minus the neighbor's."""
    total = torch.zeros_like(values)
    for axis in range(2, values.ndim):
        steps = values.diff(dim=axis).movedim(axis, -1)
        # a zero at either end: there is no neighbor to differ from
        total = total - F.pad(steps, (1, 1)).diff(dim=-1).movedim(-1, axis)
    return total
