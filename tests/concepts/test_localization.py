from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.attribution import Explainer
from pipeline.concepts import Cav
from pipeline.concepts.localization import (
    binarize,
    blur,
    cells_over,
    concept_heatmaps,
    concept_start,
    dilate,
    localization_quality,
    otsu_threshold,
    without_small_components,
)
from pipeline.errors import DataError


def make_cav(direction, baseline, layer: str = "") -> Cav:
    return Cav(np.array(direction, float), 0.0, "pattern", np.array(baseline, float), layer)


@pytest.mark.parametrize("positions", [(), (3,), (2, 5)], ids=["none", "signal", "image"])
def test_the_start_is_what_exceeds_the_baseline_times_the_direction(positions):
    activation = torch.randn(4, 3, *positions, generator=torch.Generator().manual_seed(0))
    cav = make_cav([0.6, -0.8, 0.0], [0.1, -0.2, 0.3])
    start = concept_start(activation, cav)
    assert start.shape == activation.shape and start.dtype == activation.dtype
    for sample, channel in np.ndindex(4, 3):
        excess = np.maximum(activation[sample, channel].double().numpy() - cav.baseline[channel], 0)
        np.testing.assert_allclose(start[sample, channel], excess * cav.direction[channel], rtol=1e-5, atol=1e-7)


def test_without_baseline_the_start_is_the_published_one():
    activation = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    start = concept_start(activation, make_cav([0.6, -0.8, 0.1], [0.1, -0.2, 0.3]), baseline=False)
    expected = np.maximum(activation.double().numpy(), 0) * np.array([0.6, -0.8, 0.1])[:, None]
    np.testing.assert_allclose(start, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("positions", "cells"), [((4, 6), (4, 6)), ((4, 6), (2, 2)), ((2, 6), (2, 3)), ((9,), (3,))])
