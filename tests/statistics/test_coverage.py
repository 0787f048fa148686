from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

# By path, because the folder is no installed package.
SOURCE = Path(__file__).parents[2] / "benchmarks/coverage.py"
SPEC = importlib.util.spec_from_file_location("benchmarks.coverage", SOURCE)
coverage = sys.modules["benchmarks.coverage"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(coverage)

REPEATS, RESAMPLES = 2000, 300
"""The share of 2000 intervals that hold the truth is known to half a point."""

TYPICAL = [
    coverage.share(200, 0.7),
    coverage.sensitivity(50, 150, 0.8),
    coverage.paired_accuracy(200, 0.05, 0.12),
    coverage.paired_change(100),
    coverage.area(50, 50, 0.8),
    coverage.area(40, 160, 0.92),
    coverage.mean_area(100, 3, 0.9),
    coverage.mean_area_of_labels(200, 5, 0.9),
    coverage.area_gain(40, 160, 0.7, 0.85),
    coverage.precision_of_ranking(40, 160, 2.0),
    coverage.mean_of("exponential", 100, 1.0, lambda rng: rng.exponential(size=100)),
    coverage.classified("balanced_accuracy", (50, 30, 20), (0.9, 0.8, 0.7)),
    coverage.classified("balanced_accuracy", (20,) * 10, (0.7, 0.75, 0.8, 0.85, 0.9, 0.9, 0.92, 0.95, 0.97, 0.99)),
    coverage.classified("macro_f1", (100, 60, 40), (0.97, 0.95, 0.9)),
    coverage.classified("class_f1", (160, 40), (0.97, 0.85)),
    coverage.labelled("multilabel_macro_f1", 200, 5, 0.8, 0.1),
    coverage.difference(200, 100, 0.9, 0.8),
    coverage.difference_of_areas(50, 50, 0.8, 0.9),
    coverage.calibration("brier_score", 200, 0.1),
    coverage.calibration("calibration_error", 200, 0.1),
]


@pytest.mark.parametrize("scenario", TYPICAL, ids=lambda each: f"{each.interval}: {each.data}, {each.n}")
def test_intervals_hold_the_truth_as_often_as_they_say(scenario):
    found = coverage.measure(scenario, REPEATS, RESAMPLES)
    assert 0.93 <= found.covered <= 0.97, found


def test_the_error_of_a_calibrated_classifier_may_be_none_almost_always():
    found = coverage.measure(coverage.calibration("calibration_error", 200, 0.0), 500, RESAMPLES)
    assert found.truth == 0 and found.covered >= 0.95 and found.value > 0.02


def test_far_from_chance_the_interval_of_the_area_still_holds_it():
    # the bounds that are symmetric hold this area in 85 of 100 data sets
    found = coverage.measure(coverage.area(20, 80, 0.96), REPEATS, RESAMPLES)
    assert 0.92 <= found.covered <= 0.97, found
