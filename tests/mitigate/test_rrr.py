"""RRR: what its losses are, how they differentiate, and what training with them does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import nn

from pipeline.config.mitigate import AnyMethod
from pipeline.mitigate import make_mitigation
from pipeline.mitigate.explained import explained_quantity
from pipeline.mitigate.fine_tuning import MaskedBatch, classification_loss
from pipeline.mitigate.masked_penalty import masked_penalty_losses
from pipeline.mitigate.relevance_rrr import InputRelevance
from pipeline.mitigate.rrr import input_gradient, rrr_loss

FREE_OF_SCALE = ["energy_share", "l1", "cosine"]
ALL = [*FREE_OF_SCALE, "squared"]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(count: int, seed: int = 2) -> torch.Tensor:
    return (random(count, 1, 6, 5, seed=seed) > 0.5).double()


@pytest.mark.parametrize(
    ("aggregation", "left", "right"),
    [
        ("energy_share", 9 / 169, 160 / 169),
        ("l1", 3 / 19, 16 / 19),
        ("cosine", 3 / (9 + 64) ** 0.5, 8 / (9 + 64) ** 0.5),
        ("squared", 9, 160),
    ],
)
def test_closed_forms(aggregation, left, right):
    gradient = torch.tensor([[[[3.0, 4.0]], [[0.0, -12.0]]]])
    assert float(rrr_loss(gradient, torch.tensor([[[[1.0, 0.0]]]]), aggregation)) == pytest.approx(left)
    assert float(rrr_loss(gradient, torch.tensor([[[[0.0, 1.0]]]]), aggregation)) == pytest.approx(right)


def test_a_soft_mask_counts_in_part():
    gradient, mask = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[0.5, 0.0]]]])
    assert float(rrr_loss(gradient, mask)) == pytest.approx(0.5 * 9 / 25)
    assert float(rrr_loss(gradient, mask, "l1")) == pytest.approx(0.5 * 3 / 7)
    assert float(rrr_loss(gradient, mask, "cosine")) == pytest.approx(3 / 5)
    assert float(rrr_loss(gradient, mask, "squared")) == pytest.approx((0.5 * 3) ** 2)


@pytest.mark.parametrize("aggregation", FREE_OF_SCALE)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_a_share_lies_between_0_and_1_and_has_no_scale(aggregation, seed, scale):
    gradient, mask = random(4, 3, 6, 5, seed=seed), masks(4, seed + 1)
    inside = rrr_loss(gradient, mask, aggregation)
    assert 0 <= inside <= 1 + 1e-12
    each = torch.logspace(-2, 2, 4, dtype=torch.float64).view(-1, 1, 1, 1)
    torch.testing.assert_close(rrr_loss(gradient * scale * each, mask, aggregation), inside)


@pytest.mark.parametrize("aggregation", FREE_OF_SCALE)
def test_the_gradient_of_a_confident_sample_counts_however_small_it_is(aggregation):
    gradient, mask = random(4, 3, 6, 5).float().requires_grad_(True), masks(4).float()
    loss = rrr_loss(gradient * 1e-25, mask, aggregation)
    torch.testing.assert_close(loss, rrr_loss(gradient, mask, aggregation))
    (second,) = torch.autograd.grad(loss, gradient)
    (expected,) = torch.autograd.grad(rrr_loss(gradient, mask, aggregation), gradient)
    torch.testing.assert_close(second, expected)


def test_the_original_form_grows_with_the_square_of_the_gradient():
    gradient, mask = random(4, 3, 6, 5), masks(4)
    torch.testing.assert_close(rrr_loss(3 * gradient, mask, "squared"), 9 * rrr_loss(gradient, mask, "squared"))


@pytest.mark.parametrize("aggregation", ALL)
def test_0_without_a_gradient_in_the_mask_and_1_with_no_other(aggregation):
    gradient, mask = random(4, 3, 6, 5), masks(4)
    assert rrr_loss(gradient * (1 - mask), mask, aggregation) == 0
    if aggregation in ("energy_share", "l1"):
        assert rrr_loss(gradient * mask, mask, aggregation) == pytest.approx(1)
    if aggregation == "cosine":
        assert rrr_loss(torch.ones_like(gradient) * mask, mask, aggregation) == pytest.approx(1)


@pytest.mark.parametrize("aggregation", ALL)
def test_samples_without_a_mask_do_not_count(aggregation):
    gradient, mask = random(4, 3, 6, 5), masks(4)
    mask[1:3] = 0
    expected = rrr_loss(gradient[[0, 3]], mask[[0, 3]], aggregation)
    torch.testing.assert_close(rrr_loss(gradient, mask, aggregation), expected)


@pytest.mark.parametrize("aggregation", ALL)
def test_without_any_mask_it_is_0_and_can_still_be_differentiated(aggregation):
    gradient = random(4, 3, 6, 5).requires_grad_(True)
    loss = rrr_loss(gradient, torch.zeros(4, 1, 6, 5), aggregation)
    assert loss == 0
    (second,) = torch.autograd.grad(loss, gradient)
    assert not second.any()


@pytest.mark.parametrize("aggregation", ALL)
def test_a_gradient_of_zero_is_no_wrong_reason(aggregation):
    gradient = torch.zeros(2, 3, 6, 5, requires_grad=True)
    loss = rrr_loss(gradient, torch.ones(2, 1, 6, 5), aggregation)
    assert loss == 0
    assert torch.autograd.grad(loss, gradient)[0].isfinite().all()


def test_signals_have_masks_of_their_length():
    gradient, mask = torch.tensor([[[1.0, 2.0, 2.0]]]), torch.tensor([[[0.0, 1.0, 0.0]]])
    assert float(rrr_loss(gradient, mask)) == pytest.approx(4 / 9)


@pytest.fixture
def network():
    """A smooth network: the curvature that a penalty on gradients needs is not zero almost everywhere."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Softplus(), nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 2 * 1, 3)
    ).double()


