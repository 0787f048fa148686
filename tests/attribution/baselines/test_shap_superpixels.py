from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from pipeline.attribution.baselines import gradient_x_input, shap_superpixels
from pipeline.attribution.baselines.shap_superpixels import blurred, choose_coalitions, segment_maps, shapley_values

QUARTERS = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [5, 5, -2, -2], [5, 5, -2, -2]])
"""Numbers need neither begin at 0 nor be consecutive."""


def by_permutations(worth: dict[frozenset, float], players: int) -> list[float]:
    """Shapley values by their definition: the mean gain of a player over all orders of arrival."""
    gains = [0.0] * players
    for order in itertools.permutations(range(players)):
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            gains[player] += worth[before | {player}] - worth[before]
    return [gain / math.factorial(players) for gain in gains]


def of_coalitions(coalitions: torch.Tensor, worth: dict[frozenset, float]) -> torch.Tensor:
    rows = [frozenset(row.nonzero().flatten().tolist()) for row in coalitions]
    return torch.tensor([worth[row] for row in rows], dtype=torch.float64)


def any_game(players: int, seed: int = 0) -> dict[frozenset, float]:
    generator = torch.Generator().manual_seed(seed)
    subsets = itertools.chain.from_iterable(itertools.combinations(range(players), n) for n in range(players + 1))
    return {frozenset(subset): float(torch.randn((), generator=generator)) for subset in subsets}


@pytest.mark.parametrize("players", [1, 2, 3, 5])
def test_all_coalitions_give_the_values_of_the_definition(players):
    worth = any_game(players)
    coalitions, weights = choose_coalitions(players, 2**players, seed=0)
    assert len(coalitions.unique(dim=0)) == 2**players
    found = shapley_values(coalitions, weights, of_coalitions(coalitions, worth))
    assert found.tolist() == pytest.approx(by_permutations(worth, players), abs=1e-12)


def test_by_hand_on_an_additive_and_on_a_multiplicative_game(functional):
    """Quarters are worth 1, 2, 3, 5 times their mean; then the product of two of them plus one of the others."""
    x = torch.ones(1, 2, 4, 4, dtype=torch.float64)

    def means(pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(pixels.mean(1, keepdim=True), 2).flatten(1)

    additive = functional(lambda pixels: means(pixels) @ torch.tensor([[1.0], [2], [3], [5]]).double() + 7)
    multiplicative = functional(lambda p: (means(p)[:, 0] * means(p)[:, 1] * 6 + means(p)[:, 3])[:, None])
    for network, expected in [(additive, [1, 2, 3, 5]), (multiplicative, [3, 3, 0, 1])]:
        for segments in (QUARTERS, 2):
            found = shap_superpixels(network, x, 0, segments=segments, baseline=0.0, samples=16)
            quarters = 4 * nn.functional.avg_pool2d(found.heatmap[:, None], 2)[0, 0]
            assert quarters.flatten().tolist() == pytest.approx(expected)
            assert torch.allclose(found.relevance[:, :, :2, :2], found.relevance[:, :1, :1, :1]), "equal in a segment"


@pytest.mark.parametrize("samples", [16, 14])
def test_an_additive_game_is_found_exactly_also_from_draws(samples, scrambled, pixels):
    network = scrambled(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 2))).double()
    x = pixels(2, 3, 4, 4).double()
    found = shap_superpixels(network, x, 1, segments=QUARTERS, samples=samples, baseline=0.0).heatmap
    expected = gradient_x_input(network, x, 1).heatmap
    for number in QUARTERS.unique():
        inside = number == QUARTERS
        assert torch.allclose(found[:, inside].sum(1), expected[:, inside].sum(1), atol=1e-10)


def test_an_additive_game_is_found_exactly_from_any_coalitions():
    """No pairs, any weights, and worth without anybody that is not 0."""
    generator = torch.Generator().manual_seed(0)
    inner = torch.rand(20, 5, generator=generator) < 0.7
    coalitions = torch.cat([torch.zeros(1, 5, dtype=torch.bool), inner, torch.ones(1, 5, dtype=torch.bool)])
    values = torch.tensor([1.0, -2.0, 0.5, 4.0, 0.0], dtype=torch.float64)
    weights = torch.rand(20, generator=generator, dtype=torch.float64)
    assert torch.allclose(shapley_values(coalitions, weights, coalitions.double() @ values + 3), values, atol=1e-10)


@pytest.mark.parametrize("samples", [20, 64, 512])
@pytest.mark.parametrize("baseline", ["mean", "blur", 0.5, "tensor"])
def test_values_sum_to_the_difference_that_all_masking_makes(baseline, samples, residual, pixels):
    network, x = residual().double(), pixels(3, 3, 13, 13).double()
    masked = {"mean": x.mean((2, 3), keepdim=True).expand_as(x), "blur": blurred(x), 0.5: torch.full_like(x, 0.5)}
    masked["tensor"] = pixels(3, 13, 13, seed=2).double().expand_as(x)
    with torch.no_grad():
        difference = (network(x) - network(masked[baseline]))[:, 2]
    given = masked["tensor"][0] if baseline == "tensor" else baseline
    found = shap_superpixels(network, x, 2, segments=3, samples=samples, baseline=given)
    assert found.relevance.flatten(1).sum(1).tolist() == pytest.approx(difference.tolist(), abs=1e-10)


def test_draws_come_close_to_the_exact_values(residual, pixels):
    network, x = residual(), pixels(1, 3, 12, 12)
    exact = shap_superpixels(network, x, 0, segments=3, samples=512).heatmap
    errors = [
        float((shap_superpixels(network, x, 0, segments=3, samples=samples).heatmap - exact).norm() / exact.norm())
        for samples in (20, 400)
    ]
    assert errors[1] < 0.1 and errors[1] < errors[0] / 2


