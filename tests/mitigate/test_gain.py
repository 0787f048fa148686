"""Guided attention inference: Grad-CAM that is trained on, and the three losses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import attribute
from pipeline.config.mitigate import GainMethod
from pipeline.errors import ConfigError
from pipeline.mitigate import make_mitigation
from pipeline.mitigate.fine_tuning import MaskedBatch
from pipeline.mitigate.gain import gain_losses, mining_loss, soft_mask, supervision_loss
from pipeline.mitigate.grad_cam import attended, scaled_to_peak
from pipeline.mitigate.interface import Problem

LAYER = "4"


def network() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(),
        nn.Conv2d(5, 3, 1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).double().eval()  # fmt: skip


def batch() -> MaskedBatch:
    generator = torch.Generator().manual_seed(6)
    x = torch.rand(4, 2, 9, 11, generator=generator, dtype=torch.float64)
    mask = torch.ones(4, 1, 9, 11, dtype=torch.float64)
    mask[:, :, 2:7, 3:8] = 0
    mask[3] = 0
    return MaskedBatch(x, torch.tensor([0, 1, 2, 1]), mask)


def method(**options) -> GainMethod:
    return GainMethod(kind="gain", **options)


@pytest.fixture
def problem():
    return Problem(dataset=None, biases=[])


@pytest.mark.parametrize("target", [torch.tensor([0, 1, 2, 1]), torch.eye(4, 3).double()], ids=["ids", "weights"])
def test_the_map_is_the_grad_cam_of_attribution(target):
    found = attended(network(), batch().x, target, LAYER, constant_weights=False)
    expected = attribute(network(), batch().x, target, composite="grad_cam", layer=LAYER)
    torch.testing.assert_close(found.attention[:, 0], expected.heatmap)
    torch.testing.assert_close(found.logits, expected.logits)


def test_attention_is_scaled_to_a_peak_of_1_and_none_stays_none():
    attention = torch.tensor([[0.0, 2.0, 4.0], [0.0, 0.0, 0.0]]).view(2, 1, 1, 3)
    assert scaled_to_peak(attention).flatten(1).tolist() == [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]


def test_the_soft_mask_is_one_half_at_the_threshold():
    found = soft_mask(torch.tensor([0.0, 0.5, 1.0]), 10.0, 0.5)
    torch.testing.assert_close(found, torch.tensor([1 / (1 + torch.e**5), 0.5, 1 / (1 + torch.e**-5)]))


def test_mining_is_the_probability_of_the_true_classes():
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]]).double()
    y = torch.tensor([1, 2])
    expected = (logits.softmax(1)[0, 1] + logits.softmax(1)[1, 2]) / 2
    torch.testing.assert_close(mining_loss(logits, y), expected)
    present = torch.tensor([[1, 1, 0], [0, 0, 0]])
    expected = (logits[0, 0].sigmoid() + logits[0, 1].sigmoid()) / 4
    torch.testing.assert_close(mining_loss(logits, present), expected)


def test_supervision_is_a_mean_square_everywhere_or_in_the_background_of_samples_that_have_a_mask():
    attention = torch.tensor([[1.0, 0.5], [0.2, 0.4], [0.9, 0.9]]).view(3, 1, 1, 2)
    mask = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]).view(3, 1, 1, 2)
    everywhere = (0.0 + 0.25 + 0.04 + 0.16) / 4
    assert float(supervision_loss(attention, mask, everywhere=True)) == pytest.approx(everywhere)
    background = (0.25 + (0.04 + 0.16) / 2) / 2
    assert float(supervision_loss(attention, mask, everywhere=False)) == pytest.approx(background)
    assert supervision_loss(attention, 0 * mask, everywhere=True) == 0


def test_the_total_is_the_weighted_sum_of_the_three(problem):
    config = method(mining_weight=2.0, mask_weight=3.0)
    given = batch()
    found = gain_losses(network(), given, problem, config, LAYER, everywhere=True)
    expected = found["classification"] + 2 * found["mining"] + 3 * found["supervision"]
    torch.testing.assert_close(found["total"], expected)
    torch.testing.assert_close(found["classification"], F.cross_entropy(network()(given.x), given.y))
    attention = scaled_to_peak(attended(network(), given.x, given.y, LAYER, constant_weights=True).attention)
    hidden = given.x * (1 - torch.sigmoid(10 * (attention - 0.5)))
    torch.testing.assert_close(found["mining"], network()(hidden).softmax(1).gather(1, given.y[:, None]).mean())
    torch.testing.assert_close(found["supervision"], (attention - 1 + given.mask)[:3].pow(2).mean())


def slopes(problem: Problem, *, constant_weights: bool) -> list[tuple[float, float]]:
    """Return derivatives of the loss along random directions of every weight: by the graph, and by differences."""
    model, config = network(), method(constant_weights=constant_weights)

    def total() -> torch.Tensor:
        return gain_losses(model, batch(), problem, config, LAYER, everywhere=True)["total"]

    total().backward()
    generator, found = torch.Generator().manual_seed(2), []
    for parameter in model.parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values, sides = parameter.data.clone(), []
        for sign in (1, -1):
            parameter.data = values + sign * 1e-6 * direction
            sides.append(float(total().detach()))
        parameter.data = values
        found.append((float((parameter.grad * direction).sum()), (sides[0] - sides[1]) / 2e-6))
    return found


def test_gradients_of_the_loss_agree_with_finite_differences(problem):
    for by_graph, by_differences in slopes(problem, constant_weights=False):
        assert by_graph == pytest.approx(by_differences, rel=1e-4, abs=1e-6) and abs(by_graph) > 1e-5


def test_with_constant_weights_of_channels_a_part_of_the_gradient_is_left_out(problem):
    assert any(
        by_graph != pytest.approx(by_differences, rel=1e-2)
        for by_graph, by_differences in slopes(problem, constant_weights=True)
    )


def test_several_labels_at_once_have_one_map(problem):
    given = batch()
    present = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
    found = gain_losses(
        network(), MaskedBatch(given.x, present, given.mask), problem, method(), LAYER, everywhere=False
    )
    assert all(value.isfinite() for value in found.values()) and found["mining"] > 0


def test_the_trained_map_leaves_the_background(problem):
    model, given = network(), batch()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        found = gain_losses(model, given, problem, method(), LAYER, everywhere=False)
        found["total"].backward()
        optimizer.step()
        losses.append(float(found["supervision"].detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_artifacts_alone_are_no_statement_about_the_rest_of_the_image(audited, section, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "pipeline.mitigate.gain.supervision_loss",
        lambda attention, mask, *, everywhere: asked.append(everywhere) or attention.sum() * 0,
    )
    model, problem = audited
    for background, compared in (("artifact", "auto"), ("union", "auto"), ("artifact", "everywhere")):
        asked.clear()
        options = {"background": background, "compared": compared}
        make_mitigation(section("gain", **options)).fit(model, problem)
        assert set(asked) == {(background, compared) != ("artifact", "auto")}


def test_a_layer_without_positions_is_refused(audited, section):
    model, problem = audited
    with pytest.raises(ConfigError, match="no Grad-CAM"):
        make_mitigation(section("gain", layer="network.linear")).fit(model, problem)
    with pytest.raises(ConfigError, match="no Grad-CAM"):
        make_mitigation(section("gain", layer="network.relu9")).fit(model, dataclasses.replace(problem))
