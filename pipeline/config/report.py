"""Section `report`: who, for what, and the gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from .base import Section

BOUNDS = ("at_least", "at_most", "worse_by_at_most")


class GateRule(Section):
    """One declared requirement on one metric. A rule whose metric was not measured fails."""

    metric: str
    world: Literal["asis", "clean", "attacked", "inserted", "removed"] = "attacked"
    model: str = Field(
        "best", description="original, a method id, or best = the best correction on the validation split"
    )
    subgroup: str = Field(
        "all", description="as in metrics.csv; or every_bias: the rule holds for each accepted bias on its own"
    )
    at_least: float | None = None
    at_most: float | None = None
    worse_by_at_most: float | None = Field(
        None, ge=0, description="than in the audit that report.baseline names, in the direction that is bad"
    )
    on: Literal["point", "lower", "upper"] = Field(
        "point", description="end of the interval that is held against the bound; of worse_by_at_most, of the worsening"
    )
    min_n: int = Field(1, ge=1)
    severity: Literal["error", "warning"] = Field("error", description="warning: missing it does not fail the gate")
    not_run: Literal["fail", "warn"] = Field("fail", description="what it means that the metric was not measured")

    @model_validator(mode="after")
    def _one_bound(self) -> GateRule:
        if sum(getattr(self, bound) is not None for bound in BOUNDS) != 1:
            raise ValueError(f"give exactly one of {', '.join(BOUNDS)}")
        return self


class ReportConfig(Section):
    """The audit report."""

    title: str = "Bias audit"
    intended_use: str | None = Field(None, description="what the model is for; its absence stands on the first page")
    population: str | None = Field(None, description="whose images, from where and when")
    users: str | None = Field(None, description="who acts on the predictions")
    out_of_scope: str | None = Field(None, description="uses that are excluded")
    data_source: str | None = Field(None, description="sites, devices, years")
    label_source: str | None = Field(None, description="who labelled, from what")
    model_version: str | None = None
    auditor: str | None = None
    reviewer: str | None = None
    harm: dict[str, Literal["low", "medium", "high"]] = Field(
        {}, description="bias id -> how much harm a wrong prediction does where the bias decides"
    )
    gate: list[GateRule] = []
    baseline: str | None = Field(None, description="audit.json of an earlier audit, to show what regressed")
    deidentify: bool = Field(
        False,
        description="no file names, no pictures, no paths; samples get made-up names; values of subgroups are shown",
    )
    samples_per_finding: int = Field(12, ge=1, le=48)
    image_budget: float = Field(8, gt=0, description="megabytes of pictures in the page; what does not fit is left out")
