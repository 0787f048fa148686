"""Corrections that divide the samples by class and artifact, or by what a model gets wrong."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..base import Section
from .shared import CarrierSource, FineTuningConfig, MethodConfig


class GroupOptions(Section):
    """Who carries the artifact, and how small a group may be."""

    groups: CarrierSource = Field(
        "found",
        description="who carries the artifact: members of the findings; samples of any class that the CAV recognises; "
        "or whom the data set lists, for comparison",
    )
    min_group: int = Field(
        4,
        ge=2,
        description="a group of fewer samples is not held apart from the rest of its class: few are learned by heart",
    )


class GroupBalanceMethod(FineTuningConfig, GroupOptions):
    """Fine-tuning on samples of which every group of class and artifact is drawn equally often."""

    kind: Literal["group_balance"]


class GroupDroMethod(FineTuningConfig, GroupOptions):
    """Distributionally robust optimisation over groups: the worst group's loss weighs ever more."""

    kind: Literal["group_dro"]
    step_size: float = Field(0.01, gt=0, description="eta, how fast weights of groups follow their losses")
    adjustment: float = Field(0.0, ge=0, description="C, adds C / sqrt(samples of the group) to a group's loss")


class DfrMethod(MethodConfig, GroupOptions):
    """Deep feature reweighting: the last linear layer alone is fitted anew, on groups of equal size."""

    kind: Literal["dfr"]
    min_group: int = Field(
        2,
        ge=2,
        description="a group of fewer samples is not held apart from its class",
    )
    split: Literal["val", "train", "both"] = Field(
        "val", description="whose samples; features of training samples are fitted already, but there are more of them"
    )
    subsamples: int = Field(10, ge=1, description="balanced draws of samples, whose layers are averaged")


class JttMethod(FineTuningConfig):
    """Just train twice: training samples that a first model gets wrong come more often."""

    kind: Literal["jtt"]
    identify: Literal["model", "scratch"] = Field(
        "model", description="whose errors: of the model under audit, or of one that is trained briefly from scratch"
    )
    identify_epochs: int = Field(1, ge=1, description="of that brief training; too many leave no errors")
    upsample: int = Field(
        20, ge=2, description="lambda, how often an epoch visits a sample that was classified wrongly"
    )
    start: Literal["checkpoint", "scratch"] = Field(
        "checkpoint", description="from the model under audit, or from the architecture's first weights"
    )
