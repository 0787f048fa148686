from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

# By path, because the folder is no installed package.
SOURCE = Path(__file__).parents[2] / "benchmarks/coverage.py"
SPEC = importlib.util.spec_from_file_location("benchmarks.coverage", SOURCE)
benchmark = sys.modules["benchmarks.coverage"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)

LARGE = 200_000


def test_truths_are_what_large_samples_show():
    rng = np.random.default_rng(0)
    labels = np.arange(LARGE) < LARGE // 5
    scores = rng.normal(size=LARGE) + 1.5 * labels
    assert benchmark.true_average_precision(0.2, 1.5) == pytest.approx(
        average_precision_score(labels, scores), abs=0.006
    )
    for spread in (1.0, 2.0):
        assert roc_auc_score(labels, benchmark.binormal(rng, labels, 0.8, spread)) == pytest.approx(0.8, abs=0.005)
    classes = np.arange(LARGE) % 3
    logits = benchmark.class_logits(rng, classes, 3, stats.norm.ppf(0.8) * np.sqrt(2))
    assert roc_auc_score(classes == 1, logits[:, 1]) == pytest.approx(0.8, abs=0.005)
    confusion = benchmark.confusion_of((0.9, 0.8, 0.6))
    found = f1_score(classes, benchmark.answers(rng, classes, confusion), average=None)
    assert found == pytest.approx(benchmark.f1_of(np.full(3, 1.0), confusion), abs=0.005)


@pytest.mark.parametrize("gap", [0.0, 0.1, 0.2])
def test_truths_of_calibration_are_what_large_samples_show(gap):
    probabilities, y = benchmark.confidences(np.random.default_rng(0), LARGE, gap)
    error, brier = benchmark.truths_of_confidences(gap)
    assert benchmark.brier_score(probabilities, y, resamples=2).value == pytest.approx(brier, abs=0.004)
    assert benchmark.calibration_error(probabilities, y, resamples=2).value == pytest.approx(error, abs=0.005)


def test_intervals_that_hold_the_truth_and_those_beside_it_are_counted():
    sides = iter([(0.5, 0.4, 0.6), (0.2, 0.1, 0.3), (0.8, 0.6, 0.9), (0.5, 0.5, 0.5)])
    scenario = benchmark.Scenario("made up", "", 9, 0.5, lambda rng, resamples: (*next(sides), 9))
    found = benchmark.measure(scenario, 4, 10)
    assert (found.covered, found.below, found.above) == (0.5, 0.25, 0.25)
    assert (found.value, found.width) == pytest.approx((0.5, 0.175))


def test_the_command_prints_every_row_and_writes_it(tmp_path, capsys, monkeypatch):
    kinds = [benchmark.share(50, 0.8), benchmark.area(10, 10, 0.8)]
    monkeypatch.setattr(benchmark, "scenarios", lambda: kinds)
    benchmark.main(["--repeats", "20", "--resamples", "20", "--output", str(tmp_path / "new/coverage.json")])
    printed = capsys.readouterr().out
    assert "| wilson | share | 50 | 0.800 |" in printed and "| auroc | 10 positives | 20 | 0.800 |" in printed
    written = json.loads((tmp_path / "new/coverage.json").read_text())
    assert [each["interval"] for each in written] == ["wilson", "auroc"] and 0.5 < written[0]["covered"] <= 1


def test_a_quick_measurement_of_every_kind_works():
    rows = [benchmark.measure(each, 2, 10) for each in benchmark.scenarios()]
    names = {each.interval for each in rows}
    assert {"auroc", "macro_f1", "calibration_error", "difference_of_independent", "bootstrap of the mean"} <= names
    assert all(np.isfinite([each.value, each.width, each.truth]).all() for each in rows)
