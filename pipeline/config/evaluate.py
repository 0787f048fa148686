"""Section `evaluate`: worlds, intervals, the subgroups that are reported, and how heatmaps are tested."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import Section

Fill = Literal["mean", "blur", "black", "white", "noise"]


class OperatingPointConfig(Section):
    """From which probability a sample counts as positive; chosen for every model on its validation split."""

    positive: str | None = Field(None, description="class that is looked for; left out: the second one of two classes")
    rule: Literal["youden", "sensitivity", "specificity", "one_half"] = Field(
        "youden", description="largest sensitivity + specificity; or reach one of the two; or a probability of one half"
    )
    at: float | None = Field(None, gt=0, lt=1, description="what the rules sensitivity and specificity have to reach")

    @model_validator(mode="after")
    def _needs_level(self) -> OperatingPointConfig:
        if (self.rule in ("sensitivity", "specificity")) != (self.at is not None):
            raise ValueError("at belongs to the rules sensitivity and specificity, and they need it, for example .9")
        return self


class PerturbationConfig(Section):
    """Whether what heatmaps call relevant is: cells of the image are blanked in their order (AOPC)."""

    samples: int = Field(24, ge=0, description="test samples; 0 leaves it out")
    grid: int = Field(7, ge=2, le=64, description="cells along each side of the image")
    steps: int | None = Field(None, ge=1, description="cells that are blanked; left out: half of them")
    fills: list[Fill] = Field(["mean", "blur"], min_length=1)
    output: Literal["probability", "logit"] = "probability"


class EvaluateConfig(Section):
    """Every model in every test world, with confidence intervals."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: int = Field(1000, ge=100, description="bootstrap resamples")
    min_n: int = Field(10, ge=1, description="figures on fewer samples are not given, only their number of samples")
    operating_point: OperatingPointConfig = OperatingPointConfig()
    relevance_samples: int = Field(
        256, ge=8, description="test samples on which relevance shares, TCAV and interventions are measured"
    )
    random_directions: int = Field(20, ge=5, description="control directions beside every TCAV")
    placements: int = Field(3, ge=1, le=16, description="donors and places of every paste")
    perturbation: PerturbationConfig = PerturbationConfig()
    sanity_samples: int = Field(32, ge=0, description="test samples on which heatmaps are tested; 0 leaves it out")
    pictured_samples: int = Field(6, ge=0, le=24, description="test samples in every picture of heatmaps and pastes")
    subgroups: list[str] = Field([], description="group columns of the table for which metrics are reported")
    batch_size: int = Field(256, ge=1)
