"""Section `mitigate`: the ways in which the model is corrected, each with its own parameters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .base import Section

MaskedBackground = Literal["artifact", "roi", "union"]
Share = Annotated[float, Field(ge=0, le=1)]


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
    select: Literal["last", "loss", "accuracy", "balanced_accuracy", "auroc"] = Field(
        "last", description="validation metric that names the best epoch; its samples carry the artifact as trained"
    )
    patience: int | None = Field(None, ge=1, description="end after so many epochs without a better one")
    deterministic: bool = Field(False, description="only algorithms that repeat their numbers exactly; slower on a GPU")

    @model_validator(mode="after")
    def _patience_needs_a_measure(self) -> FineTuningConfig:
        if self.patience is not None and self.select == "last":
            raise ValueError("patience waits for a better epoch: say by which metric with select, such as select: loss")
        return self


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
    """ISNet: relevance of the background is minimised while the classifier trains; no cost afterwards."""

    kind: Literal["isnet"]
    variant: Literal["original", "dual", "selective", "stochastic", "softmax_gradient_x_input"] = Field(
        "stochastic",
        description="what is explained: every class; all classes at once by z+ and by epsilon; the least likely class "
        "against the others; the likeliest or a random class; the largest probability, by gradient times input",
    )
    rule: Literal["flex", "block"] = Field(
        "flex", description="LRP-Flex: epsilon at activations, any ReLU network; LRP-Block: at every layer"
    )
    heatmap_share: Share | dict[Annotated[int, Field(ge=1)], Share] = Field(
        0.7,
        description="P of the total loss (1 - P) classification + P heatmap loss; or epoch: P, each from its epoch on",
    )
    background: MaskedBackground | None = Field(
        None,
        description="where relevance is minimised: in the artifacts of all biases, outside the region of interest of "
        "the data set, or both; default: localize.background",
    )
    start: Literal["checkpoint", "scratch"] = Field(
        "checkpoint", description="from the model under audit, or from the architecture's first weights"
    )
    norms: Literal["auto", "frozen", "training"] = Field(
        "auto", description="statistics of BatchNorm; auto = frozen from a checkpoint, training from scratch"
    )
    decay: float = Field(0.9, ge=0, le=1, description="d of the global weighted ranked pooling")
    E: float = Field(1.0, gt=0, description="background relevance at which its cost turns from linear to logarithmic")
    epsilon: float = Field(1e-2, ge=0, description="LRP epsilon")
    input_rule: Literal["zb", "gradient_x_input"] = Field("zb", description="how relevance reaches the pixels")
    foreground: Literal["hybrid", "l2", "l1"] = Field("hybrid", description="cost of relevance above cut2")
    cut: float | None = Field(
        None, gt=0, description="least relevance that the foreground should carry; default: measured"
    )
    cut2: float | None = Field(
        None, gt=0, description="most relevance that the foreground should carry; default: measured"
    )
    cut_epochs: int = Field(
        5, ge=1, description="from scratch, cuts are measured on a plain classifier trained for so many epochs"
    )
    background_weight: float = Field(1.0, ge=0)
    foreground_weight: float = Field(1.0, ge=0)
    deep_supervision: bool = Field(False, description="the same loss on the relevance of hidden layers as well")
    supervised_layers: Literal["auto"] | list[str] = Field(
        "auto", description="which ones; auto = the last of every spatial size"
    )
    supervision_decay: float = Field(0.8, ge=0, le=1, description="pooling of the losses of layers, the largest first")
    selective_stabilizer: float | None = Field(
        None,
        gt=0,
        description="s in ln(p + s) - ln(1 - p + s), the published form, whose gradient vanishes on confident "
        "networks; default: the margin itself",
    )
    explain_labels: bool = Field(
        False, description="explain the true class instead; for comparison, it leaves the other classes unwatched"
    )
    select: Literal["last", "total", "loss", "accuracy", "balanced_accuracy", "auroc"] = Field(
        "last", description='validation metric that names the best epoch; "total" = the loss that is trained'
    )

    @property
    def frozen_norms(self) -> bool:
        """Whether statistics of BatchNorm stay as they are."""
        return self.norms == "frozen" or (self.norms == "auto" and self.start == "checkpoint")

    def share_at(self, epoch: int) -> float:
        """Return P in an epoch; before the first one that is listed it is 0."""
        if isinstance(self.heatmap_share, float):
            return self.heatmap_share
        return next((self.heatmap_share[each] for each in sorted(self.heatmap_share, reverse=True) if each <= epoch), 0)

    @model_validator(mode="after")
    def _options_fit_together(self) -> IsnetMethod:
        if (self.cut is None) != (self.cut2 is None):
            raise ValueError("give both cut and cut2, or neither to have them measured")
        if self.cut is not None and self.cut >= self.cut2:
            raise ValueError(f"cut {self.cut} must be below cut2 {self.cut2}")
        if self.variant == "dual" and self.rule == "flex":
            raise ValueError("variant 'dual' has a z+ map, which LRP-Flex does not know; set rule: block")
        if self.variant == "softmax_gradient_x_input" and (self.rule == "block" or self.deep_supervision):
            raise ValueError("variant 'softmax_gradient_x_input' is no LRP: leave out rule: block and deep_supervision")
        if self.explain_labels and self.variant not in ("selective", "stochastic"):
            raise ValueError(f"explain_labels is for variants selective and stochastic, not {self.variant}")
        if self.explain_labels and self.rule == "block":
            raise ValueError("explain_labels belongs to rule: flex")
        if self.selective_stabilizer is not None and (self.variant != "selective" or self.rule == "block"):
            raise ValueError("selective_stabilizer belongs to variant: selective with rule: flex")
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
