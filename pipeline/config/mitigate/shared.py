"""What configurations of several mitigations have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..base import Section

MaskedBackground = Literal["artifact", "roi", "union"]
Share = Annotated[float, Field(ge=0, le=1)]


def _refuse_a_constant(explained: Any) -> Any:
    if explained == "softmax_sum":
        raise ValueError(
            "the probabilities of a softmax add up to 1 whatever the pixels are, so the gradient of 'softmax_sum' is 0 "
            "and the penalty would do nothing; take all_logits_random or log_probabilities"
        )
    return explained


Explained = Annotated[
    Literal["max_logit", "target_logit", "all_logits_random", "log_probabilities", "cross_entropy"],
    BeforeValidator(_refuse_a_constant),
]
"""The scalar whose gradient is looked at."""
MaskSource = Literal["localized", "truth"]
"""Masks that localize made, or those of the data set, which only a comparison may use."""
CarrierSource = Literal["found", "detected", "truth"]
"""Who carries the artifact: members of the finding, samples above the CAV's boundary, or whom the data set lists."""
ACTING_LAYER = "where the CAV acts; auto = the deepest layer with near-best held-out AUROC"


class MethodConfig(Section):
    """What every mitigation understands."""

    id: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", description="name in tables; default: the kind"
    )
    family: str | None = Field(None, description="set for the members of a grid: what they are called together")

    @property
    def method_id(self) -> str:
        """The name under which the corrected model is stored and reported."""
        return self.id or self.kind

    @property
    def family_id(self) -> str:
        """What the members of a grid are called together; otherwise the method's own name."""
        return self.family or self.method_id

    @property
    def told_truth(self) -> bool:
        """Whether the method is given true masks or true groups, which only a comparison may use."""
        return "truth" in (getattr(self, "masks", None), getattr(self, "groups", None))

    @property
    def for_comparison(self) -> bool:
        """Whether it takes part for comparison alone: it knows the truth, or nothing of the biases."""
        return self.told_truth


class FineTuningConfig(MethodConfig):
    """What every mitigation that trains understands."""

    epochs: int = Field(5, ge=1)
    lr: float = Field(1e-3, gt=0)
    batch_size: int = Field(64, ge=2)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    clip_norm: float | None = Field(1.0, gt=0)
    select: Literal["last", "loss", "accuracy", "balanced_accuracy", "auroc"] = Field(
        "last", description="validation metric that names the best epoch; its samples carry the artifact as trained"
    )
    patience: int | None = Field(None, ge=1, description="end after so many epochs without a better one")
    cache_features: bool = Field(
        True,
        description="compute layers that stay frozen once, not in every step, where nothing changes what they say; "
        "the result is the same",
    )
    deterministic: bool = Field(False, description="only algorithms that repeat their numbers exactly; slower on a GPU")

    @model_validator(mode="after")
    def _patience_needs_a_measure(self) -> FineTuningConfig:
        if self.patience is not None and self.select == "last":
            raise ValueError("patience waits for a better epoch: say by which metric with select, such as select: loss")
        return self
