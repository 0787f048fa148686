"""Rows of `evaluate/metrics.csv`: made from intervals, kept back where they rest on too little, joined over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

from pipeline.statistics import Interval, over_seeds
from pipeline.workspace.metric_catalogue import METRICS
from pipeline.workspace.records import Contestant, Metric

ORIGINAL = "original"
"""The model under audit, as rows name it."""
AS_IT_IS = "asis"
"""The world that the model was trained on, as rows name it."""
Model = TypeVar("Model")


def shown_models(models: Mapping[str, Model], preferred: str | None) -> dict[str, Model]:
    """Return the original and, where there is one, the preferred correction: those that pictures show."""
    return {name: models[name] for name in (ORIGINAL, preferred) if name in models}


def record(model: str, world: str, subgroup: str, metric: str, interval: Interval) -> Metric:
    """Return a metric's row."""
    return Metric(
        model=model,
        world=world,
        subgroup=subgroup,
        metric=metric,
        value=interval.value,
        lower=interval.lower,
        upper=interval.upper,
        n=interval.n,
    )


def exactly(value: float, n: int) -> Interval:
    """Return a number that has no uncertainty, such as a rank."""
    return Interval(float(value), float(value), float(value), n)


def held_back(metrics: Iterable[Metric], min_n: int) -> list[Metric]:
    """Return the rows without the figures of those that rest on fewer samples than `min_n`; their n stays."""
    return [
        row.model_copy(update={"value": math.nan, "lower": math.nan, "upper": math.nan})
        if row.n < min_n and METRICS[row.metric].counts == "samples"
        else row
        for row in metrics
    ]


def by_method(contestants: list[Contestant], metrics: list[Metric], confidence: float) -> list[Metric]:
    """Return metrics under the names of methods: of several trainings one figure, with an interval over seeds as well.

    The figure is their mean; of p values the largest, so that the claim holds for every training. Each single training
    then follows as `<method id>_seed-<number>`, the first one as number 0.

    Args:
        contestants: those that were measured; of every family first the method itself.
        metrics: rows of all models, each training under its own id.
        confidence: of the intervals.
    """
    families: dict[str, list[str]] = {}
    for contestant in contestants:
        families.setdefault(contestant.family, []).append(contestant.id)
    repeated = {ids[0]: ids for ids in families.values() if len(ids) > 1}
    rows = {(each.model, each.world, each.subgroup, each.metric): each for each in metrics}
    arranged, single = [], []
    for row in metrics:
        ids = repeated.get(row.model)
        if ids is None:
            further = any(row.model in others[1:] for others in repeated.values())
            (single if further else arranged).append(row)
            continue
        found = [rows[key] for name in ids if (key := (name, row.world, row.subgroup, row.metric)) in rows]
        arranged.append(_joined(row, found, confidence))
        single.append(row.model_copy(update={"model": f"{row.model}_seed-0"}))
    return arranged + single


def _joined(row: Metric, found: list[Metric], confidence: float) -> Metric:
    intervals = [Interval(each.value, each.lower, each.upper, each.n) for each in found]
    if METRICS[row.metric].over_seeds == "largest":
        joined = max(intervals, key=lambda each: (math.isnan(each.value), each.value))
    else:
        joined = over_seeds(intervals, confidence)
    return record(row.model, row.world, row.subgroup, row.metric, joined)
