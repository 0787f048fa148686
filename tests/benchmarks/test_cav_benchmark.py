from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

# By path, because the folder is no installed package.
SOURCE = Path(__file__).parents[2] / "benchmarks/cav.py"
SPEC = importlib.util.spec_from_file_location("benchmarks.cav", SOURCE)
benchmark = sys.modules["benchmarks.cav"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (benchmark.our_pattern, benchmark.library_pattern),
        (benchmark.our_ridge, benchmark.library_ridge),
        (benchmark.our_svm, benchmark.library_svm_primal),
    ],
)
def test_what_is_timed_finds_the_same_direction_and_strength(ours, reference):
    row = benchmark.compare(300, 12, ours, reference, ("a", "b"), 1)
    assert (row.method, row.reference, row.samples, row.dimensions) == ("a", "b", 300, 12)
    assert row.cosine > 0.9999 and row.strength == row.reference_strength
    assert row.ratio == row.reference_seconds / row.seconds


def test_problems_are_standardized_and_the_same_every_time():
    first, second = (benchmark.make_problem(400, 6) for _ in range(2))
    assert np.array_equal(first.features, second.features) and np.array_equal(first.labels, second.labels)
    np.testing.assert_allclose(first.features.std(0), 1)
    assert 0.05 < first.labels.mean() < 0.15
    gap = first.features[first.labels].mean(0) - first.features[~first.labels].mean(0)
    assert np.linalg.norm(gap) > 0.8


def test_the_least_time_is_kept_and_fits_without_convergence_are_counted(monkeypatch):
    ticks = iter([0.0, 5.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr(benchmark.time, "process_time", lambda: next(ticks))

    def method(problem):
        for _ in range(2):
            warnings.warn("steps", ConvergenceWarning, stacklevel=1)
        return problem

    assert benchmark.measure(method, "p", 3) == (2.0, "p", 2)


def test_the_command_prints_a_table_and_writes_every_figure(tmp_path, capsys, monkeypatch):
    found = benchmark.Found(np.array([1.0, 0.0]), 0.1)
    other = benchmark.Found(np.array([3.0, 4.0]))
    row = benchmark.Row("m", "r", 5000, 512, 2.0, 11.0, benchmark.cosine(found.weights, other.weights), 0.1, None, 7)
    monkeypatch.setattr(benchmark, "run", lambda quick: [row] if quick else [])
    benchmark.main(["--quick", "--output", str(tmp_path / "new/cav.json")])
    assert "| m | r | 5,000 x 512 | 2.000 | 11.000 | 5.5 | 0.600000 | 0.1 | - | 7 |" in capsys.readouterr().out
    (written,) = json.loads((tmp_path / "new/cav.json").read_text())
    assert written["ratio"] == 5.5 and written["not_converged"] == 7 and written["reference_strength"] is None
