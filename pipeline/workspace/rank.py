"""One of several processes that share a stage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """Which of the processes this is. They meet in the files of the run directory, and talk only while they train.

    Attributes:
        number: 0 <= number < of; 0 runs the earlier stages, holds the lock, and writes the manifest.
        of: how many there are.
        local: number among the processes of this machine: its GPU.
    """

    number: int = 0
    of: int = 1
    local: int = 0

    def __str__(self) -> str:
        return f"rank {self.number} of {self.of}"
