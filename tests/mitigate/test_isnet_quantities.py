from __future__ import annotations

import pytest
import torch

from pipeline.config.mitigate import IsnetMethod
from pipeline.mitigate.isnet_maps import explained_by
from pipeline.mitigate.isnet_quantities import (
    highest_probability,
    label_ids,
    margin,
    stabilized_log_odds,
    stochastic_ids,
)

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0], [1.0, 1.0, 1.0]], dtype=torch.float64)


def explained(variant: str, y=None, **options) -> torch.Tensor:
    y = torch.zeros(len(LOGITS), dtype=torch.long) if y is None else y
    return explained_by(IsnetMethod(kind="isnet", variant=variant, **options), y)(LOGITS)


def test_the_margin_is_the_log_odds_of_a_class():
    for class_id in range(3):
        p = LOGITS.softmax(1)[:, class_id]
        torch.testing.assert_close(margin(LOGITS, torch.full((3,), class_id)), torch.log(p / (1 - p)))


def test_selective_explains_the_class_with_the_lowest_logit():
    p = LOGITS.softmax(1).amin(1)
    torch.testing.assert_close(explained("selective"), torch.log(p / (1 - p)))


def test_its_gradient_at_the_logits_is_one_and_the_negative_shares_of_the_others():
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(margin(logits, torch.tensor([1, 2, 0])).sum(), logits)
    p = LOGITS.softmax(1)
    for row, own in enumerate([1, 2, 0]):
        expected = -p[row] / (1 - p[row, own])
        expected[own] = 1
        torch.testing.assert_close(gradient[row], expected)


@pytest.mark.parametrize("gap", [0.0, 5.0, 20.0, 90.0, 1000.0])
def test_the_margin_neither_vanishes_nor_overflows_for_confident_networks_as_the_published_form_does(gap):
    logits = torch.tensor([[gap, 0.0, gap / 2]], requires_grad=True)
    value = margin(logits, logits.argmin(1))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert torch.isfinite(value).all() and torch.isfinite(gradient).all() and float(gradient.abs().max()) == 1
    published = stabilized_log_odds(logits, logits.argmin(1), 1e-2)
    (gradient,) = torch.autograd.grad(published.sum(), logits)
    # p / (p + s) of the least likely class: 0.38 of the signal is left at a gap of 5 between two classes
    assert (float(gradient.abs().max()) < 1e-5) == (gap >= 20)


def test_the_published_form_is_asked_for_by_its_stabilizer():
    p = LOGITS.softmax(1).amin(1)
    expected = torch.log(p + 0.01) - torch.log(1 - p + 0.01)
    torch.testing.assert_close(explained("selective", selective_stabilizer=0.01), expected)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_stochastic_class_is_the_likeliest_one_half_of_the_time_and_any_other_alike(classes):
    torch.manual_seed(0)
    logits = torch.arange(classes, dtype=torch.float32).flip(0).expand(6000, classes)
    shares = torch.bincount(stochastic_ids(logits), minlength=classes) / 6000
    assert float(shares[0]) == pytest.approx(0.5, abs=0.025)
    assert (shares[1:] - 0.5 / (classes - 1)).abs().max() < 0.025


def test_original_explains_every_logit_and_the_ablation_the_largest_probability():
    assert torch.equal(explained("original"), LOGITS)
    torch.testing.assert_close(explained("softmax_gradient_x_input"), LOGITS.softmax(1).amax(1))


def test_the_true_class_can_be_explained_instead():
    y = torch.tensor([1, 2, 0])
    assert torch.equal(explained("stochastic", y, explain_labels=True), LOGITS[range(3), y])
    torch.testing.assert_close(explained("selective", y, explain_labels=True), margin(LOGITS, y))


def test_of_several_labels_a_random_one_is_explained_and_without_any_the_least_likely():
    y = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    torch.manual_seed(0)
    drawn = torch.stack([label_ids(y, LOGITS) for _ in range(400)])
    assert set(drawn[:, 0].tolist()) == {0, 2} and 120 < int((drawn[:, 0] == 0).sum()) < 280
    assert set(drawn[:, 1].tolist()) == {1} and set(drawn[:, 2].tolist()) == {int(LOGITS[2].argmin())}


def test_labels_that_do_not_exclude_each_other_have_their_logits_as_log_odds():
    several = torch.zeros(3, 3)
    assert torch.equal(explained("selective", several), LOGITS.amin(1))
    torch.testing.assert_close(explained("softmax_gradient_x_input", several), LOGITS.sigmoid().amax(1))


@pytest.mark.parametrize("variant", ["original", "selective", "stochastic", "softmax_gradient_x_input"])
def test_a_single_logit_can_be_explained(variant):
    logits = torch.tensor([[3.0], [-2.0]])
    value = explained_by(IsnetMethod(kind="isnet", variant=variant), torch.tensor([0, 0]))(logits)
    expected = logits.sigmoid() if variant == "softmax_gradient_x_input" else logits
    torch.testing.assert_close(value.flatten(), expected[:, 0])
    torch.testing.assert_close(highest_probability(logits), logits.sigmoid()[:, 0])
