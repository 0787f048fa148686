"""This audit beside an earlier one: what regressed, what improved, and which figures only one of the two has."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import ConfigError
from ..statistics import Interval, difference_of_independent
from ..workspace.hashing import digest_file
from ..workspace.journal import first_problem
from ..workspace.metric_catalogue import METRICS
from ..workspace.records import AUDIT_VERSION, Audit, BaselineComparison, BaselineRow, Metric

ORIGINAL = "original"
BEST = "best"
"""What the best correction of each audit is called in the comparison, whichever method it is."""

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Earlier:
    """An earlier audit, and the SHA-256 of its file."""

    audit: Audit
    digest: str


def read_earlier(path: str | Path) -> Earlier:
    """Read the file that `report.baseline` names.

    Raises:
        ConfigError: there is no such file, it is no audit, or it was written by another version of this program.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        inner = file / "report/audit.json"
        hint = f" It is a folder; did you mean {inner}?" if inner.is_file() else " Name the audit.json of an audit."
        raise ConfigError(f"report.baseline: {path}: no such file.{hint}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"report.baseline: {path} cannot be read as JSON ({first}). Name an audit.json.") from None
    _refuse_other_versions(path, values)
    try:
        audit = Audit.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"report.baseline: {path} is not an audit ({first_problem(error)}).") from None
    return Earlier(audit, digest_file(file, "sha256"))


def _refuse_other_versions(path: str | Path, values: Any) -> None:
    version = values.get("schema_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise ConfigError(f"report.baseline: {path} is not an audit: it has no schema_version. Name an audit.json.")
    if version < AUDIT_VERSION:
        raise ConfigError(
            f"report.baseline: {path} has schema version {version}, this program reads {AUDIT_VERSION}. Run the "
            "report of the older audit again with this program: python -m pipeline.report --config <its config.yaml>"
        )
    if version > AUDIT_VERSION:
        raise ConfigError(
            f"report.baseline: {path} has schema version {version}, this program reads {AUDIT_VERSION}. It was "
            "written by a newer version of this program; compare with that one."
        )


def compare(metrics: list[Metric], best: str | None, fingerprint: str, earlier: Earlier) -> BaselineComparison:
    """Compare the original, and the best correction, with those of an earlier audit.

    Only figures of the same world, subgroup and metric are compared. Ids of biases follow from their samples, so those
    of a bias that differs in a single sample count as figures that only one audit has.

    Args:
        metrics: rows of this audit.
        best: id of its best correction, None if there is none.
        fingerprint: of its data set.
        earlier: the other audit.
    """
    before = _figures(earlier.audit.metrics, earlier.audit.best_correction)
    now = _figures(metrics, best)
    return BaselineComparison(
        name=earlier.audit.name,
        digest=earlier.digest,
        weights_sha256=earlier.audit.provenance.weights_sha256,
        verdict=earlier.audit.verdict,
        same_data=earlier.audit.provenance.dataset.fingerprint == fingerprint,
        rows=[_row(key, before[key], row) for key, row in now.items() if key in before],
        only_before=len(before.keys() - now.keys()),
        only_now=len(now.keys() - before.keys()),
    )


def change(before: Metric, after: Metric) -> Interval:
    """Return after minus before with its interval, as if the samples were independent."""
    return difference_of_independent(_interval(before), _interval(after))


def change_for_the_worse(before: Metric, after: Metric) -> Interval:
    """Return by how much a figure became worse, with its interval; below 0 it became better.

    Raises:
        ValueError: no direction of the metric is the better one.
    """
    better = METRICS[after.metric].better
    if better == "higher":
        return change(after, before)
    if better == "lower":
        return change(before, after)
    raise ValueError(f"no direction of {after.metric} is the better one ('{better}'); 'higher' and 'lower' have one")


def _figures(metrics: Iterable[Metric], best: str | None) -> dict[Key, Metric]:
    """Return the finite figures of the compared models by (model, world, subgroup, metric)."""
    names = {ORIGINAL: ORIGINAL} | ({best: BEST} if best is not None else {})
    return {
        (names[row.model], row.world, row.subgroup, row.metric): row
        for row in metrics
        if row.model in names and math.isfinite(row.value)
    }


def _row(key: Key, before: Metric, after: Metric) -> BaselineRow:
    model, world, subgroup, metric = key
    difference = change(before, after)
    return BaselineRow(
        model=model,
        world=world,
        subgroup=subgroup,
        metric=metric,
        before=before.value,
        after=after.value,
        lower=difference.lower,
        upper=difference.upper,
        status=_status(metric, before, after),
    )


def _status(metric: str, before: Metric, after: Metric) -> str:
    if metric not in METRICS or METRICS[metric].better not in ("higher", "lower"):
        return "unclear"
    worse = change_for_the_worse(before, after)
    # Comparisons with a bound that is NaN are False: such a change is unclear.
    if worse.lower > 0:
        return "regressed"
    return "improved" if worse.upper < 0 else "unclear"


def _interval(row: Metric) -> Interval:
    return Interval(row.value, row.lower, row.upper, row.n)
