"""Which correction is called the best."""

from __future__ import annotations

from pipeline.workspace.records import MethodRecord

BASELINES = ("fine_tune",)


def best_correction(methods: list[MethodRecord]) -> str | None:
    """Return the id of the correction with the best worst case on the validation split.

    The worst case is the smaller of balanced accuracy on the samples as they are and with the localized artifact pasted
    in. No ground truth and no test sample takes part. Baselines that know nothing of the bias are not candidates.
    """
    candidates = [method for method in methods if method.kind not in BASELINES]
    return max(candidates, key=worst_case).id if candidates else None


def worst_case(method: MethodRecord) -> float:
    """Return the smaller of the two balanced accuracies on the validation split."""
    names = ("balanced_accuracy", "pasted_balanced_accuracy")
    return min(method.validation[name] for name in names if name in method.validation)
