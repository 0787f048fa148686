from __future__ import annotations

import pytest
import torch

from pipeline.attribution.targets import logit_weights

LOGITS = torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 0.5]])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, [[0, 1, 0], [1, 0, 0]]),
        (2, [[0, 0, 1], [0, 0, 1]]),
        (torch.tensor([2, 0]), [[0, 0, 1], [1, 0, 0]]),
        (torch.tensor([[0.5, -1.0, 0.0], [0.0, 0.0, 2.0]]), [[0.5, -1, 0], [0, 0, 2]]),
    ],
)
def test_every_form_becomes_weights_of_the_logits(target, expected):
    weights = logit_weights(LOGITS, target)
    assert weights.dtype == LOGITS.dtype and weights.tolist() == expected


@pytest.mark.parametrize(
    ("target", "match"),
    [
        (3, "class ids outside 0 to 2"),
        (torch.tensor([0, -1]), "class ids outside 0 to 2"),
        (torch.tensor([0, 1, 2]), r"shape \(3,\); expected ids \[2\] or weights \[2, 3\]"),
        (torch.ones(2, 4), r"shape \(2, 4\); expected ids \[2\] or weights \[2, 3\]"),
    ],
)
def test_what_fits_neither_is_refused(target, match):
    with pytest.raises(ValueError, match=match):
        logit_weights(LOGITS, target)
