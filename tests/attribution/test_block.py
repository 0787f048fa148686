from __future__ import annotations

import math
import operator
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import attribute
from pipeline.attribution.block import (
    BlockMap,
    all_classes_seed,
    class_seed,
    dual_maps,
    lrp_block,
    selective_seed,
)
from pipeline.attribution.maps import Maps
from pipeline.models.build import AuditModel, Normalize

T = torch.Tensor


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, convolution twice; takes everything before it."""

    def __init__(self, width: int, growth: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, 4, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(4), nn.Conv2d(4, growth, 3, padding=1)

    def forward(self, features: list[T]) -> T:
        bottleneck = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(bottleneck), inplace=True))


class Dense(nn.Module):
    """Stem with an overlapping max pool, two dense blocks, a transition. Takes [N, 3, 13, 13], gives 4 logits."""

    def __init__(self, layers: int = 11, growth: int = 2):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
        )
        self.first = nn.ModuleList([DenseLayer(4 + growth * at, growth) for at in range(layers)])
        width = 4 + growth * layers
        self.transition = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 6, 1, bias=False), nn.AvgPool2d(2)
        )
        self.second = nn.ModuleList([DenseLayer(6 + growth * at, growth) for at in range(2)])
        self.norm, self.linear = nn.BatchNorm2d(6 + growth * 2), nn.Linear(6 + growth * 2, 4)

    def forward(self, x: T) -> T:
        features = [self.stem(x)]
        for layer in self.first:
            features.append(layer(features))
        features = [self.transition(torch.cat(features, 1))]
        for layer in self.second:
            features.append(layer(features))
        x = F.relu(self.norm(torch.cat(features, 1)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class PreActivation(nn.Module):
    """A sum and a convolution that both a BatchNorm and a shortcut take."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.inner, self.again = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.linear = nn.Linear(16, 4)

    def forward(self, x: T) -> T:
        x = self.stem(x)
        x = x + self.inner(F.relu(self.norm(x)))
        return self.linear(F.adaptive_avg_pool2d(F.relu(self.again(x)), 2).flatten(1))


@pytest.fixture
def dense(scrambled) -> Callable[..., nn.Module]:
    return lambda seed=0, **options: scrambled(Dense(**options), seed)


@pytest.fixture
def pre_activation(scrambled) -> Callable[..., nn.Module]:
    return lambda seed=0: scrambled(PreActivation(), seed)


@pytest.fixture
def vgg(scrambled) -> Callable[..., nn.Module]:
    """Grouped and dilated convolutions, pools of all kinds at odd sizes, one that gives more than it takes."""

    def make(seed: int = 0) -> nn.Module:
        network = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=2, groups=3),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3, padding=2, dilation=2, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(8, 6, (2, 3), padding=(0, 1), stride=(2, 1)),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((3, 3)),
            nn.AdaptiveMaxPool2d(2),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(24, 5),
            nn.ReLU(),
            nn.Linear(5, 4),
        )
        return scrambled(network, seed)

    return make


NETWORKS = ("plain", "residual", "normalized", "dense", "pre_activation", "vgg")


@pytest.fixture
def network_of(request, pixels) -> Callable[..., tuple[nn.Module, T]]:
    """Return a network of that name in double precision, and pixels for it."""

    def make(name: str, count: int = 3, seed: int = 0, **options) -> tuple[nn.Module, T]:
        side = 12 if name == "plain" else 13
        return request.getfixturevalue(name)(seed, **options).double(), pixels(count, 3, side, side, seed=seed).double()

    return make


def one_hot(index: int) -> Callable[[T], T]:
    return lambda logits: F.one_hot(torch.full((len(logits),), index), logits.shape[1]).to(logits)


def epsilon_map(index: int = 0, epsilon: float = 1e-2) -> BlockMap:
    return BlockMap("epsilon", class_seed(index, epsilon))


def without_shifts(model: nn.Module) -> nn.Module:
    """Set biases, and what BatchNorm adds, to 0."""
    for module in model.modules():
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
    return model


# against other ways to compute the same


