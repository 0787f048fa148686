"""Linear support vector machine with squared hinge loss, both groups weighing the same.

The objective is that of LIBLINEAR with the intercept as the weight of a feature that is 1 everywhere:
|w|^2 / 2 + b^2 / 2 + C sum_i c_i max(0, 1 - y_i (w.x_i + b))^2, c_i = N / (2 N_c).
It is solved exactly by Newton's method. Between violated margins the loss is a parabola, whose Gram matrix changes only
by the samples that enter or leave; it is carried from step to step and from each C to the next, and the folds of a
search start from the Gram matrix of all samples less that of the held-out ones.
"""

from __future__ import annotations

import numpy as np

from .linear import Linear, sample_weights
from .moments import Moments, compress, expand
from .search import STRENGTHS, balanced_accuracy, best_strength, stratified_folds

COST = 0.01
COSTS = STRENGTHS
STEPS = 200
LARGEST_SYSTEM = 4096


def fit(features: np.ndarray, labels: np.ndarray, cost: float = COST) -> Linear:
    """Return the support vector machine of one C.

    Args:
        features: `[N, D]`, standardized. With more than 4096 of both samples and dimensions scikit-learn's LinearSVC
            solves the same problem up to its own tolerance: Newton's matrices would be too large.
        labels: `[N]`, booleans.
        cost: C; the smaller, the more regularized.
    """
    if min(features.shape) > LARGEST_SYSTEM:
        found = _library_path(features, labels, (cost,))[0]
        return Linear(found[:-1], float(found[-1]))
    small, back = compress(features)
    design = _with_ones(small)
    # weak regularization is reached in fewer steps from stronger ones
    costs = (*(each for each in COSTS if each < cost), cost)
    found = newton_path(design, labels, costs, Moments.of(design, labels))[-1]
    return Linear(expand(found[:-1], features, back), float(found[-1]))


def choose(features: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Return C out of 10^-5 ... 10^4 with the best balanced accuracy in five folds; of equals the smallest."""
    folds = stratified_folds(labels, seed)
    if not folds:
        return COST
    large = min(features.shape) > LARGEST_SYSTEM
    design = _with_ones(features if large else compress(features)[0])
    total = None if large else Moments.of(design, labels)
    scores = []
    for fitted, held_out in folds:
        if total is None:
            found = _library_path(features[fitted], labels[fitted], COSTS)
        else:
            moments = total.without(Moments.of(design[held_out], labels[held_out]))
            found = newton_path(design[fitted], labels[fitted], COSTS, moments)
        scores.append(balanced_accuracy(design[held_out] @ found.T, labels[held_out]))
    return best_strength(COSTS, scores)


def newton_path(design: np.ndarray, labels: np.ndarray, costs: tuple[float, ...], moments: Moments) -> np.ndarray:
    """Return argmin |w|^2 / 2 + C sum_i c_i max(0, 1 - y_i w.x_i)^2 for each C, `[len(costs), P]`.

    Args:
        design: `[N, P]`, features and a column of ones.
        labels: `[N]`, booleans.
        costs: ascending; each solution starts from the one before.
        moments: of `design`.
    """
    roots = np.sqrt(sample_weights(labels))
    rows = design * np.where(labels, roots, -roots)[:, None]  # sqrt(c) y x: the loss is |max(0, roots - rows @ w)|^2
    violated = _Violated(rows, roots, moments)
    weights, reached = np.zeros(design.shape[1]), np.zeros(len(rows))
    found = []
    for cost in costs:
        for _ in range(STEPS):
            step = violated.minimum(cost) - weights
            gain = rows @ step
            share = _step_length(weights, step, roots - reached, gain, cost)
            weights, reached = weights + share * step, reached + share * gain
            changed = violated.move_to(reached < roots)
            # no sample entered or left on the way to the minimum of their parabola: it is the minimum of the whole
            if share == 0 or (share == 1 and not changed):
                break
        found.append(weights)
    return np.stack(found)


class _Violated:
    """The samples whose margin is violated, with their Gram matrix; at first all, as for weights of 0."""

    def __init__(self, rows: np.ndarray, roots: np.ndarray, moments: Moments):
        self.rows, self.roots = rows, roots
        self.members = np.ones(len(rows), bool)
        (without, having), sums = moments.weights, moments.sums
        self.gram = without * moments.grams[0] + having * moments.grams[1]
        self.cross = having * sums[1] - without * sums[0]

    def minimum(self, cost: float) -> np.ndarray:
        """Return the minimum `[P]` of the objective if exactly these samples violate their margin."""
        from scipy.linalg import cho_factor, cho_solve

        system = self.gram.copy()
        system.flat[:: len(system) + 1] += 0.5 / cost
        return cho_solve(cho_factor(system, overwrite_a=True, check_finite=False), self.cross, check_finite=False)

    def move_to(self, members: np.ndarray) -> int:
        """Take other samples `[N]`; return how many entered or left."""
        entered, left = members & ~self.members, self.members & ~members
        changed = int(entered.sum() + left.sum())
        if changed > members.sum():
            self.gram, self.cross = self._sums(members)
        elif changed:
            for rows, sign in ((entered, 1.0), (left, -1.0)):
                gram, cross = self._sums(rows)
                self.gram, self.cross = self.gram + sign * gram, self.cross + sign * cross
        self.members = members
        return changed

    def _sums(self, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = self.rows[members]
        return rows.T @ rows, self.roots[members] @ rows


def _step_length(weights: np.ndarray, step: np.ndarray, missing: np.ndarray, gain: np.ndarray, cost: float) -> float:
    """Return how far to go along a step, in [0, 1]: all the way where that pays, else to the minimum on the way.

    Args:
        weights: `[P]`.
        step: `[P]`, to the minimum of the parabola of the samples whose margin is violated.
        missing: `[N]`, what margins lack at `weights`.
        gain: `[N]`, what margins gain over the whole step.
        cost: C.
    """
    from scipy.optimize import brentq

    along, length = float(weights @ step), float(step @ step)

    def slope(share: float) -> float:
        lacking = missing - share * gain
        return along + share * length - 2 * cost * float(np.maximum(lacking, 0) @ gain)

    def rise(share: float) -> float:
        before, after = np.maximum(missing, 0), np.maximum(missing - share * gain, 0)
        return share * along + share**2 * length / 2 + cost * float((after - before) @ (after + before))

    first = slope(0.0)
    if first >= 0:
        return 0.0
    if rise(1.0) <= 0.25 * first or slope(1.0) <= 0:
        return 1.0
    return float(brentq(slope, 0.0, 1.0))


def _library_path(features: np.ndarray, labels: np.ndarray, costs: tuple[float, ...]) -> np.ndarray:
    from sklearn.svm import LinearSVC

    found = []
    for cost in costs:
        machine = LinearSVC(C=cost, class_weight="balanced", dual="auto", random_state=0, max_iter=5000)
        machine.fit(features, labels)
        found.append(np.append(machine.coef_.ravel(), machine.intercept_))
    return np.stack(found)


def _with_ones(features: np.ndarray) -> np.ndarray:
    return np.concatenate([features, np.ones((len(features), 1))], 1)
