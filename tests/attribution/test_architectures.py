from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.attribution import architectures, attribute
from pipeline.attribution.architectures import (
    ASLEEP,
    CLASSES,
    SIZES,
    USUAL_SIZE,
    Examination,
    classes_in,
    examine,
    make_images,
    make_model,
    wake,
    write_examinations,
)
from pipeline.errors import CheckpointError, ConfigError
from pipeline.models.checkpoints import save_weights
from pipeline.models.small_cnn import small_cnn
from pipeline.models.trace import trace_layers
from pipeline.workspace.records import Record

REQUIRED = (
    "vgg16", "vgg16_bn", "resnet18", "resnet50", "resnext50_32x4d", "densenet121", "efficientnet_b0", "mobilenet_v2",
    "mobilenet_v3_small", "mobilenet_v3_large", "convnext_tiny", "vit_b_16", "swin_t",
)  # fmt: skip


class Asleep(nn.Module):
    """What does nothing before training: residual factor 0, layer scale 1e-6, class token 0, head 0, gamma 0."""

    def __init__(self, classes: int = 4, channels: int = 3):
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 4, stride=4)
        self.branch = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        nn.init.zeros_(self.branch[1].weight)
        self.layer_scale = nn.Parameter(torch.full((6, 1, 1), 1e-6))
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.branch(x)
        x = x + self.layer_scale * torch.relu(x)
        x = torch.cat([self.token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        return self.head(self.norm(x).mean(1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def example() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=generator(1))


# Waking


def test_nothing_of_a_woken_network_is_zero_or_constant(example):
    model = wake(Asleep(), example)
    for name, parameter in model.named_parameters():
        assert parameter.abs().max() > ASLEEP, name
        assert parameter.std() > 0, name
    logits = model.eval()(example)
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    for name, parameter in model.named_parameters():
        moved = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(2)))
            assert (model(example) - logits).abs().max() > 1e-5, f"{name} does not show in the logits"
            parameter.copy_(moved)


def test_weights_that_are_awake_stay(example):
    model = Asleep()
    before = model.stem.weight.detach().clone()
    wake(model, example)
    assert torch.equal(model.stem.weight, before)


def test_biases_are_small_beside_activations(example):
    model = wake(small_cnn(4, 3, width=64), example)
    for bias in (model.norm1.bias, model.norm3.bias):
        assert 0.05 < bias.std() < 0.2 and bias.mean().abs() < 0.05


def test_scales_stay_near_where_they_were(example):
    model = small_cnn(4, 3, width=4)
    nn.init.constant_(model.norm1.weight, 3.0)
    wake(model, example)
    assert 1.5 <= model.norm1.weight.min() and model.norm1.weight.max() <= 4.5
    assert 0.5 <= model.norm2.weight.min() and model.norm2.weight.max() <= 1.5


def test_batch_norm_statistics_are_those_of_what_it_takes(example):
    deep = nn.Sequential(
        *[nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()) for _ in range(12)]
    )
    for layer in deep.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data.mul_(0.05)  # activations shrink by as much in each layer, but for the statistics
    outside = deep[0][1].momentum
    wake(deep, example)
    taken = {}
    for block in deep:
        block[1].register_forward_pre_hook(lambda module, inputs: taken.update({module: inputs[0]}))
    deep.eval()(make_images(8, (3, 16, 16), generator(5)))
    for norm, values in taken.items():
        spread = values.var((0, 2, 3))
        assert ((spread / norm.running_var) < 4).all() and ((spread / norm.running_var) > 0.25).all()
        assert norm.momentum == outside


def test_waking_keeps_training_flags_and_is_the_same_for_a_seed(example):
    model, again, other = Asleep().train(), Asleep(), Asleep()
    for each in (again, other):
        each.load_state_dict(model.state_dict())
    wake(model, example, seed=3)
    assert all(module.training for module in model.modules())
    wake(again, example, seed=3)
    wake(other, example, seed=4)
    assert torch.equal(again.head.bias, model.head.bias)
    assert not torch.equal(other.head.bias, model.head.bias)


