"""The explained quantity, the weighted sum of a sample's logits, and its gradients, as all baselines need them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.models.modes import evaluation_mode

from ..recording import record_outputs
from ..targets import Target, logit_weights
from .parameters import require_floating


@dataclass(frozen=True)
class Gradients:
    """Derivatives of the explained quantity, the weighted sum of each sample's logits.

    Attributes:
        logits: `[N, K]`.
        x: the input that was differentiated, `[N, ...]`; the user's own tensor only where the graph reaches it.
        of_x: derivative by the input, in its shape.
        activations: output of each requested layer.
        of_layers: derivative by the output of each requested layer; 0 where nothing depends on it.
    """

    logits: torch.Tensor
    x: torch.Tensor
    of_x: torch.Tensor
    activations: dict[str, torch.Tensor]
    of_layers: dict[str, torch.Tensor]


def gradients(
    model: nn.Module,
    x: torch.Tensor,
    target: Target = None,
    *,
    layers: Sequence[str] = (),
    create_graph: bool = False,
) -> Gradients:
    """Differentiate the explained quantity by the input and by the outputs of `layers`, in evaluation mode.

    Args:
        model: any module, pixels -> logits; nothing is left behind in it.
        x: `[N, ...]`, of a floating type.
        target: class id, ids `[N]`, logit weights `[N, K]`, or None for the predicted class.
        layers: names of modules whose output is one tensor.
        create_graph: keep the graph, to the parameters and to `x` if it requires a gradient.

    Raises:
        ValueError: `x` is not floating, a target that does not fit, a layer that does not run exactly once or whose
            output is not one tensor.
    """
    require_floating(x)
    source = x if create_graph and x.requires_grad else x.detach().requires_grad_(True)
    with (
        evaluation_mode(model),
        torch.enable_grad(),
        record_outputs(model, layers) as outputs,
        kept_from_in_place_changes(model, layers),
    ):
        # The copy serves networks that begin with an in-place operation.
        logits = model(source.clone())
        explained = (logits * logit_weights(logits, target)).sum()
        wanted = [source, *(outputs[name] for name in layers)]
        found = torch.autograd.grad(explained, wanted, create_graph=create_graph, allow_unused=True)
    found = [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(wanted, found, strict=True)
    ]
    if not create_graph:
        logits, wanted = logits.detach(), [tensor.detach() for tensor in wanted]
    return Gradients(
        logits=logits,
        x=wanted[0],
        of_x=found[0],
        activations=dict(zip(layers, wanted[1:], strict=True)),
        of_layers=dict(zip(layers, found[1:], strict=True)),
    )


def averaged_gradient(
    model: nn.Module,
    origin: torch.Tensor,
    spread: torch.Tensor,
    places: torch.Tensor,
    shares: torch.Tensor,
    weights: torch.Tensor,
    batch_size: int,
) -> torch.Tensor:
    """Return `sum_k shares[k] * gradient at (origin + spread * places[k])`, `[N, ...]`.

    Args:
        model: any module, pixels -> logits.
        origin, spread: `[N, ...]`, one per sample; axes of size 1 in `spread` stand for all.
        places: `[S, ...]`, the same for every sample, so that no sample's result depends on the others.
        shares: `[S]`.
        weights: `[N, K]`, of the logits in the explained quantity, the same at every place.
        batch_size: most inputs that go through the model at once.
    """
    rows = zip(*(part.split(batch_size) for part in (origin, spread, weights)), strict=True)
    return torch.cat([_of_rows(model, *row, places, shares, batch_size) for row in rows])


def _of_rows(model, origin, spread, weights, places, shares, batch_size) -> torch.Tensor:
    total = torch.zeros_like(origin)
    at_once = max(1, batch_size // len(origin))
    for some, their_shares in zip(places.split(at_once), shares.split(at_once), strict=True):
        points = origin[:, None] + spread[:, None] * some
        found = gradients(model, points.flatten(0, 1), weights.repeat_interleave(len(some), 0)).of_x
        total += torch.einsum("ns...,s->n...", found.unflatten(0, (-1, len(some))), their_shares)
    return total


def predict(model: nn.Module, x: torch.Tensor, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits `[N, K]` of `x` in evaluation mode, and the weights `[N, K]` that `target` means for them."""
    logits = logits_of(model, x)
    return logits, logit_weights(logits, target)


def logits_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the logits `[N, K]` of `x` in evaluation mode, without graph."""
    require_floating(x)
    with evaluation_mode(model), torch.no_grad():
        return model(x.detach().clone())


@contextmanager
def kept_from_in_place_changes(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Within the block, hand copies of the named modules' outputs on.

    So what a hook has recorded before stays what the module gave, whatever follows (`out += x`).
    """

    def copied(_module: nn.Module, _inputs: tuple, output: object) -> object:
        return output.clone() if isinstance(output, torch.Tensor) else output

    handles = [model.get_submodule(name).register_forward_hook(copied) for name in dict.fromkeys(names)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
