"""A forward pass from which LRP-Flex can send relevance back, any number of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .flex_routes import Direction, FlexMode, Source
from .recording import record_outputs
from .zb import FirstBlock, ZbRule, record_first_block, zb_rule

INPUT_RULES = ("zb", "gradient_x_input")
HALF = (torch.float16, torch.bfloat16)


def unchanged(tensor: torch.Tensor) -> torch.Tensor:
    """Compute relevance from the tensors of the forward pass themselves, so that their graph is its graph."""
    return tensor


@dataclass
class FlexForward:
    """What a forward pass leaves behind.

    Attributes:
        x: pixels.
        logits: `[N, classes]`.
        outputs: of the recorded layers.
        source: see `flex_routes.Source`.
        direction: of backward passes through its graph.
        first, rule: the first block and its Zb rule; None where gradient times input is wanted.
    """

    x: torch.Tensor
    logits: torch.Tensor
    outputs: dict[str, torch.Tensor]
    source: Source
    direction: Direction
    first: FirstBlock | None
    rule: ZbRule | None

    def relevance(
        self, start: torch.Tensor, seed: torch.Tensor, layers: Sequence[str], *, create_graph: bool, keep: bool
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return relevance at the pixels `[N, C, H, W]` and at layers, given the gradient `seed` at `start`.

        Args:
            start: the logits, or one of the outputs.
            layers: recorded ones.
            create_graph: keep the graph, for a loss on the relevance.
            keep: another map follows, so the graph of the forward pass has to stay; it does with `create_graph`.
        """
        bottom = self.x if self.first is None else self.first.output
        wanted = [bottom, *(self.outputs[name] for name in layers)]
        with torch.set_grad_enabled(create_graph), _full_precision(self.x):
            self.direction.relevance = True
            try:
                gradients = torch.autograd.grad(
                    start, wanted, seed, create_graph=create_graph, retain_graph=create_graph or keep,
                    allow_unused=True, materialize_grads=True,
                )  # fmt: skip
            finally:
                self.direction.relevance = False
            pixels = gradients[0] * self.source(bottom) if self.rule is None else self.rule.relevance(gradients[0])
            at_layers = {
                name: gradient * self.source(self.outputs[name])
                for name, gradient in zip(layers, gradients[1:], strict=True)
            }
        return pixels, at_layers


def flex_forward(
    model: nn.Module,
    x: torch.Tensor,
    layers: Sequence[str],
    *,
    epsilon: float,
    input_rule: str,
    pixel_range: tuple[float, float],
    source: Source = unchanged,
) -> FlexForward:
    """Run the model on pixels `[N, C, H, W]`, recording the outputs of layers; without autocast.

    Raises:
        ValueError: see `flex.flex_maps`.
    """
    if input_rule not in INPUT_RULES:
        raise ValueError(f"input_rule '{input_rule}' is unknown; allowed are {', '.join(INPUT_RULES)}.")
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm) and module.training:
            raise ValueError(
                f"LRP-Flex has no rule for SyncBatchNorm in training mode (layer '{name}'): statistics of other "
                "processes are not at hand. Train with BatchNorm, or put it into evaluation mode."
            )
    x = x if x.requires_grad else x.detach().requires_grad_(input_rule == "gradient_x_input")
    mode = FlexMode(epsilon, source)
    outputs: dict[str, torch.Tensor] = {}

    def visit(name: str, output: torch.Tensor) -> None:
        # nothing below may be trained: relevance that is wanted here is a derivative all the same
        outputs[name] = output if output.requires_grad else output.requires_grad_()

    with (
        torch.enable_grad(),
        _full_precision(x),
        record_first_block(model, x, mode, enabled=input_rule == "zb") as first,
        record_outputs(model, layers, visit),
        mode,
    ):
        logits = model(x)
    if logits.dtype in HALF:
        raise ValueError(
            f"LRP-Flex divides by activations, for which {str(logits.dtype).removeprefix('torch.')} is too coarse. "
            "Give model and pixels in float32."
        )
    with torch.enable_grad(), _full_precision(x):
        rule = None if first is None else zb_rule(first, mode.norms, model, pixel_range, epsilon, source)
    return FlexForward(x, logits, outputs, source, mode.direction, first, rule)


def _full_precision(x: torch.Tensor) -> torch.autocast:
    """Return a context in which autocast does not take half precision."""
    return torch.autocast(x.device.type, enabled=False)
