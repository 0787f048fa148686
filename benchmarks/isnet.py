"""What a training step of ISNet costs, as a multiple of a plain one: seconds of the processor and memory.

    python -m benchmarks.isnet [--quick] [--networks resnet18@64 ...] [--variants selective ...] [--output FILE]

A step is: forward pass, loss, backward pass, clipping of the gradient, SGD with momentum; BatchNorm in training mode,
8 images, 10 classes. Every network is measured in a process of its own, with one thread; steps of all variants take
turns in it, and the fastest of each counts, so that the load of the machine cancels out. Memory is measured in a
process per variant: the largest resident set during three steps, less that before the first.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PLAIN = "plain"
VARIANTS: dict[str, dict] = {
    "selective": {"variant": "selective"},
    "stochastic": {"variant": "stochastic"},
    "selective, deep supervision": {"variant": "selective", "deep_supervision": True},
    "original": {"variant": "original"},
    "softmax gradient x input": {"variant": "softmax_gradient_x_input"},
    "selective, block": {"variant": "selective", "rule": "block"},
    "dual, block": {"variant": "dual", "rule": "block"},
    "original, block": {"variant": "original", "rule": "block"},
}
NETWORKS = ("resnet18@64", "resnet18@128", "densenet121@64")
BATCH, CLASSES, REPEATS = 8, 10, 7


@dataclass(frozen=True)
class StepCost:
    """Cost of one kind of step.

    Attributes:
        network: name@side.
        variant: key of `VARIANTS`, or "plain".
        seconds: of the processor, the fastest step.
        ratio: to a plain step.
        megabytes: 10^6 bytes above what the process held before the first step.
    """

    network: str
    variant: str
    seconds: float
    ratio: float
    megabytes: float


def measure(networks: Sequence[str], variants: Sequence[str], repeats: int) -> list[StepCost]:
    """Return the cost of every variant on every network."""
    found = []
    for network in networks:
        names = [PLAIN, *variants]
        seconds = _alone(_interleaved, network, names, repeats)
        for name in names:
            megabytes = _alone(_peak, network, name)
            found.append(StepCost(network, name, seconds[name], seconds[name] / seconds[PLAIN], megabytes))
    return found


def make_step(network: str, variant: str) -> Callable[[], None]:
    """Return a function that trains a fresh network for one step, always on the same images."""
    import torch
    import torchvision
    from torch.nn import functional as F

    from pipeline.config.mitigate import IsnetMethod
    from pipeline.mitigate.cuts import Cuts
    from pipeline.mitigate.fine_tuning import MaskedBatch
    from pipeline.mitigate.interface import Problem
    from pipeline.mitigate.isnet import isnet_losses
    from pipeline.mitigate.isnet_maps import INPUT
    from pipeline.mitigate.supervised_layers import supervised_layers

    torch.manual_seed(0)
    name, side = network.split("@")
    model = getattr(torchvision.models, name)(num_classes=CLASSES).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    mask = torch.ones(BATCH, 1, int(side), int(side))
    mask[:, :, int(side) // 4 : 3 * int(side) // 4, int(side) // 4 : 3 * int(side) // 4] = 0
    batch = MaskedBatch(torch.rand(BATCH, 3, int(side), int(side)), torch.arange(BATCH) % CLASSES, mask)
    problem = Problem(dataset=None, biases=[])
    config = None if variant == PLAIN else IsnetMethod(kind="isnet", **VARIANTS[variant])
    deep = config is not None and config.deep_supervision
    layers = supervised_layers(model, batch.x[:1], "auto") if deep else ()
    cuts = {layer: Cuts(torch.tensor(1.0), torch.tensor(25.0)) for layer in (INPUT, *layers)}

    def step() -> None:
        if config is None:
            loss = F.cross_entropy(model(batch.x), batch.y)
        else:
            loss = isnet_losses(model, batch, problem, config, cuts, layers)["total"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _interleaved(network: str, names: Sequence[str], repeats: int) -> dict[str, float]:
    import gc

    steps = {name: make_step(network, name) for name in names}
    best = dict.fromkeys(names, float("inf"))
    for turn in range(repeats + 1):
        for name, step in steps.items():
            gc.collect()
            started = time.process_time()
            step()
            if turn:  # the first step prepares
                best[name] = min(best[name], time.process_time() - started)
    return best


def _peak(network: str, name: str) -> float:
    step = make_step(network, name)
    before = _resident()
    for _ in range(3):
        step()
    return _resident() - before


def _resident() -> float:
    """Return the largest resident set so far, in 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _alone(function: Callable, *arguments):
    """Run a function in a process of its own, with one thread."""
    os.environ |= dict.fromkeys(THREAD_VARIABLES, "1")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def table(costs: Sequence[StepCost]) -> str:
    """Return the costs as a Markdown table: one row per variant, time and memory per network."""
    networks = list(dict.fromkeys(cost.network for cost in costs))
    lines = [
        "| step | " + " | ".join(f"{network}: time | memory, MB" for network in networks) + " |",
        "|---|" + "---|---|" * len(networks),
    ]
    by_place = {(cost.network, cost.variant): cost for cost in costs}
    for variant in dict.fromkeys(cost.variant for cost in costs):
        cells = []
        for network in networks:
            cost = by_place[network, variant]
            seconds = f" ({cost.seconds:.3f} s)" if variant == PLAIN else ""
            cells += [f"{cost.ratio:.2f}{seconds}", f"{cost.megabytes:.0f}"]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write all figures where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.isnet", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small network and few repeats: does it run?")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME@SIDE", help="torchvision's names")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    arguments = parser.parse_args(argv)
    networks, repeats = (("resnet18@32",), 1) if arguments.quick else (arguments.networks, arguments.repeats)
    costs = measure(networks, arguments.variants, repeats)
    print(table(costs))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps([asdict(cost) for cost in costs], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