@pytest.mark.parametrize("input_rule", ["gradient_x_input", "zb"])
@pytest.mark.parametrize("name", NETWORKS)
def test_without_epsilon_it_is_lrp_flex_without_epsilon(name, input_rule, network_of):
    network, x = network_of(name)
    if input_rule == "zb" and name == "pre_activation":
        pytest.skip("LRP-Flex has Zb for networks that start with convolution, (BatchNorm,) ReLU alone")
    maps = [BlockMap("epsilon", one_hot(index)) for index in (0, 2)]
    found = lrp_block(network, x, maps, epsilon=0, input_rule=input_rule)
    for at, target in enumerate((0, 2)):
        expected = attribute(network, x, target, composite="lrp_flex", epsilon=0, input_rule=input_rule)
        scale = expected.relevance.abs().max()
        assert (found.relevance[:, at] - expected.relevance).abs().max() <= 1e-9 * scale
    assert torch.allclose(found.logits, network(x), atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_epsilon_every_layer_holds_gradient_times_activation(name, network_of):
    network, x = network_of(name)
    layers = [
        name
        for name, module in network.named_modules()
        if name and not isinstance(module, (nn.Dropout, nn.ModuleList, nn.Sequential, nn.ReLU))
        # a ReLU that is used twice, and what it writes over
    ]
    outputs: dict[str, T] = {}
    handles = [
        network.get_submodule(layer).register_forward_hook(
            lambda _m, _i, out, layer=layer: outputs.update({layer: out})
        )
        for layer in layers
    ]
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    options = {"epsilon": 0, "layers": layers, "input_rule": "gradient_x_input"}
    found = lrp_block(network, x, [BlockMap("epsilon", one_hot(1))], **options)
    for handle in handles:
        handle.remove()
    recorded = {}
    with torch.enable_grad():
        handles = [
            network.get_submodule(layer).register_forward_hook(
                lambda _m, _i, out, layer=layer: recorded.update({layer: out * 1}) or recorded[layer] * 1
            )
            for layer in layers
        ]
        total = network(x)[:, 1].sum()
        gradients = torch.autograd.grad(total, [recorded[layer] for layer in layers])
    for handle in handles:
        handle.remove()
    for layer, gradient in zip(layers, gradients, strict=True):
        expected = gradient * recorded[layer]
        tolerance = 1e-10 * float(expected.detach().abs().max())
        assert torch.allclose(found.relevances[layer][:, 0], expected, rtol=1e-8, atol=tolerance), layer
        assert torch.allclose(found.activations[layer], recorded[layer])


def test_epsilon_and_z_plus_by_hand_on_two_layers(scrambled, pixels):
    network = scrambled(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))).double()
    x, e = pixels(5, 6).double()[:, :, None, None].flatten(1), 0.3
    (w1, b1), (w2, b2) = ((layer.weight, layer.bias) for layer in (network[0], network[2]))
    z1 = x @ w1.T + b1
    a = z1.relu()
    y = a @ w2.T + b2

    def stabilized(z: T) -> T:
        return z + torch.where(z >= 0, e, -e)

    # epsilon
    of_hidden = a * ((y / stabilized(y)) @ w2)
    expected = x * ((of_hidden / stabilized(z1)) @ w1)
    options = {"epsilon": e, "input_rule": "gradient_x_input", "layers": ["1"]}
    found = lrp_block(
        network, x, [BlockMap("epsilon", all_classes_seed(e)), BlockMap("z_plus", all_classes_seed(e))], **options
    )
    assert torch.allclose(found.relevances["1"][:, 0], of_hidden, atol=1e-12)
    assert torch.allclose(found.relevance[:, 0], expected, atol=1e-12)
    # z+
    positive = a @ w2.clamp(min=0).T + b2.clamp(min=0)
    of_hidden = a * ((positive / (positive + e)) @ w2.clamp(min=0))
    expected = x * ((of_hidden / (x @ w1.clamp(min=0).T + b1.clamp(min=0) + e)) @ w1.clamp(min=0))
    assert torch.allclose(found.relevances["1"][:, 1], of_hidden, atol=1e-12)
    assert torch.allclose(found.relevance[:, 1], expected, atol=1e-12)


