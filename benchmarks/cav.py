"""What concept activation vectors cost: the project's closed forms and its solver beside scikit-learn.

    python -m benchmarks.cav [--quick] [--output FILE]

Features are made up: rectified correlated noise, in which a tenth of the samples is moved along one direction, and
standardized. Each method gets the same features, labels and folds, and all run in one process on one thread. What is
counted is processor time; the fastest of the repeats is shown, but the searches of the support vector machine run once.
scikit-learn searches ten strengths in five folds with 50 fits and a last one on all samples. Nothing here says how fast
anything must be.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from pipeline.concepts.estimators import pattern, ridge, svm
from pipeline.concepts.estimators.linear import Standardized

SEED = 0
POSITIVE = 0.1
SHIFT = 2.0


@dataclass(frozen=True)
class Found:
    """What a method found: a direction, and the strength that it chose where it searched."""

    weights: np.ndarray
    strength: float | None = None


@dataclass(frozen=True)
class Row:
    """One method beside one of scikit-learn's.

    Attributes:
        seconds: of processor time.
        reference_seconds: of the other.
        cosine: of both directions.
        strength: that was chosen; None where nothing was.
        reference_strength: that the other chose.
        not_converged: how many of the other's fits ended at their largest number of steps.
    """

    method: str
    reference: str
    samples: int
    dimensions: int
    seconds: float
    reference_seconds: float
    cosine: float
    strength: float | None
    reference_strength: float | None
    not_converged: int

    @property
    def ratio(self) -> float:
        return self.reference_seconds / self.seconds


@dataclass(frozen=True)
class Problem:
    features: np.ndarray
    labels: np.ndarray


def make_problem(samples: int, dimensions: int) -> Problem:
    generator = np.random.default_rng(SEED)
    labels = generator.random(samples) < POSITIVE
    direction = np.abs(generator.standard_normal(dimensions))
    mixing = generator.standard_normal((dimensions, dimensions)) / np.sqrt(dimensions)
    noise = generator.standard_normal((samples, dimensions)) @ mixing
    moved = noise + SHIFT * labels[:, None] * direction / np.linalg.norm(direction)
    return Problem(Standardized.of(np.maximum(moved, 0)).features, labels)


def our_pattern(problem: Problem) -> Found:
    return Found(pattern.fit(problem.features, problem.labels).weights)


def library_pattern(problem: Problem) -> Found:
    """A pattern is the slope of the regression of features on the label."""
    regression = LinearRegression().fit(problem.labels[:, None].astype(float), problem.features)
    return Found(regression.coef_.ravel())


def our_ridge(problem: Problem) -> Found:
    penalty = ridge.choose(problem.features, problem.labels, SEED)
    return Found(ridge.fit(problem.features, problem.labels, penalty).weights, penalty)


def library_ridge(problem: Problem) -> Found:
    return grid_search(problem, RidgeClassifier(class_weight="balanced"), "alpha", ridge.PENALTIES)


def our_svm(problem: Problem) -> Found:
    cost = svm.choose(problem.features, problem.labels, SEED)
    return Found(svm.fit(problem.features, problem.labels, cost).weights, cost)


def library_svm_dual(problem: Problem) -> Found:
    return grid_search(problem, LinearSVC(class_weight="balanced", dual=True, random_state=SEED), "C", svm.COSTS)


def library_svm_primal(problem: Problem) -> Found:
    return grid_search(problem, LinearSVC(class_weight="balanced", dual=False), "C", svm.COSTS)


def grid_search(problem: Problem, estimator, name: str, strengths: tuple[float, ...]) -> Found:
    folds = StratifiedKFold(5, shuffle=True, random_state=SEED)
    search = GridSearchCV(estimator, {name: list(strengths)}, scoring="balanced_accuracy", cv=folds)
    search.fit(problem.features, problem.labels)
    return Found(search.best_estimator_.coef_.ravel(), float(search.best_params_[name]))


def measure(method: Callable[[Problem], Found], problem: Problem, repeats: int) -> tuple[float, Found, int]:
    """Return the least processor time, what was found, and how many fits of the last repeat did not converge."""
    seconds = []
    for _ in range(repeats):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            started = time.process_time()
            found = method(problem)
            seconds.append(time.process_time() - started)
    return min(seconds), found, sum(issubclass(each.category, ConvergenceWarning) for each in caught)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def compare(samples: int, dimensions: int, ours, reference, names: tuple[str, str], repeats: int) -> Row:
    problem = make_problem(samples, dimensions)
    seconds, found, _ = measure(ours, problem, repeats)
    other_seconds, other, not_converged = measure(reference, problem, repeats)
    return Row(
        *names, samples, dimensions, seconds, other_seconds, cosine(found.weights, other.weights), found.strength,
        other.strength, not_converged,
    )  # fmt: skip


def run(quick: bool) -> list[Row]:
    many, few, wide, repeats = (600, 300, 24, 1) if quick else (20_000, 5000, 512, 3)
    with threadpool_limits(1):
        return [
            compare(many, wide, our_pattern, library_pattern, ("pattern", "LinearRegression"), repeats),
            compare(few, wide, our_ridge, library_ridge, ("ridge search", "RidgeClassifier, 50 fits"), repeats),
            compare(few, wide, our_svm, library_svm_primal, ("svm search", "LinearSVC primal, 50 fits"), 1),
            compare(few, wide, our_svm, library_svm_dual, ("svm search", "LinearSVC dual, 50 fits"), 1),
        ]


def table(rows: list[Row]) -> str:
    lines = [
        "| method | scikit-learn | samples x dimensions | seconds | seconds of scikit-learn | times | cosine "
        "| strength | that of scikit-learn | fits not converged |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        strengths = ["-" if each is None else f"{each:g}" for each in (row.strength, row.reference_strength)]
        lines.append(
            f"| {row.method} | {row.reference} | {row.samples:,} x {row.dimensions} | {row.seconds:.3f} "
            f"| {row.reference_seconds:.3f} | {row.ratio:.1f} | {row.cosine:.6f} | {strengths[0]} | {strengths[1]} "
            f"| {row.not_converged} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--output", type=Path, help="JSON file")
    parsed = parser.parse_args(arguments)
    rows = run(parsed.quick)
    print(table(rows))
    if parsed.output is not None:
        parsed.output.parent.mkdir(parents=True, exist_ok=True)
        parsed.output.write_text(json.dumps([asdict(row) | {"ratio": row.ratio} for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
