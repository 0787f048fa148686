"""All corrections on one task: what each regains in the attacked world, what it costs, and how sure that is.

    python -m benchmarks.contest TASK [--set key=value ...] [--output DIR]

Tasks: demo (a stamp on 95 % of one class of digits), trial (on 90 %), backgrounds (group imbalance as in Waterbirds)
and isic2017 (a disc beside 90 % of the melanomas). Corrections are those of configs/contest.yaml, each trained three
times; figures are means over the seeds with the interval of the report. Accuracies are balanced over the classes; what
was regained is a share of what the original loses, and is left open where that is less than two points.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import load_config
from pipeline.config.schema import Config
from pipeline.run import run_audit
from pipeline.workspace.progress import PlainReporter
from pipeline.workspace.records import Audit, MethodRecord, Metric

ROOT = Path(__file__).parents[1]
METHODS = "contest.yaml"
ACCURACY = "balanced_accuracy"
LEAST_LOST = 0.02
TRIAL = ("name=trial", "data.attack.probability=0.9")


@dataclass(frozen=True)
class Row:
    """A correction: metrics with their intervals, None where they were not measured; `regained` is nan if open."""

    name: str
    clean: Metric
    attacked: Metric
    worst: Metric
    flips: Metric | None
    relevance: Metric | None
    aurocs: tuple[Metric, Metric] | None
    regained: float
    cost: float
    seconds: float
    megabytes: float | None
    told_truth: bool


def task_config(task: str, overrides: tuple[str, ...], output: Path) -> Config:
    """Return the configuration of a task, with the methods of the contest."""
    common = (f"output_dir={output}", *overrides)
    if task in ("demo", "trial"):
        return load_config(METHODS, ((*TRIAL,) if task == "trial" else ()) + common)
    file = ROOT / "benchmarks/backgrounds.yaml" if task == "backgrounds" else ROOT / "benchmarks/isic2017_contest.yaml"
    config, contest = load_config(file, common), load_config(METHODS)
    shared = {"seeds": contest.mitigate.seeds, "methods": contest.mitigate.methods}
    given = config.mitigate.model_fields_set
    return config.model_copy(
        update={"mitigate": config.mitigate.model_copy(update={k: v for k, v in shared.items() if k not in given})}
    )


def rows_of(audit: Audit) -> list[Row]:
    """Return the original and the chosen corrections."""
    worlds = {metric.world for metric in audit.metrics}
    without = "clean" if "clean" in worlds else "asis"
    found = {(m.model, m.world, m.metric): m for m in audit.metrics if m.subgroup == "all"}
    methods = {method.id: method for method in audit.methods}
    families = dict.fromkeys(each.family for each in audit.contest.chosen())
    leading = [next(each.id for each in audit.contest.chosen() if each.family == family) for family in families]
    clean, attacked = (found["original", world, ACCURACY].value for world in (without, "attacked"))
    lost = clean - attacked if clean - attacked >= LEAST_LOST else float("nan")

    def row(name: str, method: MethodRecord | None) -> Row:
        seeds = [each.id for each in audit.contest.chosen() if method and each.family == method.family]
        aurocs = tuple(found.get((name, world, "auroc")) for world in (without, "attacked"))
        return Row(
            name,
            found[name, without, ACCURACY],
            found[name, "attacked", ACCURACY],
            found[name, "attacked", "worst_group_accuracy"],
            found.get((name, "attacked", "flip_rate")),
            found.get((name, "attacked", "artifact_relevance")),
            None if None in aurocs else aurocs,
            (found[name, "attacked", ACCURACY].value - attacked) / lost,
            clean - found[name, without, ACCURACY].value,
            sum(methods[each].seconds for each in seeds) / max(len(seeds), 1),
            method.peak_megabytes if method else None,
            bool(method and method.told_truth),
        )

    return [row("original", None), *(row(name, methods[name]) for name in leading)]


def table(rows: list[Row], preferred: str | None) -> str:
    """Return the rows as Markdown; AUROCs where there are two classes."""
    headings = ["correction", "clean", "attacked", "regained", "clean cost", "worst group, attacked", "flips"]
    headings += ["artifact relevance", *(["AUROC clean", "attacked"] if rows[0].aurocs else []), "seconds", "MB"]
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    return "\n".join(lines + ["| " + " | ".join(_cells(each, preferred)) + " |" for each in rows])


def _cells(row: Row, preferred: str | None) -> list[str]:
    original = row.name == "original"
    name = f"**{row.name}**" if row.name == preferred else row.name
    return [
        name + (" (told the truth)" if row.told_truth else ""),
        _figures(row.clean),
        _figures(row.attacked),
        "" if original or math.isnan(row.regained) else f"{row.regained:.0%}",
        "" if original else f"{row.cost * 100:+.1f}",
        _value(row.worst),
        _value(row.flips),
        _value(row.relevance),
        *(map(_value, row.aurocs) if row.aurocs else []),
        "" if original else f"{row.seconds:.1f}",
        "" if row.megabytes is None else f"{row.megabytes:.0f}",
    ]


def _figures(metric: Metric) -> str:
    return f"{metric.value:.3f} [{metric.lower:.3f}, {metric.upper:.3f}]"


def _value(metric: Metric | None) -> str:
    return "" if metric is None else f"{metric.value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["demo", "trial", "backgrounds", "isic2017"])
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="key=value")
    parser.add_argument("--output", type=Path, default=Path("artifacts/benchmarks"))
    arguments = parser.parse_args()
    config = task_config(arguments.task, tuple(arguments.overrides), arguments.output)
    audit = run_audit(config, reporter=PlainReporter())
    print(table(rows_of(audit), audit.best_correction))
    for warning in audit.contest.warnings:
        print(f"\n{warning}")


if __name__ == "__main__":
    main()
