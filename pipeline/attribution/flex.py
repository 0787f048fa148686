"""LRP-Flex: the epsilon rule as a modified backward pass, differentiable a second time.

Bassi et al., Faster ISNet (2024): at every activation the gradient is multiplied by a / (z + epsilon sign z) instead of
the derivative; gradient times activation is then LRP-epsilon relevance, with LRP-0 through everything linear. The
modified derivative acts only while relevance is computed; the optimizer's own backward pass, also through the factors
themselves, uses the true derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from .flex_forward import FlexForward, flex_forward
from .maps import Maps
from .targets import StartRelevance, Target, logit_weights, start_at

Explained = Callable[[torch.Tensor], torch.Tensor]
"""Takes logits `[N, classes]`, returns what is explained of every sample `[N]`, or, for several maps, `[N, K]`."""


def flex_maps(
    model: nn.Module,
    x: torch.Tensor,
    explained: Explained | Sequence[Explained],
    *,
    layers: Sequence[str] = (),
    create_graph: bool = False,
    epsilon: float = 1e-2,
    input_rule: str = "zb",
    pixel_range: tuple[float, float] = (0.0, 1.0),
) -> Maps:
    """Explain a batch several times after one forward pass.

    Every map is a backward pass of its own; a graph kept for all of them takes the memory of all. For a loss that
    treats maps one by one, `flex_streaming.streamed_loss` takes the memory of one.

    Args:
        model: a network of ReLU or ReLU6 activations. BatchNorm in training mode, or without running statistics, takes
            those of the batch: relevance sees them as constants, so it stays with its sample, while gradients of a loss
            on it know where they come from. Running statistics are updated once, as by any forward pass.
        x: pixels `[N, C, H, W]` within `pixel_range`, float32 or float64; autocast is switched off for the model.
        explained: functions of the logits `[N, classes]`, each to one value per sample `[N]`; or one that returns all
            of them `[N, K]`.
        layers: module names at whose output relevance is returned as well.
        create_graph: keep the graph, for a loss on the relevance. Its gradients are the true ones of logits and
            relevance in weights, scales and statistics of BatchNorm, and biases; but with "zb", the shift that the
            first convolution's bias and BatchNorm add is a constant for the rule.
        epsilon: stabiliser of the epsilon rule; 0 gives gradient times input.
        input_rule: "zb" (relevance of the first activation goes to bounded pixels by the Zb rule; Montavon et al.
            2017, eq. 14) or "gradient_x_input".
        pixel_range: lowest and highest pixel value, before the model's own normalisation.

    Raises:
        ValueError: an unknown input rule, an activation or normalisation without rule, half precision, SyncBatchNorm
            in training mode, no first convolution for "zb", a layer that does not run exactly once, a ReLU that writes
            over a tensor that is used again, or explained values of another shape.
    """
    forward = flex_forward(model, x, layers, epsilon=epsilon, input_rule=input_rule, pixel_range=pixel_range)
    starts = [(forward.logits, seed) for seed in seeds_of(explained, forward.logits)]
    return _maps(forward, starts, layers, create_graph)


def seeds_of(
    explained: Explained | Sequence[Explained], logits: torch.Tensor, *, create_graph: bool = True
) -> list[torch.Tensor]:
    """Return the gradient of every explained value at the logits `[N, classes]`, one for each map.

    Raises:
        ValueError: the values are neither `[N]` nor, of one function, `[N, K]`.
    """
    with torch.enable_grad():
        values = [explained(logits)] if callable(explained) else [function(logits) for function in explained]
        columns = list(values[0].unbind(1)) if callable(explained) and values[0].ndim == 2 else values
        for column in columns:
            if column.shape != logits.shape[:1]:
                raise ValueError(
                    f"an explained value has shape {tuple(column.shape)}; expected one per sample [{len(logits)}]."
                )
        return [
            torch.autograd.grad(column.sum(), logits, create_graph=create_graph, retain_graph=True)[0]
            for column in columns
        ]


def _maps(
    forward: FlexForward, starts: Sequence[tuple[torch.Tensor, torch.Tensor]], layers: Sequence[str], create_graph: bool
) -> Maps:
    """Return one map for each pair of a tensor and the gradient there that it starts with."""

    def kept(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if create_graph else tensor.detach()

    found = [
        forward.relevance(start, seed, layers, create_graph=create_graph, keep=number < len(starts))
        for number, (start, seed) in enumerate(starts, 1)
    ]
    return Maps(
        kept(forward.logits),
        torch.stack([kept(relevance) for relevance, _ in found], 1),
        {name: torch.stack([kept(at_layers[name]) for _, at_layers in found], 1) for name in layers},
        {name: kept(forward.outputs[name]) for name in layers},
    )


def lrp_flex(
    model: nn.Module,
    x: torch.Tensor,
    target: Target | Callable[[torch.Tensor], torch.Tensor] = None,
    *,
    layers: Sequence[str] = (),
    start_layer: str | None = None,
    start_relevance: StartRelevance = None,
    create_graph: bool = False,
    epsilon: float = 1e-2,
    input_rule: str = "zb",
    pixel_range: tuple[float, float] = (0.0, 1.0),
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return (relevance `[N, ...x.shape]`, logits `[N, K]`, relevances and activations by layer) of one map.

    Args:
        model, x, layers, create_graph, epsilon, input_rule, pixel_range: see `flex_maps`.
        target: class id, ids `[N]`, weights `[N, K]`, None for the predicted class, or a function from logits to one
            value per sample (ISNet's Selective explains a margin).
        start_layer, start_relevance: start inside the network instead of at the logits.

    Raises:
        ValueError: see `flex_maps`; or a target or start that does not fit.
    """
    recorded = [*layers, *([start_layer] if start_layer and start_layer not in layers else [])]
    forward = flex_forward(model, x, recorded, epsilon=epsilon, input_rule=input_rule, pixel_range=pixel_range)
    if start_layer is not None:
        start = forward.outputs[start_layer]
        relevance = start_at(start, start_relevance)
        # gradient times activation is the convention below the start, so the seed is relevance over activation
        seed = relevance / torch.where(start.detach() == 0, torch.ones_like(start), start.detach())
    else:
        start = forward.logits
        seed = seeds_of([target], start)[0] if callable(target) else logit_weights(start, target)
    maps = _maps(forward, [(start, seed)], layers, create_graph)
    relevances = {name: relevance[:, 0] for name, relevance in maps.relevances.items()}
    return maps.relevance[:, 0], maps.logits, relevances, maps.activations
