"""A classifier whose features are multiplied by a map."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import Explainer, attribute
from pipeline.errors import ConfigError
from pipeline.models.build import AuditModel, Normalize, forbid_in_place
from pipeline.models.gated import GatedClassifier, gated_layers
from pipeline.models.replacement import layer_within, replace_network
from pipeline.models.small_cnn import small_cnn

LAYERS = ["network.relu1", "network.relu2"]
PLACES = {"input": [], "stages": LAYERS}
X = torch.rand(4, 3, 20, 16, generator=torch.Generator().manual_seed(0))


def audit_model() -> AuditModel:
    """A small network whose BatchNorm has seen something."""
    torch.manual_seed(0)
    model = AuditModel(small_cnn(3, 3, width=4, blocks=2), Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.2)))
    model.train()(torch.rand(16, 3, 20, 16))
    return model.eval()


def gated(model: AuditModel, layers: list[str], bias: float = 0.3, gate: str = "leaky_tanh_relu") -> AuditModel:
    """The same model behind an explainer whose maps are half open and differ from place to place."""
    model = copy.deepcopy(model)
    torch.manual_seed(1)
    replace_network(
        model, "gated_classifier", {"channels": 3, "layers": layers, "width": 4, "gate": gate, "bias": bias}
    )
    explainer = model.network.explainer.train()
    explainer.norm.momentum = 1.0
    explainer(model.normalize(X))  # its BatchNorm knows the spread, so that maps have one
    if not layers:
        model.network.fill += torch.tensor([0.1, -0.2, 0.3]).view(3, 1, 1)
    return model.eval()


@pytest.mark.parametrize("layers", PLACES.values(), ids=PLACES)
def test_an_open_map_changes_nothing(layers):
    model = audit_model()
    wrapped = gated(model, layers)
    x = model.normalize(X)
    assert torch.equal(wrapped.network.logits_given(x, torch.ones(4, 1, 20, 16)), model(X))
    assert (wrapped(X) - model(X)).abs().max() > 0.01


def test_features_are_multiplied_by_the_average_of_the_map():
    model = audit_model()
    wrapped, net = gated(model, LAYERS), model.network
    x, opening = model.normalize(X), torch.zeros(4, 1, 20, 16)
    opening[:, :, 3, 4] = 1  # one pixel opens a quarter of its 2 x 2 cell
    features = net.pool1(net.relu1(net.norm1(net.conv1(x))) * opening)
    features = net.relu2(net.norm2(net.conv2(features))) * F.avg_pool2d(opening, 2)
    expected = net.linear(net.flatten(net.average(features)))
    torch.testing.assert_close(wrapped.network.logits_given(x, opening), expected)


def test_behind_a_closed_map_all_images_are_the_same():
    wrapped = gated(audit_model(), LAYERS)
    logits = wrapped.network.logits_given(wrapped.normalize(X), torch.zeros(4, 1, 20, 16))
    torch.testing.assert_close(logits, wrapped.network.network.linear.bias.expand(4, 3))


def test_closed_places_of_a_masked_image_hold_the_fill_color():
    model = audit_model()
    wrapped = gated(model, [])
    opening = torch.rand(4, 1, 20, 16).round()
    x = model.normalize(X)
    masked = torch.where(opening.bool(), x, wrapped.network.fill.expand_as(x))
    torch.testing.assert_close(wrapped.network.logits_given(x, opening), model.network(masked))


@pytest.mark.parametrize("layers", PLACES.values(), ids=PLACES)
def test_the_two_ways_through_agree_and_only_one_trains_the_explainer(layers):
    wrapped = gated(audit_model(), layers)
    logits, opening = wrapped.network.forward_with_map(wrapped.normalize(X))
    assert opening.shape == (4, 1, 20, 16) and 0.1 < opening.mean() < 0.9
    torch.testing.assert_close(wrapped(X), logits)
    wrapped(X).sum().backward()
    assert all(parameter.grad is None for parameter in wrapped.network.explainer.parameters())
    assert all(parameter.grad is not None for parameter in wrapped.network.network.parameters())
    logits.sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in wrapped.network.explainer.head.parameters())


def test_parameters_and_layers_keep_their_names():
    model = audit_model()
    wrapped = gated(model, LAYERS)
    inner = {name for name in wrapped.network.state_dict() if name.startswith("network.")}
    assert inner == {f"network.{name}" for name in model.network.state_dict()}
    assert layer_within(wrapped, "network.relu1") == "network.network.relu1"


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("layers", PLACES.values(), ids=PLACES)
def test_it_survives_copying_storing_and_tracing(layers, tmp_path):
    model = audit_model()
    wrapped = gated(model, layers)
    expected = wrapped(X)
    assert torch.equal(copy.deepcopy(wrapped)(X), expected)
    torch.save(wrapped.network.state_dict(), tmp_path / "model.pt")
    again = copy.deepcopy(model)
    parameters = {"channels": 3, "layers": layers, "width": 4, "gate": "leaky_tanh_relu", "bias": 0.0}
    replace_network(again, "gated_classifier", parameters)
    again.network.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(again.eval()(X), expected)
    traced = torch.jit.trace(wrapped, X)
    other = torch.rand(2, 3, 27, 18)
    torch.testing.assert_close(traced(other), wrapped(other))


class Failing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no")


def test_no_hook_stays_also_where_the_network_fails():
    wrapped = gated(audit_model(), LAYERS)
    wrapped(X)
    wrapped.network.network.linear = Failing()
    with pytest.raises(RuntimeError, match="no"):
        wrapped(X)
    assert not any(module._forward_hooks for module in wrapped.modules())


class Given(nn.Module):
    """The classifier with maps that are there already."""

    def __init__(self, network: GatedClassifier, opening: torch.Tensor):
        super().__init__()
        self.given, self.opening = network, opening

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.given.logits_given(x, self.opening)


@pytest.mark.parametrize(
    "composite", ["epsilon_plus_flat", "epsilon_alpha2_beta1_flat", "lrp_flex", "gradient_x_input"]
)
@pytest.mark.parametrize("layers", PLACES.values(), ids=PLACES)
def test_what_explains_the_logits_takes_the_map_for_a_constant(composite, layers):
    wrapped = gated(audit_model(), layers)
    if composite == "lrp_flex" and not layers:
        pytest.skip("its rule for pixels needs the image as it is")
    found = attribute(wrapped, X, composite=composite)
    assert found.relevance.isfinite().all() and found.relevance.abs().max() > 0
    opening = wrapped.network.forward_with_map(wrapped.normalize(X))[1].detach()
    constant = AuditModel(Given(wrapped.network, opening), wrapped.normalize)
    # made for these four images alone, so not by a shorter example
    if composite in ("epsilon_plus_flat", "epsilon_alpha2_beta1_flat"):
        expected = Explainer(constant, X, composite).attribute(X)
    else:
        expected = attribute(constant, X, composite=composite)
    torch.testing.assert_close(found.relevance, expected.relevance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layers", PLACES.values(), ids=PLACES)
def test_relevance_is_conserved_through_the_gates(layers):
    found = Explainer(gated(audit_model(), layers), X, without_biases=True).attribute(X)
    torch.testing.assert_close(found.relevance.sum((1, 2, 3)), found.logits.amax(1), rtol=1e-3, atol=1e-4)


def resnet() -> AuditModel:
    model = AuditModel(torchvision.models.resnet18(num_classes=2), Normalize((0.5,) * 3, (0.2,) * 3)).eval()
    forbid_in_place(model)
    return model


def test_of_a_resnet_the_stem_its_stages_or_all_its_blocks_are_gated():
    model, example = resnet(), torch.rand(1, 3, 64, 64)
    stages = [f"network.layer{stage}.1" for stage in range(1, 5)]
    blocks = [f"network.layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    assert gated_layers(model, example, "input") == ()
    assert gated_layers(model, example, "stem") == ("network.relu",)
    assert gated_layers(model, example, "stages") == ("network.relu", *stages)
    assert gated_layers(model, example, "activations") == ("network.relu", *blocks)


def test_convolutions_before_their_activation_are_no_stages():
    layers = [nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)]
    assert gated_layers(AuditModel(nn.Sequential(*layers)), X[:1], "stages") == ("network.1",)


def test_named_layers_come_in_their_order():
    model, example = audit_model(), X[:1]
    assert gated_layers(model, example, LAYERS[::-1]) == tuple(LAYERS)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["network.relu3"], "gated names 'network.relu3'.*Did you mean 'network.relu[12]'"),
        (["network.linear"], "gated names 'network.linear', which is no layer"),
        (["normalize"], "gated names 'normalize', which is no layer"),
    ],
)
def test_what_is_no_layer_with_positions_is_refused(wanted, message):
    with pytest.raises(ConfigError, match=message):
        gated_layers(audit_model(), X[:1], wanted)


def test_a_network_without_positions_and_samples_that_are_no_images_are_refused():
    flat = AuditModel(nn.Sequential(nn.Flatten(), nn.Linear(960, 2)))
    for wanted in ("stem", "stages", "activations"):
        with pytest.raises(ConfigError, match=f"gated '{wanted}' finds no layer.*gated: input"):
            gated_layers(flat, X[:1], wanted)
    with pytest.raises(ConfigError, match=r"images \[C, H, W\].*\[3, 20\]"):
        gated_layers(flat, X[:1, ..., 0], "input")
