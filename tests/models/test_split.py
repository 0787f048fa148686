"""A trunk and a head are together the network that they were made from."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from pipeline.concepts.projection import Projected
from pipeline.models.build import AuditModel, Normalize, forbid_in_place
from pipeline.models.loop import freeze_norms
from pipeline.models.small_cnn import small_cnn
from pipeline.models.split import CannotSplit, Head, split_network, watched


def freeze(model: nn.Module, *names: str) -> nn.Module:
    """Freeze named modules, and put the model into the mode of a fine-tuning."""
    for name in names:
        model.get_submodule(name).requires_grad_(False)
    model.train()
    freeze_norms(model)
    return model


def images(channels: int = 3, side: int = 32, count: int = 4) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def vgg() -> nn.Module:
    """The plain chain of VGG, with a small classifier."""
    features = torchvision.models.vgg.make_layers([8, "M", 8, "M", 16], batch_norm=True)
    parts = {
        "features": features,
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "classifier": nn.Linear(16, 3),
    }
    return nn.Sequential(OrderedDict(parts))


NETWORKS = {
    "resnet": lambda: torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3),
    "vgg": vgg,
    "densenet": lambda: torchvision.models.DenseNet(4, (2, 2), 8, num_classes=3),
    "vit": lambda: torchvision.models.VisionTransformer(32, 8, 3, 2, 8, 16, num_classes=3),
}
DENSE = "features.denseblock1.denselayer"
STAGES = {
    "resnet": ("resnet", ("conv1", "bn1", "layer1", "layer2", "layer3"), "layer3"),
    "middle of a block": ("resnet", ("conv1", "bn1", "layer1", "layer2.0.conv1"), "layer2.0.conv1"),
    "vgg": ("vgg", ("features.0", "features.1", "features.4", "features.5"), "features.6"),
    "densenet": (
        "densenet",
        ("features.conv0", "features.norm0", f"{DENSE}1", f"{DENSE}2.norm1", f"{DENSE}2.conv1", f"{DENSE}2.norm2"),
        f"{DENSE}2.relu2",
    ),
    "vit": ("vit", ("conv_proj", "encoder.layers.encoder_layer_0"), "encoder.layers.encoder_layer_0"),
}


@pytest.mark.parametrize("case", STAGES)
def test_the_head_of_the_trunk_is_the_network_and_its_gradients_too(case):
    arch, frozen, layer = STAGES[case]
    torch.manual_seed(0)
    network = NETWORKS[arch]()
    forbid_in_place(network)
    model = freeze(AuditModel(network, Normalize((0.5,), (0.2,))), *(f"network.{name}" for name in frozen))
    if arch == "vit":
        nn.init.normal_(network.heads.head.weight)
        network.class_token.requires_grad_(False)
        network.encoder.pos_embedding.requires_grad_(False)
    x, layer = images(), f"network.{layer}"
    split = split_network(model, x, [layer])
    other = images(count=3).flip(0)
    features = split.trunk(other)
    assert not features.requires_grad and features.shape == (3, split.head.width)

    found = []
    for part, given in ((model, other), (split.head, features)):
        logits, outputs = watched(part, given, [layer])
        (gradient,) = torch.autograd.grad(logits.pow(2).sum(), outputs[layer], create_graph=True)
        model.zero_grad()
        (logits.sum() + gradient.pow(2).sum()).backward()
        grads = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        found.append([logits, outputs[layer], gradient, *(each for each in grads if each is not None)])
    assert len(found[0]) == len(found[1]) > 4
    for whole, part in zip(*found, strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-5 * float(whole.detach().abs().max()))


@pytest.fixture
def model() -> AuditModel:
    torch.manual_seed(0)
    return freeze(AuditModel(small_cnn(3, 1, width=4, blocks=3)), "network.conv1", "network.norm1")


def test_parameters_and_modes_are_those_of_the_network(model):
    head = split_network(model, images(1)).head
    assert {id(each) for each in head.parameters()} == {id(each) for each in model.parameters() if each.requires_grad}
    with torch.no_grad():
        model.network.linear.bias += 1
    x = images(1, count=2)
    torch.testing.assert_close(head(split_network(model, x).trunk(x)), model(x))
    assert head.graph.network.norm2 is model.network.norm2


def test_the_network_is_left_as_it_was(model):
    model.network.norm2.train()
    state, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    torch.manual_seed(7)
    before = torch.get_rng_state()
    split_network(model, images(1), ["network.relu1"])
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks for module in model.modules())


def test_the_trunk_goes_as_far_as_nothing_trains_or_is_watched(model):
    assert split_network(model, images(1)).head.shapes == ((4, 16, 16),), "pooling comes after the first block"
    assert split_network(model, images(1), ["network.relu1"]).head.shapes == ((4, 32, 32),)
    assert split_network(model, images(1), ["network.conv1"]).head.shapes == ((4, 32, 32),)


def test_statistics_of_the_batch_are_not_computed_once(model):
    model.network.norm1.train()
    assert split_network(model, images(1)).head.shapes == ((4, 32, 32),), "the convolution alone"


class Skipping(nn.Module):
    """A layer whose input, its output's shape and a product of weights are all used above it."""

    def __init__(self, between: nn.Module | None = None):
        super().__init__()
        self.below, self.layer, self.above = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Linear(4, 2),
        )
        self.between = between or nn.Identity()
        self.scale = nn.Parameter(torch.ones(4), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        below = self.below(x)
        found = self.between(self.layer(below)) * (self.scale * 2).view(1, -1, 1, 1)
        count, channels = found.shape[:2]
        return self.above((found.view(count, channels, -1).mean(2) + self.above.bias.sum()) + below.mean((2, 3)))


def test_values_that_pass_a_layer_by_reach_the_head():
    model = freeze(Skipping(), "below", "layer")
    split = split_network(model, images(1), ["layer"])
    x = images(1, count=5)
    logits, outputs = split.head.watched(split.trunk(x), ["layer"])
    torch.testing.assert_close(logits, model(x))
    assert outputs["layer"].shape == (5, 4, 32, 32)


@pytest.mark.parametrize("nested", [False, True], ids=["bare", "within a frozen module"])
def test_what_is_random_runs_in_every_step(nested):
    dropout = nn.Dropout(0.5)
    inner = nn.Sequential(nn.Conv2d(4, 4, 1), dropout, nn.Conv2d(4, 4, 1)) if nested else dropout
    model = freeze(Skipping(inner), "below", "layer", "between")
    x = images(1)
    split = split_network(model, x)
    features = split.trunk(x)
    assert torch.equal(features, split.trunk(x))
    assert not torch.equal(split.head(features), split.head(features))
    torch.manual_seed(3)
    expected = model(x)
    torch.manual_seed(3)
    torch.testing.assert_close(split.head(features), expected)
    assert sum(isinstance(module, nn.Conv2d) for module in split.head.modules()) == nested, "the one above the dropout"


class Noise(nn.Module):
    """So little that it would pass for a rounding error."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1e-5 * torch.randn_like(x)


class Counter(nn.Module):
    """Returns what it is given, and counts how often."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * 1


@pytest.mark.parametrize("kind", [Noise, Counter])
def test_what_draws_random_numbers_or_changes_a_buffer_runs_in_every_step(kind):
    model = freeze(Skipping(kind()), "below", "layer")
    head = split_network(model, images(1)).head
    assert any(isinstance(module, kind) for module in head.modules())


def test_features_are_not_written_into():
    class Adding(nn.Module):
        def __init__(self):
            super().__init__()
            self.below, self.above = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)

        def forward(self, x):
            return self.below(x).add_(self.above(x)).mean((2, 3))

    model = freeze(Adding(), "below")
    split = split_network(model, images(1))
    features = split.trunk(images(1))
    first = split.head(features)
    assert torch.equal(split.head(features), first)
    torch.testing.assert_close(first, model(images(1)))


