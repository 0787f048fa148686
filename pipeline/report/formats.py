"""How figures and names are written in the report, everywhere alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from markupsafe import Markup, escape

from ..workspace.metric_catalogue import METRICS
from ..workspace.records import Metric

ABBREVIATIONS = {"auroc": "AUROC", "iou": "IoU", "tcav": "TCAV", "cav": "CAV", "id": "id"}
P_VALUES = ("mcnemar_p", "mcnemar_p_adjusted", "delong_p", "delong_p_adjusted", "tcav_p", "cav_alignment_p")
SMALLEST_P = 0.001
WORLDS = {
    "asis": "as it is",
    "clean": "without the artifact",
    "attacked": "with the artifact",
    "inserted": "artifact inserted",
    "removed": "artifact removed",
}
"""World -> what it is called beside a figure."""


def figure(value: float | None, digits: int = 3) -> str:
    """Write a number with a fixed number of decimals; a dash where there is none, or it is not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 0.5 * 10**-digits):
        return f"{value:.2g}".replace("-", "−")
    return f"{value:.{digits}f}".replace("-", "−")


def change(value: float) -> str:
    """Write a change with its sign, also as a triangle."""
    if abs(value) < 0.0005:
        return "±0"
    return f"▲{value:.3f}" if value > 0 else f"▼{-value:.3f}"


def measured(row: Metric) -> str:
    """Write the value of a row; small p values as a bound."""
    if row.metric in P_VALUES and row.value < SMALLEST_P:
        return f"< {SMALLEST_P}"
    return figure(row.value)


def has_interval(row: Metric) -> bool:
    """Say whether a row has an interval worth showing: p values, ranks and thresholds are exact."""
    return math.isfinite(row.lower) and math.isfinite(row.upper) and row.lower < row.upper


def sample_size(rows: Iterable[Metric | None]) -> str:
    """Write the number of samples behind a row of figures, as a range where they differ."""
    sizes = sorted({row.n for row in rows if row})
    return " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1])))) if sizes else "–"


def words(name: str) -> str:
    """Write a snake_case name as words, abbreviations of the field in their usual form."""
    return " ".join(ABBREVIATIONS.get(word, word) for word in name.split("_"))


def heading(metric: str) -> str:
    """Return what a metric is called on a page."""
    return METRICS[metric].heading if metric in METRICS else words(metric)


def direction(metric: str) -> str:
    """Return which direction of a metric is good, as a word; "" where neither is."""
    better = METRICS[metric].better if metric in METRICS else "none"
    return {"higher": "higher is better", "lower": "lower is better", "control": "nearer to random is better"}.get(
        better, ""
    )


def arrow(metric: str) -> str:
    """Return the same as a sign beside a heading."""
    better = METRICS[metric].better if metric in METRICS else "none"
    return {"higher": "↑", "lower": "↓"}.get(better, "")


def subgroup_text(subgroup: str) -> str:
    """Write a subgroup such as "class=8" for people; "" for the whole set."""
    name, equals, value = subgroup.partition("=")
    if subgroup == "all":
        return ""
    return f"{name} {value or '(missing)'}" if equals else subgroup


def clipped(text: str, longest: int) -> str:
    """Return the text, cut at a word with an ellipsis where it is longer."""
    if len(text) <= longest:
        return text
    head = text[: longest - 1]
    cut = head.rfind(" ")
    return (head[:cut] if cut > longest // 2 else head).rstrip(" ,;:.") + "…"


def duration(seconds: float) -> str:
    """Write a time in the unit in which it reads best."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def breakable(name: str) -> Markup:
    """Write a name so that a narrow column may break it behind its underscores, and nowhere else."""
    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))


def plain(value: Any) -> str:
    """Write a value of the provenance or of a method's parameters as text for people."""
    if value is None or value == "":
        return "not recorded"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(plain(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
