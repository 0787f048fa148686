from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

# By path, because the folder is no installed package.
SOURCE = Path(__file__).parents[2] / "benchmarks/heatmap_loss.py"
SPEC = importlib.util.spec_from_file_location("benchmarks.heatmap_loss", SOURCE)
benchmark = sys.modules["benchmarks.heatmap_loss"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


@pytest.mark.parametrize("decay", benchmark.DECAYS)
def test_what_is_timed_is_the_same_loss_with_the_same_gradient(decay):
    row = benchmark.compare(2, 24, decay, 1)
    assert (row.samples, row.side, row.decay) == (2, 24, decay)
    assert row.loss_difference < 1e-6 and row.gradient_difference < 1e-5
    assert row.ratio == row.sorted_milliseconds / row.milliseconds


def test_maps_are_the_same_every_time_and_a_quarter_is_foreground():
    (first, mask), (second, _) = (benchmark.make_maps(2, 32) for _ in range(2))
    assert torch.equal(first, second) and first.shape == (2, 1, 3, 32, 32)
    assert mask.shape == (2, 1, 32, 32) and mask.mean() == 0.25


def test_the_command_prints_a_table_and_writes_every_figure(tmp_path, capsys, monkeypatch):
    row = benchmark.Row(8, 64, 0.9, 2.0, 15.0, 1e-7, 2e-7)
    monkeypatch.setattr(benchmark, "run", lambda quick: [row] if quick else [])
    benchmark.main(["--quick", "--output", str(tmp_path / "new/loss.json")])
    assert "| 8 x 3 x 64 x 64 | 0.9 | 2.00 | 15.00 | 7.5 | 1.0e-07 | 2.0e-07 |" in capsys.readouterr().out
    (written,) = json.loads((tmp_path / "new/loss.json").read_text())
    assert written["ratio"] == 7.5 and written["side"] == 64


def test_a_quick_run_has_every_decay():
    assert [row.decay for row in benchmark.run(quick=True)] == list(benchmark.DECAYS)
