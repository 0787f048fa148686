"""Records are strict, immutable, and valid JSON also with figures that are not finite."""

from __future__ import annotations

import json
import math

import pytest
from pydantic import ValidationError

from pipeline.workspace.records import Audit, Findings, Metric

METRIC = {"model": "original", "world": "clean", "subgroup": "all", "metric": "auroc", "lower": 0.1, "upper": 1, "n": 3}


def test_unknown_field_is_an_error():
    with pytest.raises(ValidationError, match="surprise"):
        Findings.model_validate({"findings": [], "surprise": 1})


def test_records_are_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        Metric(**METRIC, value=0.5).value = 0.6


def test_figures_that_are_not_finite_are_valid_json_and_come_back():
    text = Metric(**METRIC | {"upper": math.inf}, value=math.nan).model_dump_json()

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    json.loads(text, parse_constant=refuse)
    again = Metric.model_validate_json(text)
    assert math.isnan(again.value)
    assert again.upper == math.inf


def test_defaults_of_an_audit_are_not_shared():
    first, second = Audit.model_construct(), Audit.model_construct()
    assert first.verdicts == second.verdicts == []
    assert first.verdicts is not second.verdicts
