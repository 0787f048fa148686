from __future__ import annotations

import numpy as np
import pytest

from pipeline.workspace.peak_memory import STATM, PeakMemory

pytestmark = pytest.mark.skipif(not STATM.exists(), reason="the system does not tell the memory of a process")


def test_memory_that_was_given_back_is_counted():
    with PeakMemory() as memory:
        block = np.ones(60_000_000 // 8)
        block += 1
        for _ in range(20):  # long enough to be looked at
            block += 1
        del block
    assert 50 < memory.megabytes < 200


def test_nothing_taken_is_nothing_counted():
    with PeakMemory() as memory:
        pass
    assert memory.megabytes < 20


def test_memory_that_is_taken_again_is_counted_again():
    small = [np.ones(10_000) for _ in range(1000)]  # 80 MB in pieces, which the allocator keeps when they are freed
    last = np.ones(10_000)  # above them, so that they are not given back by themselves
    del small
    with PeakMemory() as memory:
        again = [np.ones(10_000) for _ in range(1000)]
        for piece in again:
            piece += 1
    assert memory.megabytes > 60 and last.all()
