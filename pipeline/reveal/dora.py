"""To be written."""

from __future__ import annotations

from pipeline.config.reveal import DoraConfig

from .candidates import Detection
from .view import DataView


class Dora:
    """The detector `dora`."""

    def __init__(self, config: DoraConfig):
        self.config = config

    def detect(self, view: DataView) -> Detection:
        """Return nothing yet."""
        return Detection([])
