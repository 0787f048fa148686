"""Directions in a layer: estimators, projection, scores."""

from .cav import Cav, fit_cav, held_out_auroc

__all__ = ["Cav", "fit_cav", "held_out_auroc"]
