"""How much memory a piece of work takes on top of what was there before."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

STATM = Path("/proc/self/statm")
SECONDS = 0.02
"""Between two looks at the memory of this process."""


class PeakMemory:
    """Watches the resident memory of this process, or of its GPU, from entering to leaving.

    Attributes:
        megabytes: the most that was taken on top of the start; None where the system does not tell.
    """

    def __init__(self, device: str = "cpu"):
        self.device = device
        self.megabytes: float | None = None
        self._stop = threading.Event()
        self._most = 0

    def __enter__(self) -> Self:
        if self._on_gpu:
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
            self._start = torch.cuda.memory_allocated(self.device)
        elif STATM.exists():
            _give_back()
            self._start = self._most = resident_bytes()
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._on_gpu:
            import torch

            self.megabytes = (torch.cuda.max_memory_allocated(self.device) - self._start) / 1e6
        elif STATM.exists():
            self._stop.set()
            self._watcher.join()
            self.megabytes = (max(self._most, resident_bytes()) - self._start) / 1e6

    @property
    def _on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def _watch(self) -> None:
        while not self._stop.wait(SECONDS):
            self._most = max(self._most, resident_bytes())


def _give_back() -> None:
    """Give freed memory back to the system: what is only taken again from it would otherwise not be seen."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """Return the resident memory of this process, as Linux tells it."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
