from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from pipeline.attribution import COMPOSITES, Explainer, attribute
from pipeline.attribution.composites import Composite, make_composite, pixel_range
from pipeline.attribution.rules.absolute_share import AbsoluteShare
from pipeline.attribution.rules.alpha_beta import AlphaBeta
from pipeline.attribution.rules.epsilon import Epsilon
from pipeline.attribution.rules.flat import Flat
from pipeline.attribution.rules.gamma import Gamma
from pipeline.attribution.rules.z_plus import ZPlus
from pipeline.attribution.rules.zb import Zb
from pipeline.concepts.projection import Projection
from pipeline.errors import ConfigError
from pipeline.models.build import AuditModel, Normalize

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
    """What the network gets is then what pixels get, but for the Zb rule, whose range is that of the pixels."""
    network, x, normalize = plain(), pixels(3, 3, 12, 12), Normalize(MEAN, STD)
    model = AuditModel(network, normalize)
    found = Explainer(model, x, name).attribute(x, 2, layers=["normalize"])
    assert torch.equal(found.relevance, found.relevances["normalize"]) and found.relevance.abs().sum() > 0
    alone = Explainer(network, normalize(x), name).attribute(normalize(x), 2)
    boxed = name == "epsilon_gamma_box"
    assert torch.allclose(found.relevance, alone.relevance, atol=1e-6) != boxed


@pytest.mark.parametrize("name", ["epsilon_gama_box", "Epsilon", ""])
def test_an_unknown_name_is_refused_with_the_nearest(name):
    with pytest.raises(ConfigError, match=f"composite '{name}' is unknown.*Allowed: .*epsilon_plus_flat, .*lrp_flex"):
        make_composite(name)
    with pytest.raises(ConfigError, match="Did you mean 'epsilon_gamma_box'"):
        make_composite("epsilon_gama_box")


CONVOLUTION = {"path": "conv", "depth": 3, "convolution": True, "depthwise": False}
LINEAR = CONVOLUTION | {"convolution": False}
DEPTHWISE = CONVOLUTION | {"depthwise": True}
FIRST = CONVOLUTION | {"depth": 0}


@pytest.mark.parametrize(
    ("name", "convolution", "first", "depthwise"),
    [
        ("epsilon_plus_flat", ZPlus(), Flat(), AbsoluteShare()),
        ("epsilon_plus", ZPlus(), ZPlus(), AbsoluteShare()),
        ("epsilon_gamma_box", Gamma(0.25), Zb(), AbsoluteShare()),
        ("epsilon_alpha2_beta1", AlphaBeta(2, 1), AlphaBeta(2, 1), AbsoluteShare()),
        ("epsilon_alpha2_beta1_flat", AlphaBeta(2, 1), Flat(), AbsoluteShare()),
        ("epsilon", Epsilon(), Epsilon(), Epsilon()),
    ],
)
def test_what_rule_for_what(name, convolution, first, depthwise):
    composite = make_composite(name)
    assert composite.rule(**CONVOLUTION) == convolution and composite.rule(**LINEAR) == Epsilon()
    assert composite.rule(**FIRST) == first and composite.rule(**DEPTHWISE) == depthwise
    assert (composite.attention, composite.stabilizer, composite.overrides) == ("values", 1e-6, {})


def test_the_last_match_of_the_overrides_counts_before_everything_else():
    made = make_composite("epsilon_plus_flat", {"layer*": "gamma(gamma=1)", "layer1.*": ZPlus(), "stem": "w_square"})
    assert made.rule(**FIRST | {"path": "layer2.conv"}) == Gamma(1.0)
    assert made.rule(**DEPTHWISE | {"path": "layer1.conv"}) == ZPlus()
    assert made.rule(**LINEAR | {"path": "head"}) == Epsilon()
    assert COMPOSITES["epsilon_plus_flat"].overrides == {}, "the shared composite remains"
    more = make_composite(made, {"stem": "flat", "layer1.conv": "zb"})
    assert more.rule(**CONVOLUTION | {"path": "stem"}) == Flat()
    assert more.rule(**CONVOLUTION | {"path": "layer1.conv"}) == Zb()
    assert more.rule(**CONVOLUTION | {"path": "Layer1.conv"}) == ZPlus(), "names have upper and lower case"
    assert make_composite(made) is made


