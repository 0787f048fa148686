from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from pipeline.attribution.canonize import NORMS, canonized_copy
from pipeline.config.model import ModelConfig
from pipeline.models.build import build_model
from pipeline.models.trace import trace_layers


def norms_of(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, NORMS)]


def same_function(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Canonize, compare the logits on other inputs, return the copy."""
    duplicate = canonized_copy(model, x[:2])
    with torch.no_grad():
        expected = model(x)
        difference = (duplicate(x) - expected).abs().max()
    assert difference <= 1e-5 * max(1, float(expected.abs().max()))
    return duplicate


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_torchvision_networks_fold_completely(name, scrambled, pixels):
    options = {"dropout": 0.0, "init_weights": False} if name.startswith("vgg") else {}
    model = torchvision.models.get_model(name, num_classes=3, **options)
    if name.startswith("vgg"):
        model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(512, 3))
    model = scrambled(model)
    duplicate = same_function(model, pixels(3, 3, 32, 32))
    assert norms_of(model) and not norms_of(duplicate)
    assert not any(getattr(module, "inplace", False) for module in duplicate.modules()), "layers keep their outputs"


def test_timm_networks_fold_completely(scrambled, pixels):
    timm = pytest.importorskip("timm")
    model = scrambled(timm.create_model("resnet18", num_classes=3))
    assert not norms_of(same_function(model, pixels(3, 3, 32, 32)))


def test_an_activation_inside_the_norm_remains(scrambled, pixels):
    layers = pytest.importorskip("timm.layers")
    model = scrambled(
        nn.Sequential(
            nn.Conv2d(3, 4, 3),
            layers.BatchNormAct2d(4),
            nn.Conv2d(4, 4, 3),
            layers.BatchNormAct2d(4, apply_act=False),
            nn.Flatten(),
            nn.Linear(64, 2),
        )  # fmt: skip
    )
    duplicate = same_function(model, pixels(3, 3, 8, 8))
    assert not norms_of(duplicate)
    assert isinstance(duplicate[1].act, nn.ReLU) and isinstance(duplicate[3].act, nn.Identity)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_and_one_dimensional_layers_fold(affine, bias, scrambled, pixels):
    model = scrambled(
        nn.Sequential(
            nn.Conv1d(2, 4, 3, bias=bias),
            nn.BatchNorm1d(4, affine=affine),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, 6, bias=bias),
            nn.BatchNorm1d(6, affine=affine),
            nn.ReLU(),
            nn.Linear(6, 2),
        )  # fmt: skip
    )
    assert not norms_of(same_function(model, pixels(5, 2, 10)))


def test_a_norm_before_its_convolution_is_left_alone(scrambled, pixels):
    model = torchvision.models.DenseNet(
        growth_rate=4, block_config=(2, 2), num_init_features=8, bn_size=2, num_classes=3
    )
    duplicate = same_function(scrambled(model), pixels(3, 3, 32, 32))
    names = [name for name, module in duplicate.named_modules() if isinstance(module, NORMS)]
    # Folded: norm0 follows conv0, and norm2 follows conv1 inside each dense layer.
    assert names == [
        *(f"features.denseblock1.denselayer{n}.norm1" for n in (1, 2)), "features.transition1.norm",
        *(f"features.denseblock2.denselayer{n}.norm1" for n in (1, 2)), "features.norm5",
    ]  # fmt: skip


class PreActivation(nn.Module):
    """The output of `stem` feeds a BatchNorm and, as it is, a residual sum."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv, self.after = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(144, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.after(self.conv(self.norm(x).relu()))).flatten(1))


def test_a_convolution_whose_output_is_used_twice_keeps_its_weights(scrambled, pixels):
    duplicate = same_function(scrambled(PreActivation()), pixels(3, 3, 8, 8))
    assert isinstance(duplicate.norm, nn.BatchNorm2d), "folding would change the shortcut"
    assert isinstance(duplicate.after, nn.Identity)


def test_shared_layers_and_norms_over_positions_are_left_alone(scrambled, pixels):
    shared, norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
    twice = nn.Sequential(nn.Conv2d(3, 4, 3), shared, norm, nn.ReLU(), shared, nn.Flatten(), nn.Linear(144, 2))
    assert len(norms_of(same_function(scrambled(twice), pixels(3, 3, 8, 8)))) == 1
    tokens = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    assert len(norms_of(same_function(scrambled(tokens), pixels(3, 4, 5)))) == 1


def test_the_copy_stands_alone(scrambled, pixels, untouched):
    model = scrambled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))).train()
    x = pixels(3, 3, 8, 8)
    untouched(model, lambda: canonized_copy(model, x))
    duplicate = canonized_copy(model, x)
    assert not duplicate.training and not any(parameter.requires_grad for parameter in duplicate.parameters())
    shared = {parameter.data_ptr() for parameter in model.parameters()}
    assert not shared & {parameter.data_ptr() for parameter in duplicate.parameters()}


def test_an_activation_inside_a_normalisation_layer_keeps_its_name():
    pytest.importorskip("timm")
    model = build_model(ModelConfig(arch="timm:tf_efficientnet_lite0"), 2, 3).eval()
    x = torch.rand(1, 3, 32, 32)
    activations = [layer.name for layer in trace_layers(model, x) if layer.kind == "activation"]
    assert activations[0] == "network.bn1.act"
    copied = canonized_copy(model, x)
    for name in activations:
        assert isinstance(copied.get_submodule(name), type(model.get_submodule(name)))
