"""A classifier gated by the map of an explainer that is trained with it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..base import Section
from .shared import FineTuningConfig, MaskedBackground, MaskSource, Share


class ExplainerPhase(Section):
    """A part of the training in which some weights move and the others are frozen, statistics and dropout as well."""

    trains: Literal["classifier", "explainer", "both"]
    share: float = Field(gt=0, le=1, description="of the method's epochs, rounded; one that comes to 0 is left out")
    classification_share: Share = Field(
        0.9, description="alpha of alpha classification loss + (1 - alpha) explanation loss"
    )
    lr: float | None = Field(None, gt=0, description="default: that of the method")

    @model_validator(mode="after")
    def _classifier_learns_to_classify(self) -> ExplainerPhase:
        if self.trains != "explainer" and self.classification_share == 0:
            raise ValueError(
                f"classification_share 0 would train the classifier to forget; give a phase that trains {self.trains} "
                "a share above 0"
            )
        return self


def _published_phases() -> list[ExplainerPhase]:
    return [
        ExplainerPhase(trains="explainer", share=0.25, classification_share=0.25),
        ExplainerPhase(trains="both", share=0.75, classification_share=0.9),
    ]


class InModelExplainerMethod(FineTuningConfig):
    """In-model explainer: a map of each image multiplies the classifier's features, and both are trained.

    A baseline: a shortcut that predicts its class without fail stays in every variant. The published first phase, which
    trains the classifier alone, is not among the defaults, since the model under audit is trained.
    """

    kind: Literal["in_model_explainer"]
    loss: Literal["unsupervised", "hybrid"] = Field(
        "hybrid", description="maps are small and in one piece; hybrid: and closed where the masks are"
    )
    phases: list[ExplainerPhase] = Field(
        default_factory=_published_phases, min_length=1, description="one after another; their shares sum to 1"
    )
    sparsity_share: Share = Field(0.9, description="beta of beta size + (1 - beta) total variation of the maps")
    mask_weight: float = Field(1.0, ge=0, description="gamma, of what is open in the masks")
    masks: MaskSource = Field("localized", description="who made the masks; true ones are for comparison only")
    background: MaskedBackground | None = Field(
        None,
        description="what masks cover: artifacts, all outside the region of interest; default: localize.background",
    )
    gated: Literal["input", "stem", "stages", "activations"] | Annotated[list[str], Field(min_length=1)] = Field(
        "stages",
        description="what maps multiply: the image itself, closed places filled by the mean color, so that nothing "
        "leaks past them; the first activation; the last output of every spatial size; every activation; or names",
    )
    width: int = Field(32, ge=1, description="channels of the explainer's first resolution")
    gate: Literal["leaky_tanh_relu", "tanh_relu", "sigmoid"] = Field(
        "leaky_tanh_relu",
        description="what bounds the maps; the published tanh_relu has no gradient in closed places, so that a map "
        "which is closed everywhere stays so",
    )
    bias: float = Field(3.0, description="of the explainer's head at first; 3 lets all but 0.5 % through")

    @property
    def for_comparison(self) -> bool:
        """Whether it takes part for comparison alone: unsupervised, it knows nothing of the biases."""
        return self.told_truth or self.loss == "unsupervised"

    def epochs_of_phases(self) -> list[int]:
        """Return how many epochs each phase has; they sum to `epochs`."""
        ends = [round(self.epochs * sum(phase.share for phase in self.phases[:n])) for n in range(len(self.phases) + 1)]
        return [end - start for start, end in zip(ends, ends[1:], strict=False)]

    @model_validator(mode="after")
    def _options_fit_together(self) -> InModelExplainerMethod:
        total = sum(phase.share for phase in self.phases)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of all phases must sum to 1, not {total:g}")
        if all(phase.trains == "classifier" for phase in self.phases):
            raise ValueError("no phase trains the explainer; give one `trains: explainer` or `trains: both`")
        if self.loss == "unsupervised":
            if self.background is not None or self.masks != "localized":
                raise ValueError("background and masks belong to loss: hybrid; unsupervised knows no masks")
        return self