def assert_derivatives(loss, parameters) -> None:
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    step, checked = 1e-6, 0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        flat = parameter.data.view(-1)
        for position in range(0, flat.numel(), max(1, flat.numel() // 5)):
            value = flat[position].item()
            flat[position] = value + step
            above = loss().item()
            flat[position] = value - step
            below = loss().item()
            flat[position] = value
            expected = (above - below) / (2 * step)
            found = 0.0 if gradient is None else gradient.flatten()[position].item()
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-7)
            checked += abs(expected) > 1e-6
    assert checked > 10


@pytest.mark.parametrize("aggregation", ALL)
@pytest.mark.parametrize("kind", ["target_logit", "log_probabilities", "cross_entropy"])
def test_its_derivatives_are_those_of_finite_differences(network, aggregation, kind):
    x, y, mask = random(3, 2, 6, 5), torch.tensor([0, 2, 1]), masks(3)
    assert_derivatives(
        lambda: rrr_loss(input_gradient(network, x, y, kind)[0], mask, aggregation), list(network.parameters())
    )


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "epsilon"])
def test_derivatives_on_relevance_are_those_of_finite_differences(network, composite):
    x, y, mask = random(3, 2, 6, 5), torch.tensor([0, 2, 1]), masks(3)
    relevance = InputRelevance(composite, "target_logit", 3)
    assert_derivatives(lambda: rrr_loss(relevance(network.eval(), x, y)[0], mask), list(network.parameters()))


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "lrp_flex"])
def test_relevance_explains_what_is_asked_for(composite):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)).double().eval()
    x, y = random(3, 2, 6, 5).sigmoid(), torch.tensor([0, 2, 1])

    def explained(kind: str, labels: torch.Tensor = y) -> torch.Tensor:
        torch.manual_seed(1)
        found, logits = InputRelevance(composite, kind, 3)(network, x, labels)
        torch.testing.assert_close(logits, network(x))
        return found

    one_hot = nn.functional.one_hot(y, 3)
    torch.testing.assert_close(explained("target_logit", one_hot), explained("target_logit"))
    torch.testing.assert_close(explained("max_logit"), explained("target_logit", network(x).argmax(1)))
    torch.manual_seed(1)
    signs = torch.randint(0, 2, (3, 3)) * 2 - 1
    each = [explained("target_logit", torch.full((3,), k)) for k in range(3)]
    expected = sum(signs[:, k].view(-1, 1, 1, 1) * relevance for k, relevance in enumerate(each))
    torch.testing.assert_close(explained("all_logits_random"), expected)


def test_an_explainer_follows_the_network_that_it_is_given(network):
    x, y = random(3, 2, 6, 5), torch.tensor([0, 2, 1])
    relevance = InputRelevance("epsilon", "target_logit", 3)
    first, _ = relevance(network.eval(), x, y)
    other = nn.Sequential(nn.Flatten(), nn.Linear(60, 3)).double()
    expected, _ = InputRelevance("epsilon", "target_logit", 3)(other, x, y)
    torch.testing.assert_close(relevance(other, x, y)[0], expected)
    with torch.no_grad():
        network[0].weight.mul_(2)
    assert not torch.allclose(relevance(network, x, y)[0], first)


