"""Intervals and paired tests on numpy arrays: every figure that a report shows comes with its uncertainty."""

from __future__ import annotations

from .auroc import auroc, auroc_gain, delong_paired, macro_auroc
from .calibration import brier_score, calibration_error
from .classification import (
    accuracy,
    balanced_accuracy,
    class_f1,
    class_precision,
    class_scores,
    macro_f1,
    per_class_accuracy,
    worst_group,
)
from .independent import difference_of_independent
from .intervals import Interval, bootstrap, over_seeds, unmeasured, wilson
from .multilabel import exact_match, multilabel_macro_f1
from .multiplicity import holm
from .operating_point import choose_threshold, sensitivity_specificity
from .paired import accuracy_gain, mcnemar, paired_mean_change
from .ranking import average_precision, kendall_tau, macro_average_precision

__all__ = [
    "Interval",
    "accuracy",
    "accuracy_gain",
    "auroc",
    "auroc_gain",
    "average_precision",
    "balanced_accuracy",
    "bootstrap",
    "brier_score",
    "calibration_error",
    "choose_threshold",
    "class_f1",
    "class_precision",
    "class_scores",
    "delong_paired",
    "difference_of_independent",
    "exact_match",
    "holm",
    "kendall_tau",
    "macro_auroc",
    "macro_average_precision",
    "macro_f1",
    "mcnemar",
    "multilabel_macro_f1",
    "over_seeds",
    "paired_mean_change",
    "per_class_accuracy",
    "sensitivity_specificity",
    "unmeasured",
    "wilson",
    "worst_group",
]
