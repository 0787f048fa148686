"""The stage precompute end to end, from image files to HDF5: how fast, where the time goes, and does a kill do harm?

    python -m benchmarks.precompute [FOLDER] [--images 96] [--repeats 3] [--workers 1] [--device cpu]
    python -m benchmarks.precompute [FOLDER] --kill 10

FOLDER holds JPEG or PNG files at any depth; without it, JPEGs of about 600 x 450 pixels are made. The network is
ResNet-18 at 224 pixels with random weights, every ReLU and convolution is stored, and the label is explained.

The first command runs the stage and the loop that one would write first, in turns: the same images, the same decoder,
the same explainer and the same values, but one item at a time decoded in the main process, lists of every sample kept
in memory, and all written at the end. The second kills the stage with SIGKILL at random moments, each time starts it
again, and compares what it stores with what an undisturbed run stores, data set by data set.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
import torch
import yaml

from pipeline.attribution import Explainer
from pipeline.config import Config
from pipeline.data.images import read_image
from pipeline.models.build import build_model
from pipeline.models.checkpoints import save_weights
from pipeline.models.open import open_original
from pipeline.models.trace import select_layers, trace_layers
from pipeline.precompute import explain, stage
from pipeline.precompute.chunks import ChunkFolder
from pipeline.run.runner import run_stages
from pipeline.workspace.directory import RunDirectory
from pipeline.workspace.features import FEATURES
from pipeline.workspace.stage import StageContext

PROJECT = Path(__file__).parents[1]
SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SPLITS = ("train", "train", "val", "test")
PATTERNS = ("*.jpg", "*.jpeg", "*.png")
OUTSIDE = ("open the data set", "wait for batches", "pool and scale", "write", "check health", "rest")


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        folder: image files at any depth, or None to make some.
        images: how many of them.
    """

    folder: Path | None
    images: int
    repeats: int
    batch_size: int
    chunk_rows: int
    workers: int
    device: str
    side: int = SIDE


def make_images(folder: Path, count: int) -> None:
    """Write JPEGs of about 600 x 450 pixels with the smooth areas and the edges of photographs."""
    from PIL import Image

    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        size = (int(generator.integers(560, 640)), int(generator.integers(420, 480)))
        pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (pixels + generator.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"image{number:05d}.jpg", quality=90)


def find_images(folder: Path, count: int) -> list[Path]:
    """Return the first files by name."""
    found = sorted(path.resolve() for pattern in PATTERNS for path in folder.rglob(pattern))[:count]
    if len(found) < count:
        raise SystemExit(f"{folder} holds {len(found)} images, {count} are asked for. Choose fewer with --images.")
    return found


