from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.contest import rows_of, table, task_config
from benchmarks.digit_groups import small_or_large
from pipeline.config import load_config
from pipeline.workspace.records import Contest, Contestant, Metric


def metric(model: str, world: str, name: str, value: float) -> Metric:
    return Metric(model=model, world=world, subgroup="all", metric=name, value=value, lower=value, upper=value, n=9)


def contestant(name: str, family: str, chosen: bool = True, seed: int = 0) -> Contestant:
    return Contestant(id=name, family=family, seed=seed, clean=1, worst=1, on_front=True, chosen=chosen)


@pytest.fixture
def audit():
    figures = {"original": (0.9, 0.5), "rrr_weight-9": (0.88, 0.9), "p_clarc": (0.91, 0.3)}
    metrics = [
        metric(model, world, name, value)
        for model, values in figures.items()
        for world, value in zip(("clean", "attacked"), values, strict=True)
        for name in ("balanced_accuracy", "worst_group_accuracy", "auroc")
    ]
    contestants = [contestant("rrr_weight-1", "rrr", chosen=False), contestant("rrr_weight-9", "rrr")]
    contestants += [contestant("p_clarc", "p_clarc"), contestant("rrr_weight-9_seed-1", "rrr", seed=1)]
    methods = [
        SimpleNamespace(id=each.id, family=each.family, seconds=4.0 + each.seed, peak_megabytes=7.0, told_truth=False)
        for each in contestants
    ]
    contest = Contest(rule="", original_clean=1, original_worst=1, contestants=contestants, recommended="rrr_weight-9")
    return SimpleNamespace(metrics=metrics, methods=methods, contest=contest)


def test_what_is_regained_is_a_share_of_what_was_lost(audit):
    rows = {row.name: row for row in rows_of(audit)}
    assert list(rows) == ["original", "rrr_weight-9", "p_clarc"]
    assert rows["rrr_weight-9"].regained == pytest.approx(1.0) and rows["rrr_weight-9"].cost == pytest.approx(0.02)
    assert rows["p_clarc"].regained == pytest.approx(-0.5) and rows["p_clarc"].cost == pytest.approx(-0.01)


def test_seconds_are_the_mean_over_the_seeds(audit):
    assert rows_of(audit)[1].seconds == 4.5


def test_where_little_was_lost_nothing_can_be_regained(audit):
    audit.metrics[:] = [each.model_copy(update={"value": 0.5}) for each in audit.metrics]
    rows = rows_of(audit)
    assert all(np.isnan(row.regained) for row in rows) and "nan" not in table(rows, None)


def test_the_table_marks_the_preferred_correction(audit):
    lines = table(rows_of(audit), "rrr_weight-9").splitlines()
    assert "**rrr_weight-9**" in lines[3] and "100% | +2.0" in lines[3]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("task", ["demo", "trial", "backgrounds", "isic2017"])
def test_every_task_has_all_corrections_and_all_seeds(task, tmp_path):
    config, contest = task_config(task, (), tmp_path), load_config("contest.yaml")
    assert config.mitigate.methods == contest.mitigate.methods and config.mitigate.seeds == 3
    assert config.output_dir == str(tmp_path)
    assert 0.9 <= config.data.attack.probability <= 0.95


def test_seeds_of_a_task_can_be_set(tmp_path):
    assert task_config("backgrounds", ("mitigate.seeds=1",), tmp_path).mitigate.seeds == 1


def test_digits_fall_into_small_and_large_ones_and_keep_pixels_and_splits():
    dataset = small_or_large(limit=None)
    assert dataset.classes == ("small", "large") and len(dataset) == 5000
    labels = dataset.table["label"].to_numpy()
    assert np.bincount(labels).tolist() == [2500, 2500]
    assert set(dataset.table["split"]) == {"train", "val", "test"}
