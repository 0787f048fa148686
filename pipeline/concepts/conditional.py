"""Conditional heatmaps: where in the input the relevance that passes through single neurons ends.

Achtibat et al. 2023, concept relevance propagation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.attribution import Explainer
from pipeline.attribution.targets import Target
from pipeline.models.trace import ChannelAxes


def conditional_heatmaps(
    explainer: Explainer,
    x: torch.Tensor,
    target: Target,
    layer: str,
    channels: int | Sequence[int] | torch.Tensor,
    *,
    channel_axis: int | None = None,
) -> np.ndarray:
    """Return the part `[N, H, W]` (signals: `[N, T]`) of the heatmaps that passes through chosen neurons of a layer.

    Only relevance that goes through the layer counts, so that what passes beside it, as on a skip connection, shows in
    no neuron's heatmap. Over all neurons of a layer on all paths the heatmaps sum to the usual one.

    Args:
        explainer: of the model.
        x: `[N, C, H, W]` or `[N, C, T]`, on the device of the model.
        target: which logits are explained, see `pipeline.attribution.attribute`.
        layer: name of a module.
        channels: one channel for all samples, one for each of them `[N]`, or weights `[N, channels]` or
            `[1, channels]` with which the channels' relevance goes on, such as booleans.
        channel_axis: of the layer's output, 1 or -1; None finds it by running the model once.

    Returns:
        float32, signed, in units of the logit.

    Raises:
        ValueError: the layer is unknown, or channels do not fit its output.
    """
    axis = ChannelAxes(explainer.model).of(layer, x) if channel_axis is None else channel_axis
    through = explainer.attribute(x, target, layers=[layer], at_input=False).relevances[layer]
    weights = _weights(channels, len(x), through.shape[axis], layer).to(through)
    positions = [1] * (through.ndim - 2)
    weights = weights.view(len(x), -1, *positions) if axis == 1 else weights.view(len(x), *positions, -1)
    found = explainer.attribute(x, start_layer=layer, start_relevance=through * weights)
    return found.heatmap.float().cpu().numpy()


def _weights(channels: int | Sequence[int] | torch.Tensor, samples: int, available: int, layer: str) -> torch.Tensor:
    """Return the weight `[N, channels]` of every channel."""
    wanted = torch.as_tensor(channels)
    if wanted.ndim == 2:
        if wanted.shape not in {(samples, available), (1, available)}:
            raise ValueError(
                f"weights of channels have shape {tuple(wanted.shape)}; for layer '{layer}' and this batch they need "
                f"[{samples}, {available}]."
            )
        return wanted.float().expand(samples, available)
    if wanted.shape not in {(), (samples,)}:
        raise ValueError(
            f"channels have shape {tuple(wanted.shape)}; expected one number, or one per sample [{samples}]."
        )
    wanted = wanted.long().expand(samples)
    if int(wanted.min()) < 0 or int(wanted.max()) >= available:
        raise ValueError(f"layer '{layer}' has channels 0 to {available - 1}; {wanted.tolist()} are asked for.")
    return torch.nn.functional.one_hot(wanted, available).float()
