from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

# By path, because the folder is no installed package.
SOURCE = Path(__file__).parents[2] / "benchmarks/precompute.py"
SPEC = importlib.util.spec_from_file_location("benchmarks.precompute", SOURCE)
benchmark = sys.modules["benchmarks.precompute"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)

SETTINGS = benchmark.Settings(
    folder=None, images=8, repeats=1, batch_size=4, chunk_rows=4, workers=0, device="cpu", side=32
)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> dict[str, str]:
    """First cell -> second cell of every line of what is printed."""
    text = benchmark.compare_speed(SETTINGS, tmp_path_factory.mktemp("work"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line]
    return {row[0]: row[1:] for row in rows}


def test_stage_and_loop_store_the_same_and_both_are_timed(table):
    ours, naive = (float(table[name][0]) for name in ("stage", "naive loop, without a health check"))
    assert float(table["stage with its health check"][0]) < ours
    assert float(table["stage / naive loop"][0]) == pytest.approx(ours / naive, rel=0.05)


def test_the_parts_add_up_and_the_model_is_one_of_them(table):
    shares = {name: float(table[name][1].rstrip("%")) for name in ("model", *benchmark.OUTSIDE)}
    assert sum(shares.values()) == pytest.approx(100, abs=1)
    assert all(shares[name] > 0 for name in ("model", "check health", "write"))
    assert float(table["outside the model"][1].rstrip("%")) == pytest.approx(100 - shares["model"], abs=0.2)


@pytest.mark.parametrize("harm", ["other value", "one less", "one more"])
def test_a_store_that_differs_ends_the_benchmark(tmp_path, harm):
    values = np.arange(6.0)
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file["heatmaps/label"] = values + (harm == "other value")
        if harm == "one more":
            file["logits"] = values
    expected = {"heatmaps/label": values} | ({"logits": values} if harm == "one less" else {})
    with pytest.raises(SystemExit, match="heatmaps/label" if harm == "other value" else "logits"):
        benchmark.compare(tmp_path, expected, b"")


def test_a_folder_with_too_few_images_is_refused(tmp_path):
    benchmark.make_images(tmp_path / "deep", 2)
    assert len(benchmark.find_images(tmp_path, 2)) == 2
    with pytest.raises(SystemExit, match="holds 2 images, 3 are asked for"):
        benchmark.find_images(tmp_path, 3)
