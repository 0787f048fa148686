"""The whole configuration: one section per stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Section
from .data import DataConfig
from .evaluate import EvaluateConfig
from .localize import LocalizeConfig
from .mitigate import MitigateConfig
from .model import ModelConfig
from .precompute import PrecomputeConfig
from .report import ReportConfig
from .reveal import RevealConfig


class Config(Section):
    """A run, as written in YAML. Defaults are filled in; the resolved form is stored beside the results."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the run's folder below output_dir")
    output_dir: str = "artifacts"
    seed: int = Field(0, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    data: DataConfig
    model: ModelConfig = ModelConfig()
    precompute: PrecomputeConfig = PrecomputeConfig()
    reveal: RevealConfig = RevealConfig()
    localize: LocalizeConfig = LocalizeConfig()
    mitigate: MitigateConfig = MitigateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
