"""ISNet against background bias, over several seeds: who still reads digits when the mark beside them lies?

    python -m benchmarks.mnist_isnet [--seeds 0 1 2] [--output DIR] [--set KEY=VALUE ...]

Each seed changes the split, the initial weights and everything random after them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pipeline.run import run_audit
from pipeline.workspace.progress import PlainReporter
from pipeline.workspace.records import Audit

WORLDS = {"asis": "mark tells the class", "clean": "no mark", "attacked": "mark tells a wrong class"}


@dataclass(frozen=True)
class Row:
    """One model of one seed.

    Attributes:
        accuracy: by world.
        background: share of relevance outside the digit, as trained.
        seconds: of the training; nan for the model under audit.
    """

    seed: int
    model: str
    accuracy: dict[str, float]
    background: float
    seconds: float


def measure(seed: int, output: Path, overrides: Sequence[str] = ()) -> list[Row]:
    """Run the audit of a seed, or what is left of it, and return its models."""
    changes = (f"seed={seed}", f"data.split.seed={seed}", f"name=mnist-isnet-{seed}", f"output_dir={output}")
    return summarize(seed, run_audit("mnist_isnet.yaml", overrides=(*changes, *overrides), reporter=PlainReporter()))


def summarize(seed: int, audit: Audit) -> list[Row]:
    """Return the models of an audit, the one under audit first."""
    values = {(m.model, m.metric, m.world): m.value for m in audit.metrics if m.subgroup == "all"}
    seconds = {"original": float("nan")} | {method.id: method.seconds for method in audit.methods}
    return [
        Row(
            seed,
            model,
            {world: values[model, "accuracy", world] for world in WORLDS},
            values.get((model, "background_relevance", "asis"), float("nan")),
            seconds[model],
        )
        for model in seconds
    ]


def table(rows: Sequence[Row]) -> str:
    """Return means over the seeds, and how much the wrong mark costs each of them."""
    lines = [
        "| model | " + " | ".join(WORLDS.values()) + " | points lost to a wrong mark, by seed "
        "| relevance outside the digit | seconds |",
        "|---" * (len(WORLDS) + 4) + "|",
    ]
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        lost = ", ".join(f"{100 * (row.accuracy['clean'] - row.accuracy['attacked']):.1f}" for row in own)
        cells = [f"{fmean(row.accuracy[world] for row in own):.3f}" for world in WORLDS]
        seconds = fmean(row.seconds for row in own)
        cells += [lost, f"{fmean(row.background for row in own):.3f}", f"{seconds:.0f}" if seconds == seconds else "-"]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every seed and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mnist_isnet", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("artifacts/benchmarks"))
    parser.add_argument("--set", nargs="+", default=[], dest="overrides", metavar="KEY=VALUE", help="as for a stage")
    arguments = parser.parse_args(argv)
    rows = [row for seed in arguments.seeds for row in measure(seed, arguments.output, arguments.overrides)]
    print(table(rows))


if __name__ == "__main__":
    main()
