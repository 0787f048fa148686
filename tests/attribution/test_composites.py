from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zennit import composites as zennit_composites
from zennit.attribution import Gradient

from pipeline.attribution import COMPOSITES, attribute
from pipeline.attribution.composites import make_composite, pixel_range
from pipeline.errors import ConfigError
from pipeline.models.build import Affine, AuditModel, Normalize

MEAN, STD = (0.2, 0.5, 0.4), (0.25, 0.5, 2.0)


def test_the_pixel_range_is_that_of_the_normalised_input():
    low, high = pixel_range(AuditModel(nn.Identity(), Normalize(MEAN, STD)))
    assert low.flatten().tolist() == pytest.approx([-0.8, -1, -0.2])
    assert high.flatten().tolist() == pytest.approx([3.2, 1, 0.3])
    low, high = pixel_range(AuditModel(nn.Identity(), Normalize((0.5,), (0.5,))), -1, 2)
    assert (float(low), float(high)) == pytest.approx((-3, 3))
    low, high = pixel_range(nn.Conv2d(3, 4, 3))
    assert (float(low), float(high)) == (0, 1)


@pytest.mark.parametrize("name", COMPOSITES)
def test_normalisation_passes_relevance_through_and_sets_the_box(name, plain, pixels):
    network, x = plain(), pixels(3, 3, 12, 12)
    normalize = Normalize(MEAN, STD)
    found = attribute(AuditModel(network, normalize), x, 2, composite=name)
    low, high = (normalize(torch.full((1, 3, 1, 1), bound)) for bound in (0.0, 1.0))
    reference = {
        "epsilon_plus_flat": zennit_composites.EpsilonPlusFlat,
        "epsilon_plus": zennit_composites.EpsilonPlus,
        "epsilon_gamma_box": lambda: zennit_composites.EpsilonGammaBox(low=low, high=high),
        "epsilon_alpha2_beta1_flat": zennit_composites.EpsilonAlpha2Beta1Flat,
    }[name]()
    seed = F.one_hot(torch.full((3,), 2), 4)
    _, expected = Gradient(plain(), reference)(normalize(x), lambda logits: logits.detach() * seed)
    assert (found.relevance - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="composite 'epsilon_gama_box' is unknown. Did you mean 'epsilon_gamma_box'"):
        make_composite("epsilon_gama_box", nn.Identity())


class Rotation(Affine):
    """x -> x A + b over channels."""

    def __init__(self, matrix: torch.Tensor, shift: torch.Tensor):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("shift", shift)

    def forward(self, x):
        return x @ self.matrix + self.shift


@pytest.mark.parametrize("name", COMPOSITES)
def test_affine_modules_of_the_project_follow_the_epsilon_rule(name, scrambled, pixels):
    generator = torch.Generator().manual_seed(3)
    rotation = Rotation(torch.randn(5, 5, generator=generator), torch.randn(5, generator=generator))
    network = scrambled(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), rotation, nn.Linear(5, 3)))
    found = attribute(network, pixels(4, 3, 2, 2), 1, composite=name, layers=["2", "3"])
    z = found.activations["3"]
    expected = found.activations["2"] * ((found.relevances["3"] / z) @ rotation.matrix.T)
    assert torch.allclose(found.relevances["2"], expected, rtol=1e-3, atol=1e-5)
    assert expected.abs().max() > 0.01
