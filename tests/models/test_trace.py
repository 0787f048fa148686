from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.trace import select_layers, trace_layers


class Block(nn.Module):
    """A residual block that uses its one ReLU twice, as torchvision's do."""

    def __init__(self):
        super().__init__()
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.second(self.relu(self.first(x))))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU()),
        Block(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 2),
    )


def described(model: nn.Module) -> list[tuple]:
    return [(layer.name, layer.kind, layer.shape) for layer in trace_layers(model, torch.rand(2, 3, 8, 8))]


def test_layers_come_in_the_order_of_the_data_with_kind_and_shape():
    assert described(network()) == [
        ("0.0", "convolution", (4, 3, 3)),
        ("0.1", "other", (4, 3, 3)),
        ("0.2", "activation", (4, 3, 3)),
        ("1.first", "convolution", (4, 3, 3)),
        ("1.second", "convolution", (4, 3, 3)),
        ("1", "activation", (4, 3, 3)),
        ("3", "other", (36,)),
        ("4", "other", (2,)),
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_and_training_flags_are_as_before(fails):
    model = network().train()
    model[0][1].eval()
    flags = [module.training for module in model.modules()]
    statistics = model[0][1].running_mean.clone()
    if fails:
        with pytest.raises(RuntimeError):
            trace_layers(model, torch.rand(2, 5, 8, 8))
    else:
        trace_layers(model, torch.rand(2, 3, 8, 8))
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model[0][1].running_mean, statistics)


def test_auto_means_activations_and_convolutions_with_positions():
    layers = trace_layers(network(), torch.rand(2, 3, 8, 8))
    chosen = select_layers(layers, "auto", "precompute.layers")
    assert [layer.name for layer in chosen] == ["0.0", "0.2", "1.first", "1.second", "1"]


def test_wildcards_keep_the_order_of_the_network_and_name_a_layer_once():
    layers = trace_layers(network(), torch.rand(2, 3, 8, 8))
    chosen = select_layers(layers, ["4", "1.*", "1.first", "0.?"], "precompute.layers")
    assert [layer.name for layer in chosen] == ["0.0", "0.1", "0.2", "1.first", "1.second", "4"]


def test_a_name_without_layer_is_refused_with_the_nearest():
    layers = trace_layers(network(), torch.rand(2, 3, 8, 8))
    with pytest.raises(
        ConfigError, match=r"precompute.layers: no layer matches '1.fist'. Did you mean '1.first'\? Layers: 0.0"
    ):
        select_layers(layers, ["0.0", "1.fist"], "precompute.layers")
