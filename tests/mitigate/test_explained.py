from __future__ import annotations

import pytest
import torch

from pipeline.mitigate.explained import explained_quantity

LOGITS = torch.tensor([[1.0, 3.0, -2.0], [0.5, -4.0, 0.25]])
LABELS = torch.tensor([2, 0])
PRESENT = torch.tensor([[1, 0, 1], [0, 1, 0]])
SIGNS = 2.0 * PRESENT - 1


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("max_logit", 3.0 + 0.5),
        ("target_logit", -2.0 + 0.5),
        ("log_probabilities", float((LOGITS - LOGITS.exp().sum(1, keepdim=True).log()).sum()) / 3),
        ("cross_entropy", float(LOGITS.exp().sum(1).log().sum()) + 2.0 - 0.5),
    ],
)
def test_closed_forms(kind, expected):
    assert float(explained_quantity(LOGITS, LABELS, kind)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("max_logit", 3.0 + 0.5),
        ("target_logit", 1.0 - 2.0 - 4.0),
        ("log_probabilities", float((-torch.log1p((-LOGITS).exp()) - torch.log1p(LOGITS.exp())).sum()) / 6),
        ("cross_entropy", float(torch.log1p((-SIGNS * LOGITS).exp()).sum()) / 3),
    ],
)
def test_closed_forms_with_rows_of_labels(kind, expected):
    assert float(explained_quantity(LOGITS, PRESENT, kind)) == pytest.approx(expected)


def test_random_signs_look_at_every_logit_and_come_from_the_global_generator():
    logits = torch.randn(200, 5, requires_grad=True)
    gradients = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        (gradient,) = torch.autograd.grad(explained_quantity(logits, LABELS, "all_logits_random"), logits)
        gradients.append(gradient)
    assert set(gradients[0].unique().tolist()) == {-1.0, 1.0}
    assert abs(float(gradients[0].mean())) < 0.15
    assert torch.equal(gradients[0], gradients[1]) and not torch.equal(gradients[0], gradients[2])


def test_an_unknown_quantity_is_refused():
    with pytest.raises(ValueError, match="unknown explained quantity 'loss'"):
        explained_quantity(LOGITS, LABELS, "loss")
