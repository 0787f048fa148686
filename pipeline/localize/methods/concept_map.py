"""The concept at every position of its layer, enlarged to the input: one forward pass, no attribution."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.attribution.recording import record_outputs
from pipeline.concepts.cav import Cav
from pipeline.concepts.localization import concept_start
from pipeline.errors import ConfigError
from pipeline.models.modes import evaluation_mode
from pipeline.models.trace import ChannelAxes

from .interface import Tools

INTERPOLATIONS = {1: "linear", 2: "bilinear"}


class ConceptMap:
    """max(sum over channels of max(a - baseline, 0) * direction, 0): what `concept_relevance` starts with.

    As coarse as the layer, and off by as much as its receptive fields reach.
    """

    def __init__(self, tools: Tools):
        self.model, self.baseline = tools.explainer.model, tools.config.baseline
        self.axes = ChannelAxes(self.model)

    def heatmaps(self, x: torch.Tensor, cav: Cav) -> np.ndarray:
        """Return the maps `[N, H, W]` or `[N, T]`, in units of the concept score.

        Raises:
            ConfigError: the layer has no positions, or tokens that do not lie over the input.
        """
        axis = self.axes.of(cav.layer, x)
        starts = []
        with (
            torch.no_grad(),
            evaluation_mode(self.model),
            # computed at once, because what follows may write into the layer's output
            record_outputs(
                self.model,
                [cav.layer],
                lambda _, output: starts.append(concept_start(output.movedim(axis, 1), cav, baseline=self.baseline)),
            ),
        ):
            self.model(x)
        positions = over_input(starts[0].sum(1, keepdim=True).clamp(min=0), tuple(x.shape[2:]), cav.layer)
        mode = INTERPOLATIONS[x.ndim - 2]
        enlarged = torch.nn.functional.interpolate(positions, size=x.shape[2:], mode=mode, align_corners=False)
        return enlarged[:, 0].cpu().numpy()


def over_input(values: torch.Tensor, size: tuple[int, ...], layer: str) -> torch.Tensor:
    """Return maps with as many axes of positions as the input has.

    Tokens `[N, 1, T]` of an image become `[N, 1, h, w]` with the image's proportions; the fewest leading tokens that do
    not fit (class token, registers) are left out.

    Args:
        values: `[N, 1, ...positions]`.
        size: positions of the input, `(H, W)` or `(T,)`.
        layer: name, for the message.

    Raises:
        ConfigError: there is no such arrangement.
    """
    if values.ndim - 2 == len(size):
        return values
    tokens = values.shape[2] if values.ndim == 3 else 0
    for left_out in range(tokens if len(size) == 2 else 0):
        height = round(((tokens - left_out) * size[0] / size[1]) ** 0.5)
        width = (tokens - left_out) // max(height, 1)
        if height * width == tokens - left_out and height * size[1] == width * size[0]:
            return values[:, :, left_out:].unflatten(2, (height, width))
    raise ConfigError(
        f"localize.method: concept_map cannot lay the positions {tuple(values.shape[2:])} of layer '{layer}' over an "
        f"input of {size}. Take concept_relevance, or a layer with positions in reveal.cav.layers."
    )
