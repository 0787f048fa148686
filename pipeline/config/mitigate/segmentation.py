"""Segmentation and attention, with which ISNet is compared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .shared import FineTuningConfig, MaskedBackground, MaskSource, Share

BACKGROUND = (
    "what counts as background: the artifacts of all biases, all outside the region of interest of the data set, or "
    "both; default: localize.background"
)
MASKS = "who made the masks; true ones are for comparison only"
Unmasked = Literal["auto", "ignored", "foreground"]
UNMASKED = (
    "what a sample without mask teaches the segmenter: nothing, or that all of it is foreground; auto = foreground "
    "where background is artifact, since a segmenter that saw only carriers would find artifacts everywhere"
)


class UnetClassifierMethod(FineTuningConfig):
    """A U-Net learns the foreground; the classifier is then fine-tuned on what the U-Net leaves of the image."""

    kind: Literal["unet_classifier"]
    background: MaskedBackground | None = Field(None, description=BACKGROUND)
    masks: MaskSource = Field("localized", description=MASKS)
    unmasked: Unmasked = Field("auto", description=UNMASKED)
    fill: Literal["mean", "black"] = Field(
        "mean", description="what stands where background was: the mean color of the training images, or 0"
    )
    width: int = Field(16, ge=1, description="channels of the U-Net's finest level")
    depth: int = Field(3, ge=1, description="how often the U-Net halves the sides, as far as the images allow")
    segmenter_epochs: int = Field(
        5, ge=1, description="of the U-Net, more for few images; `epochs` are those of the classifier"
    )
    segmenter_lr: float = Field(3e-3, gt=0, description="learning rate of the U-Net")


class MultiTaskUnetMethod(FineTuningConfig):
    """A U-Net, trained from scratch, classifies from the coarsest map of the encoder that also finds the foreground."""

    kind: Literal["multi_task_unet"]
    epochs: int = Field(30, ge=1)
    background: MaskedBackground | None = Field(None, description=BACKGROUND)
    masks: MaskSource = Field("localized", description=MASKS)
    unmasked: Unmasked = Field("auto", description=UNMASKED)
    segmentation_share: Share = Field(
        0.5, description="w of the loss (1 - w) classification + w segmentation; with 1 nothing is classified"
    )
    width: int = Field(16, ge=1, description="channels of the finest level")
    depth: int = Field(3, ge=1, description="how often the sides are halved, as far as the images allow")
    cells: int = Field(4, ge=1, description="cells along each side of the coarsest map that the classifier sees")
    hidden: int = Field(128, ge=1, description="units of the classifier's hidden layer")
    dropout: float = Field(0.5, ge=0, lt=1)


class AttentionGatedMethod(FineTuningConfig):
    """Attention gates around the network: a new linear layer decides by what they look at in two hidden layers."""

    kind: Literal["attention_gated"]
    background: MaskedBackground | None = Field(None, description=BACKGROUND)
    masks: MaskSource = Field("localized", description=MASKS)
    layers: Literal["auto"] | list[str] = Field(
        "auto", description="which ones; auto = the last of each of the two sizes before the deepest maps"
    )
    inner: int = Field(16, ge=1, description="channels inside a gate")
    attention_weight: float = Field(
        1.0, ge=0, description="weight of the share of attention in the background; 0 = the gates learn by themselves"
    )


class GainMethod(FineTuningConfig):
    """Guided attention inference: Grad-CAM must cover all that the class is known by, and lie in the foreground."""

    kind: Literal["gain"]
    background: MaskedBackground | None = Field(None, description=BACKGROUND)
    masks: MaskSource = Field("localized", description=MASKS)
    layer: str = Field("auto", description="of the Grad-CAM; auto = the last one with positions")
    mining_weight: float = Field(1.0, ge=0, description="of the class's probability without the attended region")
    mask_weight: float = Field(10.0, ge=0, description="of the squared difference of Grad-CAM and masks")
    compared: Literal["auto", "everywhere", "background"] = Field(
        "auto",
        description="where Grad-CAM is compared with the masks; auto = background alone where that is artifact, since "
        "all the rest of an image is not one object that should be attended",
    )
    sharpness: float = Field(10.0, gt=0, description="omega of the soft mask sigmoid(omega (attention - threshold))")
    threshold: float = Field(0.5, gt=0, lt=1, description="of the attention, whose largest value is 1")
    constant_weights: bool = Field(
        False, description="Grad-CAM's weights of channels are held constant in training; cheaper"
    )
