"""Section `report`: who, for what, and the gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from .base import Section


class GateRule(Section):
    """One declared requirement on one metric. A rule whose metric was not measured fails."""

    metric: str
    world: Literal["asis", "clean", "attacked"] = "attacked"
    model: str = Field(
        "best", description="original, a method id, or best = the best correction on the validation split"
    )
    subgroup: str = "all"
    at_least: float | None = None
    at_most: float | None = None
    on: Literal["point", "lower", "upper"] = "point"
    min_n: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _one_bound(self) -> GateRule:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give exactly one of at_least, at_most")
        return self


class ReportConfig(Section):
    """The audit report."""

    title: str = "Bias audit"
    intended_use: str | None = None
    auditor: str | None = None
    gate: list[GateRule] = []
    samples_per_finding: int = Field(12, ge=1, le=48)
