"""Write `docs/metrics.md`: every metric by family, what it says, and which direction is good.

python -m docs.make_metrics_page
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.workspace.metric_catalogue import FAMILIES, METRICS, Family, MetricEntry

DOCUMENT = Path(__file__).parent / "metrics.md"
BETTER = {"higher": "higher", "lower": "lower", "control": "near its control", "none": ""}
COUNTS = {"samples": "", "directions": "n counts directions", "findings": "n counts findings"}
INTRODUCTION = """\
# Metrics

`evaluate/metrics.csv` and `evaluate/metrics.parquet` hold the same rows, one for each figure. `make metrics-page`
writes this page from the catalogue `workspace/metric_catalogue.py`; a test compares both.

| column | what |
|---|---|
| `model` | `original`, a method id, `<method id>_seed-<number>`, or `pipeline`: how well the detection itself did |
| `world` | in which state the test samples are, see below |
| `subgroup` | of which samples, or about what, see below |
| `metric` | name in the tables below |
| `value` | the figure; nan where it is not defined |
| `lower`, `upper` | ends of its interval, of the confidence `evaluate.confidence` |
| `n` | samples that it rests on, unless its table says otherwise |

| world | the test samples |
|---|---|
| `asis` | as the model knows them: with artifacts where they happen to be, or where they were planted |
| `clean` | without the planted artifact |
| `attacked` | all with the planted artifact; without one, all with the region of the first bias pasted in |
| `inserted` | samples without a bias, before and after its region is pasted in; the subgroup names the bias |
| `removed` | samples with a bias, before and after its region is filled in; the subgroup names the bias |

| subgroup | whom or what the row is about |
|---|---|
| `all` | all test samples |
| `class=NAME` | samples of a class, or a class against all others |
| `group=CLASS, with`, `group=CLASS, without` | samples of a class with or without the artifact |
| `COLUMN=VALUE` | samples with a value of a column of `evaluate.subgroups`; missing values are no subgroup |
| `artifact=NAME` | an artifact that the table of the data lists |
| a bias id, also `BIAS, artifact=NAME` | a bias, or a bias against a listed artifact |
| `fill=NAME` | what cells are blanked with (`evaluate.perturbation.fills`) |

**Intervals** are about the samples: another test set of the same kind would give another figure. Figures on fewer than
`evaluate.min_n` samples are nan, and only `n` is given. A bound of an interval that is not defined is nan, too.

**Several trainings** (`mitigate.seeds`): the row of a method is the mean over its trainings, with an interval over both
samples and trainings; where the notes say "largest", it is the largest, so that a claim holds for every training.
Each single training follows as `<method id>_seed-<number>`, the first as number 0.

**Good** is the direction that is better, where one can say so. "near its control" stands for metrics that no direction
makes better: what counts is whether they lie within the range that random directions have, in the row named after them.
"""


def main() -> None:
    """Write the page."""
    DOCUMENT.write_text(text(), encoding="utf-8")


def text() -> str:
    """Return the page as it stands in its file."""
    return "\n".join([INTRODUCTION, *(section(family, title) for family, title in FAMILIES.items())])


def section(family: Family, title: str) -> str:
    """Return the table of a family under its heading, in Markdown."""
    rows = [row(name, entry) for name, entry in METRICS.items() if entry.family == family]
    lines = [["metric", "heading", "what it says", "good", "source and notes"], ["---"] * 5, *rows]
    return f"## {family.capitalize()}: {title}\n\n{''.join(map(_line, lines))}"


def row(name: str, entry: MetricEntry) -> list[str]:
    """Return the cells of a metric."""
    largest = 'over trainings: "largest"' if entry.over_seeds == "largest" else ""
    notes = "; ".join(filter(None, [entry.source, COUNTS[entry.counts], largest]))
    return [f"`{name}`", entry.heading, entry.meaning, BETTER[entry.better], notes]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