@pytest.mark.parametrize("name", ["residual", "normalized", "dense"])
@pytest.mark.parametrize("rule", ["epsilon", "z_plus"])
def test_batch_norm_counts_as_part_of_the_convolution_before_it(name, rule, network_of):
    """A BatchNorm divided into two, or with channels turned round, is the same linear map."""
    network, x = network_of(name)
    maps = [BlockMap(rule, all_classes_seed())]
    expected = lrp_block(network, x, maps).relevance
    flipped, x = network_of(name)
    pairs = {"residual": [("0", "1")], "normalized": [("0", "1"), ("3", "4"), ("7", "8")]}
    pairs |= {"dense": [("stem.0", "stem.1"), *((f"first.{at}.conv1", f"first.{at}.norm2") for at in range(11))]}
    for producer, norm in pairs[name]:
        conv, norm = flipped.get_submodule(producer), flipped.get_submodule(norm)
        with torch.no_grad():
            turn = torch.where(torch.arange(conv.out_channels) % 2 == 0, -2.0, 0.5).double()
            conv.weight.mul_(turn.view(-1, 1, 1, 1))
            if conv.bias is not None:
                conv.bias.mul_(turn)
            norm.running_mean.mul_(turn)
            norm.running_var.copy_((norm.running_var + norm.eps) * turn.square() - norm.eps)
            norm.weight.mul_(turn.sign())
    assert torch.allclose(flipped(x), network(x), atol=1e-10)
    assert torch.allclose(lrp_block(flipped, x, maps).relevance, expected, atol=1e-10 * expected.abs().max())


class Shared(nn.Module):
    """One convolution, or copies of it, whose output several BatchNorms and a ReLU take.

    Args:
        before: "pixels", or what makes its input: "rectified" or "signed".
    """

    def __init__(self, before: str, copies: bool):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU() if before == "rectified" else nn.Identity())
        width = 3 if before == "pixels" else 4
        self.convolutions = nn.ModuleList([nn.Conv2d(width, 6, 3) for _ in range(4 if copies else 1)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(6) for _ in range(3)])
        self.linear, self.before = nn.Linear(24, 3), before

    def forward(self, x: T) -> T:
        x = x if self.before == "pixels" else self.stem(x)
        results = [convolution(x) for convolution in self.convolutions]
        results = results if len(results) == 4 else results * 4
        normalized = [norm(result) for norm, result in zip(self.norms, results, strict=False)]
        return self.linear(F.relu(torch.cat([*normalized, results[3]], 1)).mean((2, 3)))


