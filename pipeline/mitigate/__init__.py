"""Masks and CAVs -> corrected models."""

from .registry import MITIGATIONS, make_mitigation

__all__ = ["MITIGATIONS", "make_mitigation"]