def make_config(settings: Settings, work: Path, name: str) -> Path:
    """Write table, checkpoint and configuration of a run; return the configuration's path."""
    folder = settings.folder
    if folder is None:
        folder = work / "images"
        if not folder.exists():
            make_images(folder, settings.images)
    with open(work / "labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "file", "label", "split"])
        for row, path in enumerate(find_images(folder, settings.images)):
            writer.writerow([f"i{row}", path, row // len(SPLITS) % 2, SPLITS[row % len(SPLITS)]])
    values = {
        "name": name,
        "output_dir": str(work),
        "device": settings.device,
        "data": {
            "kind": "table", "root": str(work), "path": "{file}", "split_column": "split",
            "image_size": settings.side,
        },
        "model": {
            "arch": "torchvision:resnet18", "mean": list(MEAN), "std": list(STD),
            "checkpoint": str(work / "resnet18.pt"),
        },
        "precompute": {
            "conditions": ["label"], "batch_size": settings.batch_size, "chunk_rows": settings.chunk_rows,
            "workers": settings.workers,
        },
    }  # fmt: skip
    config = Config(**values)
    save_weights(build_model(config.model, 2, 3, config.seed).network, work / "resnet18.pt")
    path = work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run_stage(context: StageContext) -> None:
    """Run the stage as the command does, with nothing left from an earlier run: the data set is opened again, too."""
    context.directory.clear("precompute")
    context.memo.clear()
    stage.run(context)
    synchronize(context.device)


def run_naively(context: StageContext) -> None:
    """The loop that one would write first."""
    config = context.config
    with open(Path(config.data.root) / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    model = open_original(context, _Shape(config.data.image_size))
    example = torch.rand(2, 3, config.data.image_size, config.data.image_size, device=context.device)
    layers = [layer.name for layer in select_layers(trace_layers(model, example), "auto", "layers")]
    explainer = Explainer(model, example, config.precompute.composite)
    stored = defaultdict(list)
    for start in range(0, len(rows), config.precompute.batch_size):
        batch = rows[start : start + config.precompute.batch_size]
        pixels = [read_image(Path(row["file"]), 3, config.data.image_size)[0] for row in batch]
        x = torch.stack([torch.from_numpy(each).float() / 255 for each in pixels]).to(context.device)
        labels = torch.tensor([int(row["label"]) for row in batch], device=context.device)
        found = explainer.attribute(x, labels, layers=layers)
        for row in range(len(batch)):
            heatmap = found.heatmap[row]
            stored["heatmaps/label"].append((heatmap / heatmap.abs().max()).half().cpu().numpy())
            stored["logits"].append(found.logits[row].cpu().numpy())
            for name in layers:
                activation, relevance = found.activations[name][row], found.relevances[name][row].sum((1, 2))
                stored[f"layers/{name}/activation_max"].append(activation.amax((1, 2)).half().cpu().numpy())
                stored[f"layers/{name}/activation_mean"].append(activation.mean((1, 2)).half().cpu().numpy())
                scaled = (relevance / relevance.abs().max()).half().cpu().numpy()
                stored[f"layers/{name}/relevance_label"].append(scaled)
    with h5py.File(context.directory.root / "naive.h5", "w") as file:
        for name, values in stored.items():
            file.create_dataset(name, data=np.stack(values), compression="gzip", compression_opts=1, shuffle=True)
    synchronize(context.device)


@dataclass(frozen=True)
class _Shape:
    """What `open_original` asks of a data set."""

    side: int
    classes: tuple[str, ...] = ("0", "1")

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.side, self.side


class Timers:
    """Seconds by part of the stage, measured around its functions from outside."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds[part] += time.perf_counter() - started

    def around(self, part: str, function: Callable) -> Callable:
        def measured(*arguments, **keywords):
            with self.measure(part):
                return function(*arguments, **keywords)

        return measured

    def each(self, part: str, function: Callable) -> Callable:
        def measured(*arguments, **keywords):
            batches = function(*arguments, **keywords)
            while True:
                with self.measure(part):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch

        return measured


def measure_parts(context: StageContext) -> dict[str, float]:
    """Run the stage once and return the seconds of its parts."""
    timers = Timers(context.device)
    health = timers.around("check health", stage._check_health)

    def checked(*arguments):
        before = timers.seconds["model"]
        health(*arguments)
        timers.seconds["model"] = before  # what the health check explains is no feature

    patches = [
        patch.object(stage, "open_world", timers.around("open the data set", stage.open_world)),
        patch.object(stage, "_check_health", checked),
        patch.object(stage, "stream", timers.each("wait for batches", stage.stream)),
        patch.object(stage, "explain_batch", timers.around("explain", stage.explain_batch)),
        patch.object(Explainer, "attribute", timers.around("model", Explainer.attribute)),
        patch.object(explain, "_kept_activation", timers.around("pool within the model", explain._kept_activation)),
        patch.object(explain, "_kept_relevance", timers.around("pool within the model", explain._kept_relevance)),
        patch.object(ChunkFolder, "write", timers.around("write", ChunkFolder.write)),
        patch.object(stage, "assemble", timers.around("write", stage.assemble)),
        patch.object(stage, "seal", timers.around("write", stage.seal)),
    ]
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        with timers.measure("all"):
            run_stage(context)
    seconds = dict(timers.seconds)
    # layers are pooled as soon as they are explained, within the time of the model
    pooling = seconds.pop("pool within the model")
    seconds["pool and scale"] = seconds.pop("explain") - seconds["model"] + pooling
    seconds["model"] -= pooling
    total = seconds.pop("all")
    seconds["rest"] = total - sum(seconds.values())
    return seconds


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def compare_speed(settings: Settings, work: Path) -> str:
    """Return a table of images per second, and one of the parts of the stage."""
    from pipeline.config import load_config

    context = run_stages(load_config(make_config(settings, work, "speed")), "train")
    context = StageContext(context.config, context.directory, context.device or settings.device, key="benchmark")
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(settings.repeats):
        timers = Timers(context.device)
        with (
            patch.object(stage, "_check_health", timers.around("health", stage._check_health)),
            timers.measure("stage"),
        ):
            run_stage(context)
        with timers.measure("naive loop"):
            run_naively(context)
        seconds = timers.seconds
        rates["stage"].append(settings.images / (seconds["stage"] - seconds["health"]))
        rates["stage with its health check"].append(settings.images / seconds["stage"])
        rates["naive loop, without a health check"].append(settings.images / seconds["naive loop"])
    check_same(context)
    ratios = [a / b for a, b in zip(rates["stage"], rates["naive loop, without a health check"], strict=True)]
    title = f"{settings.images} images, batch {settings.batch_size}, {settings.workers} workers"
    lines = [f"| {title} | images/s (median) | all repeats |", "|---|---|---|"]
    for name, values in {**rates, "stage / naive loop": ratios}.items():
        lines.append(f"| {name} | {statistics.median(values):.2f} | {', '.join(f'{each:.2f}' for each in values)} |")
    parts = measure_parts(context)
    total = sum(parts.values())
    lines += ["", "| part of the stage | seconds | share |", "|---|---|---|"]
    lines += [
        f"| {name} | {parts.get(name, 0.0):.2f} | {parts.get(name, 0.0) / total:.1%} |" for name in ("model", *OUTSIDE)
    ]
    lines.append(f"| outside the model | {total - parts['model']:.2f} | {1 - parts['model'] / total:.1%} |")
    return "\n".join(lines)


def check_same(context: StageContext) -> None:
    """Raise if the two ways did not store the same."""
    stored, naive = contents(context.directory.root / FEATURES), contents(context.directory.root / "naive.h5")
    for name, values in naive.items():
        np.testing.assert_allclose(stored[name], values, rtol=5e-3, atol=5e-3, err_msg=name)


def contents(path: Path) -> dict[str, np.ndarray]:
    """Return every data set of a file."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None
        )
    return found


def kill(settings: Settings, work: Path, times: int) -> str:
    """Kill the stage at random moments, and compare what it stores in the end with an undisturbed run."""
    config = make_config(settings, work, "killed")
    command = [sys.executable, "-m", "pipeline.precompute", "--config", str(config)]
    folder = RunDirectory(work / "killed").folder("precompute")
    started = time.perf_counter()
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    whole = time.perf_counter() - started
    expected, bytes_expected = contents(folder / "features.h5"), (folder / "features.h5").read_bytes()

    generator, killed, compared, lines = random.Random(0), 0, 0, []
    shutil.rmtree(folder)
    while killed < times:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
        moment = generator.uniform(0, whole)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            there = len(list(folder.glob("chunks/[0-9]*.npz")))
            lines.append(f"kill {killed}: after {moment:.1f} s, {there} chunks are there")
        else:
            if process.returncode:
                raise SystemExit(f"the stage ended with exit code {process.returncode}")
            compared += 1
            lines.append(f"finished before it was killed; {compare(folder, expected, bytes_expected)}; begun anew")
            shutil.rmtree(folder)
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    lines.append(f"resumed after {killed} kills: {compare(folder, expected, bytes_expected)}")
    return "\n".join(lines)


def compare(folder: Path, expected: dict[str, np.ndarray], bytes_expected: bytes) -> str:
    """Return in words how the store compares with the undisturbed one.

    Raises:
        SystemExit: a data set is missing or differs.
    """
    found = contents(folder / "features.h5")
    missing = sorted(found.keys() ^ expected.keys())
    different = [name for name in expected if name in found and not np.array_equal(found[name], expected[name])]
    if missing or different:
        raise SystemExit(f"missing or too many: {missing}; different: {different}")
    same = "the same bytes" if (folder / "features.h5").read_bytes() == bytes_expected else "other bytes of the file"
    return f"all {len(found)} data sets are equal, {same}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--chunk-rows", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--kill", type=int, default=0, metavar="TIMES", help="kill the stage so often instead")
    arguments = parser.parse_args()
    settings = Settings(
        arguments.folder, arguments.images, arguments.repeats, arguments.batch_size, arguments.chunk_rows,
        arguments.workers, arguments.device, arguments.side,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        if arguments.kill:
            print(kill(settings, Path(work), arguments.kill))
        else:
            print(compare_speed(settings, Path(work)))


if __name__ == "__main__":
    main()
