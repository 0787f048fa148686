"""Plain fine-tuning."""

from __future__ import annotations

from typing import Literal

from .shared import FineTuningConfig


class FineTuneMethod(FineTuningConfig):
    """Plain fine-tuning on the same data and schedule: the fair baseline of every method that trains."""

    kind: Literal["fine_tune"]

    @property
    def for_comparison(self) -> bool:
        """Whether it takes part for comparison alone; always."""
        return True
