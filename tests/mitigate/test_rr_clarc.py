"""RR-ClArC: what its losses are, how they differentiate, and what training with them does."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from pipeline.concepts.cav import Cav
from pipeline.config.mitigate import RrClarcMethod
from pipeline.errors import ConfigError
from pipeline.mitigate import make_mitigation
from pipeline.mitigate.directions import CorrectedLayer
from pipeline.mitigate.explained import explained_quantity
from pipeline.mitigate.fine_tuning import MaskedBatch, classification_loss, fine_tune
from pipeline.mitigate.interface import Problem
from pipeline.mitigate.rr_clarc import rr_clarc_loss, rr_clarc_losses
from pipeline.models.build import AuditModel
from pipeline.models.small_cnn import small_cnn
from pipeline.models.split import split_network

AGGREGATIONS = ["scale_free", "l2", "l1", "cosine"]
FREE_OF_SCALE = ["scale_free", "cosine"]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(dimension: int, seed: int = 1) -> torch.Tensor:
    return nn.functional.normalize(random(dimension, seed=seed), dim=0)


def written_out(gradient: np.ndarray, h: np.ndarray, aggregation: str, positions: str) -> float:
    """The definition, position by position."""
    samples = []
    for sample in gradient.reshape(*gradient.shape[:2], -1):
        columns = [sample.mean(1)] if positions == "mean" else list(sample.T)
        along = [abs(float(column @ h)) for column in columns]
        lengths = [float(np.linalg.norm(column)) for column in columns]
        samples.append(
            {
                "l2": np.mean([value**2 for value in along]),
                "l1": np.mean(along),
                "cosine": np.mean([value / length for value, length in zip(along, lengths, strict=True)]),
                "scale_free": sum(value**2 for value in along) / sum(length**2 for length in lengths),
            }[aggregation]
        )
    return float(np.mean(samples))


@pytest.mark.parametrize("shape", [(), (1,), (4, 3)])
@pytest.mark.parametrize("positions", ["each", "mean"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_losses_are_their_definitions(aggregation, positions, shape):
    gradient, direction = random(3, 4, *shape), unit(4)
    expected = written_out(gradient.numpy(), direction.numpy(), aggregation, positions)
    assert float(rr_clarc_loss(gradient, direction, aggregation, positions)) == pytest.approx(expected, rel=1e-9)


def test_the_mean_over_positions_does_not_see_what_cancels():
    gradient = torch.tensor([[[3.0, -3.0], [1.0, 1.0]]])
    h = torch.tensor([1.0, 0.0])
    assert float(rr_clarc_loss(gradient, h, "l2", "each")) == pytest.approx(9)
    assert float(rr_clarc_loss(gradient, h, "scale_free", "each")) == pytest.approx(0.9)
    assert float(rr_clarc_loss(gradient, h, "l2", "mean")) == 0


@pytest.mark.parametrize("positions", ["each", "mean"])
@pytest.mark.parametrize("aggregation", FREE_OF_SCALE)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
def test_these_lie_between_0_and_1_and_have_no_scale(aggregation, positions, seed, scale):
    gradient, direction = random(4, 3, 6, 5, seed=seed), unit(3, seed + 1)
    penalty = rr_clarc_loss(gradient, direction, aggregation, positions)
    assert 0 <= penalty <= 1
    each = torch.logspace(-2, 2, 4, dtype=torch.float64).view(-1, 1, 1, 1)
    torch.testing.assert_close(rr_clarc_loss(gradient * scale * each, direction, aggregation, positions), penalty)


@pytest.mark.parametrize("aggregation", FREE_OF_SCALE)
def test_the_smallest_gradients_are_still_compared(aggregation):
    gradient, direction = random(2, 3, 4, 4).float(), unit(3).float()
    found = rr_clarc_loss(gradient * 1e-25, direction, aggregation)
    torch.testing.assert_close(found, rr_clarc_loss(gradient, direction, aggregation), rtol=1e-4, atol=0)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_gradient_across_the_direction_costs_nothing_and_along_it_most(aggregation):
    gradient, direction = random(4, 3, 6, 5), unit(3)
    along = torch.einsum("nchw,c->nhw", gradient, direction)[:, None] * direction.view(1, -1, 1, 1)
    assert rr_clarc_loss(gradient - along, direction, aggregation) == pytest.approx(0, abs=1e-9)
    if aggregation in FREE_OF_SCALE:
        assert rr_clarc_loss(along, direction, aggregation) == pytest.approx(1)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_gradient_of_zero_is_no_wrong_reason_and_can_be_differentiated(aggregation):
    gradient = torch.zeros(2, 3, 6, 5, requires_grad=True)
    loss = rr_clarc_loss(gradient, torch.eye(3)[0], aggregation)
    assert loss == 0
    assert torch.autograd.grad(loss, gradient)[0].isfinite().all()


class Above(nn.Module):
    """A layer and what follows it, smooth, so that the penalty's curvature is not zero almost everywhere."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Softplus())
        self.above = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.above(self.layer(x))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("kind", ["target_logit", "log_probabilities", "cross_entropy"])
