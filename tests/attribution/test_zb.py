from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import flex_maps, lrp_flex, streamed_loss, zb
from pipeline.models.build import AuditModel, Normalize

EPSILON = 1e-2
MEAN, STD = (0.3, 0.5, 0.7), (0.2, 0.5, 1.5)


def starts_with(
    scrambled, convolution: nn.Conv2d, norm: bool, side: int, normalized: bool, seed: int = 0
) -> AuditModel:
    """A network of one first block and a linear layer, in double precision."""
    head = [nn.BatchNorm2d(convolution.out_channels)] if norm else []
    body = nn.Sequential(convolution, *head, nn.ReLU(), nn.Flatten()).eval()
    width = body(torch.zeros(1, convolution.in_channels, side, side)).shape[1]
    network = scrambled(nn.Sequential(*body, nn.Linear(width, 2)), seed)
    normalize = Normalize(MEAN[: convolution.in_channels], STD[: convolution.in_channels]) if normalized else None
    return AuditModel(network, normalize).double().eval()


def zb_by_hand(model: AuditModel, x: torch.Tensor, relevance: torch.Tensor) -> torch.Tensor:
    """The rule with the convolution written out as a dense matrix."""
    convolution, norm = model.network[0], model.network[1]
    scale, shift = torch.ones(convolution.out_channels).double(), torch.zeros(convolution.out_channels).double()
    if convolution.bias is not None:
        shift = convolution.bias
    if isinstance(norm, nn.BatchNorm2d):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = (shift - norm.running_mean) * scale + norm.bias

    def without_bias(flat: torch.Tensor) -> torch.Tensor:
        seen = flat.view(1, *x.shape[1:])
        return ((convolution(seen) - convolution(0 * seen)) * scale.view(-1, 1, 1))[0]

    w = torch.autograd.functional.jacobian(without_bias, torch.zeros(x[0].numel()).double())
    shift = shift[:, None, None].expand(w.shape[:3]).flatten()
    w = w.flatten(0, 2)
    seen, low, high = (
        model.normalize(value).flatten(1) for value in (x, torch.zeros_like(x), torch.ones_like(x))
    )  # fmt: skip
    z = seen @ w.T + shift.clamp(min=0) - low @ w.T.clamp(min=0) - high @ w.T.clamp(max=0)
    s = relevance.flatten(1) / (z + EPSILON)
    assert (z >= -1e-12).all()
    return (seen * (s @ w) - low * (s @ w.clamp(min=0)) - high * (s @ w.clamp(max=0))).view(x.shape).detach()


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    ("channels", "options", "side"),
    [
        (3, {"kernel_size": 3, "padding": 1}, 6),
        (3, {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False}, 7),
        (2, {"kernel_size": 3, "stride": 2}, 8),
        (3, {"kernel_size": 5, "stride": 3, "padding": 2}, 9),
        (2, {"kernel_size": 3, "dilation": 2}, 7),
        (2, {"kernel_size": 3, "groups": 2, "padding": 1}, 5),
        (1, {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1)}, 5),
    ],
)
def test_the_rule_agrees_with_a_dense_matrix(channels, options, side, norm, normalized, scrambled, pixels):
    model = starts_with(scrambled, nn.Conv2d(channels, 4, **options), norm, side, normalized)
    x = pixels(3, channels, side, side).double()
    relu = "network.2" if norm else "network.1"
    found, _, by_layer, _ = lrp_flex(model, x, 0, layers=[relu], epsilon=EPSILON)
    assert torch.allclose(found, zb_by_hand(model, x, by_layer[relu]), atol=1e-10)
    assert found.abs().max() > 1e-3


