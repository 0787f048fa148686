from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mitigate.cuts import CutTuner
from pipeline.mitigate.heatmap_loss import heatmap_loss

REFERENCE = Path(__file__).parents[2] / "../shared/reference/isnet/loss.npz"


def heatmaps(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    scale = generator.lognormal(0, 1, shape[:2] + (1,) * len(shape[2:]))
    return torch.from_numpy(generator.standard_normal(shape) * scale)


def at_once(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both cuts `[K]` of totals `[N, K]`."""
    mean, deviation = totals.mean(0), totals.std(0, ddof=1)
    lowest = np.maximum(mean / 5, mean - 3 * deviation)
    return lowest, np.minimum(25 * lowest, mean + 3 * deviation)


def tuned(relevance: torch.Tensor, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    tuner = CutTuner()
    for batch in relevance.split(sizes):
        tuner.update("input", batch)
    cuts = tuner.cuts()["input"]
    return cuts.cut.numpy(), cuts.cut2.numpy()


@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=8), seed=st.integers(0, 99))
def test_cuts_are_those_of_all_totals_at_once_in_any_order_and_division(sizes, seed):
    relevance = heatmaps(sum(sizes), 3, 2, 4, 5, seed=seed)
    expected = at_once(relevance.abs().sum((2, 3, 4)).numpy())
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(relevance)))
    for found in (tuned(relevance, sizes), tuned(relevance[order], sizes[::-1]), tuned(relevance, [len(relevance)])):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_small_deviation_upon_a_large_mean_is_not_lost():
    relevance = torch.full((1000, 1, 1, 1, 1), 1e8, dtype=torch.float64)
    relevance[::2] += 1
    cut, cut2 = tuned(relevance, [1] * 1000)
    deviation = math.sqrt(0.25 * 1000 / 999)
    assert cut.item() - 1e8 == pytest.approx(0.5 - 3 * deviation, rel=1e-6)
    assert cut2.item() - 1e8 == pytest.approx(0.5 + 3 * deviation, rel=1e-6)


@pytest.mark.parametrize(
    ("totals", "cut", "cut2"),
    [
        ([10.0, 10.0, 10.0], 10.0, 10.0),
        ([9.0, 11.0], 10 - 3 * math.sqrt(2), 10 + 3 * math.sqrt(2)),
        ([1.0, 3.0], 0.4, 2 + 3 * math.sqrt(2)),
        ([0.0] * 99 + [100.0], 0.2, 5.0),
    ],
)
def test_either_bound_of_either_cut_can_hold(totals, cut, cut2):
    relevance = torch.tensor(totals, dtype=torch.float64)[:, None, None, None, None] * torch.tensor([0.5, -0.5])
    found = tuned(relevance, [len(totals)])
    assert (found[0].item(), found[1].item()) == pytest.approx((cut, cut2))


def test_layers_and_maps_are_measured_apart():
    tuner = CutTuner()
    first, deep = heatmaps(6, 2, 3, 8, 8), heatmaps(6, 2, 16, 2, 2, seed=1)
    for rows in (slice(0, 4), slice(4, 6)):
        tuner.update("input", first[rows])
        tuner.update("layer4", deep[rows])
    found = tuner.cuts()
    assert list(found) == ["input", "layer4"]
    for name, relevance in (("input", first), ("layer4", deep)):
        lowest, largest = at_once(relevance.abs().flatten(2).sum(2).numpy())
        np.testing.assert_allclose(found[name].cut, lowest)
        np.testing.assert_allclose(found[name].cut2, largest)


def test_half_precision_and_signals_are_summed_without_overflow():
    relevance = torch.full((3, 1, 2, 40_000), 2.0, dtype=torch.float16)
    cut, cut2 = tuned(relevance, [2, 1])
    assert cut.item() == cut2.item() == 160_000


def test_the_cuts_are_what_the_heatmap_loss_takes():
    relevance, mask = heatmaps(5, 2, 3, 8, 8), torch.ones(5, 1, 8, 8)
    tuner = CutTuner()
    tuner.update("input", relevance.requires_grad_(True))
    cuts = tuner.cuts()["input"]
    inner = relevance.detach() / relevance.detach().abs().sum((2, 3, 4), keepdim=True)
    inner = inner * ((cuts.cut + cuts.cut2) / 2)[:, None, None, None]
    assert heatmap_loss(inner, mask, cut=cuts.cut, cut2=cuts.cut2) == 0
    assert not cuts.cut.requires_grad


def test_too_few_samples_are_refused():
    tuner = CutTuner()
    with pytest.raises(ValueError, match="no relevance was counted"):
        tuner.cuts()
    tuner.update("input", heatmaps(0, 2, 3, 4, 4))
    with pytest.raises(ValueError, match="no relevance was counted"):
        tuner.cuts()
    tuner.update("layer1", heatmaps(1, 2, 3, 4, 4))
    with pytest.raises(
        ValueError, match="cuts of layer 'layer1' need at least 2 samples to measure a deviation, got 1"
    ):
        tuner.cuts()


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_maps_without_finite_relevance_are_refused(value):
    tuner = CutTuner()
    relevance = heatmaps(4, 2, 3, 4, 4)
    relevance[:, 1] = value
    tuner.update("layer2", relevance)
    with pytest.raises(ValueError, match="of the maps of layer 'layer2' is .* above 0 and finite"):
        tuner.cuts()


def test_another_number_of_maps_is_refused():
    tuner = CutTuner()
    tuner.update("input", heatmaps(2, 2, 3, 4, 4))
    with pytest.raises(ValueError, match="layer 'input' had 2 maps per sample, and now has 1"):
        tuner.update("input", heatmaps(2, 1, 3, 4, 4))


@pytest.mark.real_data
def test_cuts_of_the_published_heatmap_are_those_of_its_published_totals():
    if not REFERENCE.exists():
        pytest.skip(f"needs the reference numbers at {REFERENCE}")
    with np.load(REFERENCE) as stored:
        heatmap, totals = torch.from_numpy(stored["heatmap"]), stored["tune_abs_sum"].astype(float)
    np.testing.assert_allclose(tuned(heatmap, [1, 2]), at_once(totals), rtol=2e-7)
