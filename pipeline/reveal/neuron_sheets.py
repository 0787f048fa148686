"""What a neuron stands for, on one sheet: where it is most active, and where a class owes most relevance to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import pad

from pipeline.attribution import Explainer
from pipeline.concepts.conditional import conditional_heatmaps
from pipeline.concepts.receptive_field import Box, ReceptiveFields, output_until
from pipeline.errors import DataError
from pipeline.models.modes import evaluation_mode
from pipeline.models.trace import ChannelAxes
from pipeline.workspace.pictures import faded, heatmap_image, labelled_sheet, to_image

from .references import reference_samples
from .view import DataView

CROP_SHARE = 0.9
"""Crops show the middle of the receptive field with this share of the gradient; all of it is often the whole image."""

PADDING = 0.8
"""Grey beside crops at the border of the image, unlike the white of the sheet and of many artifacts."""


def neuron_sheets(
    data: DataView,
    explainer: Explainer,
    class_id: int,
    layer: str,
    neurons: Sequence[int],
    count: int = 8,
    *,
    fields: ReceptiveFields | None = None,
) -> list[Image.Image]:
    """Return a sheet for each neuron, from one pass over the store.

    Rows, with the strongest sample on the left: samples of any class that activate the neuron most; what the neuron
    sees of each of them where it is most active; samples of the class on which the neuron carries the largest share of
    the relevance; the conditional heatmap of each of these, and the same images faded outside of it. Samples without
    any positive activation or relevance are left out, so that rows can be short or empty.

    Args:
        data: samples to choose from.
        explainer: of `data.model`.
        class_id: whose samples, and which logit, the last three rows show.
        layer: name of a stored layer.
        neurons: channels of the layer.
        count: samples in a row.
        fields: receptive fields that are known already, made with the share that is wanted.

    Raises:
        DataError: samples are no images, or the class has none.
        ValueError: the layer has no such channel.
    """
    if len(data.dataset.shape) != 3:
        raise DataError(
            f"sheets of neurons show images [C, H, W]; the samples of this data set have shape {data.dataset.shape}."
        )
    channels = data.store.relevances(layer, data.condition, data.rows[:1]).shape[1]
    for neuron in neurons:
        if not 0 <= neuron < channels:
            raise ValueError(f"layer '{layer}' has channels 0 to {channels - 1}; {neuron} is asked for.")
    active = reference_samples(data.store, data.rows, layer, count, by="activation", neurons=neurons)
    relevant = reference_samples(
        data.store, data.rows, layer, count, condition=data.condition, class_id=class_id, neurons=neurons
    )
    fields = fields or ReceptiveFields(data.model, data.dataset.shape, share=CROP_SHARE)
    axis = ChannelAxes(data.model).of(layer, data.images(data.rows[:1]))
    sheets = []
    for place, neuron in enumerate(neurons):
        first = active.rows[place][active.values[place] > 0]
        second = relevant.rows[place][relevant.values[place] > 0]
        sheets.append(
            labelled_sheet(
                _activation_rows(data, layer, neuron, first, fields, axis)
                | _relevance_rows(data, explainer, class_id, layer, neuron, second, axis)
            )
        )
    return sheets


def most_active_positions(activation: torch.Tensor, neuron: int, channel_axis: int) -> list[tuple[int, ...]]:
    """Return for each sample the position at which a neuron is most active, the first of equals.

    Args:
        activation: `[N, C, ...positions]`, or `[N, ...positions, C]` where `channel_axis` is -1.
        neuron: which channel.
        channel_axis: 1 or -1.
    """
    maps = activation.select(channel_axis, neuron)
    flat = maps.flatten(1).argmax(1).cpu().numpy() if maps.ndim > 1 else np.zeros(len(maps), dtype=np.int64)
    return list(zip(*np.unravel_index(flat, maps.shape[1:]), strict=True)) if maps.ndim > 1 else [()] * len(maps)


def cut(x: torch.Tensor, box: Box) -> torch.Tensor:
    """Return the part of an image `[C, H, W]` that a box holds, on grey in the proportions of the image."""
    part = box.crop(x)
    height, width = part.shape[1:]
    ratio = x.shape[1] / x.shape[2]
    more = max(0, round(width * ratio) - height), max(0, round(height / ratio) - width)
    return pad(part, (more[1] // 2, more[1] - more[1] // 2, more[0] // 2, more[0] - more[0] // 2), value=PADDING)


def _activation_rows(
    data: DataView, layer: str, neuron: int, rows: np.ndarray, fields: ReceptiveFields, axis: int
) -> dict[str, list[Image.Image]]:
    images = data.images(rows)
    crops = []
    if len(rows):
        with torch.no_grad(), evaluation_mode(data.model):
            positions = most_active_positions(output_until(data.model, layer, images), neuron, axis)
        boxes = fields.boxes(layer, positions)
        crops = [to_image(cut(x, box).cpu().numpy()) for x, box in zip(images, boxes, strict=True)]
    return {"most active,\nall classes": _tiles(images), "where it is\nmost active": crops}


def _relevance_rows(
    data: DataView, explainer: Explainer, class_id: int, layer: str, neuron: int, rows: np.ndarray, axis: int
) -> dict[str, list[Image.Image]]:
    images = data.images(rows)
    heatmaps = np.empty((0, *data.dataset.shape[1:]))
    if len(rows):
        # relevance of the predicted class was compared, if that is the view's condition
        target = class_id if data.condition == "label" else None
        heatmaps = conditional_heatmaps(explainer, images, target, layer, neuron, channel_axis=axis)
    return {
        f"most relevant\nfor class\n{_shortened(data.dataset.classes[class_id])}": _tiles(images),
        "its relevance": [heatmap_image(heatmap) for heatmap in heatmaps],
        "what it sees\nof them": [faded(x.cpu().numpy(), heatmap) for x, heatmap in zip(images, heatmaps, strict=True)],
    }


def _tiles(images: torch.Tensor) -> list[Image.Image]:
    return [to_image(x.cpu().numpy()) for x in images]


def _shortened(name: str, most: int = 16) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."
