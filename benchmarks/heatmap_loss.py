"""What ISNet's heatmap loss costs, forward and backward, beside the same loss with a full sort of every channel.

    python -m benchmarks.heatmap_loss [--quick] [--output FILE]

Relevance is made up: cubes of normal numbers, with a square foreground over the middle quarter. The loss beside
follows the formulas word by word: it divides every relevance by the mean of the foreground, sorts all positions and
weighs every rank. Both get the same tensors and run in turns, in one process on one thread. What is counted is
processor time; the least of the repeats is shown. Nothing here says how fast anything must be.

Both are in single precision, where values that are almost equal may change ranks, and with them their gradients.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from pipeline.mitigate.heatmap_loss import heatmap_loss

SEED = 0
DECAYS = (0.0, 0.3, 0.9, 0.996, 1.0)
TINY = 1e-10

Loss = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Row:
    """One decay and size.

    Attributes:
        milliseconds: of processor time, forward and backward.
        sorted_milliseconds: of the loss that sorts everything.
        loss_difference: relative difference of the losses.
        gradient_difference: largest difference of the gradients, as a share of the largest.
    """

    samples: int
    side: int
    decay: float
    milliseconds: float
    sorted_milliseconds: float
    loss_difference: float
    gradient_difference: float

    @property
    def ratio(self) -> float:
        return self.sorted_milliseconds / self.milliseconds


def make_maps(samples: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return relevance `[N, 1, 3, side, side]` and a mask `[N, 1, side, side]`."""
    relevance = torch.randn(samples, 1, 3, side, side, generator=torch.Generator().manual_seed(SEED)).pow(3)
    mask = torch.zeros(samples, 1, side, side)
    mask[:, :, side // 4 : -(side // 4), side // 4 : -(side // 4)] = 1
    return relevance * (10 / side**2), mask


def sorted_loss(relevance: torch.Tensor, mask: torch.Tensor, *, decay: float) -> torch.Tensor:
    """Return the loss with a full sort, for cuts of 1 and 25, E = 1 and the hybrid foreground side."""
    mask = mask[:, None].expand_as(relevance)
    size, axes = relevance.abs(), (2, 3, 4)
    inside = (size * mask).sum(axes, keepdim=True)
    normalized = size / (inside / (mask.sum(axes, keepdim=True) + TINY) + TINY)
    ranked = (normalized * (1 - mask)).flatten(3).sort(-1, descending=True).values
    weights = decay ** torch.arange(ranked.shape[-1], dtype=torch.float64)
    pooled = (ranked * weights.float()).sum(-1) / weights.sum().float()
    background = -torch.log(1 - (pooled / (pooled + 1)).clamp(max=1 - 1e-7))
    total = inside.flatten(1)
    above = torch.where(total <= 26, (total.clamp(min=25) - 25).pow(2), total - 25)
    return background.mean() + ((total.clamp(max=1) - 1).pow(2) + above).mean()


def step(loss: Loss, relevance: torch.Tensor, mask: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Return the processor time in milliseconds, the loss and its gradient."""
    relevance = relevance.detach().requires_grad_(True)
    started = time.process_time()
    found = loss(relevance, mask)
    found.backward()
    return 1000 * (time.process_time() - started), found.detach(), relevance.grad


def compare(samples: int, side: int, decay: float, repeats: int) -> Row:
    relevance, mask = make_maps(samples, side)
    losses = [partial(each, decay=decay) for each in (heatmap_loss, sorted_loss)]
    steps = [[step(each, relevance, mask) for each in losses] for _ in range(repeats + 1)][1:]  # the first warms up
    (_, ours, gradient), (_, other, other_gradient) = steps[0]
    return Row(
        samples,
        side,
        decay,
        min(each[0][0] for each in steps),
        min(each[1][0] for each in steps),
        float((ours / other - 1).abs()),
        float((gradient - other_gradient).abs().max() / other_gradient.abs().max()),
    )


def run(quick: bool) -> list[Row]:
    torch.set_num_threads(1)
    samples, sides, repeats = (2, (16,), 1) if quick else (8, (64, 128, 224), 10)
    return [compare(samples, side, decay, repeats) for side in sides for decay in DECAYS]


def table(rows: list[Row]) -> str:
    lines = [
        "| maps | decay | ms | ms of a full sort | times | difference of the loss | of the gradient |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.samples} x 3 x {row.side} x {row.side} | {row.decay:g} | {row.milliseconds:.2f} "
            f"| {row.sorted_milliseconds:.2f} | {row.ratio:.1f} | {row.loss_difference:.1e} "
            f"| {row.gradient_difference:.1e} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--output", type=Path, help="JSON file")
    parsed = parser.parse_args(arguments)
    rows = run(parsed.quick)
    print(table(rows))
    if parsed.output is not None:
        parsed.output.parent.mkdir(parents=True, exist_ok=True)
        parsed.output.write_text(json.dumps([asdict(row) | {"ratio": row.ratio} for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
