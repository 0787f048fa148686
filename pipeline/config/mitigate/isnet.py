"""ISNet."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .shared import FineTuningConfig, MaskedBackground, Share


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
