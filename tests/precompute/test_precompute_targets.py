from __future__ import annotations

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.precompute.targets import resolve_condition, targets_of

LOGITS = torch.tensor([[3.0, -1.0, 2.0], [-1.0, -2.0, -3.0], [0.5, 4.0, -0.5]])
IDS = torch.tensor([2, 0, 1])
ROWS = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("label", [[0, 0, 1], [1, 0, 0], [0, 1, 0]]),
        ("predicted", [[1, 0, 0], [1, 0, 0], [0, 1, 0]]),
        (1, [[0, 1, 0]] * 3),
    ],
)
def test_one_logit_is_explained_for_samples_of_one_label(condition, expected):
    found = targets_of(IDS, LOGITS, condition)
    assert found.dtype == LOGITS.dtype and found.tolist() == expected


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float32])
@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("label", [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        ("predicted", [[1, 0, 1], [0, 0, 0], [1, 1, 0]]),
        (2, [[0, 0, 1]] * 3),
    ],
)
def test_sums_of_logits_are_explained_for_samples_of_several_labels(condition, expected, kind):
    assert targets_of(ROWS.to(kind), LOGITS, condition).tolist() == expected


def test_a_condition_names_a_class_by_name_or_by_id():
    classes = ("7", "nevus", "melanoma")
    found = [resolve_condition(f"class:{name}", classes) for name in ("melanoma", "1", "7")]
    assert found == [2, 1, 0], "a name goes before an id"
    assert [resolve_condition(name, classes) for name in ("label", "predicted")] == ["label", "predicted"]


@pytest.mark.parametrize("name", ["melanom", "3", "-1"])
def test_an_unknown_class_is_refused_with_those_that_there_are(name):
    with pytest.raises(ConfigError, match=f"precompute.conditions: 'class:{name}' names no class.*0 = 7, 1 = nevus"):
        resolve_condition(f"class:{name}", ("7", "nevus", "melanoma"))
