"""Training steps side by side: seconds of the processor and memory, as multiples of a plain step.

Every network is measured in a process of its own, with one thread; steps of all kinds take turns in it, and the fastest
of each counts, so that the load of the machine cancels out. Memory is measured in a process per kind: the largest
resident set during three steps, less that before the first.
"""

from __future__ import annotations

import argparse
import gc
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
MakeStep = Callable[[str, str], Callable[[], None]]
"""(network as name@side, step) -> a function that trains a fresh network for one step, always on the same images."""


@dataclass(frozen=True)
class StepCost:
    """Cost of one kind of step.

    Attributes:
        network: name@side.
        step: "plain", or what it is called.
        seconds: of the processor, the fastest step.
        ratio: to a plain step.
        megabytes: 10^6 bytes above what the process held before the first step.
    """

    network: str
    step: str
    seconds: float
    ratio: float
    megabytes: float


def measure(make_step: MakeStep, networks: Sequence[str], steps: Sequence[str], repeats: int) -> list[StepCost]:
    """Return the cost of a plain step, and of every kind of step, on every network."""
    names = list(dict.fromkeys([PLAIN, *steps]))
    found = []
    for network in networks:
        seconds = _alone(_interleaved, make_step, network, names, repeats)
        for name in names:
            megabytes = _alone(_peak, make_step, network, name)
            found.append(StepCost(network, name, seconds[name], seconds[name] / seconds[PLAIN], megabytes))
    return found


def _interleaved(make_step: MakeStep, network: str, names: Sequence[str], repeats: int) -> dict[str, float]:
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


def _peak(make_step: MakeStep, network: str, name: str) -> float:
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
    """Return the costs as a Markdown table: one row per step, time and memory per network."""
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
            ratio = f"{cost.ratio:.2f}" if cost.ratio >= 0.1 else f"{cost.ratio:.3f}"
            cells += [f"{ratio}{seconds}", f"{cost.megabytes:.0f}"]
        lines.append(f"| {step} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def command(
    make_step: MakeStep,
    module: str,
    about: str,
    networks: Sequence[str],
    steps: Sequence[str],
    repeats: int,
    argv: Sequence[str] | None = None,
) -> None:
    """Measure as the command line says, print the table, and write all figures where asked."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--quick", action="store_true", help="small images and few repeats: does it run?")
    parser.add_argument("--networks", nargs="+", default=networks, metavar="NAME@SIDE", help="torchvision's names")
    parser.add_argument("--steps", nargs="+", default=list(steps), choices=list(steps), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    arguments = parser.parse_args(argv)
    chosen, repeats = (("resnet18@32",), 1) if arguments.quick else (arguments.networks, arguments.repeats)
    costs = measure(make_step, chosen, arguments.steps, repeats)
    print(table(costs))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps([asdict(cost) for cost in costs], indent=1) + "\n", encoding="utf-8")