@pytest.mark.parametrize("present", [[True, False, True], [True, True, True], [False, False, False]])
def test_a_batch_is_classified_as_a_whole_and_penalised_where_it_has_masks(network, audited, present):
    problem = dataclasses.replace(audited[1], class_weights=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64))
    x, y, mask = random(3, 2, 6, 5), torch.tensor([0, 2, 1]), masks(3) * torch.tensor(present).view(-1, 1, 1, 1)

    def penalty(network, batch):
        gradient, logits = input_gradient(network, batch.x, batch.y, "target_logit")
        return rrr_loss(gradient, batch.mask), logits

    found = masked_penalty_losses(network, MaskedBatch(x, y, mask), problem, 7.0, penalty)
    expected = rrr_loss(input_gradient(network, x, y, "target_logit")[0], mask)
    torch.testing.assert_close(found["classification"], classification_loss(problem, network(x), y))
    torch.testing.assert_close(found["penalty"], expected)
    torch.testing.assert_close(found["total"], found["classification"] + 7 * expected)


def test_the_published_quantity_is_the_gradient_of_what_is_explained(network):
    x, y = random(3, 2, 6, 5), torch.tensor([0, 2, 1])
    found, logits = input_gradient(network, x, y, "log_probabilities")
    index, step = (1, 0, 2, 3), 1e-6
    values = []
    for side in (1, -1):
        moved = x.clone()
        moved[index] += side * step
        values.append(explained_quantity(network(moved), y, "log_probabilities").item())
    assert found[index].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)
    torch.testing.assert_close(logits, network(x))


@pytest.mark.parametrize(
    "options",
    [
        {"aggregation": "cosine", "explained": "max_logit"},
        {"aggregation": "l1"},
        {"aggregation": "squared", "explained": "log_probabilities", "weight": 100.0},
        {"quantity": "relevance"},
        {"quantity": "relevance", "relevance_composite": "epsilon_plus_flat", "aggregation": "cosine"},
        {"layer": "network.relu1"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_training_lowers_the_penalty(audited, section, options):
    model, problem = audited
    history = make_mitigation(section("rrr", epochs=4, lr=0.003, **options)).fit(model, problem).history
    assert history[-1].losses["penalty"] < 0.95 * history[0].losses["penalty"]


def test_the_gradient_leaves_the_artifact(audited, section):
    model, problem = audited
    known = problem.biases[0]
    marked = [row for row in range(len(problem.dataset)) if known.mask(problem.dataset[row].id) is not None]
    x = torch.stack([problem.dataset[row].x for row in marked])
    y = torch.tensor([problem.dataset[row].y for row in marked])
    mask = torch.from_numpy(np.stack([known.mask(problem.dataset[row].id) for row in marked]))[:, None].float()

    def inside(network) -> float:
        return float(rrr_loss(input_gradient(network, x, y, "target_logit")[0], mask).detach())

    corrected = make_mitigation(section("rrr", epochs=4, lr=0.003)).fit(model, problem).model
    assert inside(corrected) < 0.7 * inside(model)


def test_where_no_truth_is_known_true_masks_are_no_masks(audited, section):
    penalties = [
        make_mitigation(section("rrr", masks=source)).fit(*audited).history[0].losses["penalty"]
        for source in ("localized", "truth")
    ]
    assert penalties[0] > 0 and penalties[1] == 0


def test_what_a_layer_depends_on_can_stay_as_it_is(audited, section):
    model, problem = audited
    corrected = make_mitigation(section("rrr", layer="network.relu1")).fit(model, problem).model
    old, new = model.state_dict(), corrected.state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved and not any(name.startswith(("network.conv1", "network.norm1")) for name in moved)


@pytest.mark.parametrize("kind", ["rrr", "rr_clarc"])
def test_a_sum_of_probabilities_is_refused_with_the_reason(kind):
    with pytest.raises(ValidationError, match="add up to 1 whatever the pixels are, so the gradient .* is 0"):
        TypeAdapter(AnyMethod).validate_python({"kind": kind, "explained": "softmax_sum"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation": "squared"}, "has no default weight"),
        ({"quantity": "relevance", "explained": "cross_entropy"}, "starts at logits"),
        ({"quantity": "relevance", "explained": "log_probabilities"}, "starts at logits"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(section, options, message):
    with pytest.raises(ValidationError, match=message):
        section("rrr", **options)
