"""LRP-Block on networks that pad zeros before layers: asymmetrically, as TensorFlow does, with ReLU6 and depthwise."""

from __future__ import annotations

import pytest
import torch
from central_differences import groups_of, worst_derivative
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import attribute
from pipeline.attribution.block import BlockMap, all_classes_seed, class_seed, dual_maps, lrp_block
from pipeline.models.build import AuditModel, Normalize

T = torch.Tensor
MAPS = (*dual_maps(), BlockMap("epsilon", class_seed(1)))
RULES = ("zb", "gradient_x_input")


class PadsItself(nn.Conv2d):
    """A convolution of stride 2 that pads zeros of its own, one more to the right and below."""

    def forward(self, x: T) -> T:
        return F.conv2d(F.pad(x, (0, 1, 1, 2)), self.weight, self.bias, 2, 0, 1, self.groups)


class AsWideKernel(nn.Conv2d):
    """The same without padding before it: its kernel is a wider one, of zeros elsewhere."""

    def forward(self, x: T) -> T:
        # padding by 2 begins two columns and one row before the first pixel's place: taps that do not exist are 0
        return F.conv2d(x, F.pad(self.weight, (2, 0, 1, 0)), self.bias, 2, 2, 1, self.groups)


class Lite(nn.Module):
    """A stem, then a depthwise and a pointwise convolution, with ReLU6 after BatchNorm; pixels `[N, 3, 6, 6]`."""

    def __init__(self, kind: type[nn.Conv2d], bias: bool = False):
        super().__init__()
        self.stem, self.norm = kind(3, 4, 3, stride=2, bias=bias), nn.BatchNorm2d(4)
        self.depthwise, self.norm1 = nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8)
        self.pointwise, self.norm2 = nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.relu6, self.linear = nn.ReLU6(inplace=True), nn.Linear(4, 3)

    def forward(self, x: T) -> T:
        x = self.relu6(self.norm(self.stem(x)))
        out = self.relu6(self.norm1(self.depthwise(F.pad(x, (0, 1, 1, 1)))))
        return self.linear(self.relu6(self.norm2(self.pointwise(out))).mean((2, 3)))


@pytest.fixture
def lite(scrambled):
    def make(kind: type[nn.Conv2d] = PadsItself, **options) -> AuditModel:
        network = scrambled(Lite(kind, **options))
        with torch.no_grad():
            for norm in (network.norm, network.norm1, network.norm2):
                norm.weight.mul_(4)  # so that some values lie above 6
        return AuditModel(network, Normalize((0.3, 0.5, 0.7), (0.2, 0.5, 1.5))).double().eval()

    return make


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("input_rule", RULES)
def test_zeros_padded_before_the_first_layer_are_a_wider_kernel(input_rule, bias, training, lite, pixels):
    x, found = pixels(3, 3, 6, 6).double().requires_grad_(), []
    for kind in (PadsItself, AsWideKernel):
        model = lite(kind, bias=bias).train(training)
        maps = lrp_block(model, x, MAPS, input_rule=input_rule, layers=["network.stem"], create_graph=True)
        loss = maps.relevance.square().sum()
        gradients = torch.autograd.grad(loss, [x, *model.parameters()])
        found.append([maps.logits, maps.relevance, maps.relevances["network.stem"], *gradients])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-10 * float(other.detach().abs().max()))
    assert found[0][1].abs().amax((0, 2, 3, 4)).min() > 1e-5


@pytest.mark.parametrize("before", [lambda x: F.pad(x, (0, 2, 0, 0)), lambda x: F.pad(x, (-1, 1, 2, 0))])
def test_padding_in_several_steps_or_with_pixels_cut_off_adds_up(before, scrambled, pixels, functional):
    class Network(nn.Module):
        def __init__(self, padding: int):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=padding), nn.LazyLinear(2)

        def forward(self, x: T) -> T:
            return self.linear(F.relu(self.conv(x)).flatten(1))

    x, normalize = pixels(2, 3, 5, 5).double(), Normalize((0.3, 0.5, 0.7), (0.2, 0.5, 1.5))
    steps = nn.Sequential(functional(before), nn.ZeroPad2d(1), Network(0))
    once = nn.Sequential(functional(before), Network(1))
    for network in (steps, once):
        network(x.float())
        scrambled(network)
    one, other = (
        lrp_block(AuditModel(network, normalize).double(), x, MAPS[:2]).relevance for network in (steps, once)
    )
    assert torch.allclose(one, other, atol=1e-12)
    assert one.abs().max() > 1e-3


