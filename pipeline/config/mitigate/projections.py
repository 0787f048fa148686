"""Corrections that act on the activations of a layer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..reveal import CavKind
from .shared import ACTING_LAYER, FineTuningConfig, MethodConfig, Share

Mode = Annotated[
    Literal["position", "pooled"],
    Field(description="project every position, or shift all positions alike by what the pooled value lacks"),
]


class DirectionConfig(MethodConfig):
    """What corrections along directions of CAVs have in common."""

    layer: str = Field("auto", description=ACTING_LAYER)
    rank: int = Field(
        1,
        ge=1,
        description="directions for each bias: the CAV, then those in which pasting the localized artifact changes the "
        "layer, or, without masks, further filters; fewer where no more are found",
    )
    measured_by: CavKind | None = Field(
        None,
        description="kind of the CAV along which the concept is measured, a filter such as svm, while activations move "
        "along the acting CAV; one of reveal.cav.kinds; default: the acting CAV itself",
    )

    @model_validator(mode="after")
    def _one_direction_is_measured(self) -> DirectionConfig:
        if self.rank > 1 and self.measured_by is not None:
            raise ValueError("measured_by is for rank: 1; leave one of the two out")
        return self


class GateConfig(DirectionConfig):
    """What corrections with detectors have in common."""

    detector: CavKind = Field("ridge", description="kind of CAV that detects the bias in a sample")
    false_alarms: Share = Field(
        0.05, description="share of samples without the bias in which its detector may fire; sets the threshold"
    )


class PClarcMethod(DirectionConfig):
    """Projective class artifact compensation: the artifact direction is projected to its clean value; no training."""

    kind: Literal["p_clarc"]
    mode: Mode = "position"


class RpClarcMethod(GateConfig):
    """P-ClArC of those samples alone in which a detector finds the artifact; all others stay as they are."""

    kind: Literal["rp_clarc"]
    mode: Mode = "position"


class RClarcMethod(GateConfig):
    """Reactive class artifact compensation: each sample is projected along the artifacts that its case asks for."""

    kind: Literal["r_clarc"]
    mode: Mode = "position"
    condition: Literal["class", "detector", "both"] = Field(
        "class",
        description="which biases act on a sample: those of the class that is predicted without correction (a second "
        "pass through the network), those whose detector fires, or those for which both hold",
    )


class AClarcMethod(DirectionConfig, FineTuningConfig):
    """Augmentive class artifact compensation: layers above are fine-tuned with the artifact put in."""

    kind: Literal["a_clarc"]
    mode: Literal["position", "pooled"] = Field(
        "position",
        description="give a sample the values that a random carrier has at every position along the direction, or "
        "shift all positions alike to the carriers' mean pooled value, as published",
    )
    amplified: float = Field(
        0.5, gt=0, le=1, description="share of the samples of a step that are given the artifact's values"
    )


class LeaceMethod(MethodConfig):
    """Least-squares concept erasure: nothing that is linear tells the artifact in a layer any more; no training."""

    kind: Literal["leace"]
    layer: str = Field("auto", description=ACTING_LAYER)
    mode: Mode = "position"
    shrinkage: float = Field(
        0.1,
        ge=0,
        description="added to the variance of every direction, as a share of their mean; 0 = as published, which "
        "relies on directions that hardly vary",
    )
