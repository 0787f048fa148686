"""Section `mitigate`: the ways in which the model is corrected, each with its own parameters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import Section


class MethodConfig(Section):
    """What every mitigation understands."""

    id: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+$", description="name in tables; default: the kind")

    @property
    def method_id(self) -> str:
        """The name under which the corrected model is stored and reported."""
        return self.id or self.kind


class FineTuningConfig(MethodConfig):
    """What every mitigation that trains understands."""

    epochs: int = Field(5, ge=1)
    lr: float = Field(1e-3, gt=0)
    batch_size: int = Field(64, ge=2)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    clip_norm: float | None = Field(1.0, gt=0)


class FineTuneMethod(FineTuningConfig):
    """Plain fine-tuning on the same data and schedule: the fair baseline of every method that trains."""

    kind: Literal["fine_tune"]


class RrrMethod(FineTuningConfig):
    """Right for the Right Reasons: input gradients inside the artifact mask are penalised."""

    kind: Literal["rrr"]
    weight: float = Field(30.0, ge=0, description="weight of the penalty beside the cross-entropy")
    explained: Literal["max_logit", "target_logit", "all_logits_random", "log_probabilities"] = "all_logits_random"


class RrClarcMethod(FineTuningConfig):
    """Right-reason class artifact compensation: the latent gradient along the artifact direction is penalised."""

    kind: Literal["rr_clarc"]
    layer: str = Field("auto", description="where the CAV acts; auto = the deepest layer with near-best held-out AUROC")
    weight: float = Field(100.0, ge=0)
    explained: Literal["max_logit", "target_logit", "all_logits_random", "log_probabilities"] = "all_logits_random"


class PClarcMethod(MethodConfig):
    """Projective class artifact compensation: the artifact direction is projected to its clean value; no training."""

    kind: Literal["p_clarc"]
    layer: str = Field("auto", description="where the CAV acts; auto = the deepest layer with near-best held-out AUROC")
    mode: Literal["position", "pooled"] = Field(
        "position", description="project every position, or shift by the pooled value"
    )


class IsnetMethod(FineTuningConfig):
    """ISNet with LRP-Flex: relevance of the background (here: the artifact) is minimised during training."""

    kind: Literal["isnet"]
    variant: Literal["selective", "stochastic"] = "stochastic"
    heatmap_share: float = Field(
        0.7, ge=0, le=1, description="P of the total loss (1 - P) cross-entropy + P heatmap loss"
    )
    decay: float = Field(0.9, ge=0, le=1, description="d of the global weighted ranked pooling")
    epsilon: float = Field(1e-2, ge=0, description="LRP epsilon")
    input_rule: Literal["zb", "gradient_x_input"] = Field("zb", description="how relevance reaches the pixels")
    cut: float | None = Field(
        None, gt=0, description="least relevance that the foreground should carry; default: from the model under audit"
    )
    cut2: float | None = Field(
        None, gt=0, description="most relevance that the foreground should carry; default: from the model under audit"
    )
    background_weight: float = Field(1.0, ge=0)
    foreground_weight: float = Field(1.0, ge=0)

    @model_validator(mode="after")
    def _cuts_come_together(self) -> IsnetMethod:
        if (self.cut is None) != (self.cut2 is None):
            raise ValueError("give both cut and cut2, or neither to have them measured on the model under audit")
        if self.cut is not None and self.cut >= self.cut2:
            raise ValueError(f"cut {self.cut} must be below cut2 {self.cut2}")
        return self


AnyMethod = Annotated[
    FineTuneMethod | RrrMethod | RrClarcMethod | PClarcMethod | IsnetMethod, Field(discriminator="kind")
]


class MitigateConfig(Section):
    """The list of corrections; every one starts from the same model under audit."""

    methods: list[AnyMethod] = Field(
        default_factory=lambda: [
            FineTuneMethod(kind="fine_tune"),
            RrrMethod(kind="rrr"),
            RrClarcMethod(kind="rr_clarc"),
            PClarcMethod(kind="p_clarc"),
            IsnetMethod(kind="isnet"),
        ]
    )

    @model_validator(mode="after")
    def _ids_are_unique(self) -> MitigateConfig:
        ids = [method.method_id for method in self.methods]
        for name in ("original", "pipeline"):
            if name in ids:
                raise ValueError(f"'{name}' is reserved and cannot be the id of a method; choose another id")
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        if repeated:
            raise ValueError(f"two methods share the id '{repeated[0]}'; give each its own `id:`")
        return self
