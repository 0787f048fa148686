"""Section `precompute`: which activations and relevances are stored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from .base import Section

CLASS_PREFIX = "class:"
Pooling = Literal["max", "mean"]


def _checked_condition(text: str) -> str:
    name = text.removeprefix(CLASS_PREFIX)
    if text not in ("label", "predicted") and (name == text or not name):
        raise ValueError(f"condition {text!r}: allowed are label, predicted, and class:NAME or class:ID")
    if "/" in name:
        raise ValueError(f"condition {text!r}: a name with a slash cannot name a data set in the file; give the id")
    return text


def _checked_unique(items: list[str]) -> list[str]:
    if len(set(items)) < len(items):
        raise ValueError(f"each may be named once, got {', '.join(items)}")
    return items


Condition = Annotated[str, AfterValidator(_checked_condition)]
Unique = AfterValidator(_checked_unique)


CompositeName = Literal[
    "epsilon_plus_flat",
    "epsilon_plus",
    "epsilon_gamma_box",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon",
]


class PrecomputeConfig(Section):
    """One pass over the data: pooled activations and relevances of the layers, heatmaps, logits."""

    layers: Literal["auto"] | list[str] = Field(
        "auto",
        description='"auto" = every ReLU and convolution output, and blocks of tokens; or names, with shell wildcards',
    )
    composite: CompositeName = "epsilon_plus_flat"
    rules: dict[str, str] = Field(
        {}, description="layer name, with shell wildcards -> rule instead of the composite's; the last match counts"
    )
    conditions: Annotated[list[Condition], Unique] = Field(
        ["label", "predicted"],
        min_length=1,
        description='the logit that is explained: "label", "predicted", or "class:" and a name or an id',
    )
    pooling: Annotated[list[Pooling], Unique] = Field(
        ["max", "mean"], description="what is kept of activations over positions"
    )
    relevance_pooling: Annotated[list[Pooling], Unique] = Field(
        [], description="what is kept of positive relevance over positions, beside its signed sum"
    )
    positions: Literal["none", "grid", "full"] = Field(
        "none", description="also keep activations and relevances as maps: means over a grid, or every position"
    )
    grid: int = Field(7, ge=1, description="cells along each axis of a map when positions is grid")
    dtype: Literal["float16", "float32"] = "float16"
    batch_size: int = Field(64, ge=1)
    chunk_rows: int = Field(512, ge=1, description="rows between two saves; a killed run loses at most one chunk")
    workers: int = Field(0, ge=0, description="processes that read samples")
    patience_minutes: float = Field(
        60, gt=0, description="with several processes: how long one waits for the others without seeing progress"
    )
