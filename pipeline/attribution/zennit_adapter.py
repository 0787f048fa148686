"""Composites of zennit, as they are: for users who have their own, and as an independent oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from .canonize import canonized_copy
from .recording import record_outputs
from .sums import ProportionalSums
from .targets import Start, StartRelevance, Target, start_at, start_weights

if TYPE_CHECKING:
    from .explainer import Attribution


def is_zennit_composite(composite: object) -> bool:
    """Tell whether something is a composite of zennit, without importing zennit."""
    return any(kind.__module__.startswith("zennit.") for kind in type(composite).__mro__)


def attribute_by_zennit(
    model: nn.Module,
    x: torch.Tensor,
    target: Target,
    composite: object,
    *,
    layers: Sequence[str] = (),
    start: Start = "logit",
    start_layer: str | None = None,
    start_relevance: StartRelevance = None,
) -> Attribution:
    """Explain a batch by a composite of zennit, on a copy of the model with BatchNorm folded in exactly.

    Residual sums and functional averages share in proportion, which zennit does only where a canonizer brings modules
    for them. Outputs of layers are those of the copy, with BatchNorm folded in. See `pipeline.attribution.attribute`.
    """
    from .explainer import Attribution

    copy = canonized_copy(model, x[:2])
    recorded = [*layers, *([start_layer] if start_layer and start_layer not in layers else [])]
    x = x.detach().requires_grad_(True)
    with torch.enable_grad(), composite.context(copy):
        with record_outputs(copy, recorded) as outputs, ProportionalSums():
            logits = copy(x)
        if start_layer is None:
            begin, relevance = logits, start_weights(logits.detach(), target, start)
        else:
            begin, relevance = outputs[start_layer], start_at(outputs[start_layer].detach(), start_relevance)
        wanted = [x, *(outputs[name] for name in layers)]
        gradients = torch.autograd.grad(begin, wanted, relevance, allow_unused=True)
    found = [
        torch.zeros_like(tensor) if gradient is None else gradient.detach()
        for tensor, gradient in zip(wanted, gradients, strict=True)
    ]
    return Attribution(
        relevance=found[0],
        logits=logits.detach(),
        relevances=dict(zip(layers, found[1:], strict=True)),
        activations={name: outputs[name].detach() for name in layers},
    )
