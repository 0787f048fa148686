"""Detectors by name. A new one is a file of this package, its parameters in `config/reveal.py`, and a line here."""

from __future__ import annotations

from typing import Protocol

from pipeline.config.reveal import DetectorConfig

from .candidates import Detection
from .dora import Dora
from .neurons import Neurons
from .outliers import Outliers
from .properties import Properties
from .prototypes import Prototypes
from .spray import Spray
from .view import DataView


class Detector(Protocol):
    """Looks at samples and proposes groups of them."""

    def detect(self, view: DataView) -> Detection:
        """Return groups of samples, and the figures and pictures behind them."""
        ...


DETECTORS: dict[str, type] = {
    "spray": Spray,
    "prototypes": Prototypes,
    "outliers": Outliers,
    "properties": Properties,
    "neurons": Neurons,
    "dora": Dora,
}


def make_detector(config: DetectorConfig) -> Detector:
    """Return the detector of a configuration."""
    return DETECTORS[config.kind](config)