def test_projected_layers_can_be_split():
    class Doubling(nn.Module):
        def forward(self, x):
            return 2 * x if self.training else x

    model = AuditModel(small_cnn(3, 1, width=4, blocks=3))
    model.network.relu1 = Projected(model.network.relu1)
    model.network.relu1.projections.append(Doubling())
    freeze(model, "network.conv1", "network.norm1")
    for layers in ([], ["network.relu1"], ["network.relu1.layer"]):
        split = split_network(model, images(1), layers)
        torch.testing.assert_close(split.head(split.trunk(images(1))), model(images(1)))


class Deciding(Skipping):
    """Its code asks for a value, which tracing cannot follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.mean() > 5:
            return x
        return super().forward(x)


class Mixing(Skipping):
    """Every row sees all others, in the frozen part already."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean(0))


class Wandering(Skipping):
    """Says something else at every call, and draws no random numbers of torch."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


class Overwriting(Skipping):
    """Writes into a frozen layer's output, of which the graph of calls knows nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.layer(self.below(x))
        found.mul_(self.above.bias.sum())
        return self.above(found.mean((2, 3)))


@pytest.mark.parametrize(
    "network, layers, reason",
    [
        (Overwriting, [], "does not say the same"),
        (Deciding, [], "cannot be traced"),
        (Mixing, [], "only 0% of the network's work"),
        (Wandering, [], "does not say the same"),
        (Skipping, ["nowhere"], "cannot be traced"),
    ],
)
def test_where_there_is_no_trunk_the_reason_is_said(network, layers, reason):
    with pytest.raises(CannotSplit, match=reason):
        split_network(freeze(network(), "below", "layer"), images(1), layers)


