"""Detectors by name. A new one is a file of this package, its parameters in `config/reveal.py`, and a line here."""

from __future__ import annotations

from typing import Protocol

from pipeline.config.reveal import DetectorConfig

from .candidates import Candidate, ClassView
from .neurons import Neurons
from .spray import Spray


class Detector(Protocol):
    """Looks at the samples of one class and proposes groups of them."""

    def detect(self, view: ClassView) -> list[Candidate]:
        """Return groups of samples; an empty list where there is nothing to say."""
        ...


DETECTORS: dict[str, type] = {
    "spray": Spray,
    "neurons": Neurons,
}


def make_detector(config: DetectorConfig) -> Detector:
    """Return the detector of a configuration."""
    return DETECTORS[config.kind](config)
