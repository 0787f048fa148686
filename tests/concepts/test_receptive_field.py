from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from pipeline.concepts.receptive_field import Box, ReceptiveFields, output_until

SHAPE = (1, 32, 40)


def plain(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict((f"layer{number}", layer) for number, layer in enumerate(layers))).eval()


def block(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Module:
    padding = dilation * (size // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding, dilation), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def box_of(model: nn.Module, layer: str, shape: tuple[int, ...], position: tuple[int, ...], share: float = 1.0) -> Box:
    return ReceptiveFields(model, shape, share=share).boxes(layer, [position])[0]


def by_arithmetic(geometry: list[tuple[int, int, int]], position: int, length: int) -> tuple[int, int]:
    """Inputs of an output, from first to last (excluded); geometry holds (size, stride, padding) of each layer."""
    first = last = position
    for size, stride, padding in reversed(geometry):
        first, last = first * stride - padding, last * stride - padding + size - 1
    return max(first, 0), min(last + 1, length)


NETWORKS = {
    "one convolution": (plain(block(1, 4, 3)), [(3, 1, 1)]),
    "three convolutions": (plain(block(1, 6, 3), block(6, 6, 5), block(6, 6, 3)), [(3, 1, 1), (5, 1, 2), (3, 1, 1)]),
    "strides": (plain(block(1, 6, 7, 2), block(6, 6, 3, 2), block(6, 6, 3)), [(7, 2, 3), (3, 2, 1), (3, 1, 1)]),
    "dilation": (plain(block(1, 6, 3), block(6, 6, 3, 1, 3)), [(3, 1, 1), (7, 1, 3)]),
    "pooling": (
        plain(block(1, 8, 3), nn.MaxPool2d(2), block(8, 8, 3), nn.AvgPool2d(2)),
        [(3, 1, 1), (2, 2, 0), (3, 1, 1), (2, 2, 0)],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share_of_side", [0.0, 0.5, 0.99])
def test_the_box_is_that_of_receptive_field_arithmetic(name, share_of_side):
    model, geometry = NETWORKS[name]
    layer = [name for name, module in model.named_modules() if not list(module.children())][-1]
    shape = output_until(model, layer, torch.rand(1, *SHAPE)).shape[2:]
    position = tuple(int(share_of_side * length) for length in shape)
    top, bottom = by_arithmetic(geometry, position[0], SHAPE[1])
    left, right = by_arithmetic(geometry, position[1], SHAPE[2])
    assert box_of(model, layer, SHAPE, position) == Box(top, left, bottom, right)


def test_pixels_outside_the_box_change_nothing_and_each_of_its_borders_does():
    model, _ = NETWORKS["strides"]
    box = box_of(model, "layer2.2", SHAPE, (3, 5))
    x = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(1))

    def change(rows: slice, columns: slice) -> float:
        other = x.clone()
        other[..., rows, columns] = 1 - other[..., rows, columns]
        with torch.no_grad():
            both = [output_until(model, "layer2.2", each)[:, :, 3, 5] for each in (x, other)]
        return float((both[0] - both[1]).abs().max())

    everything, rows, columns = slice(None), slice(box.top, box.bottom), slice(box.left, box.right)
    for outside in (slice(0, box.top), slice(box.bottom, None)):
        assert change(outside, everything) == pytest.approx(0, abs=1e-6)
    for outside in (slice(0, box.left), slice(box.right, None)):
        assert change(everything, outside) == pytest.approx(0, abs=1e-6)
    for border in (slice(box.top, box.top + 1), slice(box.bottom - 1, box.bottom)):
        assert change(border, columns) > 1e-5
    for border in (slice(box.left, box.left + 1), slice(box.right - 1, box.right)):
        assert change(rows, border) > 1e-5


def test_a_layer_that_looks_at_everything_has_the_whole_image():
    class Excited(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(1, 4, 3, padding=1)
            self.gate = nn.Conv2d(4, 4, 1)
            self.after = nn.Identity()

        def forward(self, x):
            found = self.convolution(x)
            return self.after(found * self.gate(found.mean((2, 3), keepdim=True)).sigmoid())

    torch.manual_seed(0)
    model = Excited().eval()
    assert box_of(model, "convolution", SHAPE, (9, 9)) == Box(8, 8, 11, 11)
    assert box_of(model, "after", SHAPE, (9, 9)) == Box(0, 0, 32, 40)


def test_tokens_are_positions_too_and_attention_sees_the_whole_image():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(1, 8, 4, stride=4)
            self.mix = nn.Linear(8, 8)
            self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x):
            return self.attention(self.mix(self.patches(x).flatten(2).transpose(1, 2)))

    torch.manual_seed(0)
    fields = ReceptiveFields(Attending().eval(), SHAPE)
    assert fields.boxes("mix", [(0,), (13,)]) == [Box(0, 0, 4, 4), Box(4, 12, 8, 16)]
    assert fields.boxes("attention.norm2", [(13,)]) == [Box(0, 0, 32, 40)]


def test_signals_are_images_of_one_row():
    model = plain(nn.Conv1d(2, 3, 5, padding=2), nn.ReLU())
    assert box_of(model, "layer1", (2, 30), (10,)) == Box(0, 8, 1, 13)


def test_channels_that_mirror_one_another_do_not_cancel():
    model = plain(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.Identity())
    with torch.no_grad():
        model[0].weight[1] = -model[0].weight[0]
    assert box_of(model, "layer0", SHAPE, (5, 5)) == Box(4, 4, 7, 7)


def test_a_silent_position_has_the_whole_image():
    model = plain(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
    with torch.no_grad():
        model[0].bias.fill_(-100)
    assert box_of(model, "layer1", SHAPE, (5, 5)) == Box(0, 0, 32, 40)


def test_a_share_of_the_gradient_lies_in_a_smaller_box_around_the_same_middle():
    model = plain(*[nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(6)])
    with torch.no_grad():
        for convolution in model:
            convolution.weight.fill_(1 / 9)
    whole = box_of(model, "layer5", SHAPE, (16, 20))
    assert whole == Box(10, 14, 23, 27)
    # from its border on the gradient sums to 0.001, 0.010, 0.038, 0.107, 0.230, 0.403 and 0.597 of the whole
    assert box_of(model, "layer5", SHAPE, (16, 20), share=0.9) == Box(13, 17, 20, 24)
    assert box_of(model, "layer5", SHAPE, (16, 20), share=0.5) == Box(15, 19, 18, 22)


def test_each_position_is_computed_once():
    model, _ = NETWORKS["pooling"]
    fields = ReceptiveFields(model, SHAPE)
    fields.boxes("layer1", [(0, 0)])  # the first question has the model watched
    passes = []
    model.layer0.register_forward_hook(lambda *_: passes.append(1))
    first = fields.boxes("layer3", [(2, 3), (4, 4), (2, 3)])
    assert first[0] == first[2] != first[1] and len(passes) == 1
    assert fields.boxes("layer3", [(4, 4), (2, 3)]) == [first[1], first[0]] and len(passes) == 1
    assert fields.boxes("layer1", [(2, 3)]) != [first[0]] and len(passes) == 2


def test_the_model_is_left_as_it_was():
    model = plain(block(1, 4, 3), block(4, 4, 3)).train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        box_of(model, "layer0.0", SHAPE, (1, 1))
    assert model.training and not model.layer0[0]._forward_hooks
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_model_runs_no_further_than_the_layer():
    model = plain(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(7, 7))  # the last one does not fit
    assert output_until(model, "layer1", torch.rand(1, *SHAPE)).shape == (1, 2, 30, 38)


def test_what_does_not_fit_is_refused():
    model = plain(nn.Conv2d(1, 2, 3, padding=1))
    with pytest.raises(ValueError, match="'layer9'.* Did you mean 'layer0'"):
        box_of(model, "layer9", SHAPE, (0, 0))
    for position in ((32, 0), (-1, 0), (3,)):
        with pytest.raises(ValueError, match="outside the layer's positions"):
            box_of(model, "layer0", SHAPE, position)
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="above 0"):
            ReceptiveFields(model, SHAPE, share=share)


def test_a_box_cuts_images():
    x = torch.arange(30).view(1, 5, 6)
    assert Box(1, 2, 3, 5).crop(x).tolist() == [[[8, 9, 10], [14, 15, 16]]]
