"""Grad-CAM that a loss can be trained on, from one forward pass that also gives the logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution.baselines.explained_quantity import kept_from_in_place_changes
from pipeline.attribution.baselines.grad_cam import channels_first
from pipeline.attribution.recording import record_outputs
from pipeline.attribution.targets import Target, logit_weights

LEAST_PEAK = 1e-12


class Attended(NamedTuple):
    """Logits `[N, K]`, and the Grad-CAM `[N, 1, H, W]` enlarged to the input, at least 0; both with their graph."""

    logits: torch.Tensor
    attention: torch.Tensor


def attended(network: nn.Module, x: torch.Tensor, target: Target, layer: str, *, constant_weights: bool) -> Attended:
    """Return logits and Grad-CAM for the weighted sum of each sample's logits.

    ReLU(sum over channels of mean gradient x activation), enlarged linearly (Selvaraju et al. 2017, eq. 1 and 2).

    Args:
        network: pixels -> logits, in the mode that it is in; some parameter or `x` requires a gradient.
        x: `[N, C, H, W]`.
        target: class ids `[N]`, or weights of the logits `[N, K]`.
        layer: module whose output has positions.
        constant_weights: the mean gradients carry no gradient themselves.
    """
    with torch.enable_grad(), record_outputs(network, [layer]) as outputs, kept_from_in_place_changes(network, [layer]):
        logits = network(x)
        output = outputs[layer]
        (slope,) = torch.autograd.grad(
            (logits * logit_weights(logits, target)).sum(), output, create_graph=not constant_weights, retain_graph=True
        )
    size = x.shape[2:]
    importance = channels_first(slope, size, layer).mean((2, 3), keepdim=True)
    seen = F.relu((importance * channels_first(output, size, layer)).sum(1, keepdim=True))
    return Attended(logits, F.interpolate(seen, size=size, mode="bilinear", align_corners=False))


def scaled_to_peak(attention: torch.Tensor) -> torch.Tensor:
    """Return attention `[N, 1, H, W]` divided by each sample's largest value; all 0 stays 0."""
    return attention / attention.amax((2, 3), keepdim=True).clamp(min=LEAST_PEAK)
