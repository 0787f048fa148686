"""Section `reveal`: detectors, how findings become biases, and concept activation vectors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import Section

Spaces = Annotated[
    list[str],
    Field(min_length=1, description='"heatmap", "latent" (deepest two), "layers" (six over the depth) or names'),
]
Quantity = Literal["relevance", "relevance_max", "relevance_mean", "activation_max", "activation_mean"]
LayerChoice = Literal["auto"] | list[str]
CavKind = Literal["pattern", "ridge", "logistic", "svm", "lasso", "mean", "median", "lda"]


class SprayConfig(Section):
    """Spectral relevance analysis: clusters of heatmaps and of latent relevances."""

    kind: Literal["spray"]
    spaces: Spaces = ["heatmap", "layers"]
    quantities: list[Quantity] = Field(
        ["relevance", "activation_max", "activation_mean"],
        min_length=1,
        description="what is compared in layers; relevance_max needs precompute.relevance_pooling: [max]",
    )
    scope: Literal["class", "all"] = Field("class", description='"class" = class by class, "all" = all classes at once')
    normalization: Literal["l1", "l2", "none"] = "l1"
    grid: int = Field(14, ge=2, description="heatmaps are pooled to grid x grid cells before comparing")
    neighbors: int = Field(8, ge=2, description="neighbours in the graph; lowered for small classes")
    exact_up_to: int = Field(50_000, ge=0, description="more samples get an approximate neighbour graph")
    eigenvectors: int = Field(16, ge=2)
    clustering: Literal["sweep", "kmeans", "hdbscan", "agglomerative", "dbscan"] = Field(
        "sweep", description='"sweep" = the clearest cuts of the graph; the others cluster the spectral embedding'
    )
    max_clusters: int = Field(6, ge=2)
    min_cluster_size: int = Field(12, ge=3)
    tsne: bool = Field(True, description="show the first finding by t-SNE of the spectral embedding")
    umap: bool = Field(False, description="show it by UMAP as well, which takes longer than all the rest")


class PrototypesConfig(Section):
    """Prototypes: a Gaussian mixture of latent relevances for each class (PCX)."""

    kind: Literal["prototypes"]
    spaces: Spaces = ["latent"]
    covariance: Literal["diag", "tied", "full"] = "diag"
    dimensions: int = Field(32, ge=2, description="principal components of the mixture, at most one for four samples")
    max_components: int = Field(8, ge=1, description="the number of prototypes is chosen by BIC")
    min_cluster_size: int = Field(12, ge=3)


class OutliersConfig(Section):
    """Samples far from all others of their class."""

    kind: Literal["outliers"]
    spaces: Spaces = ["heatmap", "latent"]
    score: Literal["knn", "lof"] = "knn"
    neighbors: int = Field(8, ge=2)
    level: float = Field(0.01, gt=0, lt=0.5, description="share of samples called outliers where there are none")
    permutations: int = Field(20, ge=1)
    min_group: int = Field(6, ge=2, description="fewer outliers are no finding")


class PropertiesConfig(Section):
    """Simple image properties and metadata that go with the label, without any attribution."""

    kind: Literal["properties"]
    metadata: Literal["auto"] | list[str] = Field("auto", description='columns of the table; "auto" = group columns')
    min_auroc: float = Field(0.6, gt=0.5, lt=1, description="lower bound of the interval that makes a finding")
    min_group: int = Field(12, ge=3)


class NeuronsConfig(Section):
    """Neurons whose profile over the samples of a class is unlike that of every other neuron."""

    kind: Literal["neurons"]
    layers: LayerChoice = "auto"
    quantity: Quantity = "relevance"
    score: Literal["knn", "lof"] = "knn"
    neighbors: int = Field(5, ge=1)
    per_class: int = Field(2, ge=1, description="outlier neurons reported for each class and layer at most")


class DoraConfig(Section):
    """Neurons whose signals excite other neurons unlike any other neuron's signals do (extreme-activation distance)."""

    kind: Literal["dora"]
    layers: LayerChoice = "auto"
    signals: Literal["natural", "synthetic"] = Field(
        "natural", description="most activating samples, or images made by activation maximisation (slow)"
    )
    per_neuron: int = Field(5, ge=1, description="signals of each neuron")
    iterations: int = Field(128, ge=1, description="steps of activation maximisation")
    score: Literal["knn", "lof"] = "knn"
    neighbors: int = Field(5, ge=1)
    per_layer: int = Field(3, ge=1, description="outlier neurons reported for each layer at most")


DetectorConfig = Annotated[
    SprayConfig | PrototypesConfig | OutliersConfig | PropertiesConfig | NeuronsConfig | DoraConfig,
    Field(discriminator="kind"),
]


class CavConfig(Section):
    """Concept activation vectors for the accepted biases."""

    kinds: list[CavKind] = Field(["pattern", "svm"], min_length=1)
    layers: LayerChoice = Field("auto", description='"auto" = by held-out evidence and localization quality')
    search: bool = Field(False, description="choose the strength of filters by cross-validation; for many positives")
    pooling: Literal["max", "mean", "full"] = Field("max", description='"full" needs precompute.positions')


class RevealConfig(Section):
    """Findings, best first; accepted ones become biases with a concept activation vector."""

    detectors: list[DetectorConfig] = Field(
        default_factory=lambda: [
            SprayConfig(kind="spray"),
            PrototypesConfig(kind="prototypes"),
            OutliersConfig(kind="outliers"),
            PropertiesConfig(kind="properties"),
            NeuronsConfig(kind="neurons"),
            DoraConfig(kind="dora"),
        ],
        min_length=1,
    )
    condition: Literal["label", "predicted"] = "label"
    stability_runs: int = Field(3, ge=0, description="detections repeated on subsamples; 0 = none")
    pictured: int = Field(6, ge=0, description="findings that get pictures, the first ones")
    accept_top: int = Field(1, ge=0, description="findings accepted without a person's verdict; marked unreviewed")
    accept_score: float = Field(
        0.65,
        ge=0,
        le=1,
        description="lowest suspicion score that is accepted without a verdict; see docs/benchmarks.md",
    )
    earlier: list[Annotated[str, Field(min_length=1)]] = Field(
        [],
        description="run directories of earlier audits, as of the model before its correction; their biases are tried "
        "again under the same ids, and stay biases beside what accept_top adds",
    )
    cav: CavConfig = CavConfig()
