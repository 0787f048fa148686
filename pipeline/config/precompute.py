"""Section `precompute`: which activations and relevances are stored."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Section

Condition = Literal["label", "predicted"]


class PrecomputeConfig(Section):
    """One pass over the data: pooled activations and relevances of the layers, heatmaps, logits."""

    layers: Literal["auto"] | list[str] = Field(
        "auto", description='"auto" = every ReLU and convolution output; or names, with shell wildcards'
    )
    composite: Literal["epsilon_plus_flat", "epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat"] = (
        "epsilon_plus_flat"
    )
    conditions: list[Condition] = Field(["label", "predicted"], min_length=1, description="the logit that is explained")
    batch_size: int = Field(64, ge=1)
    chunk_rows: int = Field(512, ge=1, description="rows between two saves; a killed run loses at most one chunk")
    workers: int = Field(0, ge=0)