@pytest.mark.parametrize("input_rule", ["zb", "gradient_x_input"])
@pytest.mark.parametrize("rule", ["epsilon", "z_plus"])
@pytest.mark.parametrize("before", ["pixels", "rectified", "signed"])
def test_a_convolution_that_many_take_counts_as_a_copy_for_each(before, rule, input_rule, scrambled, pixels):
    """Also where BatchNorms turn the sign of other channels than the first of them does."""
    network, copies = scrambled(Shared(before, False)), scrambled(Shared(before, True))
    with torch.no_grad():
        for at, norm in enumerate(network.norms):
            norm.weight.mul_(torch.tensor([1.0, -1.0])[torch.arange(6) // (at + 1) % 2])
    state = network.state_dict()
    for name in copies.state_dict():
        source = "convolutions.0" + name[len("convolutions.0") :] if name.startswith("convolutions") else name
        copies.state_dict()[name].copy_(state[source])
    model, by_copies = (AuditModel(net, Normalize((0.3,), (0.5,))).double().eval() for net in (network, copies))
    x, maps = pixels(2, 3, 6, 6).double(), [BlockMap(rule, all_classes_seed())]
    assert torch.allclose(model(x), by_copies(x), atol=1e-12)
    found, expected = (lrp_block(each, x, maps, input_rule=input_rule).relevance for each in (model, by_copies))
    assert torch.allclose(found, expected, atol=1e-11 * float(expected.abs().max()))
    if rule == "z_plus":
        assert (found >= -1e-15).all()


def test_signed_results_support_channels_of_their_own_sign(scrambled, pixels):
    """By z+, R = (scale p)+ R' / ((scale p)+ + shift+ + e) for a p that no linear layer made."""
    network = scrambled(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    ).double()
    norm, e = network[2], 0.2
    with torch.no_grad():
        network[0].bias.sub_(0.6)
        norm.weight[::2] *= -1
    x = pixels(2, 3, 8, 8).double()
    found = lrp_block(network, x, [BlockMap("z_plus", all_classes_seed(e))], epsilon=e, layers=["0", "1", "3"])
    p = network[:2](x)
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).view(1, -1, 1, 1)
    shift = norm.bias.view(1, -1, 1, 1) - norm.running_mean.view(1, -1, 1, 1) * scale
    supporting = (scale * p).clamp(min=0)
    expected = supporting * found.relevances["3"][:, 0] / (supporting + shift.clamp(min=0) + e)
    assert torch.allclose(found.relevances["1"][:, 0], expected, atol=1e-13)
    below_zero = ((p < 0) & (found.relevances["1"][:, 0] > 1e-6)).sum()
    above_zero = ((p > 0) & (found.relevances["1"][:, 0] > 1e-6)).sum()
    assert below_zero > 3 and above_zero > 3
    # all of it goes to the winners: with a BatchNorm, pooling is one linear map and divides by nothing of its own
    below, pooled = (found.relevances[layer][:, 0].sum((2, 3)) for layer in ("0", "1"))
    assert torch.allclose(below, pooled, atol=1e-13)


def folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    return torch.nn.utils.fusion.fuse_conv_bn_eval(convolution.eval(), norm.eval())


@pytest.mark.parametrize("rule", ["epsilon", "z_plus"])
def test_batch_norm_gives_what_folding_it_by_hand_gives(rule, normalized, pixels):
    network, x = normalized().double(), pixels(2, 3, 13, 13).double()
    with torch.no_grad():
        for at in (1, 4, 8):
            network[at].weight[::2] *= -1
    by_hand = nn.Sequential(
        *(folded(network[at], network[at + 1]) if isinstance(network[at], nn.Conv2d) else network[at]
          for at in range(len(network)) if not isinstance(network[at], nn.BatchNorm2d))
    ).eval()  # fmt: skip
    maps = [BlockMap(rule, class_seed(1))]
    for input_rule in ("zb", "gradient_x_input"):
        found, expected = (lrp_block(net, x, maps, input_rule=input_rule).relevance for net in (network, by_hand))
        assert torch.allclose(found, expected, atol=1e-11 * float(expected.abs().max()))


# conservation and signs


@pytest.mark.parametrize("input_rule", ["zb", "gradient_x_input"])
@pytest.mark.parametrize("name", NETWORKS)
def test_z_plus_is_never_negative_and_conserved_without_shifts(name, input_rule, network_of):
    network, x = network_of(name)
    found = lrp_block(network, x, [BlockMap("z_plus", all_classes_seed())], input_rule=input_rule)
    assert (found.relevance >= 0).all() and found.relevance.max() > 0
    network = without_shifts(network)
    starts = []

    def seed(logits: T) -> T:
        starts.append(logits.sum(1))
        return torch.ones_like(logits)

    found = lrp_block(network, x, [BlockMap("z_plus", seed)], input_rule=input_rule, epsilon=1e-9)
    total = found.relevance.sum((1, 2, 3, 4))
    if name not in ("dense", "pre_activation"):
        assert torch.allclose(total, starts[0], rtol=1e-5)
    else:  # what signed sums and averages of convolutions hold below 0 takes nothing, and ends there where all is below
        assert (total <= starts[0] * (1 + 1e-6)).all() and (total >= 0.5 * starts[0]).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_epsilon_is_conserved_without_shifts(name, network_of):
    network, x = network_of(name)
    network = without_shifts(network)
    layers = {"plain": "3", "residual": "3", "normalized": "6", "dense": "stem", "pre_activation": "stem", "vgg": "4"}
    layer = layers[name]
    found = lrp_block(
        network, x, [BlockMap("epsilon", one_hot(1))], epsilon=1e-9, layers=[layer], input_rule="gradient_x_input"
    )
    logit = found.logits[:, 1]
    assert torch.allclose(found.relevance.sum((1, 2, 3, 4)), logit, rtol=1e-4, atol=1e-6)
    assert torch.allclose(found.relevances[layer].sum((1, 2, 3, 4)), logit, rtol=1e-4, atol=1e-6)


def test_an_overlapping_max_pool_adds_up_at_shared_winners(pixels):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(4 * 25, 2)
    ).double()
    nn.init.normal_(network[0].weight, generator=torch.Generator().manual_seed(0))
    x = pixels(2, 3, 11, 11).double()
    found = lrp_block(network, x, [BlockMap("epsilon", one_hot(0))], layers=["1", "2"], epsilon=1e-2)
    pooled, below = found.relevances["2"][:, 0], found.relevances["1"][:, 0]
    value = network[:3](x)
    assert torch.allclose(below.sum((2, 3)), (pooled * value / (value + 1e-2)).sum((2, 3)), atol=1e-12)
    _, winners = F.max_pool2d(network[:2](x), 3, 2, return_indices=True)
    shared = [len(set(channel.flatten().tolist())) < 25 for sample in winners for channel in sample]
    assert any(shared)


# derivatives


