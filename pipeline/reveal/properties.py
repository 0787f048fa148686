"""Properties of images and metadata that go with the label: a cheap check, without the model and any attribution.

A property that belongs to the classes by nature (the digit 1 is darker than the digit 8) is reported as well. Whether
the model leans on it is measured later, by the suspicion score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.config.reveal import PropertiesConfig
from pipeline.data.batches import split_rows, stream
from pipeline.data.table import OWN_COLUMNS
from pipeline.errors import ConfigError, nearest
from pipeline.statistics import Interval, auroc, wilson

from .candidates import Candidate, Detection
from .image_properties import measure, property_names
from .view import ClassView, DataView

SIZE_COLUMNS = ("width", "height", "aspect", "resolution")
"""Of the original file; the pixels of a data set are resized. Numbers however few values they take."""
FEW_VALUES = 8
"""Numbers that take so few values are codes."""
SIGNIFICANT = 0.05
PLOTTED = 20
DOT, BASELINE = "#0072b2", "#666666"


@dataclass(frozen=True)
class Association:
    """How a property, or a value of a column, goes with a class.

    Attributes:
        name: of the property or column.
        value: the column's value; "" for numbers.
        class_id: the class.
        estimate: numbers: AUROC of the property for "this class or another", with DeLong's interval; values: share of
            the class among the samples that have the value, with Wilson's interval.
        baseline: what the estimate is where nothing goes together: 0.5, or the share of the class among all samples
            whose value is known.
        p_value: two-sided, Mann-Whitney for numbers and Fisher for values; 1 where nothing varies.
        adjusted: the same, by Holm's correction over all associations of the table.
        missing: samples without a known value, left out.
    """

    name: str
    value: str
    class_id: int
    estimate: Interval
    baseline: float
    p_value: float
    adjusted: float
    missing: int

    @property
    def above_baseline(self) -> bool:
        """Whether the property is larger, or the value more frequent, in the class."""
        return self.estimate.value >= self.baseline

    @property
    def strength(self) -> Interval:
        """The estimate, of numbers turned so that it is at least 0.5."""
        if self.value or self.above_baseline:
            return self.estimate
        return Interval(1 - self.estimate.value, 1 - self.estimate.upper, 1 - self.estimate.lower, self.estimate.n)


def numeric_association(name: str, values: np.ndarray, class_id: int, labels: np.ndarray) -> Association | None:
    """Return how numbers `[N]` (nan = missing) tell a class from the rest, uncorrected; None without two samples each.

    Args:
        name: of the property.
        values: `[N]`.
        class_id: the class.
        labels: class ids `[N]`.
    """
    from scipy.stats import mannwhitneyu

    known = np.isfinite(values)
    inside, found = labels[known] == class_id, values[known]
    if min(inside.sum(), (~inside).sum()) < 2:
        return None
    p_value = float(mannwhitneyu(found[inside], found[~inside], method="asymptotic").pvalue)
    return Association(name, "", class_id, auroc(found, inside), 0.5, p_value, p_value, int((~known).sum()))


def value_association(name: str, value: str, values: np.ndarray, class_id: int, labels: np.ndarray) -> Association:
    """Return how frequent a class is among samples with a value, uncorrected.

    Args:
        name: of the column.
        value: one that occurs.
        values: text `[N]`, "" = missing.
        class_id: the class.
        labels: class ids `[N]`.
    """
    from scipy.stats import fisher_exact

    known = values != ""
    inside, having = labels[known] == class_id, values[known] == value
    table = [[int((inside & having).sum()), int((~inside & having).sum())]]
    table += [[int((inside & ~having).sum()), int((~inside & ~having).sum())]]
    p_value = float(fisher_exact(table).pvalue)
    rate = wilson(table[0][0], sum(table[0]))
    return Association(name, value, class_id, rate, float(inside.mean()), p_value, p_value, int((~known).sum()))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p values `[M]` corrected for their number by Holm's step-down method (1979), in their order, at most 1."""
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def best_threshold(values: np.ndarray, inside: np.ndarray) -> float:
    """Return the value of `[N]` from which upward samples are in the class, by Youden's index: most hits - false hits.

    Args:
        values: `[N]`, finite; larger in the class.
        inside: booleans `[N]`, who is in the class.
    """
    order = np.argsort(-values, kind="stable")
    gain = np.cumsum(np.where(inside[order], 1 / inside.sum(), -1 / (~inside).sum()))
    last_of_its_value = np.append(np.diff(values[order]) != 0, True)
    return float(values[order][np.where(last_of_its_value, gain, -np.inf).argmax()])


