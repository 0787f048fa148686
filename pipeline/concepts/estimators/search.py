"""How strongly an estimator is regularized: five-fold search over powers of ten, both groups weighing the same."""

from __future__ import annotations

import numpy as np

FOLDS = 5
STRENGTHS = tuple(10.0**power for power in range(-5, 5))


def stratified_folds(labels: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return rows to fit on and rows held out, at most five times; none where a group has fewer than two samples."""
    from sklearn.model_selection import StratifiedKFold

    folds = int(min(FOLDS, labels.sum(), (~labels).sum()))
    if folds < 2:
        return []
    split = StratifiedKFold(folds, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels)
    return [(fitted, held_out) for fitted, held_out in split]


def balanced_accuracy(decisions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean recall of both groups `[S]` for decisions `[N, S]`, above 0 where the concept is seen."""
    seen = decisions > 0
    recalls = np.stack([(~seen[~labels]).sum(0) / (~labels).sum(), seen[labels].sum(0) / labels.sum()])
    return recalls.mean(0)


def best_strength(strengths: tuple[float, ...], scores: list[np.ndarray]) -> float:
    """Return the strength with the best mean score over folds; of equals the first, so list the most regularized first.

    Args:
        strengths: `[S]`.
        scores: of each fold, `[S]`.
    """
    return strengths[int(np.argmax(np.stack(scores, 1).mean(1)))]
