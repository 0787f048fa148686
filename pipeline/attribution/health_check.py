"""Is an explanation of this model to be trusted? Conservation, finiteness and the share that biases absorb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.models.modes import evaluation_mode
from pipeline.models.trace import trace_layers
from pipeline.workspace.records import Health, LayerHealth

from .explainer import Explainer
from .recording import record_outputs

if TYPE_CHECKING:
    from .rules import Rule

TOLERANCE = 0.05
SMALLEST_LOGIT = 1e-4
"""Below it, the rules' stabilizer of 1e-6 alone takes 1 % of the relevance."""
SMALLEST_SHARE = 0.01
"""Of the largest logit; ratios to a smaller one show how positive and negative relevance happen to cancel."""
MOST = 5.0
"""Times the logit, that relevance with constants may sum to. Healthy networks stay near 1, broken ones pass 50."""


def health(
    model: nn.Module,
    x: torch.Tensor,
    *,
    composite: str = "epsilon_plus_flat",
    arch: str = "",
    rules: Mapping[str, str | Rule] | None = None,
) -> Health:
    """Check an attribution method on a model.

    With constants left out of the rules, relevance must be conserved: its sum equals the explained logit at the pixels
    and at every layer that all paths cross. The predicted class is explained; figures are medians over the samples
    whose explained logit is not near 0. With constants in, the share that they absorb is reported.

    Args:
        model: pixels -> logits.
        x: a few real samples `[N, ...]`.
        composite: key of `COMPOSITES`.
        arch: name for the record.
        rules: rules of single layers, as in `Explainer`.

    Raises:
        ConfigError, ValueError: see `Explainer`.
    """
    if not _logits_are_finite(model, x):
        return _about_broken(composite, arch)
    exact = Explainer(model, x[:2], composite, without_biases=True, rules=rules)
    usual = Explainer(model, x[:2], composite, rules=rules)
    on_the_way = layers_on_the_way(model, x[:1], [layer.name for layer in trace_layers(model, x[:2])])
    found = exact.attribute(x, layers=list(on_the_way), keep_activation=_no_activation, keep_relevance=_sums_of_layer)
    # layers that put windows or time steps where samples stand cannot be compared with samples' logits
    of_layers = {name: _sums(total) for name, total in found.relevances.items() if len(total) == len(x)}
    pixels, with_constants = _sums(found.relevance), _sums(usual.attribute(x).relevance)
    explained = found.logits.double().max(1).values
    measured = explained.abs() > max(SMALLEST_SHARE * float(found.logits.abs().max()), SMALLEST_LOGIT)

    def conservation(total: torch.Tensor) -> torch.Tensor:
        return (total / explained)[measured]

    rows = [
        LayerHealth(
            layer=name,
            conservation=_median(conservation(total)),
            finite=bool(total.isfinite().all()),
            on_all_paths=on_the_way[name],
        )
        for name, total in of_layers.items()
    ]
    ratios = conservation(pixels)
    at_pixels = _median(ratios)
    finite = bool(pixels.isfinite().all() and with_constants.isfinite().all())  # what is not finite stays so to the end
    shown = _median(conservation(with_constants))
    without_rule = sorted(exact.without_rule)
    warnings = (
        _about_numbers(composite, finite, at_pixels, rows),
        _about_noise(composite, shown),
        _about_functions(without_rule),
    )
    return Health(
        composite=composite,
        arch=arch,
        conservation=at_pixels,
        worst_sample=float(ratios[(ratios - 1).abs().argmax()]) if len(ratios) else None,
        skipped=int((~measured).sum()),
        bias_share=1 - shown,
        finite=finite,
        healthy=finite and _conserved(at_pixels),
        layers=rows,
        weakest_layer=_weakest(rows),
        without_rule=without_rule,
        warning=" ".join(filter(None, warnings)),
    )


def _logits_are_finite(model: nn.Module, x: torch.Tensor) -> bool:
    with evaluation_mode(model), torch.no_grad():
        return bool(model(x).isfinite().all())


def _about_broken(composite: str, arch: str) -> Health:
    """Return the health of a model that there is nothing to explain of."""
    return Health(
        composite=composite,
        arch=arch,
        conservation=float("nan"),
        bias_share=float("nan"),
        finite=False,
        healthy=False,
        layers=[],
        warning="Logits of this model are not finite, so there is nothing to explain. Check its weights and its input.",
    )


