"""Fine-tuning with a penalty on gradients."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..precompute import CompositeName
from .shared import ACTING_LAYER, Explained, FineTuningConfig, MaskSource

RrrAggregation = Literal["energy_share", "cosine", "l1", "squared"]
RelevanceComposite = Literal["lrp_flex"] | CompositeName
CdepForm = Literal["share", "softmax"]
RrClarcAggregation = Literal["scale_free", "l2", "l1", "cosine"]
PenaltyPositions = Literal["each", "mean"]


class RrrMethod(FineTuningConfig):
    """Right for the Right Reasons: input gradients, or relevance, inside the artifact mask are penalised."""

    kind: Literal["rrr"]
    weight: float = Field(
        30.0, ge=0, description="weight of the penalty beside the cross-entropy; the default suits all but squared"
    )
    explained: Explained = "all_logits_random"
    aggregation: RrrAggregation = Field(
        "energy_share",
        description="share of the squared gradient in the mask; cosine of |gradient| and mask; l1: share of the "
        "absolute gradient; squared: the original sum of squares in the mask, meant for explained: log_probabilities, "
        "which is not free of scale and needs a weight of its own for every network and data set",
    )
    quantity: Literal["gradient", "relevance"] = Field(
        "gradient", description="what may not lie in the mask: the input gradient, or LRP relevance of the pixels"
    )
    relevance_composite: RelevanceComposite = Field(
        "lrp_flex",
        description="rules of the relevance; lrp_flex: the quickest, for networks of ReLU; others: for any network",
    )
    masks: MaskSource = Field("localized", description="truth = of planted or listed artifacts, for comparison alone")
    layer: str | None = Field(None, description="train only what this layer does not depend on; default: everything")

    @model_validator(mode="after")
    def _options_fit_together(self) -> RrrMethod:
        if self.aggregation == "squared" and "weight" not in self.model_fields_set:
            raise ValueError(
                "aggregation: squared changes with the scale of the gradient, so it has no default weight: give one "
                "that makes weight * penalty about as large as the cross-entropy (history.csv shows both), or take "
                "energy_share"
            )
        if self.quantity == "relevance" and self.explained in ("log_probabilities", "cross_entropy"):
            raise ValueError(
                f"quantity: relevance starts at logits, not at explained: {self.explained}; "
                "take all_logits_random, max_logit or target_logit"
            )
        return self


class CdepMethod(FineTuningConfig):
    """Contextual decomposition explanation penalisation: what the masked region adds to the logits is penalised."""

    kind: Literal["cdep"]
    weight: float = Field(1.0, ge=0, description="weight of the penalty beside the cross-entropy")
    form: CdepForm = Field(
        "share",
        description="share of the squared logits that comes from the mask; softmax: of the two parts, as published",
    )
    masks: MaskSource = Field("localized", description="truth = of planted or listed artifacts, for comparison alone")
    layer: str | None = Field(None, description="train only what this layer does not depend on; default: everything")


class RrClarcMethod(FineTuningConfig):
    """Right-reason class artifact compensation: the latent gradient along the artifact direction is penalised."""

    kind: Literal["rr_clarc"]
    layer: str = Field("auto", description=ACTING_LAYER)
    weight: float = Field(
        100.0, ge=0, description="weight of the penalty beside the cross-entropy; the default suits scale_free alone"
    )
    aggregation: RrClarcAggregation = Field(
        "scale_free",
        description="how the gradient is compared with the direction: the share of its squared length along it, or as "
        "published l2, l1 or cosine; l2 and l1 are not free of scale, and need another weight, up to 1e9, for every "
        "network, layer and data set",
    )
    positions: PenaltyPositions = Field(
        "each", description="compare at each position, or the mean of the gradient over positions (published: l2, mean)"
    )
    explained: Explained = "all_logits_random"
    train: Literal["above", "all"] = Field(
        "above", description="what trains: what the layers of the CAVs do not depend on, or everything"
    )
