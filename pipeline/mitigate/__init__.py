"""Masks and CAVs -> corrected models."""

from __future__ import annotations

__all__ = ["MITIGATIONS", "make_mitigation"]


def __getattr__(name: str):
    # torch is imported only by those who ask for a method, so that `--help` answers at once
    if name in __all__:
        from . import registry

        return getattr(registry, name)
    raise AttributeError(f"module 'pipeline.mitigate' has no attribute '{name}'")