def test_a_direction_over_positions_or_cells_holds_at_the_positions_of_each_cell(positions, cells):
    generator = np.random.default_rng(0)
    activation = torch.tensor(generator.standard_normal((2, 3, *positions)))
    direction, baseline = generator.standard_normal((2, 3, *cells))
    start = concept_start(activation, make_cav(direction.ravel(), baseline.ravel()))
    for axis, (length, count) in enumerate(zip(positions, cells, strict=True), start=1):
        direction, baseline = (np.repeat(each, length // count, axis) for each in (direction, baseline))
    np.testing.assert_allclose(start, np.maximum(activation.numpy() - baseline, 0) * direction)


def test_cells_of_a_grid_are_no_more_than_positions_along_each_axis():
    assert cells_over(5 * 3 * 7, 5, (3, 14)) == (3, 7)
    assert cells_over(5 * 49, 5, (14, 14)) == (7, 7)


@pytest.mark.parametrize("positions", [(), (4, 4)])
def test_a_direction_of_another_layer_is_refused(positions):
    with pytest.raises(DataError, match="vector of 7 values does not fit a layer with 3 channels"):
        concept_start(torch.zeros(1, 3, *positions), make_cav(np.ones(7), np.zeros(7)))


class Tokens(nn.Module):
    """Pixels as tokens `[N, T, C]`; channel 0 is the pixel, all others are 1 everywhere."""

    def __init__(self, channels: int):
        super().__init__()
        self.embed = nn.Linear(1, channels)
        self.head = nn.Linear(channels, 2)
        with torch.no_grad():
            self.embed.weight.zero_()
            self.embed.weight[0] = 1.0
            self.embed.bias.fill_(1.0)
            self.embed.bias[0] = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(x.flatten(2).transpose(1, 2)).mean(1))


@pytest.mark.parametrize("channels", [3, 16], ids=["tokens", "as many tokens as channels"])
def test_in_tokens_the_direction_lies_along_the_last_axis(channels):
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = Tokens(channels)
    cav = make_cav(np.eye(channels)[0], np.full(channels, 0.2), "embed")
    explainer = Explainer(model, x, "epsilon")
    heatmaps = concept_heatmaps(explainer, x, cav)
    assert np.array_equal(heatmaps, concept_heatmaps(explainer, x, cav, axis=-1))
    np.testing.assert_allclose(heatmaps, np.maximum(x[:, 0].numpy() - 0.2, 0), rtol=1e-4, atol=1e-6)


class BrightSpots(nn.Module):
    """Channel 0 answers to 3 x 3 neighbourhoods that are bright throughout, channel 1 to everything."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight[0], self.conv.weight[1] = 1 / 9, 0.1
            self.conv.bias.copy_(torch.tensor([-0.45, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.relu(self.conv(x)).mean((2, 3)))


@pytest.fixture
def squares():
    generator = np.random.default_rng(0)
    images = generator.random((10, 1, 24, 24)) * 0.4
    truth = np.zeros((10, 24, 24), dtype=bool)
    for image, mask in zip(images, truth, strict=True):
        top, left = generator.integers(1, 15, 2)
        mask[top : top + 8, left : left + 8] = True
        image[0][mask] = 1.0
    return torch.tensor(images, dtype=torch.float32), truth


def test_a_planted_square_is_found_where_it_is(squares):
    images, truth = squares
    heatmaps = concept_heatmaps(
        Explainer(BrightSpots(), images[:2], "epsilon_plus"), images, make_cav([1, 0], [0, 0], "relu")
    )
    assert heatmaps.shape == (10, 24, 24) and heatmaps.min() >= 0
    masks = np.stack([binarize(heatmap) for heatmap in heatmaps])
    shared = (masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2))
    assert shared.min() >= 0.5


def test_relevance_starts_at_the_concept_and_not_at_what_all_samples_share(squares):
    """Channel 1 answers to the whole image; a concept without it leads nowhere but to the square."""
    images, truth = squares
    explainer = Explainer(BrightSpots(), images[:2], "epsilon_plus")
    shares = []
    for direction in ([1, 0], [0, 1]):
        heatmaps = concept_heatmaps(explainer, images, make_cav(direction, [0, 0], "relu"))
        shares.append((heatmaps * truth).sum() / heatmaps.sum())
    assert shares[0] > 0.8 > shares[1]


def test_an_image_without_the_concept_has_an_empty_heatmap_and_no_mask(squares):
    explainer = Explainer(BrightSpots(), squares[0][:2], "epsilon_plus")
    heatmaps = concept_heatmaps(explainer, torch.zeros(1, 1, 24, 24), make_cav([1, 0], [0, 0], "relu"))
    assert heatmaps.max() == 0
    assert binarize(blur(heatmaps, 0.04)[0]) is None


def variance_between(values: np.ndarray, threshold: float) -> float:
    below, above = values[values <= threshold], values[values > threshold]
    return len(below) * len(above) * (below.mean() - above.mean()) ** 2 if len(below) and len(above) else 0.0


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_otsu_separates_two_gaussians_as_well_as_the_best_of_all_thresholds(share):
    generator = np.random.default_rng(0)
    high = generator.random(2000) < share
    values = np.where(high, generator.normal(8, 1, 2000), generator.normal(1, 1.5, 2000))
    best = max(variance_between(values, threshold) for threshold in np.sort(values)[:-1])
    threshold = otsu_threshold(values)
    assert variance_between(values, threshold) >= 0.995 * best
    # where one group is rare, the best threshold by this criterion cuts into the other one
    assert ((values > threshold) == high).mean() > (0.98 if share > 0.1 else 0.9)


def test_otsu_of_a_hand_made_histogram():
    """50 zeros, 30 twos, 20 tens: {0, 2} against {10} gives 80 * 20 * 9.25^2, {0} against {2, 10} only 50^2 * 5.2^2."""
    values = np.repeat([0.0, 2.0, 10.0], [50, 30, 20])
    assert 2 < otsu_threshold(values) < 10
    assert binarize(values.reshape(10, 10)).sum() == 20


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e9])
def test_the_mask_does_not_depend_on_the_scale_of_the_heatmap(scale):
    heatmap = np.random.default_rng(0).random((16, 16)) ** 4
    for threshold in ("otsu", "percentile"):
        assert np.array_equal(binarize(heatmap * scale, threshold), binarize(heatmap, threshold))


@pytest.mark.parametrize("percentile", [50.0, 92.0])
def test_a_percentile_keeps_its_share_of_the_pixels(percentile):
    heatmap = np.random.default_rng(0).permutation(10_000).reshape(100, 100)
    assert binarize(heatmap, "percentile", percentile).mean() == pytest.approx(1 - percentile / 100, abs=2e-4)


@pytest.mark.parametrize(
    "heatmap",
    [np.zeros((5, 5)), np.full((5, 5), 3.7), np.full((5, 5), np.nan), np.diag([np.inf, 1, 1, 1, 1.0])],
    ids=["empty", "constant", "nan", "infinite"],
)
@pytest.mark.parametrize("threshold", ["otsu", "percentile"])
def test_no_evidence_is_not_a_mask(heatmap, threshold):
    assert binarize(heatmap, threshold) is None


@pytest.mark.parametrize("threshold", ["area", "fixed"])
def test_no_evidence_is_no_mask_by_any_other_threshold(threshold):
    for heatmap in (np.zeros((5, 5)), np.full((5, 5), 3.7), np.full((5, 5), np.nan), np.zeros(9)):
        assert binarize(heatmap, threshold) is None


@pytest.mark.parametrize("shape", [(100, 100), (10_000,)])
@pytest.mark.parametrize("area", [0.01, 0.3])
def test_area_keeps_the_strongest_share(shape, area):
    heatmap = np.random.default_rng(0).permutation(10_000).reshape(shape)
    mask = binarize(heatmap, "area", area=area)
    assert mask.sum() == area * 10_000 and heatmap[mask].min() > heatmap[~mask].max()


def test_area_keeps_positions_that_are_equally_strong_but_none_without_evidence():
    heatmap = np.array([[5.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    assert binarize(heatmap, "area", area=0.25).tolist() == [[True] * 4, [False] * 4]
    assert binarize(heatmap, "area", area=0.9).tolist() == [[True] * 4, [False] * 4]
    assert binarize(heatmap, "area", area=0.001).sum() == 1


@pytest.mark.parametrize("fixed", [0.25, 0.75])
def test_fixed_keeps_what_exceeds_a_share_of_the_largest(fixed):
    heatmap = np.random.default_rng(0).random((20, 20))
    assert np.array_equal(binarize(heatmap, "fixed", fixed=fixed), heatmap > fixed * heatmap.max())


def test_an_unknown_threshold_is_refused():
    with pytest.raises(ValueError, match="'otzu'; allowed: otsu, percentile, area, fixed"):
        binarize(np.eye(3), "otzu")


def test_regions_smaller_than_a_share_are_left_out():
    mask = np.zeros((10, 10), dtype=bool)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = True  # one region, over corners
    mask[5, 5:7] = True
    mask[9, 9] = True
    expected = {0.0: 6, 0.01: 6, 0.02: 5, 0.03: 3, 0.031: 0}
    for share, count in expected.items():
        assert without_small_components(mask, share).sum() == count
    assert without_small_components(np.array([1, 1, 0, 1], bool), 0.5).tolist() == [True, True, False, False]


def test_a_heatmap_of_specks_gives_no_mask():
    heatmap = np.zeros((20, 20))
    heatmap[::5, ::5] = 1.0
    assert binarize(heatmap).sum() == 16
    assert binarize(heatmap, min_component=0.005) is None
    heatmap[1:4, 1:4] = 1.0
    assert binarize(heatmap, min_component=0.005).sum() == 10


def test_signals_are_blurred_along_time():
    signals = np.zeros((2, 100))
    signals[0, 50] = 1.0
    smooth = blur(signals, 0.05)
    assert np.sqrt((smooth[0] * (np.arange(100) - 50) ** 2).sum()) == pytest.approx(5, rel=0.02)
    assert not smooth[1].any()


def test_masks_of_signals_grow_to_both_sides():
    masks = np.zeros((2, 100), dtype=bool)
    masks[0, 50] = True
    assert np.flatnonzero(dilate(masks, 0.03)[0]).tolist() == list(range(47, 54))
    assert not dilate(masks, 0.03)[1].any()


def spots(count: int, size: tuple[int, ...], share: float, seed: int = 0) -> np.ndarray:
    """Return heatmaps of which a region with this share of the positions is 1, elsewhere 0."""
    generator = np.random.default_rng(seed)
    heatmaps = np.zeros((count, *size))
    for heatmap in heatmaps:
        sides = [round(length * share ** (1 / len(size))) for length in size]
        corner = [generator.integers(0, length - side + 1) for length, side in zip(size, sides, strict=True)]
        heatmap[tuple(slice(c, c + s) for c, s in zip(corner, sides, strict=True))] = 1.0
    return heatmaps


@pytest.mark.parametrize("size", [(40, 60), (400,)])
def test_a_small_region_that_only_lights_up_with_the_concept_has_a_quality_near_one(size):
    nothing = np.zeros((20, *size))
    assert localization_quality(spots(24, size, 0.02), nothing, blur_share=0.004) > 0.9
    qualities = [localization_quality(spots(24, size, share), nothing, blur_share=0.004) for share in (0.02, 0.2, 0.6)]
    assert qualities == pytest.approx([0.98, 0.8, 0.4], abs=0.08)


def test_a_diffuse_map_has_a_quality_near_zero_however_specific_it_is():
    generator = np.random.default_rng(0)
    nothing = np.zeros((20, 60, 60))
    noise = generator.random((24, 60, 60))
    specks = (generator.random((24, 60, 60)) < 0.05).astype(float)
    assert localization_quality(noise, nothing) < 0.05
    assert localization_quality(np.ones((24, 60, 60)), nothing) == 0
    assert localization_quality(specks, nothing) < 0.25 < 0.6 < localization_quality(spots(24, (60, 60), 0.03), nothing)


def test_half_of_the_relevance_outside_the_region_halves_the_sharpness():
    region = spots(24, (50, 50), 0.04)
    diffuse = np.full_like(region, region[0].sum() / region[0].size)
    nothing = np.zeros_like(region)
    alone = localization_quality(region, nothing)
    assert localization_quality(region + diffuse, nothing) == pytest.approx(alone / 2, abs=0.05)


def test_a_sharp_map_that_lights_up_in_every_sample_has_a_quality_near_zero():
    assert localization_quality(spots(24, (40, 40), 0.02), spots(24, (40, 40), 0.02, seed=1)) == 0
    stronger = 3 * spots(24, (40, 40), 0.02, seed=1)
    assert localization_quality(spots(24, (40, 40), 0.02), stronger) == 0
    half = np.concatenate([spots(12, (40, 40), 0.02, seed=1), np.zeros((12, 40, 40))])
    sharpness = localization_quality(spots(24, (40, 40), 0.02), np.zeros((4, 40, 40)))
    # of all pairs half are ties and half in order: the AUROC is 3/4
    assert localization_quality(spots(24, (40, 40), 0.02), half) == pytest.approx(sharpness / 2)


def test_samples_without_evidence_lower_the_quality_by_their_share():
    heatmaps = spots(24, (40, 40), 0.02)
    nothing = np.zeros((24, 40, 40))
    whole = localization_quality(heatmaps, nothing)
    for empty in (0.0, np.nan):
        damaged = heatmaps.copy()
        damaged[:12] = empty
        # half as sharp on average, and the AUROC is 3/4
        assert localization_quality(damaged, nothing) == pytest.approx(whole / 4, rel=0.02)


def test_quality_needs_samples_of_both_kinds():
    with pytest.raises(ValueError, match="got 0 and 2"):
        localization_quality(np.zeros((0, 4, 4)), np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="got 2 and 0"):
        localization_quality(np.zeros((2, 4, 4)), np.zeros((0, 4, 4)))


def test_quality_does_not_depend_on_the_scale_of_the_heatmaps():
    heatmaps, rest = spots(8, (30, 30), 0.04), 0.5 * spots(8, (30, 30), 0.04, seed=1)
    expected = localization_quality(heatmaps, rest)
    for scale in (1e-6, 1e6):
        assert localization_quality(scale * heatmaps, scale * rest) == pytest.approx(expected)


def test_blur_keeps_samples_apart_and_their_sums_nearly():
    heatmaps = np.zeros((3, 40, 20))
    heatmaps[1, 20, 10] = 1.0
    smooth = blur(heatmaps, 0.05)
    assert smooth[0].max() == smooth[2].max() == 0
    assert smooth[1].sum() == pytest.approx(1, abs=1e-3)
    rows = np.arange(40) - 20
    assert np.sqrt((smooth[1].sum(1) * rows**2).sum()) == pytest.approx(0.05 * 40, rel=0.02)
    assert blur(heatmaps, 0) is heatmaps


@pytest.mark.parametrize(("share", "radius"), [(0.001, 1), (0.1, 2), (0.2, 4)])
def test_a_mask_grows_by_a_disc(share, radius):
    masks = np.zeros((2, 20, 15), dtype=bool)
    masks[0, 10, 7] = True
    rows, columns = np.ogrid[:20, :15]
    grown = dilate(masks, share)
    assert np.array_equal(grown[0], (rows - 10) ** 2 + (columns - 7) ** 2 <= radius**2)
    assert not grown[1].any()


def test_a_mask_grown_by_nothing_stays_as_it_is():
    masks = np.random.default_rng(0).random((3, 8, 8)) > 0.5
    assert dilate(masks, 0) is masks
    assert dilate(masks[:0], 0.1).shape == (0, 8, 8)
