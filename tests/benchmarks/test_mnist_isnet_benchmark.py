from __future__ import annotations

from benchmarks.mnist_isnet import Row, summarize, table
from pipeline.workspace.records import Audit, MethodRecord, Metric


def metric(model: str, name: str, world: str, value: float, subgroup: str = "all") -> Metric:
    return Metric(model=model, world=world, subgroup=subgroup, metric=name, value=value, lower=value, upper=value, n=10)


def test_every_model_of_an_audit_is_a_row():
    metrics = [
        metric(model, "accuracy", world, value)
        for model, values in {"original": (1.0, 0.5, 0.1), "isnet": (0.9, 0.8, 0.7)}.items()
        for world, value in zip(("asis", "clean", "attacked"), values, strict=True)
    ]
    metrics += [metric("isnet", "background_relevance", "asis", 0.2), metric("isnet", "accuracy", "asis", 0, "other")]
    method = MethodRecord.model_construct(id="isnet", kind="isnet", seconds=12.0)
    audit = Audit.model_construct(metrics=metrics, methods=[method])
    original, isnet = summarize(3, audit)
    assert (
        original.accuracy == {"asis": 1.0, "clean": 0.5, "attacked": 0.1} and original.background != original.background
    )
    assert isnet == Row(3, "isnet", {"asis": 0.9, "clean": 0.8, "attacked": 0.7}, 0.2, 12.0)


def test_the_table_has_means_over_seeds_and_the_loss_of_each():
    rows = [
        Row(seed, "isnet", {"asis": 0.9, "clean": clean, "attacked": 0.7}, 0.1, 10.0)
        for seed, clean in enumerate((0.8, 0.9))
    ]
    assert table(rows).splitlines()[-1] == "| isnet | 0.900 | 0.850 | 0.700 | 10.0, 20.0 | 0.100 | 10 |"