@pytest.mark.parametrize("input_rule", RULES)
def test_without_epsilon_relu6_and_padding_are_those_of_lrp_flex(input_rule, lite, pixels):
    model, x = lite(), pixels(3, 3, 6, 6).double()
    clipped = []
    handle = model.network.relu6.register_forward_hook(lambda _m, _i, out: clipped.append(float((out == 6).sum())))
    model(x)
    handle.remove()
    assert min(clipped) > 0
    one_hot = F.one_hot(torch.full((3,), 1), 3).double()
    options = {"epsilon": 0, "input_rule": input_rule}
    found = lrp_block(model, x, [BlockMap("epsilon", lambda _: one_hot)], **options).relevance[:, 0]
    # LRP-Flex takes values as they are: none may be written over
    model.network.relu6.inplace = False
    expected = attribute(model, x, 1, composite="lrp_flex", **options).relevance
    assert torch.allclose(found, expected, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("rule", ["epsilon", "z_plus"])
def test_relevance_passes_relu6_by_hand(rule, scrambled, pixels):
    network = scrambled(nn.Sequential(nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 3))).double()
    x, e = 20 * pixels(5, 6).double(), 0.3
    (w1, b1), (w2, b2) = ((layer.weight, layer.bias) for layer in (network[0], network[2]))
    a = F.relu6(x @ w1.T + b1)
    if rule == "z_plus":
        w1, b1, w2, b2 = (each.clamp(min=0) for each in (w1, b1, w2, b2))
    z1, y = x @ w1.T + b1, a @ w2.T + b2
    of_hidden = a * ((y.abs() / (y.abs() + e)) @ w2)
    expected = x * ((of_hidden / (z1 + e * z1.sign())) @ w1)
    options = {"epsilon": e, "input_rule": "gradient_x_input", "layers": ["0", "1"]}
    found = lrp_block(network, x, [BlockMap(rule, all_classes_seed(e))], **options)
    assert (a == 6).any()
    assert torch.allclose(found.relevances["1"][:, 0], of_hidden, atol=1e-12)
    assert torch.allclose(found.relevance[:, 0], expected, atol=1e-11)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("input_rule", RULES)
def test_derivatives_agree_with_finite_differences(input_rule, training, lite, pixels):
    model, x = lite(bias=True).train(training), pixels(4, 3, 6, 6).double().requires_grad_()
    weights = torch.randn(4, 3, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss() -> T:
        found = lrp_block(model, x, MAPS, input_rule=input_rule, epsilon=0.1, create_graph=True).relevance
        return (found * weights).sum() + found.square().sum()

    worst, where = worst_derivative(loss, groups_of(model, x))
    assert worst <= 1e-5, where


def test_no_relevance_is_lost_in_padded_zeros(scrambled, pixels):
    """Without shifts and stabiliser, all of the relevance of the first layer is found at the pixels, none below 0."""
    network = scrambled(nn.Sequential(PadsItself(3, 4, 3, bias=False), nn.ReLU6(), nn.Flatten(), nn.Linear(48, 2)))
    model = AuditModel(network, Normalize((0.3, 0.5, 0.7), (0.2, 0.5, 1.5))).double()
    x = pixels(3, 3, 6, 6).double()
    found = lrp_block(model, x, MAPS[:1], layers=["network.0"], epsilon=1e-12)
    at_first = found.relevances["network.0"]
    assert torch.allclose(found.relevance.sum((2, 3, 4)), at_first.sum((2, 3, 4)), atol=1e-9)
    assert at_first.sum() > 0.1
    assert found.relevance.min() >= 0


class Before(nn.Module):
    """Something done to the pixels before the first convolution."""

    def __init__(self, function):
        super().__init__()
        self.function, self.conv, self.linear = function, nn.LazyConv2d(4, 3), nn.LazyLinear(2)

    def forward(self, x: T) -> T:
        return self.linear(F.relu(self.conv(self.function(x))).flatten(1))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.pad(x, (1, 1), value=0.5),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
        lambda x: F.pad(F.pad(x, (1, 1), value=0.5), (1, 1)),
        lambda x: F.pad(2 * x - 1, (1, 1)),
        lambda x: 2 * F.pad(x, (1, 1)) - 1,
    ],
)
def test_pixels_changed_otherwise_are_refused(function, pixels, untouched):
    network, x = Before(function), pixels(2, 3, 6, 6)
    network(x)
    untouched(network, lambda: lrp_block(network, x, dual_maps()), ValueError, "otherwise than by padding with zeros")


def test_reflected_pixels_are_refused_also_where_they_are_black(pixels):
    network, x = Before(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")), 0 * pixels(2, 3, 6, 6)
    network(x)
    with pytest.raises(ValueError, match="otherwise than by padding with zeros"):
        lrp_block(network, x, dual_maps())


@pytest.mark.parametrize("relu6", [nn.ReLU6(inplace=True), lambda x: F.relu6(x, True)])
def test_what_a_relu6_writes_over_is_not_used_again(relu6, pixels, functional):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), functional(lambda x: relu6(x) + x), nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ValueError, match="writes over a tensor and uses it again"):
        lrp_block(network, pixels(2, 3, 6, 6), dual_maps())


@pytest.mark.parametrize("layer", [nn.Hardtanh(), nn.Hardtanh(0, 5)])
def test_a_hardtanh_that_is_no_relu6_is_refused(layer, pixels):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), layer, nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ValueError, match="no rule for hardtanh between"):
        lrp_block(network, pixels(2, 3, 6, 6), dual_maps())


def test_efficientnet_lite_has_maps_to_train_on(pixels):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=2)
    model, x = AuditModel(network, Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))).eval(), pixels(1, 3, 33, 33)
    found = lrp_block(model, x, dual_maps(), create_graph=True)
    found.relevance.abs().sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert torch.allclose(found.logits, model(x), atol=1e-5)
    assert found.relevance.isfinite().all()
    assert found.relevance[:, 0].min() >= 0 < found.relevance[:, 0].max()
    assert all(each is not None and each.isfinite().all() for each in gradients)