def read_column(table: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as numbers `[N]` (nan = missing), or as text (`""` = missing) where it holds codes.

    Empty cells and "nan", "none" and "null" are missing. Numbers that take at most 8 values are codes, except for sizes
    of the image.
    """
    cells = table[name]
    text = np.where(cells.isna(), "", cells.astype(str).str.strip()).astype(object)
    text[np.isin(np.char.lower(text.astype(str)), ("nan", "none", "null", "<na>"))] = ""
    known = text != ""
    numbers = np.full(len(text), np.nan)
    try:
        numbers[known] = text[known].astype(np.float64)
    except ValueError:
        return text
    numeric = known.any() and (name in SIZE_COLUMNS or len(np.unique(numbers[known])) > FEW_VALUES)
    return numbers if numeric else text


class Properties:
    """The detector `properties`: samples that share a property, or a value, by which their class can be told."""

    def __init__(self, config: PropertiesConfig):
        self.config = config

    def detect(self, view: DataView) -> Detection:
        """Return groups of samples with a telling property or value, the table of associations, and plots of it.

        A property is telling where the lower bound of its AUROC, in either direction, is at least `min_auroc`; a value
        where the lower bound of its rate is as far above the class's share. Either must be significant by Holm's
        correction. Values with fewer than `min_group` samples are not tested: most are names.

        Raises:
            ConfigError: a configured column does not exist.
        """
        columns = self.columns(view.dataset.table)
        numbers, texts = self.read(view, columns)
        associations = associate(numbers, texts, view.labels, len(view.dataset.classes), self.config.min_group)
        classes = {each.class_id: each for each in view.classes()}
        groups = [self._group(classes[each.class_id], each, numbers, texts) for each in associations]
        return Detection(
            [group for group in groups if group is not None],
            _arrays(view.rows, numbers, associations),
            _pictures(associations, view.dataset.classes),
        )

    def columns(self, table: pd.DataFrame) -> list[str]:
        """Return the columns to look at: configured or all, without id, label and split, and those of image size.

        Raises:
            ConfigError: a configured column does not exist.
        """
        free = [str(name) for name in table.columns if name not in OWN_COLUMNS]
        if self.config.metadata == "auto":
            return free
        for name in self.config.metadata:
            if name not in free:
                raise ConfigError(
                    f"reveal.detectors: properties cannot look at the column '{name}'.{nearest(name, free)} Group "
                    f"columns of the data set: {', '.join(free) or 'none'}. Next step: correct metadata, or add the "
                    "column to the data's group columns."
                )
        return list(dict.fromkeys([*self.config.metadata, *(name for name in SIZE_COLUMNS if name in free)]))

    def read(self, view: DataView, columns: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return the numbers of every sample `[N]` by property, and the texts by column; pixels are read once."""
        batches = split_rows(view.rows, view.batch_size)
        tracked = view.reporter.track(stream(view.dataset, batches), "properties of samples", len(batches))
        names = property_names(tuple(view.dataset.shape))
        measured = [np.empty((0, len(names))), *(measure(batch.x.numpy()) for batch in tracked)]
        numbers = dict(zip(names, np.concatenate(measured).T, strict=True))
        texts = {}
        for name in columns:
            values = read_column(view.dataset.table, name)[view.rows]
            if values.dtype == object:
                texts[name] = values
            else:
                numbers[name if name not in numbers else f"{name} (column)"] = values
        return numbers | _derived_sizes(numbers), texts

    def _group(
        self, view: ClassView, found: Association, numbers: dict[str, np.ndarray], texts: dict[str, np.ndarray]
    ) -> Candidate | None:
        share_needed = found.baseline + self.config.min_auroc - 0.5
        if found.adjusted > SIGNIFICANT or found.strength.lower < share_needed:
            return None
        rows = view.data.rows
        inside = np.isin(rows, view.rows)
        if found.value:
            members = texts[found.name][inside] == found.value
            note = (
                f"{found.name} = {found.value}: {found.estimate.value:.0%} "
                f"[{found.estimate.lower:.0%}, {found.estimate.upper:.0%}] of the samples with it are of this class, "
                f"which has {found.baseline:.0%} of all"
            )
        else:
            values = numbers[found.name] if found.above_baseline else -numbers[found.name]
            known = np.isfinite(values)
            members = values[inside] >= best_threshold(values[known], inside[known])
            note = (
                f"{found.name} tells this class from the others: AUROC {found.strength.value:.2f} "
                f"[{found.strength.lower:.2f}, {found.strength.upper:.2f}], "
                f"{'higher' if found.above_baseline else 'lower'} in the class"
            )
        if found.missing:
            note += f"; {found.missing} samples without a value left out"
        if not self.config.min_group <= members.sum() <= len(members) - self.config.min_group:
            return None
        return Candidate("properties", view.class_id, "input", view.rows, members, note=note)


def associate(
    numbers: dict[str, np.ndarray],
    texts: dict[str, np.ndarray],
    labels: np.ndarray,
    class_count: int,
    min_group: int,
) -> list[Association]:
    """Return the association of every property and every frequent value with every class, p values corrected.

    Args:
        numbers: property -> `[N]`, nan = missing.
        texts: column -> text `[N]`, "" = missing.
        labels: class ids `[N]`.
        class_count: number of classes.
        min_group: values of fewer samples are left out.
    """
    found: list[Association] = []
    for class_id in range(class_count):
        numeric = (numeric_association(name, values, class_id, labels) for name, values in numbers.items())
        found += [each for each in numeric if each is not None]
    for name, values in texts.items():
        known, counts = np.unique(values[values != ""].astype(str), return_counts=True)
        # A column with a single value says nothing.
        frequent = known[counts >= min_group].tolist() if len(known) > 1 else []
        found += [
            value_association(name, value, values, class_id, labels)
            for value in frequent
            for class_id in range(class_count)
        ]
    adjusted = holm([each.p_value for each in found]).tolist()
    return [replace(each, adjusted=p_value) for each, p_value in zip(found, adjusted, strict=True)]


def dot_plot(associations: Sequence[Association], classes: Sequence[str], label: str) -> Image.Image:
    """Return a plot of estimates with their intervals, one line each from top to bottom, and their baselines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 0.9 + 0.26 * len(associations)), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    for line, each in enumerate(associations):
        axes.plot([each.estimate.lower, each.estimate.upper], [line, line], color=DOT, linewidth=1.6)
        axes.plot(each.estimate.value, line, "o", color=DOT, markersize=5)
        axes.plot(each.baseline, line, "|", color=BASELINE, markersize=10)
    names = [f"{each.name}{f' = {each.value}' if each.value else ''}" for each in associations]
    lines = [f"{name[:40]} · {classes[each.class_id]}" for name, each in zip(names, associations, strict=True)]
    axes.set_yticks(range(len(lines)), lines, fontsize=8)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(lines) - 0.4, -0.6))
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _derived_sizes(numbers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return aspect and resolution where width and height are known and they are not."""
    if "width" not in numbers or "height" not in numbers:
        return {}
    width, height = numbers["width"], np.where(numbers["height"] > 0, numbers["height"], np.nan)
    derived = {"aspect": width / height, "resolution": width * height}
    return {name: values for name, values in derived.items() if name not in numbers}


def _arrays(
    rows: np.ndarray, numbers: dict[str, np.ndarray], associations: Sequence[Association]
) -> dict[str, np.ndarray]:
    """Return values of every sample, and the table of associations column by column; names as UTF-8 bytes."""
    return {
        "rows": rows,
        "values": np.column_stack(list(numbers.values())),
        "names": _bytes(list(numbers)),
        "associations/name": _bytes([each.name for each in associations]),
        "associations/value": _bytes([each.value for each in associations]),
        "associations/class_id": np.array([each.class_id for each in associations], dtype=np.int64),
        "associations/estimate": np.array([each.estimate[:3] for each in associations]).reshape(-1, 3),
        "associations/baseline": np.array([each.baseline for each in associations]),
        "associations/p_value": np.array([each.p_value for each in associations]),
        "associations/adjusted": np.array([each.adjusted for each in associations]),
        "associations/missing": np.array([each.missing for each in associations], dtype=np.int64),
    }


def _bytes(texts: Sequence[str]) -> np.ndarray:
    return np.array([text.encode() for text in texts], dtype="S")


def _pictures(associations: Sequence[Association], classes: Sequence[str]) -> dict[str, Image.Image]:
    """Return a plot of the properties, and one of the values, that go with a class most."""
    plots = {
        False: ("properties of samples: how well each tells one class from the others", "AUROC, 95 % interval"),
        True: (
            "metadata: how frequent a class is among samples with a value",
            "share of the class, 95 % interval; | = among all samples",
        ),
    }
    pictures = {}
    for categorical, (caption, label) in plots.items():
        shown = [each for each in associations if bool(each.value) == categorical]
        shown = sorted(shown, key=lambda each: -abs(each.estimate.value - each.baseline))[:PLOTTED]
        if shown:
            pictures[caption] = dot_plot(shown, classes, label)
    return pictures
