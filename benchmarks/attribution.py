"""What layer-wise relevance costs: the project's engine beside zennit, zennit-crp, and the bare network.

    make benchmark-attribution
    .venv-benchmark/bin/python -m benchmarks.attribution [--networks resnet18 ...] [--methods ours forward ...]

zennit-crp demands an old zennit, so it has an environment of its own, which `make benchmark-attribution` builds;
everything else in it is what the project's own environment holds. All methods run in one process, in an order that is
shuffled anew for every repeat, on the same images, targets and weights. Nothing here says how fast anything must be.

Memory is measured on Linux with glibc, in a process of its own for each method: resident memory when it was highest
during `MEMORY_BATCHES` batches, less resident memory right before the first of them. What a method keeps between
batches (its copy of the network, what it made ready, what one pass over one image left) is a figure of its own. The
kernel's mark is reset in between, because what `getrusage` calls the largest resident set also covers the set-up, and
even the parent from which the process was started.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import multiprocessing
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.fx.experimental.optimization import fuse

COMPOSITE = "epsilon_plus_flat"
CLASSES = 1000
LAST_BLOCK = {"resnet18": "layer4", "resnet50": "layer4", "vgg16": "features", "vgg16_bn": "features"}
MEMORY_BATCHES = 3
SEED = 0


@dataclass(frozen=True)
class Settings:
    """How all methods are run.

    Attributes:
        clock: "processor" counts seconds of all threads of the process, "wall" what a waiting person counts.
    """

    batch: int
    size: int
    repeats: int
    threads: int
    device: str
    clock: str


@dataclass(frozen=True)
class Problem:
    """A network in evaluation mode, images `[N, 3, H, W]`, ids `[N]` of the explained logits, and where to record."""

    network: str
    model: nn.Module
    images: torch.Tensor
    targets: torch.Tensor
    layers: list[str]

    def first(self, count: int) -> Problem:
        return Problem(self.network, self.model, self.images[:count], self.targets[:count], self.layers)


@dataclass(frozen=True)
class Pooled:
    """A layer's values over positions: sum, largest and mean, each `[N, C]`."""

    sum: torch.Tensor
    largest: torch.Tensor
    mean: torch.Tensor


@dataclass(frozen=True)
class Explained:
    """What a recording method has in hand after a batch; heatmap `[N, H, W]`, or None where none was asked for."""

    heatmap: torch.Tensor | None
    activations: dict[str, Pooled]
    relevances: dict[str, Pooled]


Run = Callable[[torch.Tensor, torch.Tensor], Explained | None]
"""Takes images and targets. What can be made once, for all batches, was made before."""


@dataclass(frozen=True)
class Method:
    title: str
    prepare: Callable[[Problem], Run]


# What is measured


def pool(values: torch.Tensor) -> Pooled:
    """Return sum, largest and mean over all axes from the third on."""
    positions = tuple(range(2, values.ndim))
    total = values.sum(positions)
    return Pooled(total, values.amax(positions), total / values[0, 0].numel())


def keep(layer: str, values: torch.Tensor) -> Pooled:
    """Pool a layer's values as soon as they are there."""
    return pool(values)


def pool_all(values: dict[str, torch.Tensor]) -> dict[str, Pooled]:
    return {name: pool(value) for name, value in values.items()}


def zennit_composite(model: nn.Module):
    from zennit.composites import EpsilonPlusFlat
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    is_resnet = isinstance(model, torchvision.models.ResNet)
    return EpsilonPlusFlat(canonizers=[ResNetCanonizer() if is_resnet else VGGCanonizer()])


def zennit_attributor(model: nn.Module):
    from zennit.attribution import Gradient

    return Gradient(model, zennit_composite(model))


