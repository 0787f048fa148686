from __future__ import annotations

from pipeline.report.selection import best_correction, worst_case
from pipeline.workspace.records import MethodRecord


def method(name: str, plain: float, pasted: float | None) -> MethodRecord:
    validation = {"balanced_accuracy": plain} | ({} if pasted is None else {"pasted_balanced_accuracy": pasted})
    return MethodRecord(
        key="0", id=name, kind=name, parameters={}, trained=True, biases=[], status="unreviewed", seconds=1.0,
        validation=validation,
    )  # fmt: skip


def test_the_best_correction_has_the_best_worst_case_and_is_no_baseline():
    methods = [method("fine_tune", 0.99, 0.99), method("rrr", 0.95, 0.6), method("isnet", 0.8, 0.9)]
    assert best_correction(methods) == "isnet"
    assert worst_case(methods[1]) == 0.6


def test_without_a_pasted_world_the_plain_metric_decides():
    assert best_correction([method("rrr", 0.7, None), method("isnet", 0.8, None)]) == "isnet"
    assert best_correction([method("fine_tune", 0.9, None)]) is None
