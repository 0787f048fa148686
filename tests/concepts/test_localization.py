from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.attribution import Explainer
from pipeline.concepts import Cav
from pipeline.concepts.localization import binarize, blur, concept_heatmaps, concept_start, dilate, otsu_threshold


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
