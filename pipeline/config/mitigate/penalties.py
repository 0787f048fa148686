"""Fine-tuning with a penalty on gradients."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .shared import ACTING_LAYER, Explained, FineTuningConfig


class RrrMethod(FineTuningConfig):
    """Right for the Right Reasons: input gradients inside the artifact mask are penalised."""

    kind: Literal["rrr"]
    weight: float = Field(30.0, ge=0, description="weight of the penalty beside the cross-entropy")
    explained: Explained = "all_logits_random"


class RrClarcMethod(FineTuningConfig):
    """Right-reason class artifact compensation: the latent gradient along the artifact direction is penalised."""

    kind: Literal["rr_clarc"]
    layer: str = Field("auto", description=ACTING_LAYER)
    weight: float = Field(100.0, ge=0)
    explained: Explained = "all_logits_random"
