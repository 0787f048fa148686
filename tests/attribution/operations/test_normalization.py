from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F


def scrambled_norm(norm: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    for parameter in norm.parameters():
        parameter.data.normal_(0.5, 1, generator=generator)
    for name, buffer in norm.named_buffers():
        if name != "num_batches_tracked":
            buffer.data.uniform_(0.5, 2, generator=generator)
    return norm.double().eval()


TOKENS, MAP = (2, 3, 6), (2, 4, 3, 3)
LAYERS = {
    "LayerNorm": (lambda: nn.LayerNorm(6), TOKENS, (-1,)),
    "LayerNorm without factors": (lambda: nn.LayerNorm(6, elementwise_affine=False), TOKENS, (-1,)),
    "LayerNorm without bias": (lambda: nn.LayerNorm(6, bias=False), TOKENS, (-1,)),
    "LayerNorm over two axes": (lambda: nn.LayerNorm((3, 6), eps=0.1), TOKENS, (-2, -1)),
    "RMSNorm": (lambda: nn.RMSNorm(6), TOKENS, (-1,)),
    "RMSNorm with its own stabiliser": (lambda: nn.RMSNorm(6, eps=0.3), TOKENS, (-1,)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4, eps=0.2), MAP, None),
    "GroupNorm, one group": (lambda: nn.GroupNorm(1, 4), MAP, None),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, eps=0.1), MAP, (2, 3)),
    "InstanceNorm2d with factors": (lambda: nn.InstanceNorm2d(4, affine=True), MAP, (2, 3)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(3), TOKENS, (2,)),
}


def epsilon_rule(norm: nn.Module, name: str, x: torch.Tensor, axes, relevance: torch.Tensor) -> torch.Tensor:
    """x_i times the derivative of g (x - mean) / deviation, the deviation a number, times R / y; element by element."""
    groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else None
    over = (1, 2, 3) if groups else axes
    grouped = x.unflatten(1, (groups, -1)).flatten(2) if groups else x
    axes = (2,) if groups else axes
    mean = 0 if name.startswith("RMS") else grouped.mean(axes, keepdim=True)
    eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
    deviation = ((grouped - mean).square().mean(axes, keepdim=True) + eps).sqrt().expand_as(grouped).reshape(x.shape)
    weight = getattr(norm, "weight", None)
    factor = torch.ones(()).double() if weight is None else weight.detach()
    if weight is not None and axes not in ((-1,), (-2, -1)):
        factor = factor.view(1, -1, *[1] * (x.ndim - 2))
    output = norm(x).detach()
    ratio = factor.expand_as(x) / deviation * relevance / (output + output.sign() * 1e-6)
    if name.startswith("RMS"):
        return x * ratio
    inner = ratio.unflatten(1, (groups, -1)).flatten(2) if groups else ratio
    centred = inner - inner.mean(axes, keepdim=True)
    assert over
    return x * centred.reshape(x.shape)


@pytest.mark.parametrize("name", LAYERS)
def test_a_normalisation_is_linear_once_the_deviation_is_a_number(name, passed, signed):
    make, shape, axes = LAYERS[name]
    norm, x = scrambled_norm(make()), signed(*shape) + 0.5
    found = passed(norm, x)
    assert torch.equal(found.output, norm(x))
    assert torch.allclose(found.relevance, epsilon_rule(norm, name, x, axes, found.start[0]), rtol=1e-8, atol=1e-10)
    assert not found.tape.without_rule and not found.node.nonnegative


@pytest.mark.parametrize("name", LAYERS)
def test_without_biases_the_shift_goes_to_the_inputs(name, passed, signed):
    make, shape, axes = LAYERS[name]
    norm, x = scrambled_norm(make()), signed(*shape) + 0.5
    found = passed(norm, x, keeps_biases=False)
    usual = epsilon_rule(norm, name, x, axes, found.start[0])
    over = axes or (1, 2, 3)
    missing = (found.start[0] - usual).sum(over, keepdim=True)
    assert torch.allclose(found.relevance.sum(over), found.start[0].sum(over), rtol=1e-3, atol=1e-4)
    expected = usual + x.abs() / x.abs().sum(over, keepdim=True) * missing
    assert torch.allclose(found.relevance, expected, rtol=1e-4, atol=1e-5)


