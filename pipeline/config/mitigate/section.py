"""Section `mitigate`: the ways in which the model is corrected, each with its own parameters."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from ..base import Section
from .counterfactual import CounterfactualMethod
from .fine_tune import FineTuneMethod
from .grid import expand_grid
from .groups import DfrMethod, GroupBalanceMethod, GroupDroMethod, JttMethod
from .in_model import InModelExplainerMethod
from .isnet import IsnetMethod
from .penalties import CdepMethod, RrClarcMethod, RrrMethod
from .projections import AClarcMethod, LeaceMethod, PClarcMethod, RClarcMethod, RpClarcMethod
from .segmentation import AttentionGatedMethod, GainMethod, MultiTaskUnetMethod, UnetClassifierMethod

AnyMethod = Annotated[
    FineTuneMethod
    | RrrMethod
    | CdepMethod
    | RrClarcMethod
    | PClarcMethod
    | IsnetMethod
    | AClarcMethod
    | RpClarcMethod
    | RClarcMethod
    | LeaceMethod
    | GroupBalanceMethod
    | GroupDroMethod
    | DfrMethod
    | JttMethod
    | CounterfactualMethod
    | UnetClassifierMethod
    | MultiTaskUnetMethod
    | AttentionGatedMethod
    | GainMethod
    | InModelExplainerMethod,
    Field(discriminator="kind"),
]


class MitigateConfig(Section):
    """The list of corrections; every one starts from the same model under audit.

    An entry with `grid: {weight: [10, 30]}` stands for one correction for each combination of values. On the validation
    split one of them is chosen.
    """

    seeds: int = Field(1, ge=1, description="how often every chosen correction that trains is trained")
    most_clean_loss: float = Field(
        0.02,
        ge=0,
        le=1,
        description="balanced accuracy on validation samples without the artifact that a correction may cost",
    )

    methods: list[AnyMethod] = Field(
        default_factory=lambda: [
            FineTuneMethod(kind="fine_tune"),
            RrrMethod(kind="rrr"),
            RrClarcMethod(kind="rr_clarc"),
            PClarcMethod(kind="p_clarc"),
            IsnetMethod(kind="isnet"),
        ]
    )

    search_again: bool = Field(
        False,
        description="search the preferred correction for new shortcuts as well, before the report",
    )

    @model_validator(mode="before")
    @classmethod
    def _grids_are_lists_of_methods(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("methods"), list):
            return values
        return values | {"methods": [each for method in values["methods"] for each in expand_grid(method)]}

    @model_validator(mode="after")
    def _ids_are_unique(self) -> MitigateConfig:
        ids = [method.method_id for method in self.methods]
        for name in ("original", "pipeline"):
            if name in ids:
                raise ValueError(f"'{name}' is reserved and cannot be the id of a method; choose another id")
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        if repeated:
            raise ValueError(f"two methods share the id '{repeated[0]}'; give each its own `id:`")
        return self
