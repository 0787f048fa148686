from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn


class ResidualBlock(nn.Module):
    """Convolution-BatchNorm twice around one ReLU that is used twice."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += x
        return self.relu(out)


class Functional(nn.Module):
    """A module made of a function."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def scramble(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, biases and BatchNorm statistics; evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 100.0
            parameter.data.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and name == "weight":
                parameter.data.add_(1)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def scrambled() -> Callable[..., nn.Module]:
    return scramble


@pytest.fixture(scope="session")
def residual_block() -> type[nn.Module]:
    return ResidualBlock


@pytest.fixture
def functional() -> type[nn.Module]:
    return Functional


@pytest.fixture
def pixels() -> Callable[..., torch.Tensor]:
    """Random pixels in [0, 1]."""

    def make(*shape: int, seed: int = 0) -> torch.Tensor:
        return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def plain() -> Callable[..., nn.Module]:
    """Convolutions, ReLU, pooling, linear layers with biases; no BatchNorm. Takes [N, 3, 12, 12], gives 4 logits."""

    def make(seed: int = 0) -> nn.Module:
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.AvgPool2d(3),
            nn.Flatten(),
            nn.Linear(8, 10),
            nn.ReLU(),
            nn.Linear(10, 4),
        )
        return scramble(network, seed)

    return make


@pytest.fixture
def residual() -> Callable[..., nn.Module]:
    """Stem with BatchNorm, two residual blocks with a reused ReLU and `+=`, pooling, linear layer."""

    def make(seed: int = 0) -> nn.Module:
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            ResidualBlock(6),
            ResidualBlock(6),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(24, 4),
        )
        return scramble(network, seed)

    return make


@pytest.fixture
def normalized() -> Callable[..., nn.Module]:
    """Convolutions with BatchNorm and ReLU in place, two linear layers. Takes [N, 3, 13, 13], gives 4 logits."""

    def make(seed: int = 0) -> nn.Module:
        def block(channels: int, width: int) -> list[nn.Module]:
            return [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]

        network = nn.Sequential(
            *block(3, 8),
            *block(8, 8),
            nn.MaxPool2d(2),
            *block(8, 12),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(48, 16),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(16, 4),
        )
        return scramble(network, seed)

    return make


def snapshot(model: nn.Module) -> dict:
    """Everything about a model that an explanation must not touch."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "identities": [id(parameter) for parameter in model.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad for parameter in model.parameters()],
        "modules": [(name, id(module), module.training) for name, module in model.named_modules()],
        "hooks": [len(getattr(module, kind)) for module in model.modules() for kind in hooks],
        "attributes": [sorted(vars(module)) for module in model.modules()],
    }


@pytest.fixture
def untouched() -> Callable[..., None]:
    """Run an explanation and check that it left nothing behind, also when it fails."""

    def check(model: nn.Module, explain: Callable[[], object], error: type[Exception] | None = None, match: str = ""):
        before = snapshot(model)
        if error is None:
            explain()
        else:
            with pytest.raises(error, match=match):
                explain()
        after = snapshot(model)
        values = before.pop("values"), after.pop("values")
        assert all(torch.equal(values[0][name], values[1][name]) for name in values[0])
        assert before == after

    return check