def slopes_agree(network: nn.Module, loss: Callable[..., T]) -> int:
    """Compare gradients with central differences along one random direction per parameter; return how many count."""
    network.zero_grad()
    loss(create_graph=True).backward()
    generator = torch.Generator().manual_seed(2)
    checked = 0
    for name, parameter in network.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = parameter.data.clone()
        gradient = 0.0 if parameter.grad is None else float((parameter.grad * direction).sum())
        found = []
        for step in (1e-6, 1e-7, 1e-5):  # wide ones cross where ReLU switches, narrow ones round
            sides = []
            for sign in (1, -1):
                parameter.data = values + sign * step * direction
                sides.append(float(loss()))
            found.append((sides[0] - sides[1]) / (2 * step))
            if gradient == pytest.approx(found[-1], rel=1e-5, abs=1e-5):
                break
        else:
            pytest.fail(f"{name}: {gradient}, but by differences {found}")
        parameter.data = values
        checked += abs(gradient) > 1e-3
    return checked


def maps_of(kind: str, epsilon: float) -> list[BlockMap]:
    if kind == "dual":
        return list(dual_maps(epsilon))
    return [BlockMap("epsilon", selective_seed(epsilon)), epsilon_map(1, epsilon)]


def masked(relevance: T) -> T:
    mask = torch.linspace(-1, 1, relevance.numel(), dtype=relevance.dtype).mul(7).sin().view(relevance.shape)
    return (relevance * mask).sum() + (relevance * mask).square().sum()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["dual", "selective"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_of_a_loss_on_relevance_agrees_with_finite_differences(name, kind, training, network_of):
    network, x = network_of(name, **({"count": 2, "layers": 2} if name == "dense" else {}))
    network.train(training)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[1] *= -1
    layer = {"plain": "6", "residual": "3", "normalized": "6", "dense": "transition.0"}.get(name)
    maps = maps_of(kind, 0.1)

    def loss(create_graph: bool = False) -> T:
        torch.manual_seed(0)  # dropout
        input_rule = "zb" if kind == "dual" else "gradient_x_input"
        options = {"layers": [layer] if layer else [], "epsilon": 0.1, "input_rule": input_rule}
        found = lrp_block(network, x, maps, create_graph=create_graph, **options)
        total = masked(found.relevance) + F.cross_entropy(found.logits, torch.arange(len(x)))
        return total + sum(masked(each) for each in found.relevances.values())

    assert slopes_agree(network, loss) >= 5


def test_constant_biases_take_only_their_own_gradient_away(normalized, pixels):
    network, x = normalized().double(), pixels(3, 3, 13, 13).double()

    def loss(create_graph: bool = False, constant_biases: bool = False) -> T:
        found = lrp_block(
            network, x, dual_maps(0.1), create_graph=create_graph, epsilon=0.1, constant_biases=constant_biases
        )
        return masked(found.relevance)

    true = torch.autograd.grad(loss(create_graph=True), list(network.parameters()), allow_unused=True)
    constant = torch.autograd.grad(
        loss(create_graph=True, constant_biases=True), list(network.parameters()), allow_unused=True
    )
    assert torch.allclose(loss(), loss(constant_biases=True))
    for (name, parameter), one, other in zip(network.named_parameters(), true, constant, strict=True):
        if parameter.ndim > 1:
            assert torch.allclose(one, other, atol=1e-9 * float(one.abs().max())), name
    last = [name for name, _ in network.named_parameters()].index("16.bias")
    assert true[last].abs().max() > 1e-3 and (constant[last] is None or constant[last].abs().max() < 1e-12)


def test_logits_have_their_ordinary_gradients(residual, pixels):
    network, x, y = residual().double().train(), pixels(3, 3, 13, 13).double(), torch.tensor([0, 1, 2])
    torch.manual_seed(0)
    expected = torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters()))
    torch.manual_seed(0)
    logits = lrp_block(network, x, dual_maps(), create_graph=True).logits
    found = torch.autograd.grad(F.cross_entropy(logits, y), list(network.parameters()))
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(expected, found, strict=True))


# samples, modes


@pytest.mark.parametrize("name", NETWORKS)
def test_a_map_does_not_depend_on_the_rest_of_the_batch(name, network_of):
    network, x = network_of(name, 4)
    maps = [*dual_maps(), BlockMap("epsilon", selective_seed())]
    among, alone = lrp_block(network, x, maps).relevance, lrp_block(network, x[1:2], maps).relevance
    others = lrp_block(network, torch.cat([1 - x[:1], x[1:2]]), maps).relevance
    assert torch.allclose(among[1], alone[0], atol=1e-12 * float(alone.abs().max()))
    assert torch.allclose(others[1], alone[0], atol=1e-12 * float(alone.abs().max()))