@pytest.mark.parametrize("arch", ["torchvision:squeezenet1_0", "torchvision:mobilenet_v3_small"])
def test_every_layer_of_a_woken_network_is_alive(arch):
    images = make_images(2, (3, 64, 64), generator())
    model = make_model(arch, images)
    outputs = {}
    for layer in trace_layers(model, images):
        model.get_submodule(layer.name).register_forward_hook(
            lambda module, inputs, output, name=layer.name: outputs.update({name: output})
        )
    logits = model(images)
    assert all(output.std() > 1e-3 for output in outputs.values())
    assert logits.abs().max() > 1e-2


# Images


def test_images_lie_in_the_range_of_pixels_and_differ_in_grain():
    fine, coarse, again = make_images(3, (3, 20, 17), generator())
    assert fine.shape == coarse.shape == (3, 20, 17)
    for image in (fine, coarse, again):
        assert image.min() >= 0 and image.max() <= 1
    neighbours = [(image[:, 1:] - image[:, :-1]).abs().mean() for image in (fine, coarse, again)]
    assert neighbours[1] < 0.5 * neighbours[0] and not torch.equal(fine, again)


# The list


def test_the_list_holds_the_networks_that_must_be_healthy():
    assert {f"torchvision:{name}" for name in REQUIRED} <= set(SIZES)
    assert "local:small_cnn" in SIZES
    assert sum(arch.startswith("timm:") for arch in SIZES) >= 10


def test_the_architectures_of_the_list_exist():
    """Without building all of them, which takes a minute."""
    import timm
    import torchvision

    for arch in SIZES:
        source, _, name = arch.partition(":")
        if source == "torchvision":
            assert name in torchvision.models.list_models(module=torchvision.models), arch
        elif source == "timm":
            assert timm.is_model(name), arch


@pytest.mark.parametrize("arch", ["local:small_cnn", "torchvision:shufflenet_v2_x0_5", "timm:regnety_002"])
def test_one_of_each_source_is_built(arch):
    model = make_model(arch, make_images(2, (3, 32, 32), generator()))
    assert not model.training
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, CLASSES)


@pytest.mark.slow
@pytest.mark.parametrize("name", REQUIRED)
def test_required_networks_conserve_relevance(name):
    """MobileNetV3 to 2 %: an output of its narrow projections may have no supporting contribution, and z+ loses it."""
    (found,) = examine(f"torchvision:{name}", ["epsilon_plus_flat"])
    tolerance = 0.02 if name.startswith("mobilenet_v3") else 0.01
    assert found.verdict == "healthy", found.error
    assert found.health.conservation == pytest.approx(1, abs=tolerance)
    assert found.health.without_rule == []


