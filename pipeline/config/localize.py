"""Section `localize`: from a concept activation vector to masks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Section


class LocalizeConfig(Section):
    """Relevance started at the concept, blurred and thresholded."""

    blur: float = Field(0.04, ge=0, lt=0.5, description="deviation of the Gaussian blur as a share of the image side")
    threshold: Literal["otsu", "percentile"] = "otsu"
    percentile: float = Field(92.0, gt=0, lt=100, description="used by threshold: percentile")
    dilate: float = Field(
        0.02, ge=0, lt=0.5, description="the mask grows by this share of the image side before ISNet uses it"
    )
    batch_size: int = Field(64, ge=1)
