from __future__ import annotations

import torch
from torch import nn

from pipeline.attribution.baselines.explained_quantity import averaged_gradient, gradients, logits_of, predict


def test_averaged_gradient_is_the_weighted_sum_over_places_of_each_sample(functional):
    """f = sum of cubes, times the weight of the only logit: gradient 3 w x^2."""
    network = functional(lambda x: x.pow(3).flatten(1).sum(1, keepdim=True))
    origin = torch.arange(6.0).reshape(3, 2, 1)
    spread = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    places, shares = torch.tensor([[[1.0]], [[-2.0]]]), torch.tensor([0.25, 3.0])
    weights = torch.tensor([[1.0], [2.0], [5.0]])
    expected = 3 * weights[:, :, None] * (0.25 * (origin + spread) ** 2 + 3 * (origin - 2 * spread) ** 2)
    for batch_size in (1, 2, 100):
        found = averaged_gradient(network, origin, spread, places, shares, weights, batch_size)
        assert torch.allclose(found, expected)


def test_layers_are_what_they_gave_also_where_their_output_is_changed_later(residual, pixels):
    """The blocks add to the output of their second normalisation in place."""
    network, x = residual().double(), pixels(2, 3, 13, 13).double()
    given = {}
    handle = network[3].norm2.register_forward_hook(lambda _m, _i, output: given.update(value=output.clone()))
    network(x)
    handle.remove()
    found = gradients(network, x, 1, layers=["3.norm2", "3"])
    assert torch.equal(found.activations["3.norm2"], given["value"])
    on = found.activations["3"] > 0
    assert torch.allclose(found.of_layers["3.norm2"], found.of_layers["3"] * on), "what follows is a sum and a ReLU"


def test_a_layer_that_nothing_depends_on_has_no_gradient(functional, plain, pixels):
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.aside, self.network = nn.Conv2d(3, 2, 1), plain()

        def forward(self, x):
            self.aside(x)
            return self.network(x)

    found = gradients(Aside(), pixels(2, 3, 12, 12), 0, layers=["aside"])
    assert found.of_layers["aside"].shape == (2, 2, 12, 12) and found.of_layers["aside"].abs().max() == 0
    assert found.of_x.abs().max() > 0


def test_frozen_weights_do_not_hinder(plain, pixels):
    x = pixels(2, 3, 12, 12)
    expected = gradients(plain(), x, 0, layers=["1"])
    found = gradients(plain().requires_grad_(False), x, 0, layers=["1"])
    assert torch.equal(found.of_x, expected.of_x) and torch.equal(found.of_layers["1"], expected.of_layers["1"])


def test_predictions_are_made_in_evaluation_mode_without_graph(residual, pixels):
    network, x = residual(), pixels(3, 3, 13, 13)
    expected = network(x)
    logits, weights = predict(network.train(), x, None)
    assert torch.equal(logits, expected) and torch.equal(logits_of(network, x), expected)
    assert not logits.requires_grad
    assert torch.equal(weights.argmax(1), expected.argmax(1)) and torch.equal(weights.sum(1), torch.ones(3))
