from __future__ import annotations

import pytest
import torch

from pipeline.attribution.targets import logit_weights, start_at, start_weights

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


def test_a_start_is_the_logit_itself_the_weight_or_the_contrast():
    weights = torch.tensor([[0.5, -1.0, 0.0], [0.0, 0.0, 2.0]])
    assert torch.equal(start_weights(LOGITS, weights, "logit"), LOGITS * weights)
    assert torch.equal(start_weights(LOGITS, weights, "one_hot"), weights)
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((logits.softmax(1) * weights).sum(), logits)
    contrast = start_weights(LOGITS, weights, "contrast")
    assert torch.allclose(contrast, gradient) and contrast.sum(1).abs().max() < 1e-6
    of_class = start_weights(LOGITS, 1, "contrast")
    assert (of_class[:, 1] > 0).all() and (of_class[:, [0, 2]] < 0).all(), "one class against all others"


@pytest.mark.parametrize("start", ["logit", "one_hot", "contrast"])
def test_starts_are_differentiable(start):
    logits = LOGITS.double().requires_grad_()
    weights = torch.tensor([[0.5, -1.0, 0.0], [0.0, 0.0, 2.0]]).double()
    assert torch.autograd.gradcheck(lambda logits: start_weights(logits, weights, start) + 0 * logits, logits)


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="start 'gradient' is unknown; allowed are logit, one_hot, contrast"):
        start_weights(LOGITS, 0, "gradient")


def test_a_start_inside_is_given_or_made_from_the_activation():
    activation = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    given = start_at(activation, torch.tensor([[3.0, 4.0]]))
    assert given.dtype == torch.float64 and given.tolist() == [[3, 4]]
    made = start_at(activation, lambda a: a * 2)
    assert made.tolist() == [[2, 4]] and not made.requires_grad
    with pytest.raises(ValueError, match="start_layer needs start_relevance: a tensor, or a function"):
        start_at(activation, None)
    for wrong in (torch.ones(2), lambda a: a.sum(1)):
        with pytest.raises(
            ValueError, match=r"start_relevance has shape \(\d,\); the output of start_layer has \(1, 2\)"
        ):
            start_at(activation, wrong)
