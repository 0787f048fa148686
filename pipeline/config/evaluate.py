"""Section `evaluate`: worlds, intervals and the subgroups that are reported."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .base import Section


class EvaluateConfig(Section):
    """Every model in every test world, with confidence intervals."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: int = Field(1000, ge=100, description="bootstrap resamples")
    relevance_samples: int = Field(
        256, ge=8, description="test samples on which relevance shares and TCAV are measured"
    )
    random_directions: int = Field(20, ge=5, description="control directions beside every TCAV")
    subgroups: list[str] = Field([], description="group columns of the table for which accuracy is reported")
    batch_size: int = Field(256, ge=1)