def test_draws_come_in_complementary_pairs_with_the_kernels_sizes():
    players, samples = 6, 8002
    coalitions, weights = choose_coalitions(players, samples, seed=3)[0], choose_coalitions(players, 50, seed=3)[1]
    assert len(weights) == 48 and weights.unique().numel() == 1
    # 2^6 coalitions would be fewer than the samples, so a larger game is drawn for the sizes
    coalitions, weights = choose_coalitions(14, samples, seed=3)
    assert coalitions.shape == (samples, 14) and len(weights) == samples - 2
    assert not coalitions[0].any() and coalitions[-1].all()
    inner = coalitions[1:-1].unflatten(0, (-1, 2))
    assert torch.equal(inner[:, 0], ~inner[:, 1])
    kernel = torch.tensor([1 / (size * (14 - size)) for size in range(1, 14)])
    seen = torch.bincount(inner.flatten(0, 1).sum(1), minlength=14)[1:14] / (samples - 2)
    assert torch.allclose(seen, kernel / kernel.sum(), atol=0.02)
    assert torch.allclose(inner[:, 0].float().mean(0), inner[:, 0].float().mean(), atol=0.03), "no player is preferred"


def test_the_weights_of_all_coalitions_are_the_shapley_kernel():
    coalitions, weights = choose_coalitions(4, 16, seed=0)
    expected = [1 / (math.comb(4, size) * size * (4 - size)) for size in coalitions[1:-1].sum(1).tolist()]
    assert weights.tolist() == pytest.approx(expected)
    assert not coalitions[0].any() and coalitions[-1].all()


def test_segments_of_a_sample_are_its_own(residual, pixels):
    """Another number of segments in every sample; one of them a single segment."""
    network, x = residual().double(), pixels(2, 3, 12, 12).double()
    rows = torch.arange(12)[:, None].expand(12, 12) // 4
    maps = torch.stack([rows, torch.zeros(12, 12, dtype=torch.long)])
    found = shap_superpixels(network, x, 1, segments=maps).relevance
    alone = shap_superpixels(network, x[:1], 1, segments=rows).relevance
    assert torch.allclose(found[0], alone[0], atol=1e-12)
    assert torch.allclose(found[1], found[1, 0, 0, 0].expand_as(found[1]), atol=1e-12)
    assert len(found[0].unique()) == 3


def test_grids_are_regular():
    maps = segment_maps(2, torch.zeros(3, 1, 4, 6))
    assert maps.shape == (3, 4, 6)
    expected = torch.tensor([[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2)
    assert torch.equal(maps[2], expected)
    assert torch.equal(segment_maps(3, torch.zeros(1, 2, 7))[0], torch.tensor([0, 0, 0, 1, 1, 2, 2]))
    assert len(segment_maps(7, torch.zeros(1, 3, 4, 5)).unique()) == 20, "no more parts than pixels"
    sizes = segment_maps(7, torch.zeros(1, 3, 224, 224)).flatten().bincount()
    assert sizes.tolist() == [32 * 32] * 49


def test_the_blur_keeps_constants_and_smooths_the_rest():
    flat = torch.full((1, 2, 20, 30), 0.7)
    assert torch.allclose(blurred(flat), flat)
    x = torch.zeros(1, 1, 40, 20)
    x[0, 0, 20, 10] = 1
    found = blurred(x)[0, 0]
    assert found.argmax() == 20 * 20 + 10 and found.max() < 0.03
    # a Gaussian of 4 rows and 2 columns
    assert float(found[24, 10] / found[20, 10]) == pytest.approx(math.exp(-0.5), rel=1e-2)
    assert float(found[20, 12] / found[20, 10]) == pytest.approx(math.exp(-0.5), rel=1e-2)
    signal = torch.zeros(1, 1, 20)
    signal[0, 0, 10] = 1
    assert float(blurred(signal)[0, 0, 12] / blurred(signal)[0, 0, 10]) == pytest.approx(math.exp(-0.5), rel=1e-2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"segments": 0}, "segments=0 is too few"),
        ({"segments": torch.zeros(12, 12)}, "segments has type torch.float32"),
        (
            {"segments": torch.zeros(5, 12).long()},
            r"shape \(5, 12\); expected whole numbers of shape \(12, 12\) or \(2,",
        ),
        ({"samples": 99}, "samples=99 is too few for 49 segments; use at least 100"),
        ({"baseline": "grey"}, "baseline='grey' is unknown; allowed are 'mean', 'blur'"),
        ({"baseline": torch.zeros(5)}, r"baseline has shape \(5,\)"),
    ],
)
def test_wrong_parameters_are_explained(options, match, plain, pixels, untouched):
    network, x = plain(), pixels(2, 3, 12, 12)
    untouched(network, lambda: shap_superpixels(network, x, 0, **options), ValueError, match)


def test_inputs_without_positions_are_refused(scrambled, pixels):
    with pytest.raises(ValueError, match=r"shape \(2, 6\); superpixels need"):
        shap_superpixels(scrambled(nn.Linear(6, 2)), pixels(2, 6))


def test_captum_finds_the_same(residual, pixels):
    captum = pytest.importorskip("captum.attr")
    network, x = residual(), pixels(2, 3, 12, 12)
    mask = segment_maps(2, x)[:1, None].expand(1, 3, 12, 12).contiguous()
    with torch.no_grad():
        expected = captum.ShapleyValues(network).attribute(x, 0.25, 1, feature_mask=mask)
    found = shap_superpixels(network, x, 1, segments=2, baseline=0.25).relevance
    # captum repeats the value of a segment at each of its pixels
    assert torch.allclose(found * 3 * 36, expected, atol=1e-5)
