"""What a step of RRR and of RR-ClArC costs, as a multiple of a plain one: seconds of the processor and memory.

    python -m benchmarks.right_reason [--quick] [--networks resnet18@128 ...] [--steps NAME ...] [--output FILE]

A step is: forward pass, loss, backward pass, clipping of the gradient, Adam; 16 images, 10 classes. In the plain step
everything trains, as in the original training; in all others BatchNorm keeps its statistics, as in every correction.
RR-ClArC acts on the third stage, so that the fourth and the linear layer train. "as published" gives it
images that require a gradient, which then goes down to them through the frozen stages; "frozen" starts the graph at the
third stage; "cached" takes its output, computed once. Every network is measured in a process of its own, with one
thread; steps of all kinds take turns in it, and the median of each counts. Memory is measured in a process per kind:
the largest resident set during three steps, less that before the first.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from .isnet import _alone, _resident

PLAIN, PLAIN_FROZEN, PLAIN_CACHED = "plain", "plain, frozen", "plain, cached"
RRR = "RRR"
PUBLISHED, FROZEN, CACHED = "RR-ClArC, as published", "RR-ClArC, frozen", "RR-ClArC, cached"
LAST_FROZEN, LAST_CACHED = "last layer, frozen", "last layer, cached"
STEPS = (PLAIN, PLAIN_FROZEN, PLAIN_CACHED, RRR, PUBLISHED, FROZEN, CACHED, LAST_FROZEN, LAST_CACHED)
STAGE, LAST = "layer3", "avgpool"
NETWORKS = ("resnet18@128",)
BATCH, CLASSES, REPEATS = 16, 10, 15


@dataclass(frozen=True)
class StepCost:
    """Cost of one kind of step.

    Attributes:
        network: name@side, a ResNet of torchvision.
        step: one of `STEPS`.
        seconds: of the processor, the median step.
        ratio: to a plain step.
        megabytes: 10^6 bytes above what the process held before the first step.
    """

    network: str
    step: str
    seconds: float
    ratio: float
    megabytes: float


def measure(networks: Sequence[str], steps: Sequence[str], repeats: int) -> list[StepCost]:
    """Return the cost of a plain step, and of every kind of step, on every network."""
    names = list(dict.fromkeys([PLAIN, *steps]))
    found = []
    for network in networks:
        seconds = _alone(_interleaved, network, names, repeats)
        for name in names:
            found.append(
                StepCost(network, name, seconds[name], seconds[name] / seconds[PLAIN], _alone(_peak, network, name))
            )
    return found


def make_step(network: str, step: str) -> Callable[[], None]:
    """Return a function that trains a fresh network for one step, always on the same images."""
    import numpy as np
    import torch
    import torchvision

    from pipeline.concepts.cav import Cav
    from pipeline.config.mitigate import RrClarcMethod, RrrMethod
    from pipeline.mitigate.directions import CorrectedLayer
    from pipeline.mitigate.explained import explained_quantity
    from pipeline.mitigate.fine_tuning import MaskedBatch, classification_loss, freeze_up_to
    from pipeline.mitigate.interface import Problem
    from pipeline.mitigate.rr_clarc import rr_clarc_losses
    from pipeline.mitigate.rrr import rrr_loss
    from pipeline.models.build import forbid_in_place
    from pipeline.models.loop import freeze_norms
    from pipeline.models.split import split_network

    torch.manual_seed(0)
    name, side = network.split("@")
    model = getattr(torchvision.models, name)(num_classes=CLASSES).train()
    forbid_in_place(model)
    if step != PLAIN:
        freeze_norms(model)
    x, y = torch.rand(BATCH, 3, int(side), int(side)), torch.arange(BATCH) % CLASSES
    mask = torch.zeros(BATCH, 1, int(side), int(side))
    mask[:, :, : int(side) // 4, : int(side) // 4] = 1
    problem = Problem(dataset=None, biases=[])
    right_reason = step in (PUBLISHED, FROZEN, CACHED)
    if step not in (PLAIN, RRR):
        freeze_up_to(model, LAST if step in (LAST_FROZEN, LAST_CACHED) else STAGE, x[:1])
    trained = model
    if step in (PLAIN_CACHED, CACHED, LAST_CACHED):
        split = split_network(model, x[:4], [STAGE] if right_reason else [])
        with torch.no_grad():
            trained, x = split.head, split.trunk(x)
    if step == PUBLISHED:
        x.requires_grad_(True)
    batch = MaskedBatch(x, y, mask)
    channels = model.get_submodule(STAGE)[-1].bn2.num_features
    cav = Cav(np.eye(channels)[0], 0.0, "pattern", np.zeros(channels), layer=STAGE)
    layer = CorrectedLayer(STAGE, cav.pooling, 1, [(None, cav)])
    rr_clarc, rrr = RrClarcMethod(kind="rr_clarc"), RrrMethod(kind="rrr")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-4)

    def loss() -> torch.Tensor:
        if right_reason:
            return rr_clarc_losses(trained, batch, problem, rr_clarc, [layer])["total"]
        if step != RRR:
            return classification_loss(problem, trained(batch.x), batch.y)
        images = batch.x.detach().requires_grad_(True)
        logits = trained(images)
        explained = explained_quantity(logits, batch.y, rrr.explained)
        (gradient,) = torch.autograd.grad(explained, images, create_graph=True)
        return classification_loss(problem, logits, batch.y) + rrr.weight * rrr_loss(gradient, batch.mask)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return run


def _interleaved(network: str, names: Sequence[str], repeats: int) -> dict[str, float]:
    steps = {name: make_step(network, name) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            gc.collect()
            started = time.process_time()
            step()
            if turn:  # the first step prepares
                seconds[name].append(time.process_time() - started)
    return {name: median(each) for name, each in seconds.items()}


def _peak(network: str, name: str) -> float:
    step = make_step(network, name)
    before = _resident()
    for _ in range(3):
        step()
    return _resident() - before


def table(costs: Sequence[StepCost]) -> str:
    """Return the costs as a Markdown table: one row per kind of step, time and memory per network."""
    networks = list(dict.fromkeys(cost.network for cost in costs))
    lines = [
        "| step | " + " | ".join(f"{network}: time | memory, MB" for network in networks) + " |",
        "|---|" + "---|---|" * len(networks),
    ]
    by_place = {(cost.network, cost.step): cost for cost in costs}
    for step in dict.fromkeys(cost.step for cost in costs):
        cells = []
        for network in networks:
            cost = by_place[network, step]
            seconds = f" ({cost.seconds:.3f} s)" if step == PLAIN else ""
            cells += [f"{cost.ratio:.3f}{seconds}", f"{cost.megabytes:.0f}"]
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write all figures where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.right_reason", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small images and few repeats: does it run?")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME@SIDE", help="ResNets of torchvision")
    parser.add_argument("--steps", nargs="+", default=list(STEPS), choices=list(STEPS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    arguments = parser.parse_args(argv)
    networks, repeats = (("resnet18@32",), 1) if arguments.quick else (arguments.networks, arguments.repeats)
    costs = measure(networks, arguments.steps, repeats)
    print(table(costs))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps([asdict(cost) for cost in costs], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
