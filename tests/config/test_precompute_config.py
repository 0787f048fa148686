from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.config.precompute import PrecomputeConfig


@pytest.mark.parametrize(
    "conditions", [["label"], ["predicted", "label"], ["class:melanoma", "class:3", "label"], ["class:a b:c"]]
)
def test_conditions_are_labels_predictions_and_classes(conditions):
    assert PrecomputeConfig(conditions=conditions).conditions == conditions


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        (["labels"], "'labels': allowed are label, predicted, and class:NAME"),
        (["class:"], "'class:': allowed are"),
        (["class:a/b"], "'class:a/b': a name with a slash"),
        (["label", "label"], "each may be named once, got label, label"),
        ([], "at least 1 item"),
    ],
)
def test_other_conditions_are_refused(conditions, told):
    with pytest.raises(ValidationError, match=told):
        PrecomputeConfig(conditions=conditions)


@pytest.mark.parametrize("key", ["pooling", "relevance_pooling"])
def test_poolings_are_named_once(key):
    assert getattr(PrecomputeConfig(**{key: ["mean"]}), key) == ["mean"]
    for wrong in (["max", "max"], ["sum"]):
        with pytest.raises(ValidationError):
            PrecomputeConfig(**{key: wrong})
