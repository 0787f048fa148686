from __future__ import annotations

import numpy as np
import pytest

from pipeline.config.evaluate import OperatingPointConfig
from pipeline.errors import ConfigError
from pipeline.evaluate.operating_points import operating_point, positive_class

LABELS = np.array([0] * 10 + [1] * 10)


def logits_of(probability: np.ndarray) -> np.ndarray:
    return np.stack([np.zeros_like(probability), np.log(probability / (1 - probability))], axis=1)


def test_of_two_classes_the_second_is_positive_and_of_more_only_a_named_one():
    assert positive_class(OperatingPointConfig(), ("benign", "melanoma")) == 1
    assert positive_class(OperatingPointConfig(positive="benign"), ("benign", "melanoma")) == 0
    assert positive_class(OperatingPointConfig(), ("a", "b", "c")) is None
    assert positive_class(OperatingPointConfig(positive="c"), ("a", "b", "c")) == 2


def test_an_unknown_class_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match="'melanom'.*melanoma.*Classes: benign, melanoma"):
        positive_class(OperatingPointConfig(positive="melanom"), ("benign", "melanoma"))


def test_the_threshold_separates_the_validation_split():
    logits = logits_of(np.r_[np.linspace(0.05, 0.2, 10), np.linspace(0.3, 0.9, 10)])
    point = operating_point(OperatingPointConfig(), 1, logits, LABELS)
    assert point.class_id == 1 and 0.2 < point.threshold <= 0.3


def test_one_half_needs_no_validation_samples():
    logits = logits_of(np.full(20, 0.4))
    assert operating_point(OperatingPointConfig(rule="one_half"), 1, logits, np.zeros(20, int)).threshold == 0.5


def test_without_positives_there_is_no_operating_point():
    logits = logits_of(np.linspace(0.1, 0.9, 20))
    assert operating_point(OperatingPointConfig(), 1, logits, np.zeros(20, int)) is None
    assert operating_point(OperatingPointConfig(), None, logits, LABELS) is None
