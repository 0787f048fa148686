from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.mitigate.supervised_layers import supervised_layers

PLAIN = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
    nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
)  # fmt: skip


def auto(network: nn.Module, side: int = 32) -> tuple[str, ...]:
    return supervised_layers(network.eval(), torch.rand(1, 3, side, side), "auto")


def test_a_plain_network_is_supervised_at_the_end_of_every_size():
    assert auto(PLAIN) == ("4", "7")


def test_the_stages_of_a_residual_network():
    from torchvision.models import resnet18

    assert [name.split(".")[0] for name in auto(resnet18(num_classes=3), 64)] == [
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    ]


def test_the_blocks_of_a_dense_network():
    from torchvision.models import densenet121

    # ReLU writes over what BatchNorm puts out, so they share a tensor, which has the name of the first
    norms = ["transition1.norm", "transition2.norm", "transition3.norm", "norm5"]
    assert auto(densenet121(num_classes=3), 64) == tuple(f"features.{name}" for name in norms)


def test_what_every_pooling_of_a_vgg_takes():
    from torchvision.models import vgg11_bn

    network = vgg11_bn(num_classes=3)
    pools = [index for index, module in enumerate(network.features) if isinstance(module, nn.MaxPool2d)]
    # the first activation is the last one of its size here: the Zb rule has it already
    assert auto(network, 64)[:4] == tuple(f"features.{index - 2}" for index in pools[1:])


def test_named_layers_come_in_the_order_of_the_network():
    example = torch.rand(1, 3, 16, 16)
    assert supervised_layers(PLAIN, example, ["7", "1"]) == ("1", "7")
    with pytest.raises(ConfigError, match="supervised_layers names 'seven', which is no layer"):
        supervised_layers(PLAIN, example, ["seven"])


def test_a_network_without_positions_has_nothing_to_supervise():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ConfigError, match="no hidden layer with positions"):
        supervised_layers(network, torch.rand(1, 3, 2, 2), "auto")
