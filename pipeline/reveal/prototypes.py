"""To be written."""

from __future__ import annotations

from pipeline.config.reveal import PrototypesConfig

from .candidates import Detection
from .view import DataView


class Prototypes:
    """The detector `prototypes`."""

    def __init__(self, config: PrototypesConfig):
        self.config = config

    def detect(self, view: DataView) -> Detection:
        """Return nothing yet."""
        return Detection([])
