"""Intervals and paired tests on numpy arrays: every figure that a report shows comes with its uncertainty."""

from __future__ import annotations

from .auroc import auroc, delong_paired
from .calibration import brier_score, calibration_error
from .classification import accuracy, balanced_accuracy, class_scores, macro_f1, per_class_accuracy, worst_group
from .intervals import Interval, bootstrap, over_seeds, wilson
from .paired import mcnemar

__all__ = [
    "Interval",
    "accuracy",
    "auroc",
    "balanced_accuracy",
    "bootstrap",
    "brier_score",
    "calibration_error",
    "class_scores",
    "delong_paired",
    "macro_f1",
    "mcnemar",
    "over_seeds",
    "per_class_accuracy",
    "wilson",
    "worst_group",
]
