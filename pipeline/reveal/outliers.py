"""To be written."""

from __future__ import annotations

from pipeline.config.reveal import OutliersConfig

from .candidates import Detection
from .view import DataView


class Outliers:
    """The detector `outliers`."""

    def __init__(self, config: OutliersConfig):
        self.config = config

    def detect(self, view: DataView) -> Detection:
        """Return nothing yet."""
        return Detection([])
