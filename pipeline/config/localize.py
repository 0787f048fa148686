"""Section `localize`: from a concept activation vector to masks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Section
from .mask_import import ImportedMasks

LocalizationKind = Literal["concept_relevance", "gradient_x_activation", "neuron_relevance", "concept_map", "shap"]
Threshold = Literal["otsu", "percentile", "area", "fixed"]


class LocalizeConfig(Section):
    """Heatmaps of the concept, blurred and thresholded, or masks that exist already."""

    method: LocalizationKind = Field(
        "concept_relevance",
        description="relevance started at the concept; gradient of the concept score; relevance of the finding's "
        "neurons; the concept at every position, enlarged (cheap, coarse); Shapley values of regions (slow)",
    )
    baseline: bool = Field(
        True,
        description="concept_relevance and concept_map: only what exceeds samples without the concept counts; "
        "false = the whole activation, as published",
    )
    shap_segments: int = Field(7, ge=2, description="shap: regions along each side")
    shap_samples: int = Field(
        1024, ge=6, description="shap: masked inputs per sample, at least 2 * regions + 2; more is more exact"
    )
    blur: float = Field(0.04, ge=0, lt=0.5, description="deviation of the Gaussian blur as a share of the image side")
    threshold: Threshold = "otsu"
    percentile: float = Field(92.0, gt=0, lt=100, description="used by threshold: percentile")
    area: float = Field(0.05, gt=0, lt=1, description="used by threshold: area; strongest share of the image kept")
    fixed: float = Field(0.3, gt=0, lt=1, description="used by threshold: fixed; share of the heatmap's largest value")
    min_component: float = Field(
        0.0005, ge=0, lt=1, description="connected regions smaller than this share of the image are left out"
    )
    dilate: float = Field(
        0.02, ge=0, lt=0.5, description="the mask grows by this share of the image side before ISNet uses it"
    )
    background: Literal["artifact", "roi", "union"] = Field(
        "artifact",
        description="what ISNet's masks call background: the grown artifact, all outside the region of interest, "
        "or both",
    )
    import_masks: list[ImportedMasks] = Field([], description="masks from elsewhere, in place of the computed ones")
    batch_size: int = Field(64, ge=1)