class PadsItself(nn.Conv2d):
    """A convolution that pads by itself as TensorFlow does: zeros, of an odd number one more to the right and below."""

    def forward(self, x):
        height, width = (
            max((-(-size // step) - 1) * step + kernel - size, 0)
            for size, kernel, step in zip(x.shape[2:], self.kernel_size, self.stride, strict=True)
        )
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


class PadsApart(nn.Conv2d):
    """A convolution that pads by a module before, by a function, and by itself."""

    def forward(self, x):
        x = F.pad(nn.ZeroPad2d((1, 0, 0, 2))(x), (0, 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, (0, 1), self.dilation, self.groups)


@pytest.mark.parametrize(
    ("kind", "channels", "options", "side"),
    [
        (PadsItself, 3, {"kernel_size": 3, "stride": 2, "bias": False}, 6),
        (PadsItself, 3, {"kernel_size": 3, "stride": 2}, 7),
        (PadsItself, 2, {"kernel_size": (2, 4), "stride": (1, 3), "groups": 2}, 6),
        (PadsApart, 3, {"kernel_size": 3, "dilation": 2}, 5),
        (PadsApart, 1, {"kernel_size": 3, "stride": 2}, 5),
    ],
)
@pytest.mark.parametrize("norm", [False, True])
def test_zeros_padded_before_the_first_convolution_are_in_no_range(
    kind, channels, options, side, norm, scrambled, pixels
):
    model = starts_with(scrambled, kind(channels, 4, **options), norm, side, normalized=True)
    x = pixels(2, channels, side, side + 1)[..., :side].double()
    relu = "network.2" if norm else "network.1"
    found, _, by_layer, _ = lrp_flex(model, x, 0, layers=[relu], epsilon=EPSILON)
    assert torch.allclose(found, zb_by_hand(model, x, by_layer[relu]), atol=1e-10)
    assert found.abs().max() > 1e-3
    at_first = lrp_flex(model, x, layers=[relu], start_layer=relu, start_relevance=torch.abs, epsilon=EPSILON)[0]
    assert (at_first >= -1e-12).all()


def test_no_relevance_is_lost_in_padded_zeros(scrambled, pixels):
    """With a bias of 0, and no stabiliser, all of the relevance of the first activation is found at the pixels."""
    model = starts_with(scrambled, PadsItself(3, 4, 3, 2, bias=False), False, 6, normalized=True)
    x = pixels(2, 3, 6, 6).double()
    found, _, by_layer, _ = lrp_flex(model, x, 0, layers=["network.1"], epsilon=1e-12)
    assert torch.allclose(found.sum((1, 2, 3)), by_layer["network.1"].sum((1, 2, 3)), atol=1e-9)


def deep(first: nn.Module, scrambled) -> AuditModel:
    network = nn.Sequential(
        first, nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip
    return AuditModel(scrambled(network), Normalize(MEAN, STD)).double()


@pytest.mark.parametrize("training", [False, True])
def test_maps_and_gradients_are_those_of_padding_by_a_module(training, scrambled, pixels):
    x = pixels(3, 3, 8, 8).double().requires_grad_()
    found = []
    for first in (PadsItself(3, 4, 3, 2), nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2))):
        model = deep(first, scrambled).train(training)
        maps = flex_maps(model, x, lambda logits: logits, create_graph=True)
        streamed, _ = streamed_loss(
            model, x, lambda logits: logits, lambda number, relevance, _: relevance.square().sum()
        )
        for loss in (maps.relevance.square().sum(), streamed):
            gradients = torch.autograd.grad(loss, [x, *model.parameters()], retain_graph=True, allow_unused=True)
            found.append([maps.relevance, loss, *(each for each in gradients if each is not None)])
    for others in found[1:]:
        assert len(others) == len(found[0]) > 8
        for one, other in zip(found[0], others, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_through_padded_zeros_agree_with_finite_differences(training, scrambled, pixels, monkeypatch):
    model, x = deep(PadsItself(3, 4, 3, 2), scrambled).train(training), pixels(3, 3, 8, 8).double().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(create_graph: bool = False) -> torch.Tensor:
        found = lrp_flex(model, x, 1, epsilon=0.1, create_graph=create_graph)[0]
        return (found * weights).sum() + found.square().sum()

    variables = {"x": x, **dict(model.named_parameters())}
    gradients = torch.autograd.grad(
        loss(create_graph=True), list(variables.values()), allow_unused=True, materialize_grads=True
    )
    original, first = zb._shift, []

    def constant(conv, norm):  # the rule holds it constant by design
        first.append(original(conv, norm))
        return first[0]

    monkeypatch.setattr(zb, "_shift", constant)
    loss()
    generator, step = torch.Generator().manual_seed(2), 1e-6
    for (name, variable), gradient in zip(variables.items(), gradients, strict=True):
        direction = torch.randn(variable.shape, generator=generator, dtype=torch.float64)
        values, sides = variable.data.clone(), []
        for sign in (1, -1):
            variable.data = values + sign * step * direction
            sides.append(float(loss()))
        variable.data = values
        slope = (sides[0] - sides[1]) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-5, abs=2e-6), name


@given(
    side=st.integers(5, 9),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    normalized=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_no_pixel_in_range_gets_negative_relevance_from_positive(
    scrambled, side, kernel, stride, padding, normalized, seed
):
    convolution = nn.Conv2d(3, 4, kernel, stride, padding)
    model = starts_with(scrambled, convolution, True, side, normalized, seed)
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed)).double().round(decimals=1)
    found = lrp_flex(model, x, start_layer="network.2", start_relevance=torch.abs)[0]
    assert (found >= -1e-10 * float(found.abs().max() + 1)).all()


def test_an_activation_inside_the_norm_changes_nothing(scrambled, pixels):
    layers = pytest.importorskip("timm.layers")
    separate = starts_with(scrambled, nn.Conv2d(3, 4, 3), True, 8, True)
    joined = nn.Sequential(nn.Conv2d(3, 4, 3), layers.BatchNormAct2d(4), nn.Flatten(), nn.Linear(144, 2)).double()
    for target, source in ((0, 0), (1, 1), (3, 4)):
        joined[target].load_state_dict(separate.network[source].state_dict())
    x = pixels(2, 3, 8, 8).double()
    expected = lrp_flex(separate, x, 0)[0]
    assert torch.allclose(lrp_flex(AuditModel(joined, separate.normalize).eval(), x, 0)[0], expected, atol=1e-12)


class Head(nn.Module):
    """Puts a function between the pixels, a convolution and a ReLU module."""

    def __init__(self, before=lambda x: x, between=lambda x: x):
        super().__init__()
        self.conv, self.relu, self.linear = nn.LazyConv2d(4, 3, padding=1), nn.ReLU(), nn.LazyLinear(2)
        self.before, self.between = before, between

    def forward(self, x):
        return self.linear(self.relu(self.between(self.conv(self.before(x)))).flatten(1))


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (Head(between=F.relu), r"starts with the modules convolution, \(BatchNorm,\) ReLU"),
        (Head(between=lambda x: F.max_pool2d(x, 2)), "starts with the modules"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 2)), "starts with the modules"),
        (Head(before=lambda x: 2 * x - 1), "changes the pixels before it"),
        (Head(before=lambda x: F.avg_pool2d(x, 2)), "changes the pixels before it"),
        (Head(before=lambda x: F.pad(x, (1, 0, 1, 0), value=0.5)), "otherwise than by padding with zeros"),
        (Head(before=lambda x: F.pad(F.pad(x, (1, 0), value=0.5), (1, 0))), "otherwise than by padding with zeros"),
        (Head(before=lambda x: F.pad(x, (-1, 1))), "otherwise than by padding with zeros"),
        (Head(before=lambda x: F.pad(x, (0, 0, 0, 0, 0, 3))), "otherwise than by padding with zeros"),
        (Head(before=lambda x: F.pad(2 * x - 1, (0, 1))), "otherwise than by padding with zeros"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
            "otherwise than by padding with zeros",
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU()), "no rule for padding='same'"),
    ],
)
def test_networks_that_start_otherwise_are_refused(network, match, pixels, untouched):
    x = pixels(2, 3, 8, 8)
    network(x)
    network.eval()
    untouched(network, lambda: lrp_flex(network, x, lambda out: out.flatten(1).sum(1)), ValueError, match)


def test_a_later_activation_is_not_taken_for_the_first(scrambled, pixels):
    """Convolution, ReLU, convolution, BatchNorm, ReLU: the BatchNorm belongs to the second convolution."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    model = AuditModel(scrambled(network)).double().eval()
    x = pixels(2, 3, 8, 8).double()
    found, _, by_layer, _ = lrp_flex(model, x, 1, layers=["network.1"], epsilon=EPSILON)
    assert torch.allclose(found, zb_by_hand(model, x, by_layer["network.1"]), atol=1e-10)