def test_a_network_that_does_not_train_has_no_head(model):
    with pytest.raises(CannotSplit, match="nothing that trains"):
        split_network(model.requires_grad_(False), images(1))


def test_a_split_that_saves_little_is_refused(model):
    model.network.conv2 = nn.Conv2d(4, 200, 3, padding=1)
    model.network.norm2, model.network.conv3 = nn.BatchNorm2d(200), nn.Conv2d(200, 16, 3, padding=1)
    with pytest.raises(CannotSplit, match=r"only [0-9]% of the network's work could be done once"):
        split_network(freeze(model), images(1))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu, self.linear, self.aside = nn.ReLU(), nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        return self.relu(self.linear(self.relu(x)))


def test_only_layers_that_run_once_can_be_watched(model):
    with pytest.raises(ValueError, match="'relu' is not one tensor, or the layer runs more than once"):
        watched(Twice(), torch.ones(2, 4), ["relu"])
    with pytest.raises(ValueError, match="'aside' does not run"):
        watched(Twice(), torch.ones(2, 4), ["aside"])
    with pytest.raises(CannotSplit, match="'relu' is not one tensor, or the layer runs more than once"):
        split_network(Twice(), torch.ones(2, 4), ["relu"])
    with pytest.raises(CannotSplit, match="'aside' does not run"):
        split_network(Twice(), torch.ones(2, 4), ["aside"])
    head = split_network(model, images(1)).head
    with pytest.raises(ValueError, match="'network.relu2' was not named"):
        watched(head, torch.zeros(2, head.width), ["network.relu2"])


def test_watched_outputs_start_the_graph_and_may_be_written_into():
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.above = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.above(F.relu_(self.layer(x)))

    model, x = Writing(), torch.randn(4, 3, requires_grad=True)
    expected = model.layer(x)
    logits, outputs = watched(model, x, ["layer"])
    torch.testing.assert_close(outputs["layer"], expected)
    assert torch.autograd.grad(logits.sum(), [x, outputs["layer"]], allow_unused=True)[0] is not None

    model.layer.requires_grad_(False)
    for network, given in ((model, x.detach()), _split_head(model, x.detach())):
        logits, outputs = watched(network, given, ["layer"])
        assert outputs["layer"].is_leaf and outputs["layer"].requires_grad
        torch.testing.assert_close(outputs["layer"], expected)
        (gradient,) = torch.autograd.grad(logits.sum(), outputs["layer"])
        torch.testing.assert_close(gradient, (expected > 0) * model.above.weight.sum(0))


def _split_head(model: nn.Module, x: torch.Tensor) -> tuple[Head, torch.Tensor]:
    split = split_network(model, x, ["layer"])
    return split.head, split.trunk(x)
