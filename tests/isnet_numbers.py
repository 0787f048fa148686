"""Reference numbers of the original ISNet code, and the networks that they were made with."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

PLACE = Path(__file__).parent / "../../shared/reference/isnet"


def numbers(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a file; skip the test where it is not beside the project."""
    if not (PLACE / name).is_file():
        pytest.skip(f"reference numbers {name} are not beside the project")
    with np.load(PLACE / name) as stored:
        return dict(stored)


def with_reference_weights(model: nn.Module) -> nn.Module:
    """Fill in weights by the recipe of the reference numbers: one generator per tensor, seeded by its name."""
    modules = dict(model.named_modules())
    for name, tensor in model.state_dict().items():
        owner, _, kind = name.rpartition(".")
        random = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF)
        if kind == "num_batches_tracked":
            continue
        if isinstance(modules[owner], nn.BatchNorm2d):
            uniform = kind in ("weight", "running_var")
            values = random.uniform(0.5, 1.5, tensor.shape) if uniform else 0.1 * random.standard_normal(tensor.shape)
        elif kind == "weight":
            values = random.standard_normal(tensor.shape) * np.sqrt(2 / np.prod(tensor.shape[1:]))
        else:
            values = 0.05 * random.standard_normal(tensor.shape)
        tensor.copy_(torch.from_numpy(np.asarray(values, np.float32)))
    return model.eval()


def tiny_network() -> nn.Module:
    """Return the small plain network with its stored weights."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 5),
    )  # fmt: skip
    stored = numbers("tiny_cnn.npz")
    network.load_state_dict({key[2:]: torch.from_numpy(stored[key]) for key in stored if key.startswith("w/")})
    return network.eval()


def residual_network() -> nn.Module:
    """Return torchvision's ResNet-18 of four classes with the weights of the recipe."""
    from torchvision.models import resnet18

    return with_reference_weights(resnet18(num_classes=4))


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    """Return the largest difference as a share of the largest expected value."""
    return float(np.abs(found.detach().numpy() - expected).max() / np.abs(expected).max())
