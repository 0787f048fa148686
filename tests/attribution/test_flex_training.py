from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import flex_maps, lrp_flex, zb
from pipeline.attribution.flex_streaming import streamed_loss
from pipeline.models.build import AuditModel, Normalize

RULES = ["gradient_x_input", "zb"]
MODES = ["training", "evaluation", "mixed", "no running statistics"]


class Small(nn.Module):
    """Stem with overlapping pooling, one residual block with a reused ReLU, BatchNorm everywhere."""

    def __init__(self, track: bool):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4, track_running_stats=track)
        self.pool, self.relu = nn.MaxPool2d(3, 2, 1), nn.ReLU()
        self.conv1, self.norm1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, track_running_stats=track)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, track_running_stats=track)
        self.hidden, self.norm3, self.linear = nn.Linear(36, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 3)

    def forward(self, x):
        x = self.pool(self.relu(self.norm(self.conv(x))))
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out += x
        return self.linear(self.relu(self.norm3(self.hidden(self.relu(out).flatten(1)))))


@pytest.fixture
def small(scrambled):
    def make(mode: str = "training") -> AuditModel:
        network = scrambled(Small(track=mode != "no running statistics"))
        model = AuditModel(network, Normalize((0.3, 0.6), (0.4, 0.5))).double().train(mode == "training")
        if mode == "mixed":
            network.norm1.train()
            network.norm3.train()
        return model

    return make


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("input_rule", RULES)
def test_gradients_of_a_loss_on_logits_and_relevance_agree_with_finite_differences(
    input_rule, mode, small, pixels, monkeypatch
):
    model, x, y = small(mode), pixels(4, 2, 11, 11).double(), torch.tensor([0, 1, 2, 1])
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(create_graph: bool = False) -> torch.Tensor:
        found, logits, at_layers, _ = lrp_flex(
            model, x, lambda logits: logits[:, 0] - logits[:, 1:].logsumexp(1), input_rule=input_rule, epsilon=0.1,
            layers=["network.norm1"], create_graph=create_graph,
        )  # fmt: skip
        on_maps = (found * weights).sum() + found.square().sum() + at_layers["network.norm1"].square().sum()
        return F.cross_entropy(logits, y) + on_maps

    value = loss(create_graph=True)
    gradients = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    original, first = zb._shift, []

    def constant(conv, norm):  # the rule holds it constant by design
        first.append(original(conv, norm))
        return first[0]

    monkeypatch.setattr(zb, "_shift", constant)
    assert float(loss()) == pytest.approx(float(value.detach()))
    generator, checked = torch.Generator().manual_seed(2), 0
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values, step, sides = parameter.data.clone(), 1e-6, []
        for sign in (1, -1):
            parameter.data = values + sign * step * direction
            sides.append(float(loss()))
        parameter.data = values
        slope = (sides[0] - sides[1]) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-5, abs=2e-6), name
        checked += abs(slope) > 1e-3
    assert checked >= 9


@pytest.mark.parametrize("input_rule", RULES)
def test_statistics_of_the_batch_count_as_constants(input_rule, small, pixels):
    """The same maps as in evaluation mode, where the running statistics are those of the batch."""
    model, x = small(), pixels(4, 2, 11, 11).double()
    fixed = copy.deepcopy(model).eval()

    def adopt(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        axes = [axis for axis in range(inputs[0].ndim) if axis != 1]
        norm.running_mean = inputs[0].mean(axes).detach()
        norm.running_var = inputs[0].var(axes, correction=0).detach()

    norms = [module for module in fixed.modules() if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d))]
    handles = [norm.register_forward_pre_hook(adopt) for norm in norms]
    expected_logits = fixed(x)
    for handle in handles:
        handle.remove()
    options = {"input_rule": input_rule, "layers": ["network.pool", "network.conv"]}
    expected, found = lrp_flex(fixed, x, 1, **options), lrp_flex(model, x, 1, **options)
    assert torch.allclose(found[1], expected_logits, atol=1e-12)
    assert torch.allclose(found[0], expected[0], atol=1e-12) and found[0].abs().max() > 1e-3
    for layer, relevance in expected[2].items():
        assert torch.allclose(found[2][layer], relevance, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("input_rule", RULES)
def test_relevance_of_a_sample_stays_on_it(input_rule, mode, small, pixels):
    model, x = small(mode), pixels(4, 2, 11, 11).double()
    only_first = torch.zeros(4, 3, dtype=torch.float64)
    only_first[0, 1] = 1
    found, _, at_layers, _ = lrp_flex(model, x, only_first, input_rule=input_rule, layers=["network.conv"])
    for relevance in (found, at_layers["network.conv"]):
        assert relevance[0].abs().max() > 1e-4 and not relevance[1:].any()


@pytest.mark.parametrize("mode", MODES)
def test_the_classification_part_has_the_gradients_of_plain_training(mode, small, pixels):
    model, x, y = small(mode), pixels(4, 2, 11, 11).double(), torch.tensor([0, 1, 2, 1])
    parameters = list(model.parameters())
    expected = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
    relevance, logits, _, _ = lrp_flex(model, x, y, create_graph=True)
    both = F.cross_entropy(logits, y) + 0 * relevance.square().sum()
    for loss in (F.cross_entropy(logits, y), both):
        found = torch.autograd.grad(loss, parameters, retain_graph=True)
        assert all(torch.allclose(one, other, atol=1e-13) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("maps", ["one", "several", "streamed"])
def test_running_statistics_move_as_by_plain_training(maps, small, pixels):
    model, x = small(), pixels(4, 2, 11, 11).double()
    trained = copy.deepcopy(model)
    trained(x)
    if maps == "one":
        lrp_flex(model, x, 1, create_graph=True)[0].sum().backward()
    elif maps == "several":
        flex_maps(model, x, lambda logits: logits, create_graph=True).relevance.sum().backward()
    else:
        streamed_loss(model, x, lambda logits: logits, lambda _k, relevance, _layers: relevance.sum())[0].backward()
    for (name, one), other in zip(model.named_buffers(), trained.buffers(), strict=True):
        assert torch.allclose(one, other, atol=1e-14), name


def test_an_activation_inside_the_norm_changes_nothing_in_training_mode(scrambled, pixels):
    layers = pytest.importorskip("timm.layers")
    separate = scrambled(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    )
    joined = copy.deepcopy(separate)
    joined[1], joined[2] = layers.BatchNormAct2d(4), nn.Identity()
    joined[1].load_state_dict(separate[1].state_dict())
    x = pixels(4, 3, 8, 8).double()
    gradients = []
    for network in (separate.double().train(), joined.double().train()):
        loss = lrp_flex(network, x, 1, create_graph=True)[0].square().sum()
        gradients.append(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))
    assert all(one is other or torch.allclose(one, other, atol=1e-12) for one, other in zip(*gradients, strict=True))
    assert gradients[0][0].abs().max() > 1e-3


def test_one_value_per_channel_has_no_statistics(scrambled):
    network = scrambled(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU())).train()
    with pytest.raises(ValueError, match=r"several values per channel; its input is \(1, 3\)"):
        lrp_flex(network, torch.ones(1, 4), input_rule="gradient_x_input")


def test_statistics_across_processes_are_refused(scrambled, pixels):
    network = scrambled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), nn.ReLU(), nn.Flatten()))
    x, options = pixels(2, 3, 5, 5), {"input_rule": "gradient_x_input"}
    assert lrp_flex(network, x, 0, **options)[0].shape == x.shape
    with pytest.raises(ValueError, match="no rule for SyncBatchNorm in training mode .layer '1'."):
        lrp_flex(network.train(), x, 0, **options)