def layers_on_the_way(model: nn.Module, x: torch.Tensor, layers: Sequence[str]) -> dict[str, bool]:
    """Return the layers that depend on the pixels -> whether every path from the pixels to the logits crosses them.

    That is so where the paths above the layer times the paths below it are all paths there are.

    Args:
        model: pixels -> logits; run once.
        x: a batch `[N, ...]`.
        layers: modules that run once and return a tensor.
    """
    places = {}
    pixels = x.detach().requires_grad_().clone()  # the copy's function is where all paths end
    with evaluation_mode(model), torch.enable_grad():
        # at once, because what the model writes into the output later counts as its function, too
        with record_outputs(model, layers, visit=lambda name, output: places.update({name: output.grad_fn})):
            top = model(pixels).grad_fn
    order = _from_top(top)
    below = {pixels.grad_fn: 1}
    for function in reversed(order):
        if function not in below:
            below[function] = sum(below.get(lower, 0) for lower, _ in function.next_functions)
    above = dict.fromkeys(order, 0) | {top: 1}
    for function in order:
        for lower, _ in function.next_functions:
            if lower is not None:
                above[lower] += above[function]
    everything = below.get(top, 0)
    return {name: above.get(at, 0) * below[at] == everything for name, at in places.items() if below.get(at, 0)}


def _from_top(top: object) -> list:
    """Return the functions of an autograd graph, each before those that it takes its inputs from."""
    order, seen, waiting = [], set(), [(top, False)]
    while waiting:
        function, finished = waiting.pop()
        if finished:
            order.append(function)
        elif function is not None and function not in seen:
            seen.add(function)
            waiting.append((function, True))
            waiting += [(lower, False) for lower, _ in function.next_functions]
    return order[::-1]


def _sums(relevance: torch.Tensor) -> torch.Tensor:
    """Return the sum of each sample `[N]`; it is finite if all values are."""
    return relevance.reshape(len(relevance), -1).double().sum(1)


def _sums_of_layer(layer: str, relevance: torch.Tensor) -> torch.Tensor:
    return _sums(relevance)


def _no_activation(layer: str, activation: torch.Tensor) -> None:
    """Let it go: maps of all layers together would fill the memory."""


def _median(ratios: torch.Tensor) -> float:
    return float(ratios.quantile(0.5)) if len(ratios) else float("nan")


def _conserved(ratio: float) -> bool:
    return abs(ratio - 1) <= TOLERANCE


def _weakest(rows: Sequence[LayerHealth]) -> str:
    crossed = [row for row in rows if row.on_all_paths]
    return max(crossed, key=lambda row: abs(row.conservation - 1)).layer if crossed else ""


def _about_numbers(composite: str, finite: bool, conservation: float, rows: Sequence[LayerHealth]) -> str:
    if not finite:
        return f"Relevance by {composite} is not finite on this model; its heatmaps and findings cannot be trusted."
    if conservation != conservation:
        return (
            f"Whether relevance by {composite} is conserved cannot be measured: the explained logit of every sample is "
            "near 0. Give other samples, or a trained model."
        )
    if _conserved(conservation):
        return ""
    # relevance comes from the logits, so the last layer that is wrong is the first that relevance reaches
    wrong = [row.layer for row in rows if row.on_all_paths and not _conserved(row.conservation)]
    place = f", and it is wrong from layer '{wrong[-1]}' on" if wrong else ""
    return (
        f"Relevance by {composite} is not conserved on this model: {conservation:.3g} of the logit reaches the "
        f"pixels instead of 1{place}. Heatmaps and relevance-based findings are to be read with caution."
    )


def _about_noise(composite: str, shown: float) -> str:
    if not abs(shown) > MOST:
        return ""
    return (
        f"With constants, relevance by {composite} sums to {shown:.3g} times the logit: large shares of opposite signs "
        "cancel, and heatmaps show noise. Choose a composite with less of the epsilon rule."
    )


def _about_functions(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f"No rule for {', '.join(names)}: relevance passes as if linear, and may go to the wrong places."
