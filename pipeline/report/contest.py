"""The contest of the corrections as a table: where each stands, what it cost, and what it harmed."""

from __future__ import annotations

from dataclasses import dataclass

from ..workspace.records import Audit, Contestant, MethodRecord, Metric
from .tables import CLASS_METRIC, ORIGINAL, PIPELINE, MetricIndex


@dataclass(frozen=True)
class Harm:
    """What a correction took from samples without the artifact; None where it was not measured.

    Attributes:
        world: where it was measured: "clean", or "asis" where no artifact was planted.
        accuracy: change of accuracy.
        worst_class: the class that lost most, or gained least.
        class_change: change of its accuracy.
        calibration: change of the expected calibration error; above 0 is worse.
    """

    world: str
    accuracy: float | None
    worst_class: str | None
    class_change: float | None
    calibration: float | None


@dataclass(frozen=True)
class ContestRow:
    """A correction in the contest; `harm` is None for those that were not evaluated."""

    contestant: Contestant
    method: MethodRecord
    seeds: int
    harm: Harm | None


def shown_models(audit: Audit) -> list[str]:
    """Return whose metrics the tables compare: the original and the chosen methods, without their single seeds."""
    return [ORIGINAL, *(each.id for each in _leading(audit))]


def front_models(audit: Audit) -> list[str]:
    """Return the chosen methods that no other one of the same seed beats in both figures of the choice."""
    return [each.id for each in _leading(audit) if each.on_front]


def contest_rows(audit: Audit) -> tuple[list[ContestRow], list[ContestRow]]:
    """Return the chosen method of every family, and all others: members of grids that lost, and further seeds."""
    methods = {method.id: method for method in audit.methods}
    leading = [each.id for each in _leading(audit)]
    seeds = {
        each.family: sum(other.family == each.family and other.chosen for other in audit.contest.contestants)
        for each in audit.contest.contestants
    }
    rows = [
        ContestRow(
            each,
            methods[each.id],
            seeds[each.family],
            harm(audit.metrics, each.id, audit.min_n) if each.id in leading else None,
        )
        for each in audit.contest.contestants
        if each.id in methods
    ]
    return [row for row in rows if row.harm is not None], [row for row in rows if row.harm is None]


def harm(metrics: list[Metric], model: str, min_n: int = 0) -> Harm:
    """Compare a corrected model with the original on samples without the artifact; classes on too few do not count."""
    index = MetricIndex(metrics, min_n)
    world = without_artifact(metrics)

    def change(subgroup: str, metric: str) -> float | None:
        before, after = (index.find(name, world, subgroup, metric) for name in (ORIGINAL, model))
        return after.value - before.value if before and after else None

    classes = dict.fromkeys(row.subgroup for row in metrics if row.metric == CLASS_METRIC and row.world == world)
    changes = {name: value for name in classes if (value := change(name, CLASS_METRIC)) is not None}
    worst = min(changes, key=changes.get) if changes else None
    return Harm(
        world,
        change("all", "accuracy"),
        worst.removeprefix("class=") if worst else None,
        changes[worst] if worst else None,
        change("all", "calibration_error"),
    )


def without_artifact(metrics: list[Metric]) -> str:
    """Return the world that shows what a correction costs: "clean", or "asis" where no artifact was planted."""
    return "clean" if any(row.world == "clean" and row.model != PIPELINE for row in metrics) else "asis"


def _leading(audit: Audit) -> list[Contestant]:
    """Return of every family the one under whose name it is evaluated."""
    families: dict[str, Contestant] = {}
    for each in audit.contest.contestants:
        if each.chosen:
            families.setdefault(each.family, each)
    return list(families.values())
