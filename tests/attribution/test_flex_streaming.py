from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import flex_maps, streamed_loss


def on_map(number: int, relevance: torch.Tensor, at_layers: dict[str, torch.Tensor]) -> torch.Tensor:
    return relevance.square().sum() * (number + 1) + sum(each.abs().sum() for each in at_layers.values())


def nonlinear(logits: torch.Tensor) -> torch.Tensor:
    return torch.stack([logits[:, 0] - logits[:, 1:].logsumexp(1), logits[:, 2], logits.softmax(1)[:, 1]], 1)


def both_ways(network, x, inputs, **options) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Loss and gradients with all maps in memory, and streamed."""
    y = torch.arange(len(x)) % 3
    maps = flex_maps(network, x, nonlinear, create_graph=True, **options)
    losses = [
        on_map(number, maps.relevance[:, number], {name: each[:, number] for name, each in maps.relevances.items()})
        for number in range(3)
    ]
    streamed, logits = streamed_loss(network, x, nonlinear, on_map, **options)
    totals = (
        0.3 * F.cross_entropy(maps.logits, y) + 0.7 * sum(losses),
        0.3 * F.cross_entropy(logits, y) + 0.7 * streamed,
    )
    return [(total, torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)) for total in totals]


def check(network, x, inputs, **options) -> None:
    (expected, gradients), (found, streamed) = both_ways(network, x, inputs, **options)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    for one, other in zip(streamed, gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-11 * float(other.abs().max() + 1))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("input_rule", ["gradient_x_input", "zb"])
def test_loss_and_gradients_are_those_of_all_maps_in_memory(input_rule, training, residual, pixels):
    network, x = residual().double().train(training), pixels(3, 3, 13, 13).double().requires_grad_()
    network[7].eval()
    check(network, x, [*network.parameters(), x], input_rule=input_rule, layers=["3", "4.norm1"], epsilon=0.1)


class Gated(nn.Module):
    """A product of two activations, a convolution whose weight is computed, layers without a route of their own."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
        self.scaled = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding="same"))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))
        self.up, self.linear = nn.ConvTranspose2d(4, 4, 2, stride=2), nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu(self.conv(x))
        x = x * F.relu6(self.gate(x).mean((2, 3), keepdim=True))
        x = F.relu(self.up(self.normed(F.relu(self.scaled(x)))))
        return self.linear(x.mean((2, 3)))


def test_networks_with_products_and_computed_weights(scrambled, pixels):
    network, x = scrambled(Gated()).double(), pixels(3, 3, 9, 9).double()
    check(network, x, list(network.parameters()), input_rule="gradient_x_input", epsilon=0.1)


def test_the_optimizer_sees_one_forward_and_one_backward_pass(residual, pixels):
    network, x = residual().train(), pixels(3, 3, 13, 13)
    ready, forwards, running = [], [], []
    for name, parameter in network.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _parameter, name=name: ready.append(name))
    network.register_forward_hook(lambda *_: forwards.append(1))
    loss, logits = streamed_loss(network, x, lambda logits: logits, on_map)
    assert not ready and all(parameter.grad is None for parameter in network.parameters())
    running.append(int(network[1].num_batches_tracked))
    (loss + logits.square().sum()).backward()
    assert sorted(ready) == sorted(name for name, _ in network.named_parameters())
    assert forwards == [1] and running == [1]


class Token:
    """Something that can be seen to be gone."""

    passes = 0


class Watched(torch.autograd.Function):
    """The identity, whose part of the graph holds a token that counts backward passes."""

    @staticmethod
    def forward(ctx, values, tokens):
        ctx.token = Token()
        tokens.append(weakref.ref(ctx.token))
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.token.passes += 1
        return gradient, None


@pytest.mark.parametrize("training", [False, True])
def test_graphs_are_let_go_without_the_garbage_collector(training, residual, functional, pixels):
    tokens = []
    watched = functional(lambda values: Watched.apply(values, tokens))
    network = nn.Sequential(*residual()[:4], watched, *residual()[4:]).train(training)
    gc.collect()
    gc.disable()
    try:
        found = flex_maps(network, pixels(2, 3, 13, 13), nonlinear, create_graph=True, layers=["3"])
        assert tokens[0]() is not None
        found.relevance.sum().backward()
        del found
        assert tokens[0]() is None
        loss, logits = streamed_loss(network, pixels(2, 3, 13, 13), nonlinear, on_map, layers=["3"])
        assert tokens[1]() is not None
        (loss + logits.sum()).backward()
        del loss, logits
        assert tokens[1]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("input_rule", ["gradient_x_input", "zb"])
def test_maps_do_not_go_through_the_forward_pass_one_by_one(input_rule, residual, functional, pixels):
    """Once for the relevance of each map, once for the optimizer."""
    tokens = []
    watched = functional(lambda values: Watched.apply(values, tokens))
    pools = nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)
    network = nn.Sequential(*residual()[:4], watched, *pools, *residual()[4:]).train()
    loss, logits = streamed_loss(
        network, pixels(2, 3, 13, 13), nonlinear, on_map, layers=["3", "5"], input_rule=input_rule
    )
    assert tokens[0]().passes == 3
    (loss + logits.sum()).backward()
    assert tokens[0]().passes == 4


def test_one_map_is_in_memory_at_a_time(residual, pixels):
    maps = []

    def loss_of_map(number: int, relevance: torch.Tensor, at_layers: dict) -> torch.Tensor:
        assert [token() is None for token in maps] == [True] * number
        return on_map(number, Watched.apply(relevance, maps), at_layers)

    gc.collect()
    gc.disable()
    try:
        loss, _ = streamed_loss(residual().train(), pixels(3, 3, 13, 13), nonlinear, loss_of_map, layers=["3"])
        assert loss.requires_grad and len(maps) == 3 and maps[-1]() is None
    finally:
        gc.enable()


def test_a_loss_that_is_flat_for_a_map_adds_no_gradient(residual, pixels):
    network, x = residual().double(), pixels(2, 3, 13, 13).double()

    def only(kept: int):
        return lambda number, relevance, _layers: relevance.square().sum() if number == kept else x.new_tensor(5.0)

    loss, _ = streamed_loss(network, x, lambda logits: logits, only(2))
    expected = flex_maps(network, x, [lambda logits: logits[:, 2]], create_graph=True).relevance.square().sum()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()) + 15)
    parameters = [network[0].weight, network[8].weight]
    for one, other in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-12)
    nothing, logits = streamed_loss(network, x, lambda logits: logits, only(9))
    assert not nothing.requires_grad and logits.requires_grad


def test_without_gradients_there_are_values_only(residual, pixels):
    network, x = residual(), pixels(2, 3, 13, 13)
    expected, _ = streamed_loss(network, x, nonlinear, on_map)
    with torch.no_grad():
        loss, logits = streamed_loss(network, x, nonlinear, on_map)
    assert not loss.requires_grad and not logits.requires_grad
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-6)