def test_statistics_of_the_batch_are_constants_of_the_maps(residual, pixels):
    """In training mode, maps are those of a network whose running statistics are the batch's."""
    network, x = residual().double(), pixels(5, 3, 13, 13).double()
    for module in network.modules():
        module.momentum = 1.0
    network.train()
    network[7].p = 0.0
    maps = [*dual_maps(), epsilon_map(2)]
    expected = lrp_block(network, x, maps)
    frozen = network
    for module in frozen.modules():
        if isinstance(module, nn.BatchNorm2d):  # running statistics are unbiased, those used are not
            count = 5 * (36 if module.num_features == 6 else 1)
            module.running_var.mul_((count - 1) / count)
    found = lrp_block(frozen.eval(), x, maps)
    assert torch.allclose(found.logits, expected.logits, atol=1e-10)
    assert torch.allclose(found.relevance, expected.relevance, atol=1e-9 * float(expected.relevance.abs().max()))


def test_running_statistics_move_as_in_a_forward_pass(residual, pixels):
    once, twice, x = residual().train(), residual().train(), pixels(4, 3, 13, 13)
    torch.manual_seed(0)
    once(x)
    torch.manual_seed(0)
    lrp_block(twice, x, dual_maps(), create_graph=True)
    assert all(torch.equal(one, other) for one, other in zip(once.buffers(), twice.buffers(), strict=True))


def test_the_memory_layout_changes_nothing(dense, pixels):
    network, x = dense().double(), pixels(2, 3, 13, 13).double()
    expected = lrp_block(network, x, dual_maps(), create_graph=True).relevance
    network = network.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    found = lrp_block(network, x, dual_maps(), create_graph=True).relevance
    assert torch.allclose(found, expected, atol=1e-11 * float(expected.detach().abs().max()))
    gradients = [torch.autograd.grad(masked(each), network.stem[0].weight)[0] for each in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-9 * float(gradients[0].abs().max()))


def test_all_maps_come_from_one_forward_pass(residual, pixels):
    network, x = residual(), pixels(2, 3, 13, 13)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    maps = [epsilon_map(0), *dual_maps(), epsilon_map(3)]
    together = lrp_block(network, x, maps, layers=["3", "4"])
    assert len(calls) == 1
    assert together.relevance.shape == (2, 4, 3, 13, 13) and together.relevances["3"].shape == (2, 4, 6, 6, 6)
    for at, each in enumerate(maps):
        alone = lrp_block(network, x, [each], layers=["3"])
        assert torch.allclose(alone.relevance[:, 0], together.relevance[:, at], rtol=1e-4, atol=1e-6)
        assert torch.allclose(alone.relevances["3"][:, 0], together.relevances["3"][:, at], rtol=1e-4, atol=1e-6)


def test_with_and_without_a_graph_maps_are_the_same(dense, pixels, untouched):
    network, x = dense(), pixels(2, 3, 13, 13)
    maps = [*dual_maps(), epsilon_map(1)]
    kept: list[Maps] = []
    untouched(network, lambda: kept.append(lrp_block(network, x, maps, create_graph=True, layers=["transition.1"])))
    untouched(network, lambda: kept.append(lrp_block(network, x, maps, layers=["transition.1"])))
    graph, plain = kept
    assert torch.allclose(graph.relevance, plain.relevance, rtol=1e-4, atol=1e-6)
    tensors = [plain.relevance, plain.logits, *plain.relevances.values(), *plain.activations.values()]
    assert not any(tensor.requires_grad for tensor in tensors)
    assert graph.relevance.requires_grad and graph.relevances["transition.1"].requires_grad


# pixels


