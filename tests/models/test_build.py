from __future__ import annotations

import pytest
import torch

from pipeline.config.model import ModelConfig
from pipeline.errors import ConfigError
from pipeline.models import build_model, load_weights, save_weights, trace_layers
from pipeline.models.build import LOCAL_ARCHITECTURES
from pipeline.models.trace import select_layers

MODULE = """
from torch import nn

def twin(classes, channels, width=4):
    return nn.Sequential(nn.Conv2d(channels, width, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, classes))

def no_network(classes, channels):
    return "a text"

def strict(classes, channels, *, needed):
    return nn.Identity()
"""
SOURCES = ["torchvision:resnet18", "timm:resnet18", "local:small_cnn", "nets_of_the_user:twin"]


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    (tmp_path / "nets_of_the_user.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)


def build(arch: str, channels: int = 3, classes: int = 5, seed: int = 0, **config):
    if arch.startswith("timm:"):
        pytest.importorskip("timm")
    return build_model(ModelConfig(arch=arch, **config), classes, channels, seed)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("arch", SOURCES)
def test_every_source_gives_logits_for_grey_and_colour_images(arch, channels):
    model = build(arch, channels).eval()
    logits = model(torch.rand(2, channels, 32, 32))
    assert logits.shape == (2, 5) and logits.isfinite().all()
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    assert model.arch == arch


@pytest.mark.parametrize("arch", SOURCES)
def test_initial_weights_depend_on_the_seed_alone(arch):
    torch.manual_seed(1)
    first = build(arch, channels=1, seed=7).state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again = build(arch, channels=1, seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), before), "the global random state is left as it was"
    other = build(arch, channels=1, seed=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    stem = next(iter(first))
    assert not torch.equal(first[stem], other[stem])


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("small_cnn", "expected torchvision:NAME"),
        ("torchvision:resnet81", "'torchvision:resnet81' is unknown. Did you mean 'resnet18'"),
        ("timm:resnet81", "'timm:resnet81' is unknown. Did you mean 'resnet"),
        ("local:smal_cnn", "'local:smal_cnn' is unknown. Did you mean 'small_cnn'.* Allowed: .*small_cnn"),
        ("nets_of_nobody:twin", "'nets_of_nobody:twin' cannot be imported"),
        ("nets_of_the_user:twim", "module nets_of_the_user has no 'twim'. Did you mean 'twin'"),
        ("nets_of_the_user:no_network", "returned str, expected a torch.nn.Module"),
        ("nets_of_the_user:strict", "'nets_of_the_user:strict' cannot be built .*needed"),
    ],
)
def test_unusable_architectures_are_named_with_the_nearest(arch, message):
    with pytest.raises(ConfigError, match=message):
        build(arch)


@pytest.mark.parametrize("arch", SOURCES)
def test_wrong_parameters_are_errors_of_the_configuration(arch):
    with pytest.raises(ConfigError, match=r"model.params.*widht") as caught:
        build(arch, params={"widht": 8})
    assert arch in str(caught.value)
    if not arch.startswith(("torchvision", "timm")):
        assert "Did you mean 'width'" in str(caught.value)


@pytest.mark.parametrize(("arch", "name"), [("torchvision:resnet18", "num_classes"), ("timm:resnet18", "in_chans")])
def test_parameters_that_follow_from_the_data_cannot_be_overridden(arch, name):
    with pytest.raises(ConfigError, match=f"'{name}' of {arch} is set by the pipeline"):
        build(arch, params={name: 7})


def test_parameters_reach_the_architecture():
    assert build("local:small_cnn", params={"width": 3}).network.conv1.out_channels == 3
    assert build("torchvision:resnet18", params={"zero_init_residual": True}).network.layer1[0].bn2.weight.sum() == 0


def test_normalisation_comes_before_the_network():
    plain = build("nets_of_the_user:twin").eval()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    normalized = build("nets_of_the_user:twin", mean=mean, std=std).eval()
    x = torch.rand(2, 3, 8, 8)
    by_hand = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    assert torch.allclose(normalized(x), plain.network(by_hand), atol=1e-6)
    assert normalized.state_dict().keys() == plain.state_dict().keys(), "checkpoints do not hold the normalisation"
    with pytest.raises(ConfigError, match="model.std: 2 values for images of 3 channels"):
        build("nets_of_the_user:twin", mean=(0.5,), std=(0.5, 0.5))


@pytest.mark.parametrize("name", sorted(LOCAL_ARCHITECTURES))
def test_every_local_architecture_keeps_the_contract(name, tmp_path):
    try:
        model = build(f"local:{name}", channels=1, classes=3)
    except ConfigError as error:
        if "Install the extra" in str(error):
            pytest.skip(str(error))
        raise
    x = torch.rand(2, 1, 32, 32)
    logits = model(x)
    logits.square().sum().backward()
    unused = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert logits.shape == (2, 3) and not unused
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    assert select_layers(trace_layers(model, x), "auto", "precompute.layers")
    save_weights(model.network, tmp_path / "weights.pt")
    other = build(f"local:{name}", channels=1, classes=3, seed=1)
    load_weights(other.network, tmp_path / "weights.pt")
    assert torch.equal(model.eval()(x), other.eval()(x))
    assert build(f"local:{name}", channels=3, classes=4).eval()(torch.rand(1, 3, 32, 32)).shape == (1, 4)
