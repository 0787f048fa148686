"""Section `model`: the classifier under audit and how it is trained when no checkpoint is given."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Section


class AugmentConfig(Section):
    """Random changes of training images; masks move along with the image."""

    horizontal_flip: bool = False
    vertical_flip: bool = False
    rotation: float = Field(0.0, ge=0, le=180, description="largest rotation in degrees")
    translate: float = Field(0.0, ge=0, lt=1, description="largest shift as a share of the side")
    brightness: float = Field(0.0, ge=0, lt=1)


class TrainConfig(Section):
    """The training loop of the classifier under audit."""

    epochs: int = Field(8, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(64, ge=2)
    schedule: Literal["constant", "cosine"] = "constant"
    class_weights: bool = Field(False, description="weight the loss by inverse class frequency")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    select: Literal["accuracy", "balanced_accuracy", "auroc", "loss", "last"] = Field(
        "accuracy", description="validation metric that names the best epoch"
    )
    augment: AugmentConfig = AugmentConfig()


class ModelConfig(Section):
    """Architecture, weights, and training."""

    arch: str = Field("local:small_cnn", description="torchvision:NAME, timm:NAME, local:NAME or my.module:factory")
    params: dict[str, int | float | str | bool] = Field({}, description="keyword arguments of the architecture")
    checkpoint: str | None = Field(None, description="weights of the classifier under audit; no training takes place")
    mean: tuple[float, ...] | None = Field(
        None, description="channel means that the model subtracts from pixels in [0, 1]"
    )
    std: tuple[float, ...] | None = Field(None, description="channel deviations that the model divides by")
    train: TrainConfig = TrainConfig()