def test_normalization_belongs_to_the_first_layer(residual, pixels, scrambled):
    """Zb knows the range of normalised pixels; otherwise pixels count from black, as if folded into the weights."""
    mean, std = (0.3, 0.5, 0.7), (0.2, 0.5, 1.5)
    network, x = residual().double(), pixels(2, 3, 13, 13).double()
    network[0] = scrambled(nn.Conv2d(3, 6, 3, stride=2)).double()
    model = AuditModel(network, Normalize(mean, std)).double().eval()
    by_hand = residual().double()
    by_hand.load_state_dict({k: v for k, v in network.state_dict().items() if k != "0.bias"}, strict=False)
    by_hand[0] = nn.Conv2d(3, 6, 3, stride=2).double()
    with torch.no_grad():
        by_hand[0].weight.copy_(network[0].weight / torch.tensor(std).double().view(1, 3, 1, 1))
        by_hand[0].bias.copy_(network[0].bias - (by_hand[0].weight.sum((2, 3)) @ torch.tensor(mean).double()))
    maps = [*dual_maps(), epsilon_map(1)]
    found, expected = (
        lrp_block(model, x, maps, input_rule="gradient_x_input"),
        lrp_block(by_hand, x, maps, input_rule="gradient_x_input"),
    )
    assert torch.allclose(found.logits, expected.logits, atol=1e-6)
    assert torch.allclose(found.relevance, expected.relevance, atol=1e-5 * float(expected.relevance.abs().max()))
    assert (lrp_block(model, x, maps).relevance[:, 0] >= 0).all()
    # flex has the same Zb, with its own stabilisation
    expected = attribute(model, x, 1, composite="lrp_flex", epsilon=0).relevance
    found = lrp_block(model, x, [BlockMap("epsilon", one_hot(1))], epsilon=0).relevance[:, 0]
    assert torch.allclose(found, expected, atol=1e-9 * float(expected.abs().max()))


def test_pixels_that_the_network_changes_itself_are_refused(functional, plain, pixels, untouched):
    network = nn.Sequential(functional(lambda x: 2 * x - 1), plain()).eval()
    untouched(
        network, lambda: lrp_block(network, pixels(2, 3, 12, 12), dual_maps()), ValueError, "changes the pixels before"
    )
    network = nn.Sequential(nn.ReLU(), plain()).eval()
    untouched(network, lambda: lrp_block(network, pixels(2, 3, 12, 12), dual_maps()), ValueError, "layer before relu")


# seeds


def test_selective_explains_the_lowest_logit_against_a_softmax_of_the_others():
    generator = torch.Generator().manual_seed(0)
    logits, e = torch.randn(6, 5, generator=generator, dtype=torch.float64) * 3, 1e-2
    found = selective_seed(e)(logits)
    for row, seed in zip(logits, found, strict=True):
        c = int(row.argmin())
        z = row[c] - row
        w = torch.exp(-z)
        expected = torch.zeros_like(row)
        for j in range(5):
            if j != c:
                share = w[j] / (w.sum() - 1 + 1e-5) * z[j] / (z[j] - e)
                expected[j] -= share
                expected[c] += share
        assert torch.allclose(seed, expected, atol=1e-12)


def test_large_gaps_between_logits_stay_finite():
    logits = torch.tensor([[0.0, 1000.0, -1000.0], [-500.0, 500.0, 500.0], [3.0, 3.0, 3.0]], requires_grad=True)
    seed = selective_seed()(logits)
    seed.square().sum().backward()
    assert torch.isfinite(seed).all() and torch.isfinite(logits.grad).all()
    assert torch.allclose(seed[0], torch.tensor([0.0, -1.0, 1.0]), atol=1e-4)
    assert seed[1].tolist() == pytest.approx([1, -0.5, -0.5], abs=1e-4)


def test_maps_of_confident_networks_stay_finite(plain, pixels):
    network = plain()
    with torch.no_grad():
        network[-1].bias += torch.tensor([1000.0, -1000.0, 0.0, 0.0])
    maps = [BlockMap("epsilon", selective_seed()), *dual_maps()]
    relevance = lrp_block(network, pixels(2, 3, 12, 12), maps, create_graph=True).relevance
    gradients = torch.autograd.grad(relevance.square().sum(), list(network.parameters()), allow_unused=True)
    assert torch.isfinite(relevance).all() and all(g is None or torch.isfinite(g).all() for g in gradients)


def test_seeds_of_classes_and_of_all_together():
    logits = torch.tensor([[2.0, -1.0, 0.0]])
    assert torch.allclose(class_seed(1, 0.5)(logits), torch.tensor([[0, 1 / 1.5, 0]]))
    assert torch.allclose(all_classes_seed(0.5)(logits), torch.tensor([[2 / 2.5, 1 / 1.5, 0]]))
    assert torch.equal(all_classes_seed(0.0)(logits), torch.tensor([[1.0, 1.0, 0.0]]))


# what is refused


