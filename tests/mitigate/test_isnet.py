"""Training with the heatmap loss: what is in it, where its gradients go, and what comes out."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import lrp_flex
from pipeline.config.mitigate import IsnetMethod
from pipeline.data.memory import split_indices
from pipeline.mitigate import make_mitigation
from pipeline.mitigate.cuts import Cuts
from pipeline.mitigate.fine_tuning import MaskedBatch
from pipeline.mitigate.heatmap_loss import deep_supervision, heatmap_loss
from pipeline.mitigate.interface import Correction, Problem
from pipeline.mitigate.isnet import IsNet, isnet_losses, losses_fight, measured_cuts
from pipeline.mitigate.isnet_maps import INPUT, relevance_maps
from pipeline.models.loop import Epoch

VARIANTS = {
    "original": {"variant": "original"},
    "selective": {"variant": "selective"},
    "published selective": {"variant": "selective", "selective_stabilizer": 0.01},
    "stochastic": {"variant": "stochastic"},
    "true label": {"variant": "selective", "explain_labels": True},
    "softmax gradient x input": {"variant": "softmax_gradient_x_input"},
    "dual": {"variant": "dual", "rule": "block"},
    "original, block": {"variant": "original", "rule": "block"},
    "selective, block": {"variant": "selective", "rule": "block"},
    "stochastic, block": {"variant": "stochastic", "rule": "block"},
}
LAYERS = ("2", "6")


def method(**options) -> IsnetMethod:
    return IsnetMethod(kind="isnet", **options)


def network() -> nn.Module:
    torch.manual_seed(4)
    made = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(20, 3),
    ).double()  # fmt: skip
    for module in made:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.uniform_(module.running_var, 0.05, 0.2)
    return made


def batch(masked: tuple[bool, ...] = (True, True, True, True)) -> MaskedBatch:
    generator = torch.Generator().manual_seed(6)
    x = torch.rand(len(masked), 2, 9, 11, generator=generator, dtype=torch.float64)
    mask = torch.ones(len(masked), 1, 9, 11)
    mask[:, :, 2:7, 3:8] = 0
    mask[[not each for each in masked]] = 0
    return MaskedBatch(x, torch.arange(len(masked)) % 3, mask)


@pytest.fixture
def problem():
    return Problem(dataset=None, biases=[])


def cuts(maps: int, layers=()) -> dict[str, Cuts]:
    return {name: Cuts(torch.full((maps,), 0.3), torch.full((maps,), 1.5)) for name in (INPUT, *layers)}


def maps_of(config: IsnetMethod) -> int:
    return {"original": 3, "dual": 2}.get(config.variant, 1)


def losses_of(model, config, problem, *, of=None, layers=()) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # the stochastic variant draws
    return isnet_losses(model, of or batch(), problem, config, cuts(maps_of(config), layers), layers)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_total_is_the_weighted_sum_of_the_two_losses(variant, problem):
    found = losses_of(network().eval(), method(**VARIANTS[variant], heatmap_share=0.3), problem)
    torch.testing.assert_close(found["total"], 0.7 * found["classification"] + 0.3 * found["heatmap"])
    given = batch()
    torch.testing.assert_close(found["classification"], F.cross_entropy(network().eval()(given.x), given.y))
    assert found["heatmap"] > 0.1


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("supervised", [False, True], ids=["input", "deep"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_of_the_total_agree_with_finite_differences(variant, supervised, training, problem):
    if supervised and variant == "softmax gradient x input":
        pytest.skip("has no deep supervision")
    config = method(**VARIANTS[variant], epsilon=0.1, deep_supervision=supervised)
    model, layers = network().train(training), LAYERS if supervised else ()

    def total() -> torch.Tensor:
        return losses_of(model, config, problem, layers=layers)["total"]

    total().backward()
    generator = torch.Generator().manual_seed(2)
    checked = 0
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            continue  # the rules of the first layer hold biases constant by design
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values, step, sides = parameter.data.clone(), 1e-7, []  # the loss has many kinks
        for sign in (1, -1):
            parameter.data = values + sign * step * direction
            sides.append(float(total().detach()))
        parameter.data = values
        slope = (sides[0] - sides[1]) / (2 * step)
        assert float((parameter.grad * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-6), name
        checked += abs(slope) > 1e-4
    assert checked >= 4


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_classification_part_has_the_gradients_of_plain_training(variant, training, problem):
    """The modified derivative of activations stays inside the relevance pass."""
    plain, given = network().train(training), batch()
    F.cross_entropy(plain(given.x), given.y).backward()
    model = network().train(training)
    losses_of(model, method(**VARIANTS[variant]), problem)["classification"].backward()
    for (name, one), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_statistics_of_batch_norm_move_as_in_plain_training(variant, problem):
    plain, model = network().train(), network().train()
    plain(batch().x)
    losses_of(model, method(**VARIANTS[variant]), problem)
    for (name, one), other in zip(plain.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(other, one, msg=name)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_samples_without_a_mask_have_no_heatmap_loss_but_are_classified(training, problem):
    config, some = method(variant="selective"), batch((True, False, True, False))
    found = losses_of(network().train(training), config, problem, of=some)
    model = network().train(training)
    maps = relevance_maps(model, some, config)
    kept = heatmap_loss(maps.relevances[INPUT][::2], 1 - some.mask[::2], cut=0.3, cut2=1.5)
    torch.testing.assert_close(found["heatmap"], kept)
    torch.testing.assert_close(found["classification"], F.cross_entropy(maps.logits, some.y))


def test_a_batch_without_any_mask_is_classified_alone(problem):
    nothing, model = batch((False,) * 4), network().eval()
    found = losses_of(model, method(heatmap_share=0.4), problem, of=nothing)
    assert float(found["heatmap"]) == 0
    torch.testing.assert_close(found["total"], 0.6 * F.cross_entropy(model(nothing.x), nothing.y))


def test_before_the_share_rises_above_zero_no_relevance_is_computed(problem, monkeypatch):
    monkeypatch.setattr("pipeline.mitigate.isnet.relevance_maps", None)
    model = network().eval()
    found = losses_of(model, method(heatmap_share={2: 0.5}), problem)
    torch.testing.assert_close(found["total"], F.cross_entropy(model(batch().x), batch().y))


def test_deep_supervision_pools_the_losses_of_input_and_layers(problem):
    config, model = method(variant="selective", deep_supervision=True, supervision_decay=0.5), network().eval()
    maps = relevance_maps(model, batch(), config, LAYERS)
    each = [heatmap_loss(maps.relevances[name], 1 - batch().mask, cut=0.3, cut2=1.5) for name in (INPUT, *LAYERS)]
    found = losses_of(model, config, problem, layers=LAYERS)["heatmap"]
    torch.testing.assert_close(found, deep_supervision(each, 0.5))
    largest, middle, least = sorted(each, reverse=True)
    torch.testing.assert_close(found, (largest + 0.5 * middle + 0.25 * least) / 1.75)


def test_the_ablation_is_the_gradient_of_the_largest_probability_times_the_input(problem):
    model, x = network().eval(), batch().x.requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).softmax(1).amax(1).sum(), x)
    found = relevance_maps(model, batch(), method(variant="softmax_gradient_x_input", epsilon=0.3, input_rule="zb"))
    torch.testing.assert_close(found.relevances[INPUT][:, 0], (gradient * x).detach())


def test_the_maps_of_the_original_are_those_of_the_single_classes(problem):
    model = network().eval()
    maps = relevance_maps(model, batch(), method(variant="original")).relevances[INPUT]
    for class_id in range(3):
        torch.testing.assert_close(maps[:, class_id], lrp_flex(model, batch().x, class_id)[0])


@pytest.mark.parametrize("variant", ["selective", "stochastic", "original", "softmax gradient x input"])
def test_several_labels_per_sample_can_be_trained(variant, problem):
    given = batch()
    several = dataclasses.replace(given, y=torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]))
    model = network().eval()
    found = losses_of(model, method(**VARIANTS[variant]), problem, of=several)
    expected = F.binary_cross_entropy_with_logits(model(given.x), several.y.double())
    torch.testing.assert_close(found["classification"], expected)
    found["total"].backward()
    assert model[0].weight.grad.abs().max() > 0


def with_squares(problem: Problem) -> Problem:
    mask = np.zeros((16, 16), bool)
    mask[:6, :6] = True
    return dataclasses.replace(
        problem, biases=[dataclasses.replace(problem.biases[0], mask=lambda name: mask if int(name[1:]) % 2 else None)]
    )


def test_cuts_bracket_the_relevance_that_the_classifier_carries(audited):
    model, problem = audited
    config = method(variant="selective", batch_size=16)
    found = measured_cuts(model, problem, config, ())[INPUT]
    rows = split_indices(problem.dataset, "train")
    x = torch.stack([problem.dataset[row].x for row in rows])
    y = torch.zeros(len(x), dtype=torch.long)
    maps = relevance_maps(model, MaskedBatch(x, y, torch.zeros_like(x)), config).relevances[INPUT]
    totals = maps.abs().flatten(1).sum(1).double()
    cut = max(totals.mean() / 5, totals.mean() - 3 * totals.std())
    assert len(rows) <= 128
    torch.testing.assert_close(found.cut, cut[None], rtol=1e-5, atol=0)
    torch.testing.assert_close(found.cut2, min(25 * cut, totals.mean() + 3 * totals.std())[None], rtol=1e-5, atol=0)


def test_given_cuts_are_not_measured(audited, section, monkeypatch):
    monkeypatch.setattr("pipeline.mitigate.isnet.measured_cuts", None)
    make_mitigation(section("isnet", cut=0.5, cut2=2.0)).fit(*audited)


@pytest.mark.parametrize("rule", ["flex", "block"])
def test_relevance_in_the_masked_places_falls(audited, rule):
    model, problem = audited
    config = method(variant="selective", rule=rule, epochs=4, lr=0.003, batch_size=32)
    correction = IsNet(config).fit(model, with_squares(problem))
    assert correction.history[-1].losses["heatmap"] < 0.8 * correction.history[0].losses["heatmap"]
    assert {"total", "classification", "heatmap"} <= set(correction.history[0].losses)


@pytest.mark.parametrize("norms", ["frozen", "training"])
def test_statistics_of_batch_norm_are_kept_or_trained(audited, norms):
    model, problem = audited
    correction = IsNet(method(variant="selective", epochs=1, norms=norms)).fit(model, with_squares(problem))
    before, after = model.network.norm1.running_mean, correction.model.network.norm1.running_mean
    assert torch.equal(before, after) == (norms == "frozen")


def test_from_scratch_the_weights_under_audit_play_no_part(audited, monkeypatch):
    model, problem = audited
    fresh = make_fresh(model)
    problem = dataclasses.replace(with_squares(problem), fresh=fresh)
    config = method(variant="selective", start="scratch", epochs=2, cut_epochs=1, lr=0.01)
    first = IsNet(config).fit(model, problem)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    second = IsNet(config).fit(model, problem)
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert second.history[-1].losses["total"] < second.history[0].losses["total"]


def make_fresh(model):
    def fresh():
        torch.manual_seed(12)
        made = copy.deepcopy(model)
        for module in made.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        return made

    return fresh


def test_the_best_epoch_can_be_that_of_the_smallest_total(audited):
    model, problem = audited
    config = method(variant="selective", epochs=3, lr=0.003, select="total", batch_size=32)
    correction = IsNet(config).fit(model, with_squares(problem))
    totals = [epoch.validation["total"] for epoch in correction.history]
    assert all(np.isfinite(totals)) and len(set(totals)) == 3
    assert {"heatmap", "classification", "accuracy"} <= set(correction.history[0].validation)


def test_nothing_of_a_classifier_that_was_trained_for_its_cuts_stays_behind(audited, tmp_path):
    model, problem = audited
    problem = dataclasses.replace(
        with_squares(problem), fresh=make_fresh(model), state_path=tmp_path / "method/state.pt", key="k"
    )
    IsNet(method(variant="selective", start="scratch", epochs=1, cut_epochs=1)).fit(model, problem)
    assert [path.name for path in (tmp_path / "method").iterdir()] == ["state.pt"]


@pytest.mark.parametrize(
    ("classification", "heatmap", "fight"),
    [
        ([1.0, 0.5, 0.8], [3.0, 2.0, 1.0], True),
        ([1.0, 0.5, 0.5], [3.0, 2.0, 1.0], False),
        ([1.0, 0.5, 0.8], [3.0, 2.0, 2.5], False),
        ([0.5, 0.9], [3.0, 2.0], False),
        ([0.2, 0.5, 0.4], [3.0, 2.0, 1.0], True),
    ],
)
def test_losses_fight_where_one_rises_while_the_other_falls(classification, heatmap, fight):
    history = [
        Epoch(number, {"classification": one, "heatmap": other}, {})
        for number, (one, other) in enumerate(zip(classification, heatmap, strict=True), start=1)
    ]
    assert losses_fight(history) is fight


@pytest.mark.parametrize(("own", "expected"), [(None, "roi"), ("union", "union")])
def test_what_is_background_is_said_by_localize_unless_the_method_says_it(audited, monkeypatch, own, expected):
    asked = []
    monkeypatch.setattr(
        "pipeline.mitigate.isnet.fine_tune", lambda *_, background, **__: asked.append(background) or Correction(None)
    )
    model, problem = audited
    IsNet(method(cut=1.0, cut2=2.0, background=own)).fit(model, dataclasses.replace(problem, background="roi"))
    assert asked == [expected]
