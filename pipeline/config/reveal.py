"""Section `reveal`: detectors, how findings become biases, and concept activation vectors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Section


class SprayConfig(Section):
    """Spectral relevance analysis: clusters of heatmaps and of latent relevances, class by class."""

    kind: Literal["spray"]
    spaces: list[str] = Field(
        ["heatmap", "latent"], min_length=1, description='"heatmap", "latent" (deep layers) or layer names'
    )
    grid: int = Field(14, ge=2, description="heatmaps are pooled to grid x grid cells before comparing")
    neighbors: int = Field(8, ge=2, description="neighbours in the graph; lowered for small classes")
    eigenvectors: int = Field(16, ge=2)
    max_clusters: int = Field(6, ge=2)
    min_cluster_size: int = Field(12, ge=3)
    umap: bool = True


class NeuronsConfig(Section):
    """Neurons whose relevance profile over the samples of a class is unlike that of every other neuron."""

    kind: Literal["neurons"]
    layers: Literal["auto"] | list[str] = "auto"
    neighbors: int = Field(5, ge=1)
    per_class: int = Field(2, ge=1, description="outlier neurons reported for each class and layer at most")


DetectorConfig = Annotated[SprayConfig | NeuronsConfig, Field(discriminator="kind")]


class CavConfig(Section):
    """Concept activation vectors for the accepted biases."""

    kinds: list[Literal["pattern", "svm", "ridge", "logistic"]] = Field(["pattern", "svm"], min_length=1)
    layers: Literal["auto"] | list[str] = Field(
        "auto", description='"auto" = the layer with the best held-out evidence'
    )
    pooling: Literal["max", "mean"] = "max"


class RevealConfig(Section):
    """Findings, best first; accepted ones become biases with a concept activation vector."""

    detectors: list[DetectorConfig] = Field(
        default_factory=lambda: [SprayConfig(kind="spray"), NeuronsConfig(kind="neurons")], min_length=1
    )
    condition: Literal["label", "predicted"] = "label"
    accept_top: int = Field(1, ge=0, description="findings accepted without a person's verdict; marked unreviewed")
    accept_score: float = Field(
        0.0, ge=0, le=1, description="lowest suspicion score that is accepted without a verdict"
    )
    cav: CavConfig = CavConfig()
