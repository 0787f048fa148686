"""Every rule against its formula, written out over all contributions of a dense matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from torch import nn

from pipeline.attribution import Explainer
from pipeline.attribution.rules import RULES, make_rule
from pipeline.errors import ConfigError
from pipeline.models.build import AuditModel, Normalize

T = torch.Tensor
LOW, HIGH = 0.0, 1.0  # of pixels, where no Normalize says otherwise


def divided(relevance: T, z: T, epsilon: float = 1e-6) -> T:
    """relevance / (z + epsilon sign z), zero counting as positive."""
    return relevance / torch.where(z >= 0, z + epsilon, z - epsilon)


def shared(parts: T, z: T, relevance: T, epsilon: float = 1e-6) -> T:
    """Parts `[N, J, I]` of every z `[N, J]` -> relevance `[N, I]` of the inputs."""
    return torch.einsum("nji,nj->ni", parts, divided(relevance, z, epsilon))


def epsilon(c: T, b: T, of_biases: T, relevance: T, epsilon: float = 1e-6, **_) -> T:
    z = c.sum(2) + b + of_biases
    found = shared(c, z, relevance, epsilon)
    missing = of_biases * divided(relevance, z, epsilon)
    return found + shared(c.abs(), c.abs().sum(2), missing, epsilon)


def z_plus(c: T, b: T, relevance: T, **_) -> T:
    supporting = c.clamp(min=0)
    return shared(supporting, supporting.sum(2) + b.clamp(min=0), relevance)


def alpha_beta(c: T, b: T, relevance: T, alpha: float = 2.0, beta: float = 1.0, **_) -> T:
    supporting, opposing = c.clamp(min=0), c.clamp(max=0)
    return alpha * shared(supporting, supporting.sum(2) + b.clamp(min=0), relevance) - beta * shared(
        opposing, opposing.sum(2) + b.clamp(max=0), relevance
    )


def gamma(c: T, b: T, of_biases: T, relevance: T, gamma: float = 0.25, **_) -> T:
    output, found = c.sum(2) + b + of_biases, torch.zeros(())
    for bounds, chosen in (({"min": 0}, output > 0), ({"max": 0}, output < 0)):
        parts, taken, kept = (v + gamma * v.clamp(**bounds) for v in (c, of_biases, b))
        z = parts.sum(2) + taken + kept
        missing = taken * divided(relevance * chosen, z, 1e-6)
        found = found + shared(parts, z, relevance * chosen) + shared(c.abs(), c.abs().sum(2), missing)
    return found


def flat(connected: T, relevance: T, **_) -> T:
    return shared(connected.expand(len(relevance), -1, -1), connected.sum(1).expand_as(relevance), relevance)


def w_square(matrix: T, relevance: T, **_) -> T:
    squared = matrix.square()
    return shared(squared.expand(len(relevance), -1, -1), squared.sum(1).expand_as(relevance), relevance)


def zb(c: T, matrix: T, relevance: T, **_) -> T:
    parts = c - LOW * matrix.clamp(min=0) - HIGH * matrix.clamp(max=0)
    return shared(parts, parts.sum(2), relevance)


def absolute_share(x: T, matrix: T, relevance: T, **_) -> T:
    parts = (x.abs() + 1e-6)[:, None] * matrix.abs()
    return shared(parts, parts.sum(2), relevance, 1e-12)


FORMULAS: dict[str, Callable[..., T]] = {
    "epsilon": epsilon,
    "epsilon(epsilon=0.3)": lambda **given: epsilon(**given, epsilon=0.3),
    "z_plus": z_plus,
    "gamma": gamma,
    "gamma(gamma=3)": lambda **given: gamma(**given, gamma=3.0),
    "alpha_beta": alpha_beta,
    "alpha_beta(alpha=1, beta=0)": lambda **given: alpha_beta(**given, alpha=1.0, beta=0.0),
    "flat": flat,
    "w_square": w_square,
    "zb": zb,
    "absolute_share": absolute_share,
}

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(7, 5), (7,)),
    "linear on tokens": (nn.Linear(4, 3), (3, 4)),
    "1-d": (nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 7)),
    "1-d in groups": (nn.Conv1d(4, 6, 2, groups=2), (4, 5)),
    "2-d": (nn.Conv2d(2, 3, 3, padding=1), (2, 4, 4)),
    "2-d with stride": (nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 6, 4)),
    "2-d, not all pixels seen": (nn.Conv2d(2, 3, 2, stride=3), (2, 6, 5)),
    "2-d in groups": (nn.Conv2d(4, 4, 3, groups=2, padding=1), (4, 3, 4)),
    "2-d depthwise": (nn.Conv2d(3, 6, 3, groups=3), (3, 4, 5)),
    "2-d with dilation": (nn.Conv2d(2, 3, 2, dilation=(2, 3), padding=(0, 1)), (2, 4, 5)),
    "2-d same": (nn.Conv2d(2, 3, (2, 3), padding="same"), (2, 4, 3)),
    "2-d same with dilation": (nn.Conv2d(2, 2, 2, padding="same", dilation=3), (2, 5, 4)),
    "2-d valid": (nn.Conv2d(2, 3, 2, padding="valid"), (2, 4, 3)),
    "2-d pointwise": (nn.Conv2d(3, 4, 1, stride=2), (3, 4, 3)),
    "3-d": (nn.Conv3d(2, 2, 2, stride=(1, 2, 1), padding=(0, 1, 0)), (2, 3, 3, 2)),
    "transposed": (nn.ConvTranspose2d(3, 3, 2, stride=2, padding=1), (3, 3, 3)),
    "transposed to fewer": (nn.ConvTranspose1d(4, 2, 3, groups=2, dilation=2), (4, 4)),
}


def entries(layer: nn.Module, shape: tuple[int, ...]) -> Iterator[tuple[tuple, tuple, T]]:
    """Yield (output index, input index, weight) for every connection of a layer, by its definition."""
    if isinstance(layer, nn.Linear):
        for place in product(*map(range, shape[:-1])):
            for j, i in product(range(layer.out_features), range(layer.in_features)):
                yield (*place, j), (*place, i), layer.weight[j, i]
        return
    transposes = isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d))
    sizes, kernel, groups = shape[1:], layer.kernel_size, layer.groups
    before = layer.padding
    if isinstance(before, str):
        # PyTorch puts the odd position behind
        total = [step * (size - 1) for step, size in zip(layer.dilation, kernel, strict=True)]
        before = tuple(each // 2 if layer.padding == "same" else 0 for each in total)
    outputs = output_shape(layer, shape)[1:]
    per_group = layer.out_channels // groups, layer.in_channels // groups
    for group, j, i in product(range(groups), *map(range, per_group)):
        channel_out, channel_in = group * per_group[0] + j, group * per_group[1] + i
        # of a transposed convolution, the input steps and the output is met
        stepping, met = (sizes, outputs) if transposes else (outputs, sizes)
        for place, offset in product(product(*map(range, stepping)), product(*map(range, kernel))):
            other = tuple(
                p * stride - pad + o * dilation
                for p, o, stride, pad, dilation in zip(
                    place, offset, layer.stride, before, layer.dilation, strict=True
                )
            )  # fmt: skip
            if not all(0 <= position < size for position, size in zip(other, met, strict=True)):
                continue
            if transposes:
                yield (channel_out, *other), (channel_in, *place), layer.weight[(channel_in, j, *offset)]
            else:
                yield (channel_out, *place), (channel_in, *other), layer.weight[(channel_out, i, *offset)]


def output_shape(layer: nn.Module, shape: tuple[int, ...]) -> torch.Size:
    return layer(torch.zeros(1, *shape).double()).shape[1:]


def dense(layer: nn.Module, shape: tuple[int, ...]) -> tuple[T, T, T]:
    """Return matrix `[J, I]`, connections `[J, I]` and bias `[J]` of a layer."""
    outputs = output_shape(layer, shape)
    of_output = torch.arange(outputs.numel()).view(outputs)
    of_input = torch.arange(torch.Size(shape).numel()).view(shape)
    matrix = torch.zeros(outputs.numel(), of_input.numel()).double()
    connected = torch.zeros_like(matrix)
    for j, i, weight in entries(layer, shape):
        matrix[of_output[j], of_input[i]] = weight.item()
        connected[of_output[j], of_input[i]] = 1
    bias = torch.zeros(outputs).double()
    if layer.bias is not None:
        axis = (-1,) if isinstance(layer, nn.Linear) else (-1, *[1] * (len(outputs) - 1))
        bias = bias + layer.bias.detach().view(axis)
    return matrix, connected, bias.flatten()


@pytest.fixture(scope="module")
def layers(scrambled) -> dict[str, tuple[nn.Module, tuple[int, ...], tuple[T, T, T]]]:
    made = {
        name: (scrambled(layer, seed).double(), shape) for seed, (name, (layer, shape)) in enumerate(LAYERS.items())
    }
    for layer, _ in made.values():
        layer.bias.data.mul_(5)
    return {name: (layer, shape, dense(layer, shape)) for name, (layer, shape) in made.items()}


def relevance_by(
    rule: str, layer: nn.Module, x: T, relevance: T, *, nonnegative: bool, keeps_biases: bool = True, **options
) -> T:
    """Relevance of x by the engine; a ReLU before the layer tells it that inputs are non-negative."""
    front = nn.ReLU() if nonnegative else nn.Identity()
    network = nn.Sequential(front, layer, nn.Flatten())
    explainer = Explainer(network, x, "epsilon", rules={"1": rule}, without_biases=not keeps_biases, **options)
    return explainer.attribute(x, start_layer="1", start_relevance=relevance).relevance


def signed(*shape: int, seed: int = 0) -> T:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rule", FORMULAS)
def test_a_rule_is_its_formula(rule, name, layers):
    layer, shape, (matrix, connected, bias) = layers[name]
    x, relevance = signed(2, *shape), signed(2, len(matrix), seed=1)
    assert torch.allclose(layer(x).flatten(1), x.flatten(1) @ matrix.T + bias), "the written-out layer is the layer"
    for nonnegative, has_bias, keeps_biases in (
        (False, 1, 1),
        (True, 1, 1),
        (False, 1, 0),
        (True, 1, 0),
        (False, 0, 1),
    ):
        own_bias, layer.bias = layer.bias, layer.bias if has_bias else None
        found = relevance_by(
            rule, layer, x, relevance.view(2, *output_shape(layer, shape)),
            nonnegative=nonnegative, keeps_biases=bool(keeps_biases),
        )  # fmt: skip
        layer.bias = own_bias
        seen = (x.relu() if nonnegative else x).flatten(1)
        b = (bias * has_bias).expand(2, -1)
        expected = FORMULAS[rule](
            x=seen, c=seen[:, None] * matrix, matrix=matrix, connected=connected, relevance=relevance,
            b=b * keeps_biases, of_biases=b * (1 - keeps_biases),
        )  # fmt: skip
        # the Zb rule adds and takes away the bias
        scale = float(expected.abs().max())
        assert torch.allclose(found.flatten(1), expected, rtol=1e-9, atol=1e-11 * scale), (nonnegative, keeps_biases)
        assert scale > 1e-3


def test_every_rule_has_a_formula_here():
    assert {text.partition("(")[0] for text in FORMULAS} == set(RULES)


@pytest.mark.parametrize("rule", [rule for rule in FORMULAS if not rule.startswith(("alpha_beta", "epsilon("))])
@pytest.mark.parametrize("nonnegative", [False, True])
def test_without_biases_the_whole_relevance_arrives(rule, nonnegative, scrambled):
    convolution = scrambled(nn.Conv2d(6, 4, 3, padding=1)).double()
    convolution.bias.data.mul_(20)
    x, relevance = signed(5, 6, 6, 6), signed(5, 4, 6, 6, seed=1)
    conserved = relevance_by(rule, convolution, x, relevance, nonnegative=nonnegative, keeps_biases=False)
    kept = relevance_by(rule, convolution, x, relevance, nonnegative=nonnegative)
    assert conserved.flatten(1).sum(1) == pytest.approx(relevance.flatten(1).sum(1), rel=2e-3)
    if rule not in ("flat", "w_square", "zb", "absolute_share"):
        difference = (kept.flatten(1).sum(1) - relevance.flatten(1).sum(1)).abs()
        assert (difference > 0.01).all(), "with biases, they take their share"


@pytest.mark.parametrize("rule", ["flat", "w_square"])
@pytest.mark.parametrize("name", ["linear", "2-d with stride", "2-d in groups", "2-d depthwise", "3-d"])
def test_rules_that_look_at_weights_alone_do_not_see_the_input(rule, name, layers):
    layer, shape, (matrix, _, _) = layers[name]
    relevance = signed(2, len(matrix), seed=1).view(2, *output_shape(layer, shape))
    of_x, of_other = (
        relevance_by(rule, layer, x, relevance, nonnegative=False)
        for x in (signed(2, *shape), signed(2, *shape, seed=9))
    )
    assert torch.equal(of_x, of_other)


def test_an_output_of_zero_gets_a_share_that_is_finite():
    layer = nn.Linear(2, 1, bias=False).double()
    layer.weight.data[:] = torch.tensor([[1.0, -1.0]])
    x = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).double()
    for rule in FORMULAS:
        found = relevance_by(rule, layer, x, torch.ones(2, 1).double(), nonnegative=True)
        assert found.isfinite().all(), rule
        if rule.startswith(("epsilon", "z_plus", "alpha_beta", "gamma")):
            assert found[1].abs().max() == 0, "black pixels contribute nothing"


def test_gamma_leads_from_the_epsilon_rule_to_the_z_plus_rule(layers):
    layer, shape, (matrix, _, _) = layers["2-d"]
    x = signed(2, *shape)
    relevance = signed(2, len(matrix), seed=1).view(2, *output_shape(layer, shape)) * (layer(x) > 0).double()

    def by(rule: str) -> T:
        return relevance_by(rule, layer, x, relevance, nonnegative=False)

    assert torch.allclose(by("gamma(gamma=0)"), by("epsilon"), rtol=1e-9)
    assert torch.allclose(by("gamma(gamma=1e9)"), by("z_plus"), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(by("gamma"), by("epsilon"), rtol=0.1)


@pytest.mark.parametrize("rule", FORMULAS)
@pytest.mark.parametrize("name", ["2-d", "2-d pointwise", "2-d depthwise", "2-d same"])
def test_the_memory_layout_changes_nothing(rule, name, layers):
    layer, shape, (matrix, _, _) = layers[name]
    x, relevance = signed(2, *shape), signed(2, len(matrix), seed=1).view(2, *output_shape(layer, shape))
    last, first = (
        relevance_by(rule, layer, x, relevance, nonnegative=False, channels_last=layout) for layout in (True, False)
    )
    assert torch.allclose(last, first, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", ["z_plus", "gamma", "alpha_beta"])
def test_knowing_inputs_to_be_non_negative_saves_work_and_changes_nothing(rule, layers):
    layer, shape, (matrix, _, _) = layers["2-d"]
    x, relevance = signed(2, *shape).abs(), signed(2, len(matrix), seed=1).view(2, *output_shape(layer, shape))
    known, unknown = (relevance_by(rule, layer, x, relevance, nonnegative=known) for known in (True, False))
    assert torch.allclose(known, unknown, rtol=1e-12)


def test_the_box_of_the_zb_rule_has_a_side_per_channel(scrambled):
    layer = scrambled(nn.Conv2d(3, 2, 1, bias=False)).double()
    normalize = Normalize((0.2, 0.5, 0.4), (0.25, 0.5, 2.0)).double()
    model = AuditModel(nn.Sequential(layer, nn.Flatten()), normalize)
    x, relevance = signed(2, 3, 2, 2).abs().clamp(max=1), signed(2, 2, 2, 2, seed=1)
    explainer = Explainer(model, x, "epsilon", rules={"network.0": "zb"})
    found = explainer.attribute(x, start_layer="network.0", start_relevance=relevance).relevance
    weight = layer.weight[:, :, 0, 0].detach()
    seen, low, high = normalize(x), normalize(torch.zeros_like(x)), normalize(torch.ones_like(x))
    c = torch.einsum("nihw,ji->njihw", seen, weight)
    c = c - torch.einsum("nihw,ji->njihw", low, weight.clamp(min=0)) - torch.einsum(
        "nihw,ji->njihw", high, weight.clamp(max=0)
    )  # fmt: skip
    assert torch.allclose(found, (c * divided(relevance, c.sum(2))[:, :, None]).sum(1), rtol=1e-9)
    assert (c >= 0).all() and c.sum() > 0


@pytest.mark.parametrize("first", [nn.Conv1d(3, 4, 3), nn.Sequential(nn.Flatten(), nn.Linear(30, 4)), nn.Linear(10, 4)])
def test_the_zb_rule_finds_the_channels_also_of_signals_and_of_flattened_pixels(first, scrambled):
    network = scrambled(nn.Sequential(first, nn.Flatten())).double()
    layer = next(name for name, module in network.named_modules() if hasattr(module, "weight"))
    x = signed(2, 3, 10).abs().clamp(max=1)
    found = Explainer(network, x, "epsilon", rules={layer: "zb"}).attribute(
        x, start_layer=layer, start_relevance=torch.abs
    )
    assert (found.relevance >= 0).all() and found.relevance.sum() > 0


def test_flattened_pixels_have_the_range_of_their_channel(scrambled):
    """A convolution as large as the image is a linear layer of the flattened image."""
    convolution = scrambled(nn.Conv2d(3, 4, 5)).double()
    linear = nn.Linear(75, 4).double()
    linear.weight.data, linear.bias.data = convolution.weight.data.flatten(1), convolution.bias.data
    normalize = Normalize((0.2, 0.5, 0.4), (0.25, 0.5, 2.0)).double()
    x = signed(2, 3, 5, 5).abs().clamp(max=1)
    relevances = [
        Explainer(AuditModel(network, normalize), x, "epsilon_gamma_box").attribute(x, 1).relevance
        for network in (nn.Sequential(nn.Flatten(), linear), nn.Sequential(convolution, nn.Flatten()))
    ]
    assert torch.allclose(*relevances, rtol=1e-9) and relevances[0].abs().sum() > 0


def test_a_range_that_fits_no_channel_is_refused(scrambled):
    network = scrambled(nn.Sequential(nn.Flatten(2), nn.Linear(16, 4), nn.Flatten()))
    model = AuditModel(network, Normalize((0.2, 0.5, 0.4), (0.25, 0.5, 2.0)))
    x = signed(2, 3, 4, 4).float()
    explainer = Explainer(model, x, "epsilon", rules={"network.1": "zb"})
    with pytest.raises(ValueError, match="zb rule knows the range of 3 channels, but the first layer sees 16"):
        explainer.attribute(x)


def test_a_rule_made_from_a_text_is_the_rule_made_by_hand():
    assert make_rule("gamma(gamma=3)") == RULES["gamma"](3.0)


@pytest.mark.parametrize("text", ["gamma(gamma=-1)", "epsilon(epsilon=-0.1)"])
def test_negative_parameters_are_refused(text):
    with pytest.raises(ConfigError, match="must be at least 0"):
        make_rule(text)