@pytest.mark.slow
@pytest.mark.parametrize("arch", SIZES)
def test_no_network_is_touched_by_its_explanation(arch, untouched):
    """Parameters, buffers, hooks and training flags stay, and the optimizer goes on training the same parameters."""
    if arch.startswith("timm:"):
        pytest.importorskip("timm")
    images = make_images(2, (3, SIZES[arch], SIZES[arch]), generator())
    model = make_model(arch, images).train()
    parameter = next(iter(model.parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    untouched(model, lambda: attribute(model, images, 1))
    before = parameter.clone()
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert torch.equal(next(iter(model.parameters())), before - 1)


# Examinations


def test_every_composite_is_examined_at_the_usual_size():
    found = list(examine("local:small_cnn", ["epsilon_plus_flat", "epsilon"]))
    assert [each.composite for each in found] == ["epsilon_plus_flat", "epsilon"]
    assert {each.size for each in found} == {SIZES["local:small_cnn"]}
    assert {each.verdict for each in found} == {"healthy"}
    assert all(each.health.composite == each.composite and each.seconds > 0 for each in found)
    (small,) = examine("local:small_cnn", ["epsilon"], size=16)
    assert small.size == 16


def test_what_fails_is_said_for_every_composite():
    found = list(examine("torchvision:resnet17", ["epsilon_plus_flat", "epsilon"]))
    assert [each.verdict for each in found] == ["failed", "failed"]
    assert all("resnet17" in each.error and "Did you mean" in each.error for each in found)
    assert {each.size for each in found} == {USUAL_SIZE}
    (too_small,) = examine("torchvision:alexnet", ["epsilon"], size=8)
    assert too_small.verdict == "failed" and "RuntimeError" in too_small.error and "\n" not in too_small.error


def test_a_composite_that_fails_does_not_cost_the_others(monkeypatch):
    def health(model, x, *, composite, arch):
        if composite == "epsilon":
            raise ZeroDivisionError("nothing left\nat all")
        return architectures.Health(
            composite=composite, arch=arch, conservation=1, bias_share=0, finite=True, healthy=True, layers=[]
        )

    monkeypatch.setattr(architectures, "health", health)
    found = list(examine("local:small_cnn", ["epsilon", "epsilon_plus"]))
    assert [each.verdict for each in found] == ["failed", "healthy"]
    assert found[0].error == "ZeroDivisionError: nothing left"


@pytest.mark.parametrize(
    ("healthy", "warning", "verdict"),
    [(True, "", "healthy"), (True, "No rule for f", "warning"), (False, "lost", "unhealthy"), (None, "", "failed")],
)
def test_the_verdict_follows_from_health_and_warning(healthy, warning, verdict):
    health = None
    if healthy is not None:
        health = architectures.Health(
            composite="c",
            arch="a",
            conservation=1,
            bias_share=0,
            finite=True,
            healthy=healthy,
            layers=[],
            warning=warning,
        )
    assert Examination(arch="a", composite="c", size=8, seconds=0, health=health).verdict == verdict


def test_examinations_are_written_so_that_they_can_be_read_back(tmp_path):
    from pydantic import TypeAdapter

    broken = architectures.Health(
        composite="c", arch="a", conservation=math.nan, bias_share=math.inf, finite=False, healthy=False, layers=[]
    )
    found = [
        Examination(arch="a", composite="c", size=8, seconds=0.5, health=broken),
        Examination(arch="b", composite="c", size=8, seconds=0.0, error="no"),
    ]
    write_examinations(tmp_path / "new" / "health.json", found)
    read = TypeAdapter(list[Examination]).validate_json((tmp_path / "new" / "health.json").read_bytes())
    assert issubclass(Examination, Record) and read[1] == found[1]
    assert math.isnan(read[0].health.conservation) and math.isinf(read[0].health.bias_share)


# Checkpoints


@pytest.mark.parametrize("classes", [CLASSES, 7, 2])
def test_a_checkpoint_gives_weights_and_number_of_classes(classes, tmp_path):
    images = make_images(2, (3, 32, 32), generator())
    trained = small_cnn(classes, 3)
    save_weights(trained, tmp_path / "trained.pt")
    model = make_model("local:small_cnn", images, tmp_path / "trained.pt")
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.network.state_dict().items())
    assert model(images).shape == (2, classes)


def test_classes_are_those_of_the_layer_that_differs_in_them_alone():
    own = {"body": torch.zeros(CLASSES, 5), "head": torch.zeros(CLASSES, 8), "other": torch.zeros(4, 8)}
    state = {"body": torch.zeros(CLASSES, 5), "head": torch.zeros(3, 8), "other": torch.zeros(9, 8)}
    assert classes_in(state, own) == 3
    assert classes_in({"unknown": torch.zeros(3, 8)}, own) == CLASSES


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    images = make_images(2, (3, 32, 32), generator())
    save_weights(small_cnn(CLASSES, 3, width=8), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="does not fit"):
        make_model("local:small_cnn", images, tmp_path / "other.pt")
    (found,) = examine("local:small_cnn", ["epsilon"], checkpoint=tmp_path / "other.pt")
    assert found.verdict == "failed" and "does not fit" in found.error


def test_an_unknown_architecture_is_an_error():
    with pytest.raises(ConfigError, match="unknown"):
        make_model("local:small_cn", make_images(2, (3, 32, 32), generator()))
