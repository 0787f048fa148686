"""Losses on relevance are differentiable, in parameters and pixels."""

from __future__ import annotations

import pytest
import torch
import torchvision
from central_differences import along, check, masked_relevance
from torch import nn

from pipeline.attribution import COMPOSITES, Explainer


@pytest.mark.parametrize("which", ["plain", "normalized", "residual"])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_every_composite(composite, which, request, pixels):
    check(request.getfixturevalue(which)(), pixels(2, 3, 13, 13), composite)


class SqueezeExcite(nn.Module):
    """Weighs channels by a gate."""

    def __init__(self):
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.excite(nn.functional.silu(self.squeeze(x.mean((2, 3), keepdim=True)))))


OTHERS = {
    "gated": lambda: [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), SqueezeExcite(), nn.Conv2d(4, 4, 3, groups=4)],
    "groups": lambda: [nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Mish(), nn.Conv2d(4, 4, 1), nn.InstanceNorm2d(4)],
    "root mean square": lambda: [nn.Conv2d(3, 4, 3), nn.RMSNorm((4, 6, 6)), nn.Hardswish(), nn.Conv2d(4, 4, 3)],
    "before its convolution": lambda: [nn.BatchNorm2d(3), nn.ELU(), nn.Conv2d(3, 4, 3), nn.AvgPool2d(2)],
    "softmax": lambda: [nn.Conv2d(3, 4, 3), nn.Softmax(1), nn.Conv2d(4, 3, 3)],
}


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus_flat"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_operations(name, composite, scrambled, pixels):
    network = nn.Sequential(*OTHERS[name](), nn.Flatten(), nn.LazyLinear(3))
    x = pixels(2, 3, 8, 8)
    network(x)
    check(scrambled(network, 6), x, composite)


@pytest.mark.parametrize("start", ["logit", "one_hot", "contrast"])
@pytest.mark.parametrize("layer", ["0", "4.conv1", "5"])
def test_every_start_and_relevance_of_layers_inside(start, layer, residual, pixels):
    check(residual(), pixels(2, 3, 13, 13), "epsilon_plus_flat", {"start": start}, layer)


def test_a_start_inside_the_network(residual, pixels):
    relevance = torch.linspace(-1, 2, 2 * 6 * 36).view(2, 6, 6, 6).double()
    start = {"start_layer": "4", "start_relevance": relevance, "target": None}
    check(residual(), pixels(2, 3, 13, 13), "epsilon_plus_flat", start)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_every_single_derivative_of_a_tiny_network(composite, scrambled, pixels):
    network = scrambled(
        nn.Sequential(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.Softplus(), nn.Flatten(), nn.Linear(9, 2))
    )
    network, x = network.double(), pixels(2, 2, 4).double().requires_grad_()
    explainer = Explainer(network, x.detach(), composite)
    parameters = list(network.parameters())
    assert torch.autograd.gradcheck(
        lambda *_: explainer.attribute(x, 1, create_graph=True).relevance, (x, *parameters), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("composite", COMPOSITES)
def test_the_graph_carries_the_same_relevance(composite, residual, pixels):
    network, x = residual(), pixels(3, 3, 13, 13)
    layers = ["0", "2", "3.conv2", "4", "6"]
    explainer = Explainer(network, x, composite, channels_last=False)
    plain, graph = (explainer.attribute(x, 1, layers=layers, create_graph=keep) for keep in (False, True))
    for name in layers:
        assert torch.allclose(graph.relevances[name], plain.relevances[name], rtol=1e-4, atol=1e-6)
        assert torch.allclose(graph.activations[name], plain.activations[name], rtol=1e-4, atol=1e-5)
    assert torch.allclose(graph.relevance, plain.relevance, rtol=1e-4, atol=1e-6)
    assert graph.relevance.requires_grad and graph.logits.requires_grad


def test_without_a_graph_nothing_is_kept_for_derivatives(residual, pixels):
    network, x = residual(), pixels(3, 3, 13, 13).requires_grad_()
    found = Explainer(network, x, "epsilon_plus_flat").attribute(x, 1, layers=["0", "4"])
    tensors = [found.relevance, found.logits, *found.relevances.values(), *found.activations.values()]
    assert not any(tensor.requires_grad for tensor in tensors)


def test_a_loss_on_relevance_trains(normalized, pixels):
    """Relevance inside a mask falls while the optimizer runs, through weights that one explainer sees change."""
    network, x = normalized(), pixels(4, 3, 13, 13)
    mask = torch.zeros(13, 13)
    mask[:6] = 1
    explainer = Explainer(network, x, "epsilon_plus_flat")
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    shares = []
    for _ in range(12):
        heatmap = explainer.attribute(x, 1, start="one_hot", create_graph=True).heatmap
        share = (heatmap * mask).abs().sum() / heatmap.abs().sum()
        shares.append(float(share.detach()))
        optimizer.zero_grad()
        share.backward()
        optimizer.step()
    assert shares[-1] < 0.8 * shares[0]


@pytest.mark.slow
@pytest.mark.parametrize("composite", COMPOSITES)
def test_a_whole_network(composite, scrambled, pixels):
    """Derivatives along random directions: of all weights at once, of all biases, and of the pixels."""
    network = scrambled(torchvision.models.resnet18(num_classes=4)).double()
    x = pixels(2, 3, 48, 48).double()
    explainer = Explainer(network, x, composite)
    kinds = {"weight": [], "bias": []}
    for name, parameter in network.named_parameters():
        kinds[name.rpartition(".")[2]].append(parameter)
    generator = torch.Generator().manual_seed(0)
    x.requires_grad_()
    for kind, tensors in (kinds | {"pixels": [x]}).items():
        loss = masked_relevance(explainer, x)
        gradients = torch.autograd.grad(loss, tensors)
        for _ in range(2):
            directions = [torch.randn(t.shape, generator=generator).double() * t.detach().std() for t in tensors]
            found = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
            expected = [
                along(lambda: masked_relevance(explainer, x), tensors, directions, step) for step in (1e-7, 1e-8)
            ]
            closest = min(expected, key=lambda value: abs(value - found))
            assert found == pytest.approx(closest, rel=1e-4, abs=1e-5 * abs(float(loss.detach()))), kind
