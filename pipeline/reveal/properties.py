"""To be written."""

from __future__ import annotations

from pipeline.config.reveal import PropertiesConfig

from .candidates import Detection
from .view import DataView


class Properties:
    """The detector `properties`."""

    def __init__(self, config: PropertiesConfig):
        self.config = config

    def detect(self, view: DataView) -> Detection:
        """Return nothing yet."""
        return Detection([])