FUNCTIONS = {
    "layer_norm by position": lambda x, w, b: F.layer_norm(x, (6,), w, b, 0.1),
    "layer_norm by keyword": lambda x, w, b: F.layer_norm(input=x, normalized_shape=(6,), weight=w, bias=b, eps=0.1),
    "torch.layer_norm": lambda x, w, b: torch.layer_norm(x, (6,), w, b, 0.1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_read_like_modules(name, passed, signed):
    norm, x = scrambled_norm(nn.LayerNorm(6, eps=0.1)), signed(*TOKENS)
    found = passed(lambda x: FUNCTIONS[name](x, norm.weight, norm.bias), x)
    assert torch.equal(found.output, norm(x))
    assert torch.equal(found.relevance, passed(norm, x).relevance)


def test_functions_over_groups_are_read_like_modules(passed, signed):
    norm, x = scrambled_norm(nn.GroupNorm(2, 4, eps=0.2)), signed(*MAP)
    for function in (
        lambda x: F.group_norm(x, 2, norm.weight, norm.bias, 0.2),
        lambda x: torch.group_norm(x, num_groups=2, weight=norm.weight, bias=norm.bias, eps=0.2),
    ):
        assert torch.equal(passed(function, x).relevance, passed(norm, x).relevance)
    rms, x = scrambled_norm(nn.RMSNorm(6, eps=0.3)), signed(*TOKENS)
    for function in (
        lambda x: F.rms_norm(x, (6,), rms.weight, 0.3),
        lambda x: torch.rms_norm(x, (6,), rms.weight, 0.3),
    ):
        found = passed(function, x)
        assert torch.equal(found.relevance, passed(rms, x).relevance) and not found.tape.without_rule


BATCH_NORMS = {
    "BatchNorm2d": lambda n: n,
    "F.batch_norm": lambda n: lambda x: F.batch_norm(
        x, n.running_mean, n.running_var, weight=n.weight, bias=n.bias, eps=n.eps
    ),
    "torch.batch_norm": lambda n: lambda x: torch.batch_norm(
        x, n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, n.eps, False
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_relevance_passes_through_a_batchnorm(name, passed, signed):
    norm, x = scrambled_norm(nn.BatchNorm2d(4)), signed(*MAP)
    found = passed(BATCH_NORMS[name](norm), x, nonnegative=True)
    assert torch.allclose(found.output, norm(x)) and not found.node.nonnegative
    assert torch.equal(found.relevance, found.start[0])


def test_relevance_passes_through_an_instance_norm_with_statistics_of_the_training(passed, signed):
    norm, x = scrambled_norm(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)), signed(*MAP)
    found = passed(norm, x)
    assert torch.equal(found.output, norm(x))
    assert torch.equal(found.relevance, found.start[0])


def test_a_batchnorm_without_statistics_passes_it_on_as_well(passed, signed):
    norm, x = scrambled_norm(nn.BatchNorm2d(4, track_running_stats=False)), signed(*MAP)
    found = passed(norm, x)
    assert torch.equal(found.output, norm(x)) and torch.equal(found.relevance, found.start[0])


@pytest.mark.parametrize("function", [lambda x: F.normalize(x, dim=1), nn.LocalResponseNorm(3)])
def test_relevance_passes_where_only_the_length_is_changed(function, passed, signed):
    x = signed(*MAP).abs()
    found = passed(function, x, nonnegative=True)
    assert torch.equal(found.output, function(x)) and torch.equal(found.relevance, found.start[0])
    assert found.node.nonnegative and not passed(function, signed(*MAP)).node.nonnegative
