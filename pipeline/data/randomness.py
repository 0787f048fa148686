"""Randomness that depends on names, not on the order of calls: the same sample gets the same draw, always."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import numpy as np


def generator(seed: int, *keys: str) -> np.random.Generator:
    """Return the generator that belongs to a seed and a path of names, independent of every other one.

    Args:
        seed: the run's or the section's seed, any integer.
        keys: what the draws are for, from general to particular, for example ("glyph", sample id). The list counts,
            not its concatenation: ("ab", "c") and ("a", "bc") are different.

    Source: the counter-based generator Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011),
    keyed by BLAKE2b, so that it is the same on every machine and in every process.
    """
    name = json.dumps([int(seed), *keys]).encode("ascii")
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.blake2b(name, digest_size=16).digest())))


def uniform(seed: int, ids: Iterable[str], purpose: str) -> np.ndarray:
    """Return one draw in [0, 1) per id, float64 `[N]`; an id's draw does not depend on the others or on their order."""
    return np.array([generator(seed, purpose, each).random() for each in ids], dtype=np.float64)
