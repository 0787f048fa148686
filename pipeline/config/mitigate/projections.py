"""Corrections that act on the activations of a layer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .shared import ACTING_LAYER, MethodConfig


class PClarcMethod(MethodConfig):
    """Projective class artifact compensation: the artifact direction is projected to its clean value; no training."""

    kind: Literal["p_clarc"]
    layer: str = Field("auto", description=ACTING_LAYER)
    mode: Literal["position", "pooled"] = Field(
        "position", description="project every position, or shift by the pooled value"
    )
