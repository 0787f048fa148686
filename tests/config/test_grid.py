from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.config.mitigate import MitigateConfig
from pipeline.config.mitigate.grid import expand_grid


def test_a_grid_stands_for_every_combination():
    config = MitigateConfig(
        methods=[
            {"kind": "rrr", "epochs": 3, "grid": {"weight": [1, 0.5], "explained": ["max_logit", "target_logit"]}},
            {"kind": "p_clarc"},
        ]
    )
    assert [each.method_id for each in config.methods] == [
        "rrr_weight-1_explained-max-logit",
        "rrr_weight-1_explained-target-logit",
        "rrr_weight-0.5_explained-max-logit",
        "rrr_weight-0.5_explained-target-logit",
        "p_clarc",
    ]
    assert [each.family_id for each in config.methods] == ["rrr"] * 4 + ["p_clarc"]
    assert [(each.weight, each.explained, each.epochs) for each in config.methods[:2]] == [
        (1, "max_logit", 3),
        (1, "target_logit", 3),
    ]


def test_an_expanded_section_is_its_own_expansion():
    config = MitigateConfig(methods=[{"kind": "rrr", "id": "mine", "grid": {"weight": [1, 2]}}])
    assert MitigateConfig(**config.model_dump()) == config
    assert [each.family_id for each in config.methods] == ["mine", "mine"]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"weight": 3}, "must name lists"),
        ([1, 2], "must name lists"),
        ({}, "must name lists"),
        ({"weight": []}, "must name lists"),
        ({"epochs": [1, 2]}, "'epochs' of 'rrr' stands beside its grid"),
        ({"id": ["a", "b"]}, "'id' of 'rrr'"),
        ({"weight": list(range(65))}, "65 combinations; at most 64"),
        ({"wieght": [1, 2]}, "wieght"),
        ({"weight": [-1, 2]}, "greater than or equal to 0"),
        ({"weight": [1, 1]}, "share the id"),
    ],
)
def test_a_wrong_grid_is_refused_with_the_reason(grid, words):
    with pytest.raises(ValidationError, match=words):
        MitigateConfig(methods=[{"kind": "rrr", "epochs": 1, "grid": grid}])


def test_what_is_no_mapping_is_left_to_the_schema():
    assert expand_grid("rrr") == ["rrr"]