def test_gradients_of_the_penalty_agree_with_finite_differences(aggregation, kind):
    network, x, y = Above(), random(3, 2, 6, 5), torch.tensor([0, 2, 1])

    def loss() -> torch.Tensor:
        latent = network.layer(x)
        explained = explained_quantity(network.above(latent), y, kind)
        (gradient,) = torch.autograd.grad(explained, latent, create_graph=True)
        return rr_clarc_loss(gradient, unit(3), aggregation)

    parameters = list(network.parameters())
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
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-8)
            checked += abs(expected) > 1e-6
    assert checked > 10


def layer_of(name: str, *directions: torch.Tensor, pooling: str = "max", axis: int = 1) -> CorrectedLayer:
    cavs = [Cav(h.double().numpy(), 0.0, "pattern", np.zeros(len(h)), name, pooling) for h in directions]
    known = type("", (), {"bias": type("", (), {"id": "stamp"})})
    return CorrectedLayer(name, pooling, axis, [(known, cav) for cav in cavs])


NO_BIAS = Problem(dataset=None, biases=[])


@pytest.mark.parametrize("factor", [1e-3, 40.0])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_scale_of_a_layer_changes_only_what_is_not_free_of_it(aggregation, factor):
    network, batch = Above(), MaskedBatch(random(3, 2, 6, 5), torch.tensor([0, 2, 1]), torch.zeros(3, 1, 6, 5))
    config = RrClarcMethod(kind="rr_clarc", aggregation=aggregation, explained="max_logit")

    class Scale(nn.Module):
        def forward(self, a):
            return factor * a

    scaled = copy.deepcopy(network)
    scaled.layer.append(Scale())
    scaled.above[0].weight.data /= factor
    found = [
        rr_clarc_losses(each, batch, NO_BIAS, config, [layer_of("layer", unit(3))])["penalty"].detach()
        for each in (network, scaled)
    ]
    same = torch.allclose(*found, rtol=1e-6)
    assert same == (aggregation in FREE_OF_SCALE)


def test_several_directions_in_several_layers_count_alike():
    network, y = Above(), torch.tensor([0, 2, 1])
    batch = MaskedBatch(random(3, 2, 6, 5), y, torch.zeros(3, 1, 6, 5))
    config = RrClarcMethod(kind="rr_clarc", explained="target_logit", weight=7)
    layers = [layer_of("layer", unit(3), unit(3, 5)), layer_of("above.0", unit(4))]
    found = rr_clarc_losses(network, batch, NO_BIAS, config, layers)
    latent = network.layer(batch.x)
    middle = network.above[0](latent)
    logits = network.above[1:](middle)
    first, second = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), [latent, middle])
    each = [rr_clarc_loss(first, unit(3)), rr_clarc_loss(first, unit(3, 5)), rr_clarc_loss(second, unit(4))]
    torch.testing.assert_close(found["penalty"], torch.stack(each).mean())
    torch.testing.assert_close(found["classification"], nn.functional.cross_entropy(logits, y))
    torch.testing.assert_close(found["total"], found["classification"] + 7 * found["penalty"])


def test_the_head_of_a_split_network_has_the_same_losses():
    torch.manual_seed(0)
    model = AuditModel(small_cnn(3, 1, width=4, blocks=3)).eval()
    for name in ("conv1", "norm1", "conv2", "norm2"):
        model.network.get_submodule(name).requires_grad_(False)
    layers = [layer_of("network.relu1", unit(4)), layer_of("network.relu2", unit(8))]
    x, y = torch.rand(5, 1, 16, 16), torch.arange(5) % 3
    split = split_network(model, x, [layer.name for layer in layers])
    config, found = RrClarcMethod(kind="rr_clarc", explained="cross_entropy"), []
    for network, given_x in ((model, x), (split.head, split.trunk(x))):
        values = rr_clarc_losses(network, MaskedBatch(given_x, y, torch.zeros(5, 1, 16, 16)), NO_BIAS, config, layers)
        model.zero_grad()
        values["total"].backward()
        found.append([*values.values(), *(each.grad for each in model.parameters() if each.requires_grad)])
    for whole, part in zip(*found, strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-6)


def test_nothing_is_propagated_into_the_frozen_layers():
    model = AuditModel(small_cnn(3, 1, width=4, blocks=2))
    for name in ("conv1", "norm1"):
        model.network.get_submodule(name).requires_grad_(False)
    reached = []
    model.network.conv1.register_forward_hook(lambda _, __, output: reached.append(output.requires_grad))
    batch = MaskedBatch(torch.rand(3, 1, 16, 16), torch.arange(3), torch.zeros(3, 1, 16, 16))
    config = RrClarcMethod(kind="rr_clarc")
    rr_clarc_losses(model, batch, NO_BIAS, config, [layer_of("network.relu1", unit(4))])["total"].backward()
    assert reached == [False] and not batch.x.requires_grad


