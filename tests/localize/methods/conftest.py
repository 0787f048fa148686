from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import tiny
import torch

from pipeline.attribution import Explainer, make_composite
from pipeline.concepts.cav import Cav, fit_cav
from pipeline.config.localize import LocalizeConfig
from pipeline.localize.methods import LocalizationMethod, Neurons, Tools, make_method
from pipeline.models.small_cnn import small_cnn

STEPS = 60


class World(NamedTuple):
    """Images `[N, 1, 16, 16]` of one class, who of them carries the planted square and where, and a network."""

    x: torch.Tensor
    planted: np.ndarray
    truth: np.ndarray
    explainer: Explainer


@pytest.fixture(scope="session")
def world(tiny_dataset) -> World:
    """A network that was trained for a second on the tiny data, and the class with the planted square."""
    x = torch.stack([tiny_dataset[row].x for row in range(len(tiny_dataset))])
    labels = torch.tensor(tiny_dataset.table["label"].tolist())
    torch.manual_seed(0)
    model = small_cnn(classes=3, channels=1, width=4, blocks=2)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    rows = np.flatnonzero(labels.numpy() == tiny.PLANTED_CLASS)
    return World(
        x[rows],
        np.array([tiny.is_planted(row) for row in rows]),
        np.stack([tiny.square(row) for row in rows]),
        Explainer(model.eval(), x[:1], make_composite("epsilon_plus")),
    )


class Pixelwise(torch.nn.Module):
    """Layer "tint" has channels 2 x and -3 x + 1 at every pixel, "relu" rectifies them in place; then two logits."""

    def __init__(self, axes: int):
        super().__init__()
        self.tint = (torch.nn.Conv2d if axes == 2 else torch.nn.Conv1d)(1, 2, 1)
        self.relu = torch.nn.ReLU(inplace=True)
        with torch.no_grad():
            self.tint.weight[:, 0] = torch.tensor([2.0, -3.0]).view(2, *[1] * axes)
            self.tint.bias.copy_(torch.tensor([0.0, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.tint(x)).flatten(2).mean(2)


@pytest.fixture(params=[(6, 4), (9,)], ids=["image", "signal"])
def pixelwise(request) -> tuple[torch.Tensor, Explainer]:
    """Three random images or signals, and a network whose activations are known."""
    x = torch.rand(3, 1, *request.param, generator=torch.Generator().manual_seed(0))
    return x, Explainer(Pixelwise(len(request.param)).eval(), x, "epsilon", without_biases=True)


class Tokens(torch.nn.Module):
    """Patches of 4 x 4 pixels as tokens `[N, 17, C]`, the first of which stands for no patch."""

    def __init__(self, channels: int):
        super().__init__()
        self.patches = torch.nn.Conv2d(1, channels, 4, stride=4)
        self.first = torch.nn.Parameter(torch.full((1, 1, channels), 0.5))
        self.embed = torch.nn.Linear(channels, channels)
        self.head = torch.nn.Linear(channels, 2)
        with torch.no_grad():
            self.patches.weight.abs_()  # so that every channel answers to brightness
            torch.nn.init.eye_(self.embed.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.embed(torch.cat([self.first.expand(len(x), -1, -1), tokens], 1))
        return self.head(tokens.relu().mean(1))


@pytest.fixture(params=[8, 17], ids=["tokens", "as many tokens as channels"])
def tokens(request) -> tuple[torch.Tensor, Explainer]:
    """Eight noisy images `[8, 1, 16, 16]`, of which the first four have patch (2, 1) white, and a network of tokens."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 1, 16, 16, generator=generator) * 0.3
    x[:4, :, 8:12, 4:8] = 1.0
    torch.manual_seed(0)
    return x, Explainer(Tokens(request.param).eval(), x[:1], "epsilon")


@pytest.fixture(scope="session")
def concept(world) -> Callable[..., Cav]:
    """Return a function that makes the pattern CAV of the planted square in a layer."""

    def make(layer: str = "relu2", pooling: str = "max") -> Cav:
        kept = []
        handle = world.explainer.model.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[2]))
        with torch.no_grad():
            world.explainer.model(world.x)
        handle.remove()
        flat = kept[0].flatten(2)
        features = {"max": flat.amax(2), "mean": flat.mean(2), "full": flat.flatten(1)}[pooling]
        return fit_cav(features.double().numpy(), world.planted, layer=layer, pooling=pooling)

    return make


@pytest.fixture(scope="session")
def method_for(world) -> Callable[..., LocalizationMethod]:
    """Return a function that makes a method by name; keywords change section `localize`."""

    def make(name: str, neurons: Neurons | None = None, explainer: Explainer | None = None, **changes):
        tools = Tools(
            explainer or world.explainer, LocalizeConfig(method=name, **changes), neurons or Neurons("relu2", (), "f1")
        )
        return make_method(tools)

    return make
