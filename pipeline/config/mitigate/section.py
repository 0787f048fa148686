"""Section `mitigate`: the ways in which the model is corrected, each with its own parameters."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ..base import Section
from .fine_tune import FineTuneMethod
from .isnet import IsnetMethod
from .penalties import RrClarcMethod, RrrMethod
from .projections import PClarcMethod

AnyMethod = Annotated[
    FineTuneMethod | RrrMethod | RrClarcMethod | PClarcMethod | IsnetMethod, Field(discriminator="kind")
]


class MitigateConfig(Section):
    """The list of corrections; every one starts from the same model under audit."""

    methods: list[AnyMethod] = Field(
        default_factory=lambda: [
            FineTuneMethod(kind="fine_tune"),
            RrrMethod(kind="rrr"),
            RrClarcMethod(kind="rr_clarc"),
            PClarcMethod(kind="p_clarc"),
            IsnetMethod(kind="isnet"),
        ]
    )

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
