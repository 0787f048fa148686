from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.trace import ChannelAxes, select_layers, trace_layers


class Block(nn.Module):
    """A residual block that uses its one ReLU twice, as torchvision's do."""

    def __init__(self):
        super().__init__()
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.second(self.relu(self.first(x))))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU()),
        Block(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 2),
    )


def described(model: nn.Module) -> list[tuple]:
    return [(layer.name, layer.kind, layer.shape) for layer in trace_layers(model, torch.rand(2, 3, 8, 8))]


def test_layers_come_in_the_order_of_the_data_with_kind_and_shape():
    assert described(network()) == [
        ("0.0", "convolution", (4, 3, 3)),
        ("0.1", "other", (4, 3, 3)),
        ("0.2", "activation", (4, 3, 3)),
        ("1.first", "convolution", (4, 3, 3)),
        ("1.second", "convolution", (4, 3, 3)),
        ("1", "activation", (4, 3, 3)),
        ("3", "other", (36,)),
        ("4", "other", (2,)),
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_and_training_flags_are_as_before(fails):
    model = network().train()
    model[0][1].eval()
    flags = [module.training for module in model.modules()]
    statistics = model[0][1].running_mean.clone()
    if fails:
        with pytest.raises(RuntimeError):
            trace_layers(model, torch.rand(2, 5, 8, 8))
    else:
        trace_layers(model, torch.rand(2, 3, 8, 8))
    assert [module.training for module in model.modules()] == flags
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model[0][1].running_mean, statistics)


def test_auto_means_activations_and_convolutions_with_positions():
    layers = trace_layers(network(), torch.rand(2, 3, 8, 8))
    chosen = select_layers(layers, "auto", "precompute.layers")
    assert [layer.name for layer in chosen] == ["0.0", "0.2", "1.first", "1.second", "1"]


def test_wildcards_keep_the_order_of_the_network_and_name_a_layer_once():
    layers = trace_layers(network(), torch.rand(2, 3, 8, 8))
    chosen = select_layers(layers, ["4", "1.*", "1.first", "0.?"], "precompute.layers")
    assert [layer.name for layer in chosen] == ["0.0", "0.1", "0.2", "1.first", "1.second", "4"]


def test_a_name_without_layer_is_refused_with_the_nearest():
    layers = trace_layers(network(), torch.rand(2, 3, 8, 8))
    with pytest.raises(
        ConfigError, match=r"precompute.layers: no layer matches '1.fist'. Did you mean '1.first'\? Layers: 0.0"
    ):
        select_layers(layers, ["0.0", "1.fist"], "precompute.layers")


# Channels and tokens


class TokenBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 8), nn.GELU(), nn.Linear(8, width))

    def forward(self, x):
        return x + self.mlp(self.norm(x))


class Tokens(nn.Module):
    """Patches -> tokens `[N, T, C]`; as many tokens as channels, so that sizes alone do not tell the axes apart."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.dropout = nn.Dropout()
        self.blocks = nn.Sequential(TokenBlock(width), TokenBlock(width))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.blocks(self.dropout(self.patches(x).flatten(2).transpose(1, 2))).mean(1))


class Permute(nn.Module):
    def __init__(self, *order: int):
        super().__init__()
        self.order = order

    def forward(self, x):
        return x.permute(self.order)


class ImageNorm(nn.LayerNorm):
    """A norm over the channels of images, as ConvNeXt has it."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MixedBlock(nn.Module):
    """Channels move to the end and back within the block, as modules or between them."""

    def __init__(self, as_modules: bool, width: int = 8):
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1)
        self.norm = ImageNorm(width)
        move = Permute if as_modules else lambda *order: nn.Identity()
        self.linear = nn.Sequential(move(0, 2, 3, 1), nn.Linear(width, width), nn.GELU(), move(0, 3, 1, 2))
        self.as_modules = as_modules

    def forward(self, x):
        inner = self.norm(self.convolution(x))
        inner = self.linear(inner if self.as_modules else inner.permute(0, 2, 3, 1))
        return x + (inner if self.as_modules else inner.permute(0, 3, 1, 2))


def axes(model: nn.Module, x: torch.Tensor) -> dict[str, int]:
    return {layer.name: layer.channel_axis for layer in trace_layers(model, x)}


def test_channels_come_first_behind_convolutions_and_last_behind_linear_layers():
    found = axes(Tokens(), torch.rand(2, 3, 8, 8))
    assert found.pop("patches") == 1
    assert found.pop("dropout") == 1, "nothing has said yet where three axes have their channels"
    assert set(found.values()) == {-1}
    assert set(axes(network(), torch.rand(2, 3, 8, 8)).values()) == {1, -1}