class Tokens(nn.Module):
    """Two blocks of attention over tokens `[N, T, C]`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        blocks = [nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(2)]
        self.blocks, self.linear = nn.Sequential(*blocks), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.blocks(x.flatten(2).transpose(1, 2)).mean(1))


def test_channels_may_come_last_as_in_tokens_and_attention_is_differentiated_twice():
    network, x, y = Tokens(), torch.rand(2, 8, 3, 3), torch.tensor([0, 2])
    batch, config = MaskedBatch(x, y, torch.zeros(2, 1, 3, 3)), RrClarcMethod(kind="rr_clarc", explained="target_logit")
    found = rr_clarc_losses(network, batch, NO_BIAS, config, [layer_of("blocks.0", unit(8), axis=-1)])
    latent = network.blocks[0](x.flatten(2).transpose(1, 2)).detach().requires_grad_(True)
    logits = network.linear(network.blocks[1](latent).mean(1))
    (gradient,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), latent)
    expected = rr_clarc_loss(gradient.transpose(1, 2), unit(8).float())
    torch.testing.assert_close(found["penalty"], expected)
    found["penalty"].backward()
    assert network.blocks[1].self_attn.in_proj_weight.grad.any()


def test_a_direction_of_flattened_maps_is_compared_with_the_whole_gradient():
    network, y = Above(), torch.tensor([0, 2, 1])
    batch = MaskedBatch(random(3, 2, 6, 5), y, torch.zeros(3, 1, 6, 5))
    config = RrClarcMethod(kind="rr_clarc", explained="target_logit")
    found = rr_clarc_losses(network, batch, NO_BIAS, config, [layer_of("layer", unit(36), pooling="full")])
    latent = network.layer(batch.x)
    (gradient,) = torch.autograd.grad(network.above(latent).gather(1, y[:, None]).sum(), latent)
    torch.testing.assert_close(found["penalty"], rr_clarc_loss(gradient.flatten(1), unit(36)))
    with pytest.raises(ConfigError, match="bias 'stamp' in layer 'layer' has 20 values, and the layer 36.*grid"):
        rr_clarc_losses(network, batch, NO_BIAS, config, [layer_of("layer", unit(20), pooling="full")])


def changed(model: nn.Module, corrected: nn.Module) -> set[str]:
    old, new = model.state_dict(), corrected.state_dict()
    return {name.removeprefix("network.").split(".")[0] for name in old if not torch.equal(old[name], new[name])}


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_what_layers_of_cavs_depend_on_stays_unless_all_is_to_train(audited, section, aggregation):
    model, problem = audited
    known = problem.biases[0]

    def fit(problem, **options):
        config = section("rr_clarc", aggregation=aggregation, **options)
        return changed(model, make_mitigation(config).fit(model, problem).model)

    assert fit(problem, layer="network.relu1") == {"conv2", "norm2", "linear"}
    assert fit(problem, layer="network.relu1", train="all") == {"conv1", "norm1", "conv2", "norm2", "linear"}
    candidates = [each for each in known.bias.candidates if each.layer == "network.relu1"]
    other = dataclasses.replace(known, bias=known.bias.model_copy(update={"candidates": candidates}))
    lower = [each for each in known.bias.candidates if each.layer == "network.relu2"]
    deep = dataclasses.replace(known, bias=known.bias.model_copy(update={"candidates": lower}))
    twice = dataclasses.replace(problem, biases=[other, deep])
    assert fit(twice) == {"linear"}, "the directions of both layers keep their meaning"


def test_without_a_bias_it_is_plain_fine_tuning(audited, section):
    model, problem = audited
    problem = dataclasses.replace(problem, biases=[])
    found = make_mitigation(section("rr_clarc")).fit(model, problem).model.state_dict()
    expected = fine_tune(
        model,
        problem,
        section("fine_tune"),
        lambda network, batch: {"total": classification_loss(problem, network(batch.x), batch.y)},
    ).model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("train", ["above", "all"])
@pytest.mark.parametrize("layer", ["network.relu1", "network.relu2"])
def test_the_default_weight_turns_the_gradient_away_in_every_layer(audited, section, layer, train):
    model, problem = audited
    config = section("rr_clarc", epochs=12, lr=0.01, layer=layer, train=train)
    history = make_mitigation(config).fit(model, problem).history
    assert history[-1].losses["penalty"] < 0.2 * history[0].losses["penalty"]
    assert history[-1].validation["accuracy"] > 0.8


@pytest.mark.parametrize("wrong", [{"aggregation": "l3"}, {"positions": "some"}, {"train": "below"}, {"weight": -1}])
def test_unknown_forms_are_refused(wrong):
    with pytest.raises(ValidationError):
        RrClarcMethod(kind="rr_clarc", **wrong)
