"""Every composite against zennit, an independent library, on networks with BatchNorm folded exactly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from zennit import composites, rules
from zennit.types import Activation, AvgPool
from zennit.types import Linear as LinearMap

from pipeline.attribution import COMPOSITES, Attribution, Explainer
from pipeline.attribution.canonize import canonized_copy
from pipeline.attribution.zennit_adapter import attribute_by_zennit
from pipeline.models.build import AuditModel, Normalize

MEAN, STD = (0.2, 0.5, 0.4), (0.25, 0.5, 2.0)
REFERENCES: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "epsilon_plus_flat": lambda low, high: composites.EpsilonPlusFlat(),
    "epsilon_plus": lambda low, high: composites.EpsilonPlus(),
    "epsilon_gamma_box": lambda low, high: composites.EpsilonGammaBox(low=low, high=high),
    "epsilon_alpha2_beta1": lambda low, high: composites.EpsilonAlpha2Beta1(),
    "epsilon_alpha2_beta1_flat": lambda low, high: composites.EpsilonAlpha2Beta1Flat(),
    "epsilon": lambda low, high: composites.LayerMapComposite(
        [(Activation, rules.Pass()), (AvgPool, rules.Norm()), (LinearMap, rules.Epsilon())]
    ),
}


def convolutions(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


def by_zennit(model: nn.Module, x: torch.Tensor, target: torch.Tensor, name: str) -> Attribution:
    low, high = torch.zeros(1, 3, 1, 1).to(x), torch.ones(1, 3, 1, 1).to(x)
    if isinstance(model, AuditModel):
        low, high = model.normalize(low), model.normalize(high)
    return attribute_by_zennit(model, x, target, REFERENCES[name](low, high), layers=convolutions(model))


def by_us(model: nn.Module, x: torch.Tensor, target: torch.Tensor, name: str, channels_last: bool) -> Attribution:
    explainer = Explainer(model, x[:2], name, channels_last=channels_last)
    assert not explainer.without_rule
    return explainer.attribute(x, target, layers=convolutions(model))


def difference(found: Attribution, expected: Attribution) -> float:
    """Largest difference at pixels, in the heatmap and at every convolution, relative to the largest value there."""
    pairs = [(found.relevance, expected.relevance), (found.heatmap, expected.heatmap)]
    pairs += [(found.relevances[name], expected.relevances[name]) for name in expected.relevances]
    assert len(pairs) > 3 and all(truth.abs().max() > 1e-4 for _, truth in pairs)
    return max(float((a.double() - b.double()).abs().max() / b.abs().max()) for a, b in pairs)


def test_every_composite_has_a_reference():
    assert set(REFERENCES) == set(COMPOSITES)


@pytest.fixture(params=["plain", "normalized", "residual"])
def network(request) -> nn.Module:
    return request.getfixturevalue(request.param)()


@pytest.mark.parametrize("name", COMPOSITES)
def test_small_networks_agree_at_every_layer(name, network, pixels):
    x, target = pixels(4, 3, 13, 13), torch.tensor([0, 3, 1, 1])
    expected = by_zennit(network, x, target, name)
    assert difference(by_us(network, x, target, name, channels_last=False), expected) <= 1e-6
    assert difference(by_us(network, x, target, name, channels_last=True), expected) <= 1e-5
    network, x = network.double(), x.double()
    exact = difference(by_us(network, x, target, name, channels_last=False), by_zennit(network, x, target, name))
    assert exact <= 1e-12


@pytest.mark.parametrize("name", COMPOSITES)
def test_normalised_pixels_agree(name, normalized, pixels):
    model = AuditModel(normalized(), Normalize(MEAN, STD)).double()
    x, target = pixels(4, 3, 13, 13).double(), torch.tensor([0, 3, 1, 1])
    found, expected = by_us(model, x, target, name, channels_last=True), by_zennit(model, x, target, name)
    # zennit's gradients are those at the pixels; relevance that passes through the normalisation is not multiplied
    expected = Attribution(
        expected.relevance * model.normalize.std[None], expected.logits, expected.relevances, expected.activations
    )
    assert difference(found, expected) <= 1e-12


@pytest.fixture(scope="module")
def trained(scrambled, residual_block) -> nn.Module:
    """A network of BatchNorm and residual sums, trained to tell bright from dark corners."""
    network = scrambled(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            residual_block(8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    x, labels = torch.rand(64, 3, 12, 12, generator=generator), torch.arange(64) % 4
    for image, corner in zip(x, labels, strict=True):
        image[:, 6 * (corner // 2) :, 6 * (corner % 2) :][:, :6, :6] += 1
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(network(x), labels).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        assert (network(x).argmax(1) == labels).float().mean() > 0.9
    return network


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_trained_network_agrees(name, trained, pixels):
    x, target = pixels(6, 3, 12, 12), torch.arange(6) % 4
    expected = by_zennit(trained, x, target, name)
    assert difference(by_us(trained, x, target, name, channels_last=False), expected) <= 2e-6
    assert difference(by_us(trained, x, target, name, channels_last=True), expected) <= 1e-5


WHOLE = {"resnet18": 64, "resnet50": 64, "vgg16_bn": 32}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("architecture", WHOLE)
def test_whole_networks_agree(architecture, name, scrambled, pixels):
    """In double precision to rounding; in single precision as closely as zennit itself keeps to double precision."""
    model = scrambled(torchvision.models.get_model(architecture, weights=None, num_classes=4))
    x, target = pixels(2, 3, WHOLE[architecture], WHOLE[architecture]), torch.tensor([0, 3])
    single = by_zennit(model, x, target, name)
    first, last = (by_us(model, x, target, name, channels_last=layout) for layout in (False, True))
    model, x = model.double(), x.double()
    truth = by_zennit(model, x, target, name)
    assert difference(by_us(model, x, target, name, channels_last=False), truth) <= 1e-11
    rounding = difference(single, truth)
    assert difference(first, truth) <= 5 * rounding and rounding <= 2e-3
    assert difference(last, truth) <= 10 * rounding
    assert difference(last, first) <= (5e-3 if name == "epsilon" else 5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPOSITES)
@pytest.mark.parametrize("architecture", [*WHOLE, "vgg16"])
def test_on_a_folded_network_both_round_alike(architecture, name, scrambled, pixels):
    """With the same weights given to both, single precision agrees as closely as it can: nothing else differs."""
    size = WHOLE.get(architecture, 32)
    model = scrambled(torchvision.models.get_model(architecture, weights=None, num_classes=4))
    x, target = pixels(2, 3, size, size), torch.tensor([0, 3])
    folded = canonized_copy(model, x)
    found = by_us(folded, x, target, name, channels_last=False)
    assert difference(found, by_zennit(folded, x, target, name)) <= 1e-6
