"""The U-Net and the losses of its training."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from pipeline.errors import ConfigError
from pipeline.models.unet import UNet, dice_loss, segmentation_loss, usable_depth


def made(channels: int = 2, width: int = 4, depth: int = 2) -> UNet:
    torch.manual_seed(0)
    return UNet(channels, width, depth)


def squares(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy images with one bright square each, and the square."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.zeros(count, 1, 12, 12)
    for row in range(count):
        top, left = torch.randint(0, 8, (2,), generator=generator).tolist()
        inside[row, 0, top : top + 4, left : left + 4] = 1
    return 0.3 * torch.rand(count, 1, 12, 12, generator=generator) + 0.5 * inside, inside


@pytest.mark.parametrize("size", [(16, 16), (13, 9), (5, 7)])
def test_logits_have_the_size_of_the_image_also_where_halves_are_no_whole_numbers(size):
    network = made()
    x = torch.rand(3, 2, *size)
    maps = network.eval().encode(x)
    assert network(x).shape == (3, 1, *size)
    half = [math.ceil(side / 2) for side in size]
    assert [tuple(each.shape[2:]) for each in maps] == [size, tuple(half), tuple(math.ceil(side / 2) for side in half)]
    assert [each.shape[1] for each in maps] == [4, 8, 16] and network.deepest == 16


def test_details_come_from_the_encoder_and_context_from_the_coarsest_map():
    network, x = made().eval(), torch.rand(1, 2, 16, 16)
    fine, middle, coarse = network.encode(x)
    before = network.decode([fine, middle, coarse])
    for changed in ([fine + 1, middle, coarse], [fine, middle + 1, coarse], [fine, middle, coarse + 1]):
        assert (network.decode(changed) - before).abs().max() > 1e-4


def test_it_learns_where_a_square_is():
    network = made(channels=1, depth=1)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    x, inside = squares(32)
    for _ in range(40):
        optimizer.zero_grad()
        segmentation_loss(network(x), 1 - inside, torch.ones(32, dtype=torch.bool)).backward()
        optimizer.step()
    x, inside = squares(16, seed=1)
    with torch.no_grad():
        background = network.eval()(x) < 0
    overlap = 2 * (background * inside).sum() / (background.sum() + inside.sum())
    assert overlap > 0.9


def test_at_first_nearly_everything_is_foreground_and_if_wanted_all_of_it():
    network, x = made().eval(), torch.rand(2, 2, 16, 16)
    assert network(x).sigmoid().mean() > 0.85
    network.see_foreground_everywhere()
    assert network(x).sigmoid().min() > 0.9999


@pytest.mark.parametrize(
    ("shape", "wanted", "expected"),
    [
        ((1, 16, 16), 3, 3),
        ((1, 16, 16), 9, 3),
        ((3, 8, 100), 3, 2),
        ((3, 9, 9), 3, 3),
        ((1, 3, 3), 5, 1),
        ((1, 2, 2), 3, 0),
    ],
)
def test_sides_are_halved_as_far_as_two_positions_are_left(shape, wanted, expected):
    assert usable_depth(shape, wanted) == expected
    network = UNet(shape[0], 2, expected)
    assert network.train()(torch.rand(1, *shape)).shape == (1, 1, *shape[1:]), "also of one image in training"


def test_signals_are_refused():
    with pytest.raises(ConfigError, match="needs images"):
        usable_depth((1, 128), 3)


def test_dice_loss_is_one_minus_the_overlap():
    region = torch.zeros(1, 1, 4, 4)
    region[0, 0, :2] = 1  # 8 of 16 positions
    empty = torch.zeros(1, 1, 4, 4)
    cases = {0.0: region, 1 - 1 / 17: 1 - region, 1 - 9 / 17: torch.full_like(region, 0.5)}
    for expected, found in cases.items():
        assert float(dice_loss(found, region)) == pytest.approx(expected, abs=1e-7)
    assert dice_loss(empty, empty) == 0
    together = dice_loss(torch.cat([region, 0.25 * (1 - region)]), torch.cat([region, empty]))
    assert float(together) == pytest.approx(1 - 17 / 19), "2 wrong pixels count like those of other samples"


def test_segmentation_loss_is_cross_entropy_and_the_dice_losses_of_both_regions_of_the_samples_that_are_known():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 1, 4, 5, generator=generator, dtype=torch.float64)
    foreground = (torch.rand(3, 1, 4, 5, generator=generator) > 0.3).double()
    present = torch.tensor([True, False, True])
    p, f = logits[present].sigmoid(), foreground[present]
    entropy = -(f * p.log() + (1 - f) * (1 - p).log()).mean()
    dice = [1 - (2 * float((a * b).sum()) + 1) / (float(a.sum() + b.sum()) + 1) for a, b in ((p, f), (1 - p, 1 - f))]
    expected = float(entropy) + sum(dice) / 2
    assert float(segmentation_loss(logits, foreground, present)) == pytest.approx(expected)
    assert float(F.binary_cross_entropy(p, f)) == pytest.approx(float(entropy))


def test_without_known_samples_the_loss_is_0_and_can_be_differentiated():
    logits = torch.randn(2, 1, 3, 3, requires_grad=True)
    loss = segmentation_loss(logits, torch.ones(2, 1, 3, 3), torch.zeros(2, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and not logits.grad.any()
