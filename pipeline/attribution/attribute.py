"""Attribution: relevance of pixels and layers for a logit, or for anything inside the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from .canonize import canonized_copy
from .composites import make_composite
from .lrp_flex import lrp_flex
from .recording import record_outputs
from .sums import ProportionalSums
from .targets import StartRelevance, Target, logit_weights, start_at


@dataclass(frozen=True)
class Attribution:
    """What an explanation holds.

    Attributes:
        relevance: `[N, ...x.shape]`, signed; positive supports the explained quantity.
        logits: `[N, K]`.
        relevances: relevance at the output of each requested layer.
        activations: output of each requested layer.
    """

    relevance: torch.Tensor
    logits: torch.Tensor
    relevances: dict[str, torch.Tensor] = field(default_factory=dict)
    activations: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def heatmap(self) -> torch.Tensor:
        """Relevance summed over channels: `[N, H, W]` for images, `[N, T]` for signals."""
        return self.relevance.sum(1)


class Explainer:
    """A model made ready for many attributions: copied, canonized, rules attached once.

    The model given is never changed. Relevance starts at the logit's own value, so its sign says for or against.

    Args:
        model: any module, pixels -> logits.
        example: one small batch, used for tracing.
        composite: a key of `COMPOSITES`.
        without_biases: leave bias terms out of the rules; relevance is then conserved exactly.
    """

    def __init__(self, model: nn.Module, example: torch.Tensor, composite: str, *, without_biases: bool = False):
        self.model = canonized_copy(model, example)
        self.composite = make_composite(composite, self.model, without_biases=without_biases)

    def attribute(
        self,
        x: torch.Tensor,
        target: Target = None,
        *,
        layers: Sequence[str] = (),
        start_layer: str | None = None,
        start_relevance: StartRelevance = None,
    ) -> Attribution:
        """Return relevance at the input and at the outputs of `layers`. See `attribute`."""
        recorded = [*layers, *([start_layer] if start_layer and start_layer not in layers else [])]
        x = x.detach().requires_grad_(True)
        with torch.enable_grad(), self.composite.context(self.model):
            with record_outputs(self.model, recorded) as outputs, ProportionalSums():
                logits = self.model(x)
            if start_layer is None:
                start, relevance = logits, logits.detach() * logit_weights(logits, target)
            else:
                start, relevance = outputs[start_layer], start_at(outputs[start_layer], start_relevance)
            wanted = [x, *(outputs[name] for name in layers)]
            gradients = torch.autograd.grad(start, wanted, relevance, allow_unused=True)
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


def attribute(
    model: nn.Module,
    x: torch.Tensor,
    target: Target = None,
    *,
    composite: str = "epsilon_plus_flat",
    layers: Sequence[str] = (),
    start_layer: str | None = None,
    start_relevance: StartRelevance = None,
    create_graph: bool = False,
    **parameters,
) -> Attribution:
    """Explain a batch.

    Args:
        model: any module, pixels -> logits; it is left as it was.
        x: `[N, C, H, W]` or `[N, C, T]`.
        target: class id, ids `[N]`, logit weights `[N, K]`, or None for the predicted class.
        composite: a key of `COMPOSITES`, or "lrp_flex" (parameters `epsilon`, `input_rule`, `pixel_range`).
        layers: names of modules at whose output relevance and activation are returned.
        start_layer: start inside the network instead of at the logits.
        start_relevance: relevance at the output of `start_layer`, or a function of its activation.
        create_graph: keep the graph, so that a loss on relevance can be trained on; "lrp_flex" only.

    Raises:
        ConfigError: unknown composite.
        ValueError: `create_graph` with a composite whose rules are not differentiable in the weights; a layer that does
            not run exactly once; a target or a start that does not fit.
    """
    if composite == "lrp_flex":
        relevance, logits, relevances, activations = lrp_flex(
            model, x, target, layers=layers, start_layer=start_layer, start_relevance=start_relevance,
            create_graph=create_graph, **parameters,
        )  # fmt: skip
        return Attribution(relevance, logits, relevances, activations)
    if create_graph:
        raise ValueError(f"composite '{composite}' cannot be trained through; use composite='lrp_flex'.")
    if parameters:
        raise TypeError(f"composite '{composite}' takes no parameter '{next(iter(parameters))}'.")
    return Explainer(model, x[:2], composite).attribute(
        x, target, layers=layers, start_layer=start_layer, start_relevance=start_relevance
    )
