from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

# By path, because the folder is no installed package.
SOURCE = Path(__file__).parents[2] / "benchmarks/spray.py"
SPEC = importlib.util.spec_from_file_location("benchmarks.spray", SOURCE)
benchmark = sys.modules["benchmarks.spray"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> tuple[dict, str]:
    """Figures and text of a quick run in this process, without UMAP, whose compilation takes longer than the rest."""
    path = tmp_path_factory.mktemp("benchmark") / "spray.json"
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "alone", lambda run, *given: run(*given))
        patch.setattr(benchmark, "print", lambda line, **_: lines.append(line), raising=False)
        for name in benchmark.THREAD_VARIABLES:
            patch.setenv(name, "1")
        benchmark.main(["--quick", "--cases", "clusterings", "reference", "large", "--output", str(path)])
    return json.loads(path.read_text()), lines[-1]


def test_a_quick_run_agrees_with_the_reference(quick):
    assert quick[0]["reference"]["difference"] < 1e-4
    assert quick[0]["reference"]["agreement"] > 0.999


def test_every_clustering_and_every_cost_is_reported(quick):
    report, text = quick
    assert [each["clustering"] for each in report["clusterings"]] == ["kmeans", "hdbscan", "agglomerative", "dbscan"]
    assert all(each["agreement"] > 0.5 for each in report["clusterings"])
    for cost in (report["reference"]["ours"], report["reference"]["dense"], report["large"]["ours"]):
        assert cost["seconds"] > 0 and cost["peak"] >= cost["before"] > 0
    assert report["umap"] is None
    assert "all pairs, 600 samples" in text and "ours at 1200 / all pairs at 600" in text


def test_relevances_are_sparse_positive_and_of_eight_reasons():
    values, reasons = benchmark.make_relevances(2500, 128)
    assert np.array_equal(values, benchmark.make_relevances(2500, 128)[0])
    assert values.min() == 0 and 0.2 < (values == 0).mean() < 0.7
    shares = values / values.sum(1, keepdims=True)
    centers = np.stack([shares[reasons == reason].mean(0) for reason in range(8)])
    nearest = np.linalg.norm(shares[:, None] - centers[None], axis=2).argmin(1)
    assert (nearest == reasons).mean() > 0.9