def test_a_wrong_rule_is_named_with_the_layer_that_it_was_for():
    with pytest.raises(ConfigError, match="rules: layer1: rule 'gama' is unknown. Did you mean 'gamma'"):
        make_composite("epsilon", {"layer1": "gama"})


def test_every_composite_is_described():
    for name, composite in COMPOSITES.items():
        assert isinstance(composite, Composite) and len(composite.description) > 10, name


class Rotation(nn.Module):
    """x -> x A + b over channels."""

    def __init__(self, matrix: torch.Tensor, shift: torch.Tensor):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("shift", shift)

    def forward(self, x):
        return x @ self.matrix + self.shift


@pytest.mark.parametrize("name", COMPOSITES)
def test_affine_modules_follow_the_epsilon_rule(name, scrambled, pixels):
    generator = torch.Generator().manual_seed(3)
    rotation = Rotation(torch.randn(5, 5, generator=generator), torch.randn(5, generator=generator))
    network = scrambled(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), rotation, nn.Linear(5, 3)))
    x = pixels(4, 3, 2, 2)
    found = attribute(network, x, 1, composite=name, layers=["2", "3"])
    z = found.activations["3"]
    expected = found.activations["2"] * ((found.relevances["3"] / z) @ rotation.matrix.T)
    assert torch.allclose(found.relevances["2"], expected, rtol=1e-3, atol=1e-5)
    assert expected.abs().max() > 0.01
    conserving = Explainer(network, x, name, without_biases=True).attribute(x, 1, layers=["2", "3"])
    assert conserving.relevances["2"].sum(1) == pytest.approx(conserving.relevances["3"].sum(1), rel=1e-3)


@pytest.mark.parametrize("mode", ["position", "pooled"])
@pytest.mark.parametrize("name", ["epsilon", "epsilon_plus_flat"])
def test_projections_take_the_relevance_of_their_direction_out(name, mode, scrambled, pixels):
    """a' = a + (z - h a) h, with constants left out, sends on what arrives; a' = a where the direction is not found."""
    direction = nn.functional.normalize(torch.tensor([1.0, -2, 0.5, 1]), dim=0)
    network = scrambled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Identity(), nn.Flatten(), nn.Linear(64, 2)))
    x = pixels(3, 3, 6, 6)
    activation = network[:2](x)
    network[2] = Projection(direction, 0.3, mode)
    explainer = Explainer(network.double(), x.double(), name)
    found = explainer.attribute(x.double(), 1, layers=["1", "2"])
    assert not explainer.without_rule
    assert torch.allclose(found.activations["2"], network[2](activation.double()), atol=1e-5)
    of_output, a = found.relevances["2"] / found.activations["2"], found.activations["1"]
    h = direction.double().view(1, -1, 1, 1)
    if mode == "position":
        # the epsilon rule for a' = (1 - h h^T) a + z h
        expected = a * (of_output - h * (h * of_output).sum(1, keepdim=True))
        assert torch.allclose(found.relevances["1"], expected, rtol=1e-3, atol=1e-5)
    assert found.relevances["1"].abs().sum() > 0


def test_attention_weights_as_constants_or_as_equals():
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
    network = nn.Sequential(nn.Linear(4, 6), layer, nn.Flatten(), nn.Linear(18, 2)).eval()
    x = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    values = Explainer(network, x, "epsilon", without_biases=True).attribute(x, 1)
    shared = attribute(network, x, 1, composite=replace(COMPOSITES["epsilon"], attention="shared"))
    usual = attribute(network, x, 1, composite="epsilon")
    assert values.relevance.flatten(1).sum(1) == pytest.approx(values.logits[:, 1], rel=1e-2)
    assert not torch.allclose(shared.relevance, usual.relevance, rtol=0.01)
