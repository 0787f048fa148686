"""Counterfactual augmentation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .shared import FineTuningConfig, MaskSource, Share


class CounterfactualMethod(FineTuningConfig):
    """Fine-tuning on images that had the artifact taken away, or pasted from a sample of another class."""

    kind: Literal["counterfactual"]
    mode: Literal["both", "paste", "inpaint"] = Field(
        "both", description="paste the artifact into other classes, fill it where it is, or both"
    )
    share: Share = Field(0.5, description="of the samples that can be changed, how many are, anew in every epoch")
    masks: MaskSource = Field(
        "localized", description="of the artifact; truth = those of the data set, which only a comparison may use"
    )