def at_targets(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the logits at their targets and zero elsewhere: relevance starts at the logit's own value."""
    return logits.detach() * nn.functional.one_hot(targets, logits.shape[1]).to(logits)


def prepare_zennit_crp(problem: Problem) -> Run:
    """The usual loop over zennit-crp; its attribution registers the composite anew for every batch."""
    from crp.attribution import CondAttribution

    model = copy.deepcopy(problem.model)
    attribution, composite = CondAttribution(model), zennit_composite(model)

    def run(images: torch.Tensor, targets: torch.Tensor) -> Explained:
        conditions = [{"y": [target]} for target in targets.tolist()]
        images = images.clone().requires_grad_(True)
        found = attribution(images, conditions, composite, record_layer=problem.layers)
        return Explained(found.heatmap, pool_all(found.activations), pool_all(found.relevances))

    return run


def prepare_zennit_recorded(problem: Problem) -> Run:
    """What stands in for zennit-crp: zennit registered anew for every batch, outputs kept with their gradients."""
    model = copy.deepcopy(problem.model)
    attributor, outputs = zennit_attributor(model), {}

    def keep(name: str):
        def hook(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            output.retain_grad()
            outputs[name] = output

        return hook

    for name in problem.layers:
        model.get_submodule(name).register_forward_hook(keep(name))

    def run(images: torch.Tensor, targets: torch.Tensor) -> Explained:
        _, relevance = attributor(images.clone().requires_grad_(True), partial(at_targets, targets=targets))
        activations = pool_all({name: output.detach() for name, output in outputs.items()})
        relevances = pool_all({name: output.grad for name, output in outputs.items()})
        outputs.clear()
        return Explained(relevance.sum(1), activations, relevances)

    return run


def prepare_zennit(problem: Problem) -> Run:
    """Plain zennit at its best: registered once, what passes by is pooled at once and not kept."""
    model = copy.deepcopy(problem.model)
    attributor = zennit_attributor(model)
    activations, relevances = {}, {}

    def watch(name: str):
        def hook(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            activations[name] = pool(output.detach())
            output.register_hook(lambda relevance: relevances.__setitem__(name, pool(relevance)))

        return hook

    for name in problem.layers:
        model.get_submodule(name).register_forward_hook(watch(name))
    attributor.composite.register(model)
    model.requires_grad_(False)  # also the biases that merging has made

    def run(images: torch.Tensor, targets: torch.Tensor) -> Explained:
        _, relevance = attributor(images.clone().requires_grad_(True), partial(at_targets, targets=targets))
        found = Explained(relevance.sum(1), dict(activations), dict(relevances))
        activations.clear()
        relevances.clear()
        return found

    return run


def prepare_ours(problem: Problem) -> Run:
    from pipeline.attribution import Explainer

    explainer = Explainer(problem.model, problem.images[:2], COMPOSITE)

    def run(images: torch.Tensor, targets: torch.Tensor) -> Explained:
        found = explainer.attribute(images, targets, layers=problem.layers, keep_activation=keep, keep_relevance=keep)
        return Explained(found.heatmap, found.activations, found.relevances)

    return run


def prepare_ours_last_block(problem: Problem) -> Run:
    from pipeline.attribution import Explainer

    explainer = Explainer(problem.model, problem.images[:2], COMPOSITE)
    layers = [LAST_BLOCK[problem.network]]

    def run(images: torch.Tensor, targets: torch.Tensor) -> Explained:
        found = explainer.attribute(
            images, targets, layers=layers, at_input=False, keep_activation=keep, keep_relevance=keep
        )
        return Explained(None, found.activations, found.relevances)

    return run


def gradient_of(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    images = images.detach().requires_grad_(True)
    logits = model(images)
    (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), images)
    return gradient


def prepare_forward_backward(problem: Problem) -> Run:
    def run(images: torch.Tensor, targets: torch.Tensor) -> None:
        gradient_of(problem.model, images, targets)

    return run


def prepare_fused_forward_backward(problem: Problem) -> Run:
    """The tighter floor: BatchNorm folded into convolutions, and the layout of memory that convolutions like best."""
    model = fuse(problem.model).requires_grad_(False).to(memory_format=torch.channels_last)

    def run(images: torch.Tensor, targets: torch.Tensor) -> None:
        gradient_of(model, images.contiguous(memory_format=torch.channels_last), targets)

    return run


def prepare_forward(problem: Problem) -> Run:
    def run(images: torch.Tensor, targets: torch.Tensor) -> None:
        with torch.no_grad():
            problem.model(images)

    return run


def make_peer() -> Method:
    try:
        import crp.attribution  # noqa: F401
    except ImportError as error:
        return Method(f"peer: zennit, outputs kept (no zennit-crp: {error})", prepare_zennit_recorded)
    return Method("peer: loop over zennit-crp", prepare_zennit_crp)


METHODS = {
    "peer": make_peer(),
    "zennit": Method("zennit, registered once, pooled on the fly", prepare_zennit),
    "ours": Method("ours, all convolutions and input", prepare_ours),
    "ours_last_block": Method("ours, last block only", prepare_ours_last_block),
    "forward_backward": Method("forward + backward", prepare_forward_backward),
    "forward": Method("forward", prepare_forward),
    "fused": Method("for information: forward + backward, fused, channels last", prepare_fused_forward_backward),
}
RECORDERS = ("peer", "zennit", "ours")
REFERENCES = ("forward_backward", "forward", "peer")
WEIGHED = ("ours", "peer", "forward_backward")


# On what it is measured


def make_problem(network: str, settings: Settings) -> Problem:
    """Return a network with random weights and Gaussian noise; the same at every call."""
    torch.manual_seed(SEED)
    images = torch.randn(settings.batch, 3, settings.size, settings.size)
    targets = torch.randint(CLASSES, (settings.batch,))
    model = torchvision.models.get_model(network, weights=None, num_classes=CLASSES)
    randomize(model, images)
    model.eval().requires_grad_(False).to(settings.device)
    return Problem(network, model, images.to(settings.device), targets.to(settings.device), convolutions(model))


def randomize(model: nn.Module, images: torch.Tensor) -> None:
    """Give BatchNorm and biases values as training would: no ones, no zeros, and activations of moderate size.

    Running statistics are those of `images` times a random factor, since made-up ones let activations grow or vanish
    from block to block, until the processor's slow path for tiny numbers is what is measured.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.normal_(std=0.05)
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(std=0.1)
            norm.momentum = 1.0
        model.train()(images)
        for norm in norms:
            norm.running_mean += norm.running_var.sqrt() * torch.empty_like(norm.running_mean).normal_(std=0.1)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)


def convolutions(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


# Whether the methods compute the same


@dataclass(frozen=True)
class Agreement:
    """How a method's relevance correlates with zennit's on two images.

    Attributes:
        heatmap: the lesser of the two images.
        relevance: the least over recorded layers, of relevance summed over positions.
        scale: size (Euclidean) of the heatmaps over that of zennit's, which a correlation does not see.
    """

    network: str
    method: str
    heatmap: float
    relevance: float
    scale: float


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return Pearson's correlation of all values."""
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double().cpu())[0, 1])


def compare(problem: Problem, methods: Sequence[str]) -> list[Agreement]:
    """Compare every recording method with zennit, where that is among them.

    Raises:
        ValueError: they do not record the same layers.
    """
    chosen = [name for name in RECORDERS if name in methods]
    if "zennit" not in chosen:
        return []
    pair = problem.first(2)
    found = {name: METHODS[name].prepare(pair)(pair.images, pair.targets) for name in chosen}
    return [agree(problem.network, name, found[name], found["zennit"]) for name in chosen if name != "zennit"]


def agree(network: str, method: str, found: Explained, reference: Explained) -> Agreement:
    for kind in ("activations", "relevances"):
        differing = set(getattr(found, kind)) ^ set(getattr(reference, kind))
        if differing:
            raise ValueError(f"'{method}' and zennit record different {kind} of {network}: {sorted(differing)}.")

    return Agreement(
        network,
        method,
        heatmap=min(map(correlation, found.heatmap, reference.heatmap)),
        relevance=min(correlation(found.relevances[layer].sum, at.sum) for layer, at in reference.relevances.items()),
        scale=float(found.heatmap.norm() / reference.heatmap.norm()),
    )


# Time


@dataclass(frozen=True)
class Timing:
    """Seconds per batch, one for every repeat."""

    network: str
    method: str
    seconds: list[float]

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def shuffled_orders(names: Sequence[str], repeats: int, seed: int = SEED) -> list[list[str]]:
    """Return an order of all names for every repeat, so that no method always runs after the same other."""
    shuffler = random.Random(seed)
    return [shuffler.sample(list(names), len(names)) for _ in range(repeats)]


def seconds_of(run: Run, problem: Problem, clock: str) -> float:
    read = time.process_time if clock == "processor" else time.perf_counter
    gc.collect()  # what the method before has left is not this one's work
    synchronize(problem.images)
    started = read()
    run(problem.images, problem.targets)
    synchronize(problem.images)
    return read() - started


def synchronize(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()


def measure_times(problem: Problem, methods: Sequence[str], settings: Settings) -> list[Timing]:
    """Run every method once without counting, then all of them once per repeat."""
    runs = {name: METHODS[name].prepare(problem) for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for run in runs.values():
        run(problem.images, problem.targets)
    for number, order in enumerate(shuffled_orders(methods, settings.repeats), start=1):
        for name in order:
            seconds[name].append(seconds_of(runs[name], problem, settings.clock))
        say(f"{problem.network}: repeat {number} of {settings.repeats}")
    return [Timing(problem.network, name, seconds[name]) for name in methods]


# Memory


@dataclass(frozen=True)
class Memory:
    """Megabytes (10^6 bytes).

    Attributes:
        kept: more than the network and the images after preparing and one pass over one image.
        peak: more than that, at most, while batches are explained.
    """

    network: str
    method: str
    kept: float
    peak: float


def measure_memory(network: str, method: str, settings: Settings) -> Memory:
    """Measure in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(weigh, network, method, settings).result()


def weigh(network: str, method: str, settings: Settings) -> Memory:
    torch.set_num_threads(settings.threads)
    problem = make_problem(network, settings)
    release_memory()
    alone = bytes_now(problem.images)
    run = METHODS[method].prepare(problem)
    run(problem.images[:1], problem.targets[:1])
    release_memory()
    reset_peak(problem.images)
    before = bytes_now(problem.images)
    for _ in range(MEMORY_BATCHES):
        run(problem.images, problem.targets)
    return Memory(network, method, (before - alone) / 1e6, (peak_bytes(problem.images) - before) / 1e6)


def release_memory() -> None:
    """Give back what nothing refers to, so that what stays resident is in use."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def bytes_now(tensor: torch.Tensor) -> int:
    """Return what is taken now of the memory in which `tensor` lives."""
    return torch.cuda.memory_allocated() if tensor.is_cuda else status_bytes("VmRSS")


def peak_bytes(tensor: torch.Tensor) -> int:
    """Return what was taken at most since `reset_peak`."""
    return torch.cuda.max_memory_allocated() if tensor.is_cuda else status_bytes("VmHWM")


def reset_peak(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): sets VmHWM to what is resident now


def status_bytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = [line.split()[1] for line in status.splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(kilobytes)


# The report


@dataclass
class Report:
    """Everything measured, and on what; titles say what stands behind the name of a method."""

    machine: dict[str, str | int]
    settings: Settings
    titles: dict[str, str]
    agreements: list[Agreement] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def describe_machine(device: str) -> dict[str, str | int]:
    found: dict[str, str | int] = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "zennit", "zennit-crp"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    found["processors"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found["processor"] = processor_name()
    if device != "cpu":
        found["device"] = torch.cuda.get_device_name(device)
    return found


def processor_name() -> str:
    source = Path("/proc/cpuinfo")
    lines = source.read_text().splitlines() if source.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    lines.insert(1, "|---" * len(header) + "|")
    return "\n".join(lines)


def time_table(timings: Sequence[Timing]) -> str:
    """Least and median seconds per batch; times the least seconds of each reference, on the same network."""
    least = {(timing.network, timing.method): timing.least for timing in timings}
    references = [name for name in REFERENCES if any(timing.method == name for timing in timings)]

    def row(timing: Timing) -> list[str]:
        ratios = [f"{timing.least / least[timing.network, name]:.2f}" for name in references]
        seconds = [f"{timing.least:.3f}", f"{timing.median:.3f}"]
        return [timing.network, METHODS[timing.method].title, *seconds, *ratios]

    titles = [f"times {METHODS[name].title.partition(':')[0]}" for name in references]
    return table(["network", "method", "least s", "median s", *titles], map(row, timings))


def agreement_table(agreements: Sequence[Agreement]) -> str:
    def row(each: Agreement) -> list[str]:
        figures = (each.heatmap, each.relevance, each.scale)
        return [each.network, METHODS[each.method].title, *(f"{figure:.6f}" for figure in figures)]

    header = ["network", "method", "heatmap", "relevance of the worst layer", "scale of the heatmap"]
    return table(header, map(row, agreements))


def memory_table(memories: Sequence[Memory]) -> str:
    rows = ([each.network, METHODS[each.method].title, f"{each.peak:.0f}", f"{each.kept:.0f}"] for each in memories)
    return table(["network", "method", "peak MB", "kept MB"], rows)


def text(report: Report) -> str:
    settings = report.settings
    what = "of the processor, summed over threads" if settings.clock == "processor" else "of the wall clock"
    parts = [
        ", ".join(f"{name} {value}" for name, value in report.machine.items()) + ".",
        f"Batch {settings.batch} of {settings.size} x {settings.size}, {settings.threads} threads, device "
        f"{settings.device}. Seconds {what}, per batch; {settings.repeats} repeats in shuffled order after one that is "
        "not counted. Ratios are those of the least seconds. Recorded: sum, largest and mean over positions of "
        "activation and relevance, all convolutions.",
        time_table(report.timings),
    ]
    if report.memories:
        parts += [
            f"Peak: highest memory over {MEMORY_BATCHES} batches, less memory right before the first, in a process of "
            "its own. Kept: what preparing and one pass over one image, which come before, add to network and images.",
            memory_table(report.memories),
        ]
    if report.agreements:
        parts += [
            "Correlation with zennit on two images (less than 1 where zennit's merging leaves BatchNorm's eps behind):",
            agreement_table(report.agreements),
        ]
    return "\n\n".join(parts)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(LAST_BLOCK), default=["resnet18", "resnet50", "vgg16"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--batch", type=int, default=8, help="images per batch, at least 2")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="wall clock, not seconds of the processor")
    parser.add_argument("--device", default="cpu", help="on others than cpu the clock is the wall's")
    parser.add_argument("--output", type=Path, help="JSON file for the figures, written anew after every network")
    parsed = parser.parse_args(arguments)
    if parsed.batch < 2:
        parser.error(f"--batch {parsed.batch}: give at least 2, since methods are prepared and compared on two images")
    return parsed


def main() -> None:
    arguments = parse()
    clock = "wall" if arguments.wall or arguments.device != "cpu" else "processor"
    settings = Settings(arguments.batch, arguments.size, arguments.repeats, arguments.threads, arguments.device, clock)
    torch.set_num_threads(settings.threads)
    titles = {name: METHODS[name].title for name in arguments.methods}
    report = Report(describe_machine(settings.device), settings, titles)
    for network in arguments.networks:
        problem = make_problem(network, settings)
        agreements = compare(problem, arguments.methods)
        say(agreement_table(agreements))
        report.agreements += agreements
        report.timings += measure_times(problem, arguments.methods, settings)
        for method in WEIGHED:
            if method in arguments.methods:
                report.memories.append(measure_memory(network, method, settings))
        if arguments.output is not None:
            report.write(arguments.output)
    print(text(report))


if __name__ == "__main__":
    main()