def test_bad_requests_are_refused_by_name(plain, pixels):
    network, x = plain(), pixels(2, 3, 12, 12)
    with pytest.raises(ValueError, match="at least one map"):
        lrp_block(network, x, [])
    with pytest.raises(ValueError, match="rule 'gamma' is unknown; allowed are epsilon, z_plus"):
        lrp_block(network, x, [BlockMap("gamma", class_seed(0))])
    with pytest.raises(ValueError, match="input_rule 'z_b' is unknown; allowed are zb, gradient_x_input"):
        lrp_block(network, x, dual_maps(), input_rule="z_b")
    with pytest.raises(ValueError, match=r"a seed returned the shape \[2\], expected that of logits \[2, 4\]"):
        lrp_block(network, x, [BlockMap("epsilon", lambda logits: logits[:, 0])])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.GELU(), "no rule for gelu"),
        (nn.Sigmoid(), "no rule for sigmoid"),
        (nn.Hardtanh(), "no rule for hardtanh"),
        (nn.GroupNorm(2, 4), "no rule for group_norm"),
        (nn.ConvTranspose2d(4, 4, 1), "no rule for conv_transpose2d"),
        (nn.Conv2d(4, 4, 2, padding="same"), "padding='same' with an even kernel"),
    ],
)
def test_a_network_beyond_the_rules_is_refused_by_name(layer, message, scrambled, pixels, untouched):
    network = scrambled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), layer, nn.Flatten(), nn.Linear(144, 2)))
    untouched(network, lambda: lrp_block(network, pixels(2, 3, 8, 8), dual_maps()), ValueError, message)


class Gate(nn.Module):
    def __init__(self, function: Callable[[T], T]):
        super().__init__()
        self.conv, self.linear, self.function = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), function

    def forward(self, x: T) -> T:
        return self.linear(self.function(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x * x.mean((2, 3), keepdim=True), "values that depend on the image, such as gates"),
        (lambda x: 1 / x, "no rule for"),
        (lambda x: (F.relu(x, inplace=True), x)[1], "writes over a tensor and uses it again"),
        (lambda x: (x.add_(1.0), x)[1], "writes over a tensor and uses it again"),
        (lambda x: (operator.iadd(x, x * 2), x)[1], "writes over a tensor and uses it again"),
    ],
)
def test_operations_that_hide_where_values_come_from_are_refused(function, message, scrambled, pixels, untouched):
    network = scrambled(Gate(function))
    untouched(network, lambda: lrp_block(network, pixels(2, 3, 8, 8), dual_maps()), ValueError, message)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 0.5 + 1.0,
        lambda x: F.pad(x, (1, 0, 0, 1)) / 2,
        lambda x: torch.cat([x[:, :2], x[:, 2:].flip(1)], 1),
        lambda x: torch.cat([x, F.relu(x)], 3),
        lambda x: torch.cat([x, x], 1)[:, 2:6],
        lambda x: F.relu(x) - x,
        lambda x: both_ways(F.avg_pool2d(x, 2)),
        lambda x: both_ways(F.max_pool2d(x, 3, 2)),
        lambda x: both_ways(x.flip(2)),
        lambda x: F.relu(x) + x.relu(),
        lambda x: sum([x, x, F.relu(x)]),
        lambda x: F.relu(F.avg_pool2d(x, 2)),
        lambda x: F.batch_norm(torch.cat([x.mean((2, 3), True).expand_as(x)[:, :2], x[:, 2:]], 1), *STATISTICS),
    ],
)
def test_other_linear_operations_pass_what_their_gradient_says(function, scrambled, pixels):
    network = scrambled(Gate(function)).double()
    x = pixels(2, 3, 8, 8).double().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[:, 1].sum(), x)
    found = lrp_block(network, x, [BlockMap("epsilon", one_hot(1))], epsilon=0, input_rule="gradient_x_input")
    assert torch.allclose(found.relevance[:, 0], x * gradient, atol=1e-11)
    positive = lrp_block(network, x, [BlockMap("z_plus", all_classes_seed())]).relevance
    assert (positive >= 0).all()


def both_ways(x: T) -> T:
    """What a BatchNorm and a sum take."""
    return F.batch_norm(x, *STATISTICS) + x


STATISTICS = (torch.zeros(4).double(), torch.ones(4).double(), torch.tensor([1.0, -1.0, 2.0, -0.5]).double())


def test_a_network_without_a_final_linear_layer_is_explained(scrambled, pixels):
    network = scrambled(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ).double()
    x = pixels(2, 3, 8, 8).double().requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[:, 1].sum(), x)
    found = lrp_block(network, x, [BlockMap("epsilon", one_hot(1))], epsilon=0, input_rule="gradient_x_input")
    assert torch.allclose(found.relevance[:, 0], x * gradient, atol=1e-12)
    assert math.isfinite(float(lrp_block(network, x, dual_maps()).relevance.sum()))