def test_repeated_modules_of_tokens_are_blocks_and_auto_includes_them():
    layers = trace_layers(Tokens(), torch.rand(2, 3, 8, 8))
    kinds = {layer.name: layer.kind for layer in layers}
    assert [name for name, kind in kinds.items() if kind == "block"] == ["blocks.0", "blocks.1"]
    chosen = [layer.name for layer in select_layers(layers, "auto", "precompute.layers")]
    assert chosen == ["patches", "blocks.0.mlp.1", "blocks.0", "blocks.1.mlp.1", "blocks.1"]


def test_one_module_of_its_class_or_one_with_channels_first_is_no_block():
    single = Tokens()
    single.blocks = nn.Sequential(TokenBlock(4))
    repeated = nn.Sequential(*(MixedBlock(True) for _ in range(2)))
    for model, x in ((single, torch.rand(2, 3, 8, 8)), (repeated, torch.rand(2, 8, 5, 5))):
        assert "block" not in {layer.kind for layer in trace_layers(model, x)}


@pytest.mark.parametrize("side", [5, 8], ids=["other size than the channels", "as many positions as channels"])
@pytest.mark.parametrize("as_modules", [True, False])
def test_channels_are_followed_where_they_move(as_modules, side):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), ImageNorm(8), MixedBlock(as_modules), MixedBlock(as_modules))
    found = axes(model, torch.rand(2, 3, side, side))
    expected = {"0": 1, "1": 1}
    for block in ("2", "3"):
        inner = {"linear.0": -1, "linear.3": 1} if as_modules else {}
        parts = {"convolution": 1, "norm": 1, **inner, "linear.1": -1, "linear.2": -1}
        expected |= {f"{block}.{name}": axis for name, axis in parts.items()} | {block: 1}
    assert {name: found[name] for name in expected} == expected


def test_the_axis_of_a_layer_is_that_of_the_trace_and_the_model_runs_once():
    model, x = Tokens(), torch.rand(2, 3, 8, 8)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    of_model = ChannelAxes(model)
    assert seen == []
    assert (of_model.of("patches", x), of_model.of("blocks.0", x), of_model.of("head", x[1:])) == (1, -1, -1)
    assert len(seen) == 1 and torch.equal(seen[0], x[:1])


def test_a_layer_that_writes_into_what_it_is_given_has_its_axis():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    x = torch.rand(2, 3, 4)
    assert "1" not in axes(model, x) and ChannelAxes(model).of("1", x) == -1


@pytest.mark.parametrize("layer", ["1.fist", "1.relu", "5"])
def test_a_layer_that_is_not_there_or_runs_twice_has_no_axis(layer):
    nearest = "Did you mean '1.first'" if layer == "1.fist" else "Layers: 0.0, 0.1"
    with pytest.raises(ValueError, match=f"no layer '{layer}' runs exactly once.*{nearest}"):
        ChannelAxes(network()).of(layer, torch.rand(1, 3, 8, 8))


def test_moved_back_between_modules_is_seen_by_the_sizes():
    """A pooling layer behind tokens that were moved back to images by no module."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 6)
            self.pool = nn.AdaptiveAvgPool2d(2)

        def forward(self, x):
            return self.pool(self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    assert axes(Network(), torch.rand(2, 3, 8, 8)) == {"linear": -1, "pool": 1}


@pytest.mark.parametrize(
    ("name", "options", "side", "blocks", "block", "shape"),
    [
        ("torchvision:vit_b_16", {"image_size": 32}, 32, 12, "encoder.layers.encoder_layer_3", (5, 768)),
        ("torchvision:swin_t", {}, 64, 15, "features.3.1", (8, 8, 192)),
        ("timm:vit_tiny_patch16_224", {"img_size": 32}, 32, 12, "blocks.3", (5, 192)),
        ("torchvision:resnet18", {}, 32, 0, None, None),
        ("torchvision:convnext_tiny", {}, 32, 0, None, None),
    ],
)
def test_known_architectures_need_no_table(name, options, side, blocks, block, shape):
    library, name = name.split(":")
    if library == "timm":
        model = pytest.importorskip("timm").create_model(name, **options)
    else:
        model = torchvision.models.get_model(name, weights=None, **options)
    layers = trace_layers(model, torch.rand(1, 3, side, side))
    found = {layer.name: layer for layer in layers if layer.kind == "block"}
    assert len(found) == blocks
    if block:
        assert (found[block].shape, found[block].channel_axis) == (shape, -1)
    wide = {each.channel_axis for each in layers if each.kind == "convolution" and len(each.shape) > 1}
    assert wide == {1}
    chosen = select_layers(layers, "auto", "precompute.layers")
    assert found.keys() <= {layer.name for layer in chosen}
    # Whatever the architecture: a GELU behind a linear layer has its channels last.
    assert {each.channel_axis for each in chosen if each.kind == "activation"} == ({-1} if name != "resnet18" else {1})
