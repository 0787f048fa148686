"""Which drawings compare the models, and what is said below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..workspace.metric_catalogue import METRICS
from . import svg
from .tables import ORIGINAL, MetricIndex, spread

PLOTTED = ("balanced_accuracy", "worst_group_accuracy", "artifact_relevance")
NAMED = 9  # so many points can all be called by name; of more, the others get numbers
MODELS_BELOW = 10  # more models than that make a drawing longer than a printed page
TEST_WORLDS = ("asis", "clean", "attacked")


@dataclass(frozen=True)
class Plot:
    """A drawing with its title and a note on how to read it.

    Attributes:
        title: what is compared.
        note: how to read it.
        drawing: inline SVG.
        key: number and name of the points that are numbered.
    """

    title: str
    note: str
    drawing: Markup
    key: list[tuple[str, str]]


def trade_off(
    index: MetricIndex, models: Sequence[str], best: str | None, front: Sequence[str], without: str
) -> Plot | None:
    """Return accuracy with against accuracy without the artifact; None where fewer than two models have both.

    With many models only the original, the preferred correction and the front are called by name.

    Args:
        index: all metrics.
        models: to compare, the original first.
        best: id of the preferred correction.
        front: ids of those that none beats.
        without: the world without the artifact: "clean", or "asis" where none was planted.
    """
    metric = "balanced_accuracy" if index.find(ORIGINAL, "attacked", "all", "balanced_accuracy") else "accuracy"
    figures = [
        (model, index.find(model, without, "all", metric), index.find(model, "attacked", "all", metric))
        for model in models
    ]
    points = [(model, x, y) for model, x, y in figures if x and y]
    if len(points) < 2:
        return None
    called = [model for model, _, _ in points]
    named = called if len(points) <= NAMED else [name for name in called if name in (ORIGINAL, best, *front)]
    numbers = {name: str(number) for number, name in enumerate([n for n in called if n not in named], start=1)}
    what = METRICS[metric].heading.lower()
    words = "without it" if without == "clean" else "on the samples as they are"
    title = f"{METRICS[metric].heading} with the artifact against {what} {words}; up and to the right is better"
    drawing = svg.trade_off_plot(
        points,
        title=title,
        x_label=f"{what}, {'clean test set' if without == 'clean' else 'test set as it is'}",
        y_label=f"{what}, attacked test set",
        best=best,
        names=numbers,
    )
    note = (
        "Thin lines are confidence intervals, the diamond is the original, the ring the preferred correction; on the "
        "dotted line a model is equally accurate with and without the artifact."
    )
    if numbers:
        note += " Numbers stand for the models of the list; the original, the preferred one and the front have names."
    return Plot(title, note, Markup(drawing), [(number, name) for name, number in numbers.items()])


def interval_plots(index: MetricIndex, models: Sequence[str]) -> list[Plot]:
    """Return every model in every world with intervals, a few models in each drawing, the original in all of them."""
    drawn = []
    others = [model for model in models if model != ORIGINAL]
    parts = [[ORIGINAL, *part] for part in spread(others, MODELS_BELOW)]
    for metric in PLOTTED:
        label = METRICS[metric].heading.lower()
        references = {world: row.value for world in TEST_WORLDS if (row := index.find(ORIGINAL, world, "all", metric))}
        for number, part in enumerate(parts, start=1):
            rows = [
                (model, row, world)
                for model in part
                for world in TEST_WORLDS
                if (row := index.find(model, world, "all", metric))
            ]
            if not rows:
                continue
            of = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
            title = f"{METRICS[metric].heading} of every model in every world, with confidence intervals{of}"
            drawing = svg.interval_plot(rows, title=title, axis_label=label, references=references)
            drawn.append(Plot(title, METRICS[metric].meaning.capitalize() + ".", Markup(drawing), []))
    return drawn
