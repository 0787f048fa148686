from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from pipeline.attribution.block_arithmetic import batch_norm, share, transposed_convolution

T = torch.Tensor


def random(*shape: int, seed: int = 0, grad: bool = True) -> T:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("maps", [1, 3])
@pytest.mark.parametrize("given", ["value", "base", "base scale", "base shift", "base scale shift", "scale"])
def test_shares_and_their_derivatives(given, maps, epsilon, nonnegative):
    gradient, value = random(maps, 2, 3, 4, seed=1), random(2, 3, 4, seed=2)
    options = {"base": random(2, 3, 4, seed=3), "scale": random(1, 3, 1, seed=4), "shift": random(1, 3, 1, seed=5)}
    options = {name: each for name, each in options.items() if name in given.split()}
    if nonnegative:
        options = {name: each.detach().abs().requires_grad_() for name, each in options.items()}
        value = value.detach().abs().requires_grad_()
    z = value
    if "base" in options:
        z = options["base"] * options.get("scale", 1) + options.get("shift", 0)
    expected = options.get("scale", 1) * gradient * value / (z + torch.where(z >= 0, epsilon, -epsilon))
    found = share(gradient, value, **options, epsilon=epsilon, nonnegative=nonnegative)
    assert torch.allclose(found, expected, atol=1e-12)

    def run(gradient: T, value: T, *tensors: T) -> T:
        named = dict(zip(options, tensors, strict=True))
        return share(gradient, value, **named, epsilon=epsilon, nonnegative=nonnegative)

    assert gradcheck(run, (gradient, value, *options.values()))


def test_zero_counts_as_positive_and_is_never_divided_by():
    value = torch.tensor([[0.0, -0.0, 1.0, -1.0]])
    ones = torch.ones(1, 1, 4)
    assert share(ones, value, epsilon=0.0)[0, 0].tolist() == [0, 0, 1, 1]
    assert share(ones, value, epsilon=1.0)[0, 0].tolist() == [0, 0, 0.5, 0.5]
    found = share(ones, torch.ones(1, 4), base=torch.zeros(1, 4), epsilon=0.5)
    assert found[0, 0].tolist() == [2, 2, 2, 2]


CONVOLUTIONS = [
    ((7, 6), (3, 2), ((2, 1), (1, 0), (1, 1), 1)),
    ((8, 5), (3, 3), ((1, 2), (2, 2), (2, 1), 2)),
    ((9,), (4,), ((3,), (1,), (1,), 1)),
    ((4, 5, 3), (2, 2, 2), ((1, 2, 1), (0, 1, 1), (1, 1, 1), 2)),
]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("size", "kernel", "settings"), CONVOLUTIONS)
def test_a_transposed_convolution_and_its_derivatives(size, kernel, settings, count):
    groups = settings[3]
    weights = [random(4, 3, *kernel, seed=at) for at in range(count)]
    x = random(2, 3 * groups, *size, seed=7)
    convolve = getattr(F, f"conv{len(size)}d")
    outputs = [convolve(x, weight, None, *settings) for weight in weights]
    outgoing = random(*outputs[0].shape, seed=8)
    found = transposed_convolution(outgoing, weights, x.shape[2:], settings)
    expected = [torch.autograd.grad(output, x, outgoing, retain_graph=True)[0] for output in outputs]
    divided = found.unflatten(1, (groups, count, 3)).unbind(2)
    for one, other in zip(divided, expected, strict=True):
        assert torch.allclose(one.flatten(1, 2), other, atol=1e-12)

    def run(outgoing: T, *weights: T) -> T:
        return transposed_convolution(outgoing, weights, x.shape[2:], settings)

    assert gradcheck(run, (outgoing, *weights))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4, 3)])
def test_batch_norm_gives_its_statistics_with_their_derivatives(shape, affine):
    x = random(*shape)
    weight, bias = (random(3, seed=1), random(3, seed=2)) if affine else (None, None)
    running = [torch.zeros(3).double(), torch.ones(3).double()]
    expected_running = [each.clone() for each in running]
    axes = (0, *range(2, len(shape)))
    output, mean, inverse = batch_norm(x, weight, bias, *running, 0.2, 1e-3)
    assert torch.allclose(output, F.batch_norm(x, *expected_running, weight, bias, True, 0.2, 1e-3), atol=1e-12)
    assert all(torch.equal(one, other) for one, other in zip(running, expected_running, strict=True))
    assert torch.allclose(mean, x.mean(axes)) and torch.allclose(inverse, (x.var(axes, unbiased=False) + 1e-3).rsqrt())

    def run(x: T, *factors: T) -> tuple[T, ...]:
        found = batch_norm(x, *(factors or (None, None)), None, None, 0.2, 1e-3)
        return found[0] * 1.5, found[1], found[2]

    assert gradcheck(run, (x, *(each for each in (weight, bias) if each is not None)))
