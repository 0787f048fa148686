from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mitigate.heatmap_loss import NORMS, SATURATION, deep_supervision, fit_mask, heatmap_loss, ranked_pooling

REFERENCE = Path(__file__).parents[2] / "../shared/reference/isnet"
TINY = 1e-10


def reference_loss(
    relevance: np.ndarray, mask: np.ndarray, *, cut, cut2, decay, E, background_weight, foreground_weight, foreground,
    norm,
) -> np.ndarray:  # fmt: skip
    """Return the loss of every sample, in loops with full sorts: the formulas of Bassi et al. (2024), word by word."""
    losses = []
    for sample, inside in zip(relevance.astype(float), mask[:, 0].astype(float), strict=True):
        background, outer = [], []
        for image in sample:
            weights = np.broadcast_to(inside, image.shape)
            if norm == "absRoIMean":
                values = np.abs(image) / ((np.abs(image) * weights).sum() / (weights.sum() + TINY) + TINY)
            elif norm == "RoIMean":
                values = np.abs(image / ((image * weights).sum() / (weights.sum() + TINY) + TINY))
            else:
                values = np.abs(image) * image.size
            for channel in values:
                ranked = np.sort((channel * (1 - inside)).ravel())[::-1]
                powers = np.array([decay**rank if rank else 1.0 for rank in range(len(ranked))])
                pooled = (powers * ranked).sum() / powers.sum()
                background.append(-np.log(1 - min(pooled / (pooled + E), 1 - 1e-7)))
            total = (np.abs(image) * weights).sum()
            below = (min(total / cut, 1) - 1) ** 2
            squared = (max(total / cut, cut2 / cut) - cut2 / cut) ** 2
            if foreground == "l2":
                above = squared
            elif foreground == "l1":
                above = max(total - cut2, 0)
            else:
                above = squared if total <= cut + cut2 else total - (cut + cut2) + 1
            outer.append(below + above)
        losses.append(background_weight * np.mean(background) + foreground_weight * np.mean(outer))
    return np.array(losses)


OPTIONS = {
    "cut, cut2": [(1.0, 25.0), (0.2, 1.0), (40.0, 41.0)],
    "decay": [0.0, 0.5, 0.9, 0.996, 1.0],
    "E": [1.0, 10.0],
    "background_weight, foreground_weight": [(1.0, 1.0), (0.0, 3.0), (2.0, 0.0)],
    "foreground": ["hybrid", "l2", "l1"],
    "norm": ["absRoIMean", "RoIMean", "none"],
}


def combinations() -> list[dict]:
    found = []
    for values in itertools.product(*OPTIONS.values()):
        options: dict = {}
        for names, value in zip(OPTIONS, values, strict=True):
            split = names.split(", ")
            options |= dict(zip(split, value if len(split) > 1 else [value], strict=True))
        found.append(options)
    return found


def heatmaps(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) ** 3


def masks(count: int, height: int, width: int, seed: int = 1) -> torch.Tensor:
    found = (torch.rand(count, 1, height, width, generator=torch.Generator().manual_seed(seed)) < 0.3).double()
    found[:, :, 0, 0], found[:, :, 0, 1] = 1, 0
    return found


@pytest.mark.parametrize("norm", OPTIONS["norm"])
def test_all_options_agree_with_full_sorts_in_plain_loops(norm):
    relevance, mask = heatmaps(2, 2, 2, 6, 7), masks(2, 6, 7)
    for options in combinations():
        if options["norm"] == norm:
            found = heatmap_loss(relevance, mask, reduction="none", **options)
            np.testing.assert_allclose(
                found, reference_loss(relevance.numpy(), mask.numpy(), **options), rtol=1e-6, err_msg=str(options)
            )


def test_reductions():
    relevance, mask = heatmaps(3, 1, 2, 6, 7), masks(3, 6, 7)
    each = heatmap_loss(relevance, mask, reduction="none")
    assert each.shape == (3,)
    torch.testing.assert_close(heatmap_loss(relevance, mask), each.mean())
    torch.testing.assert_close(heatmap_loss(relevance, mask, reduction="sum"), each.sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single_precision(dtype):
    relevance, mask = heatmaps(2, 1, 3, 6, 7).to(dtype), masks(2, 6, 7)
    found = heatmap_loss(relevance, mask)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, heatmap_loss(relevance.float(), mask))


@pytest.fixture(scope="module")
def published() -> Callable[[str], dict[str, np.ndarray]]:
    """Return a function that reads a file of numbers made by the published implementation."""

    def read(name: str) -> dict[str, np.ndarray]:
        if not (REFERENCE / name).exists():
            pytest.skip(f"needs the reference numbers at {REFERENCE / name}")
        with np.load(REFERENCE / name) as stored:
            return dict(stored)

    return read


@pytest.mark.parametrize("size", ["same", "big"])
@pytest.mark.parametrize("decay", ["0.0", "0.9", "0.996", "1.0"])
@pytest.mark.real_data
def test_loss_and_gradient_of_the_published_implementation_agree_in_all_settings(published, decay, size):
    numbers = published("loss.npz")
    mask = torch.from_numpy(numbers["mask" if size == "same" else "mask_big"])
    keys = [key for key in numbers if key.startswith(f"loss/d{decay}|") and key.endswith(size)]
    assert len(keys) == 52
    for key in keys:
        _, E, norm, A, B, foreground, cut, cut2, _ = key.split("|")
        relevance = torch.from_numpy(numbers["heatmap"]).requires_grad_(True)
        loss = heatmap_loss(
            relevance, mask, decay=float(decay), E=float(E[1:]), norm=norm, foreground=foreground.lower(),
            background_weight=float(A[1:]), foreground_weight=float(B[1:]), cut=float(cut[1:]), cut2=float(cut2),
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(loss, relevance)
        assert loss.item() == pytest.approx(float(numbers[key]), rel=2e-7), key
        assert gradient.norm().item() == pytest.approx(float(numbers["gradnorm" + key[4:]]), rel=1.1e-6), key


@pytest.mark.real_data
def test_gradient_mask_samples_and_cuts_per_map_of_the_published_implementation_agree(published):
    numbers = published("loss.npz")
    mask = torch.from_numpy(numbers["mask"])
    assert np.array_equal(fit_mask(torch.from_numpy(numbers["mask_big"]), (12, 10)), numbers["resized_mask"])
    relevance = torch.from_numpy(numbers["heatmap"]).requires_grad_(True)
    (gradient,) = torch.autograd.grad(heatmap_loss(relevance, mask, cut=0.2, cut2=1.0), relevance)
    expected = numbers["grad_example_d0.9_E1_A1_B1_hybrid_C0.2_1"]
    np.testing.assert_allclose(gradient, expected, rtol=6e-7, atol=1e-12)
    with torch.no_grad():
        each = heatmap_loss(relevance, mask, cut=0.2, cut2=1.0, foreground="l2", reduction="none")
        np.testing.assert_allclose(each, numbers["loss_none_reduction"], rtol=1e-7)
        # two z+ maps, two epsilon maps
        dual = heatmap_loss(relevance, mask, cut=[0.2, 0.2, 0.5, 0.5], cut2=[1.0, 1.0, 2.0, 2.0], foreground="l2")
        assert dual.item() == pytest.approx(float(numbers["loss_z+e"]), rel=1e-7)
        np.testing.assert_allclose(
            ranked_pooling(relevance.abs().flatten(3), 0.9), numbers["gwrp_d0.9"], rtol=2e-7, atol=0
        )
    losses = [torch.tensor(value) for value in (0.3, 2.0, 1.0, 0.5, 0.1)]
    for decay in (0.8, 1.0):
        assert deep_supervision(losses, decay).item() == pytest.approx(float(numbers[f"gwrp1d_d{decay}"]), rel=1e-7)


SETTINGS = {
    "fg_L2": {"foreground": "l2", "background_weight": 0.0},
    "fg_hybrid": {"foreground": "hybrid", "background_weight": 0.0},
    "total_A1B1_d0.9_L2": {"foreground": "l2", "decay": 0.9},
    "total_A1B3_d0.996_E10_L2": {"foreground": "l2", "decay": 0.996, "E": 10.0, "foreground_weight": 3.0},
    "bkg_norm_RoIMean_d0.9": {"norm": "RoIMean", "decay": 0.9, "foreground_weight": 0.0},
} | {f"bkg_d{decay}": {"decay": decay, "foreground_weight": 0.0} for decay in (0.0, 0.9, 0.996, 1.0)}


@pytest.mark.parametrize(
    ("name", "heatmaps_stored"),
    [
        ("tiny_cnn.npz", 8),
        ("resnet18.npz", 5),
        ("resnet18_block_fixed.npz", 3),
        ("densenet121_block_fixed.npz", 3),
    ],
)
@pytest.mark.real_data
def test_the_published_losses_of_networks_heatmaps_agree(published, name, heatmaps_stored):
    numbers = published(name)
    mask = torch.from_numpy(numbers["mask"])
    # of the maps of hidden layers, only the first two are stored beside the loss of all
    tags = [tag for tag in numbers if f"{tag}/loss/fg_L2" in numbers and "/hlp/" not in tag]
    assert len(tags) == heatmaps_stored
    for tag, (setting, options) in itertools.product(tags, SETTINGS.items()):
        cuts = {"cut": [1.0, 1.0], "cut2": [25.0, 25.0]} if "dual" in tag else {"cut": 1.0, "cut2": 25.0}
        loss = heatmap_loss(torch.from_numpy(numbers[tag]), mask, **options, **cuts).item()
        # The stored costs are multiples of 2^-25 where they are small. A mean of R, not of |R|, loses digits.
        tolerance = 1.4e-6 if "RoIMean" in setting else 2.2e-7
        assert loss == pytest.approx(float(numbers[f"{tag}/loss/{setting}"]), rel=tolerance, abs=1.1e-8), (tag, setting)


@given(seed=st.integers(0, 1000), total=st.floats(1.0, 25.0))
def test_a_clean_map_with_its_sum_between_the_cuts_costs_nothing(seed, total):
    mask = masks(1, 8, 8, seed)
    relevance = heatmaps(1, 1, 3, 8, 8, seed=seed) * mask[:, None]
    relevance = relevance / relevance.abs().sum() * total
    assert heatmap_loss(relevance, mask, cut=0.999, cut2=25.001) == 0


@pytest.mark.parametrize("foreground", ["hybrid", "l2", "l1"])
def test_anything_else_costs_something(foreground):
    mask = masks(1, 8, 8)
    clean = heatmaps(1, 1, 3, 8, 8) * mask[:, None]
    clean = clean / clean.abs().sum()
    assert heatmap_loss(10 * clean, mask, foreground=foreground) == 0
    for position in torch.nonzero(mask[0, 0] == 0):
        dirty = 10 * clean.clone()
        dirty[0, 0, 1, position[0], position[1]] = -1e-3
        assert heatmap_loss(dirty, mask, foreground=foreground) > 0
    for total in (0.0, 0.5, 0.99, 25.1, 26.5, 1000.0):
        assert heatmap_loss(total * clean, mask, foreground=foreground) > 0


def test_the_hybrid_side_is_continuous_where_it_turns_linear():
    mask = torch.ones(1, 1, 1, 1)
    values = [heatmap_loss(torch.full((1, 1, 1, 1, 1), total), mask, cut=2.0, cut2=6.0) for total in (8.0, 8.0001)]
    assert float(values[0]) == pytest.approx(1.0) and float(values[1]) == pytest.approx(1.0001, abs=1e-4)


def test_the_background_term_does_not_depend_on_the_scale_of_the_relevance():
    relevance, mask = heatmaps(2, 1, 3, 8, 8), masks(2, 8, 8)
    for norm in ("absRoIMean", "RoIMean"):
        options = {"norm": norm, "foreground_weight": 0.0}
        torch.testing.assert_close(
            heatmap_loss(1e4 * relevance, mask, **options), heatmap_loss(relevance, mask, **options)
        )


def test_a_sample_that_is_all_foreground_has_no_background_term():
    relevance = heatmaps(2, 1, 3, 8, 8).requires_grad_(True)
    for norm in NORMS:
        loss = heatmap_loss(relevance, torch.ones(2, 1, 8, 8), norm=norm, foreground_weight=0.0)
        assert loss == 0 and not torch.autograd.grad(loss, relevance)[0].any()


def test_a_sample_without_foreground_stays_finite_and_is_worse_than_any_other():
    relevance = heatmaps(1, 1, 3, 8, 8).float().requires_grad_(True)
    nothing = torch.zeros(1, 1, 8, 8)
    for norm in ("absRoIMean", "RoIMean"):
        loss = heatmap_loss(relevance, nothing, norm=norm)
        (gradient,) = torch.autograd.grad(loss, relevance)
        assert loss.item() == pytest.approx(SATURATION + 1) and not gradient.any()
    loss = heatmap_loss(relevance, nothing, norm="none", foreground_weight=0.0)
    (gradient,) = torch.autograd.grad(loss, relevance)
    assert loss < SATURATION and gradient.isfinite().all() and gradient.any()
    loss = heatmap_loss(0 * relevance, nothing)
    assert loss == 1 and torch.autograd.grad(loss, relevance)[0].isfinite().all()


@given(
    seed=st.integers(0, 1000),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    share=st.sampled_from([0.02, 0.5]),
)
def test_a_resized_mask_never_marks_foreground_as_background(seed, size, share):
    height, width = 12, 9
    mask = (torch.rand(2, 1, height, width, generator=torch.Generator().manual_seed(seed)) < share).float()
    resized = fit_mask(mask, size)
    assert resized.shape == (2, 1, *size) and set(resized.unique().tolist()) <= {0.0, 1.0}
    rows = [(row * height // size[0], -(-(row + 1) * height // size[0])) for row in range(size[0])]
    columns = [(column * width // size[1], -(-(column + 1) * width // size[1])) for column in range(size[1])]
    for (row, (top, bottom)), (column, (left, right)) in itertools.product(enumerate(rows), enumerate(columns)):
        touched = mask[:, 0, top:bottom, left:right].flatten(1).any(1)
        assert torch.equal(resized[:, 0, row, column].bool(), touched)


def test_a_mask_of_the_right_size_is_taken_as_it_is():
    mask = masks(2, 8, 8)
    assert fit_mask(mask, (8, 8)) is mask


DECAYS = [0.0, 1e-300, 0.01, 0.3, 0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 0.996, 0.9999, 0.99999, 1 - 1e-9, 1.0]


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("count", [1, 2, 7, 600, 3000])
def test_pooling_and_its_gradient_are_those_of_a_full_sort(decay, count):
    values = heatmaps(3, count).abs().requires_grad_(True)
    ranked = values.sort(-1, descending=True).values
    weights = np.array([decay**rank if rank else 1.0 for rank in range(count)])
    full = (ranked * torch.from_numpy(weights / math.fsum(weights))).sum(-1)
    found = ranked_pooling(values, decay)
    torch.testing.assert_close(found, full, rtol=1e-14, atol=0)
    factors = torch.tensor([1.0, -2.0, 0.5])
    gradients = [torch.autograd.grad((each * factors).sum(), values)[0] for each in (found, full)]
    # what is left out weighs less than the resolution of the largest weight
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=2.3e-16 * float(weights.max() / weights.sum()))


def test_pooling_of_equal_values_is_that_value():
    for decay in DECAYS:
        torch.testing.assert_close(ranked_pooling(torch.full((4, 500), 3.0), decay), torch.full((4,), 3.0))


@pytest.mark.parametrize("length", [8000, 8001])
def test_the_largest_values_are_found_wherever_they_lie(length):
    values = torch.zeros(3, length, dtype=torch.float64)
    values[0, :300] = torch.arange(300.0)  # together
    values[1, ::1000] = 2.0  # apart, in the same block where blocks are strides
    values[2] = heatmaps(length)[torch.randperm(length, generator=torch.Generator().manual_seed(0))].abs()
    values[2, 77] = values[2, 5000] = values[2].max()
    full = values.sort(-1, descending=True).values
    for decay in (0.0, 0.3, 0.9):
        weights = decay ** torch.arange(length, dtype=torch.float64)
        torch.testing.assert_close(ranked_pooling(values, decay), (full * weights / weights.sum()).sum(-1))
    values[1, 4321] = math.nan
    assert ranked_pooling(values, 0.3).isnan().tolist() == [False, True, False]


def test_pooling_sorts_only_what_the_resolution_needs(monkeypatch):
    asked = []
    topk = torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda self, k, **options: asked.append(k) or topk(self, k, **options))
    values = heatmaps(2, 5000)
    for kind in (values, values.float()):
        ranked_pooling(kind.abs(), 0.9)
        ranked_pooling(kind.abs(), 0.0)
    assert asked == [349, 1, 1, 158, 158, 1, 1]  # all at once, or of blocks and then in blocks


def test_deep_supervision_ranks_the_losses_of_the_layers():
    losses = torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64, requires_grad=True)
    pooled = deep_supervision(list(losses))
    weights = torch.tensor([0.64, 1.0, 0.8], dtype=torch.float64) / 2.44
    assert pooled.item() == pytest.approx((4 + 0.8 * 2 + 0.64) / 2.44)
    torch.testing.assert_close(torch.autograd.grad(pooled, losses)[0], weights)
    assert deep_supervision(list(losses), 1.0).item() == pytest.approx(7 / 3)
    assert deep_supervision(list(losses), 0.0).item() == 4
    assert deep_supervision([losses[2]], 0.8).item() == 2
    with pytest.raises(ValueError, match="at least one loss and a decay in"):
        deep_supervision([])
    with pytest.raises(ValueError, match="got 3 and 1.5"):
        deep_supervision(list(losses), 1.5)


def test_gradients_agree_with_finite_differences():
    drawn, mask = heatmaps(2, 2, 2, 3, 4), masks(2, 3, 4)
    relevance = (drawn + 0.1 * drawn.sign()).requires_grad_(True)  # away from the kink of the absolute value
    for options in ({}, {"decay": 1.0, "norm": "RoIMean"}, {"decay": 0.0, "foreground": "l1"}, {"cut": 9.0}):
        assert torch.autograd.gradcheck(lambda values: heatmap_loss(values, mask, **options), relevance), options  # noqa: B023


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm": "mean"}, "unknown norm 'mean'; allowed: absRoIMean, RoIMean, none"),
        ({"foreground": "L2"}, "unknown foreground 'L2'; allowed: hybrid, l2, l1"),
        ({"reduction": "max"}, "unknown reduction 'max'; allowed: mean, sum, none"),
    ],
)
def test_unknown_options_are_refused_with_the_allowed_ones(change, words):
    with pytest.raises(ValueError, match=words):
        heatmap_loss(heatmaps(1, 1, 1, 4, 4), torch.ones(1, 1, 4, 4), **change)


@pytest.mark.parametrize("change", [{"decay": -0.1}, {"decay": 1.1}, {"E": 0.0}, {"decay": math.nan}])
def test_numbers_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\] and E above 0"):
        heatmap_loss(heatmaps(1, 1, 1, 4, 4), torch.ones(1, 1, 4, 4), **change)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.bool])
def test_masks_of_any_type_are_alike(dtype):
    relevance, mask = heatmaps(2, 1, 3, 8, 8), masks(2, 8, 8)
    assert torch.equal(heatmap_loss(relevance, mask.to(dtype)), heatmap_loss(relevance, mask))


def test_a_mask_that_is_not_binary_is_refused_with_its_values():
    mask = torch.ones(1, 1, 4, 4)
    mask[..., 0, 0], mask[..., 1, 2], mask[..., 3, 3] = 0.5, 0.25, math.nan
    with pytest.raises(ValueError, match="0 and 1 only, but holds 0.25, 0.5, nan; threshold it"):
        heatmap_loss(heatmaps(1, 1, 1, 4, 4), mask)
    with pytest.raises(ValueError, match="holds 255;"):
        heatmap_loss(heatmaps(1, 1, 1, 4, 4), torch.full((1, 1, 9, 9), 255, dtype=torch.uint8))


@pytest.mark.parametrize("size", [(4, 4), (8, 9)])
def test_where_nobody_waits_for_the_device_a_mask_that_is_not_binary_makes_the_loss_nan(monkeypatch, size):
    monkeypatch.setattr("pipeline.mitigate.heatmap_loss.HOST", "meta")
    relevance = heatmaps(2, 2, 3, 4, 4)
    mask = torch.ones(2, 1, *size)
    mask[1, 0, 2, 2] = 0.5
    assert heatmap_loss(relevance, mask, reduction="none").isnan().tolist() == [False, True]
    assert heatmap_loss(relevance, mask, background_weight=0.0).isnan()
    assert heatmap_loss(relevance, mask, foreground_weight=0.0).isnan()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_the_host_never_waits_for_a_device(monkeypatch, norm, decay):
    """Tensors on the meta device have no values: to ask for one raises."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which has no meta device
    relevance = torch.empty(2, 2, 3, 8, 8, device="meta", requires_grad=True)
    mask, present = torch.empty(2, 1, 16, 16, device="meta"), torch.empty(2, dtype=torch.bool, device="meta")
    heatmap_loss(relevance, mask, norm=norm, decay=decay, present=present).backward()
    assert relevance.grad.shape == relevance.shape


@pytest.mark.parametrize(
    ("relevance", "mask"),
    [
        ((2, 1, 3, 8, 8), (3, 1, 8, 8)),
        ((2, 1, 3, 8, 8), (2, 8, 8)),
        ((2, 2, 3, 8, 8), (2, 3, 1, 8, 8)),
        ((2, 3, 8), (2, 1, 8)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(relevance, mask):
    with pytest.raises(ValueError, match="do not fit; give relevance"):
        heatmap_loss(torch.ones(relevance), torch.ones(mask))


def test_masks_per_map_count_for_their_map():
    relevance = heatmaps(2, 3, 2, 6, 7)
    apart = torch.stack([masks(2, 6, 7, seed) for seed in range(3)], 1)
    expected = [
        heatmap_loss(relevance[:, [each]], apart[:, each], norm=norm, reduction="none")
        for norm in NORMS
        for each in range(3)
    ]
    for number, norm in enumerate(NORMS):
        each = torch.stack(expected[3 * number : 3 * number + 3]).mean(0)
        torch.testing.assert_close(heatmap_loss(relevance, apart, norm=norm, reduction="none"), each)
        full = apart.expand(2, 3, 2, 6, 7)
        torch.testing.assert_close(heatmap_loss(relevance, full, norm=norm, reduction="none"), each)


@pytest.mark.parametrize("norm", NORMS)
def test_masks_per_channel_count_for_their_channel_and_of_another_number_the_first_counts(norm):
    relevance, mask = heatmaps(2, 1, 2, 6, 7), masks(2, 6, 7)
    options = {"norm": norm, "reduction": "none"}
    once = heatmap_loss(relevance, mask, **options)
    torch.testing.assert_close(heatmap_loss(relevance, mask.expand(2, 2, 6, 7), **options), once)
    other = torch.cat([mask, masks(2, 6, 7, seed=5), masks(2, 6, 7, seed=6)], 1)
    assert torch.equal(heatmap_loss(relevance, other, **options), once)
    # the channels as maps of one channel each have the same sums, which is what the foreground term sees
    split = heatmap_loss(relevance, other[:, :2], background_weight=0.0, foreground="l1", cut=1e-9, cut2=1e-9)
    sums = (relevance.abs() * other[:, None, :2]).sum((1, 2, 3, 4))
    assert split.item() == pytest.approx(sums.mean().item())
    # a channel that is all foreground has no background
    other[:, 1] = 1
    alone = relevance.clone()
    alone[:, :, 0] *= other[:, None, 0]
    assert heatmap_loss(alone, other[:, :2], foreground_weight=0.0) == 0


def test_masks_per_map_are_resized_as_those_per_sample():
    relevance = heatmaps(2, 3, 2, 5, 4)
    large = torch.stack([masks(2, 13, 9, seed) for seed in range(3)], 1)
    small = torch.stack([fit_mask(large[:, each], (5, 4)) for each in range(3)], 1)
    assert torch.equal(heatmap_loss(relevance, large), heatmap_loss(relevance, small))


def test_cuts_per_map_are_those_of_the_maps_alone():
    relevance, mask = heatmaps(2, 2, 3, 6, 7), masks(2, 6, 7)
    for foreground in ("hybrid", "l2", "l1"):
        alone = [
            heatmap_loss(relevance[:, [each]], mask, cut=cut, cut2=cut2, foreground=foreground)
            for each, (cut, cut2) in enumerate([(0.5, 3.0), (40.0, 41.0)])
        ]
        expected = torch.stack(alone).mean()
        for cut, cut2 in (
            ([0.5, 40.0], (3.0, 41.0)),
            (torch.tensor([0.5, 40.0]), torch.tensor([3.0, 41.0])),
            (np.array([0.5, 40.0]), torch.tensor([3.0, 41.0], dtype=torch.float64)),
        ):
            torch.testing.assert_close(
                heatmap_loss(relevance, mask, cut=cut, cut2=cut2, foreground=foreground), expected
            )
    for cut in (2, torch.tensor(2.0), np.float64(2.0)):
        assert torch.equal(heatmap_loss(relevance, mask, cut=cut), heatmap_loss(relevance, mask, cut=2.0))


def test_cuts_of_another_number_than_the_maps_are_refused():
    with pytest.raises(ValueError, match=r"cut2 has the shape \[3\], but there are 2 maps"):
        heatmap_loss(heatmaps(1, 2, 1, 4, 4), torch.ones(1, 1, 4, 4), cut2=[1.0, 2.0, 3.0])


@pytest.mark.parametrize("cut", [0.0, -1, [1.0, 0.0], (1.0, math.nan)])
def test_cuts_that_are_not_positive_are_refused(cut):
    with pytest.raises(ValueError, match="cut must be above 0, got"):
        heatmap_loss(heatmaps(1, 2, 1, 4, 4), torch.ones(1, 1, 4, 4), cut=cut)


def test_signals_are_images_of_height_one():
    relevance, mask = heatmaps(2, 2, 3, 1, 20), masks(2, 1, 30)
    expected = heatmap_loss(relevance, mask, reduction="none")
    for given_mask in (mask[:, :, 0], mask[:, None, :, 0], mask[:, None, :, 0].expand(2, 2, 3, 30)):
        torch.testing.assert_close(heatmap_loss(relevance[..., 0, :], given_mask, reduction="none"), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("third", [True, False])
def test_a_sample_without_a_mask_counts_for_nothing_whatever_it_holds(reduction, third):
    relevance, mask = heatmaps(4, 1, 2, 6, 7), masks(4, 6, 7)
    present = torch.tensor([True, False, third, False])
    relevance[1], mask[1], mask[3] = math.nan, 0.3, 0
    relevance.requires_grad_(True)
    found = heatmap_loss(relevance, mask, present=present, reduction=reduction)
    alone = relevance.detach()[present].requires_grad_(True)
    expected = heatmap_loss(alone, mask[present], reduction=reduction)
    torch.testing.assert_close(found[present] if reduction == "none" else found, expected)
    gradient, expected = (
        torch.autograd.grad(loss.sum(), values)[0] for loss, values in ((found, relevance), (expected, alone))
    )
    torch.testing.assert_close(gradient[present], expected)
    assert torch.equal(gradient[~present], torch.zeros_like(gradient[~present]))


def test_a_batch_without_any_mask_costs_nothing_and_teaches_nothing():
    relevance = heatmaps(2, 1, 2, 6, 7).requires_grad_(True)
    loss = heatmap_loss(relevance, torch.zeros(2, 1, 6, 7), present=torch.zeros(2, dtype=torch.bool))
    assert loss == 0 and not torch.autograd.grad(loss, relevance)[0].any()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("inside", [True, False])
def test_relevance_that_is_not_finite_makes_the_loss_of_its_sample_not_finite(norm, bad, inside):
    relevance, mask = heatmaps(3, 2, 2, 6, 7), masks(3, 6, 7)
    relevance[1, 0, 1, 0, 0 if inside else 1] = bad
    found = heatmap_loss(relevance, mask, norm=norm, reduction="none")
    assert found.isfinite().tolist() == [True, False, True]


def test_a_term_of_weight_zero_is_not_computed(monkeypatch):
    relevance, mask = heatmaps(1, 1, 1, 4, 4), masks(1, 4, 4)
    monkeypatch.setattr("pipeline.mitigate.heatmap_loss.ranked_pooling", None)
    assert heatmap_loss(relevance, mask, background_weight=0.0).isfinite()
    monkeypatch.setattr("pipeline.mitigate.heatmap_loss._foreground_term", None)
    assert heatmap_loss(relevance, mask, background_weight=0.0, foreground_weight=0.0) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_is_off_and_changes_nothing(monkeypatch, dtype):
    relevance, mask = heatmaps(2, 1, 3, 6, 7).to(dtype), masks(2, 6, 7)
    expected, enabled = heatmap_loss(relevance, mask), []

    def pooling(*arguments):
        enabled.append(torch.is_autocast_enabled("cpu"))
        return ranked_pooling(*arguments)

    monkeypatch.setattr("pipeline.mitigate.heatmap_loss.ranked_pooling", pooling)
    with torch.autocast("cpu", torch.bfloat16):
        found = heatmap_loss(relevance, mask)
    assert enabled == [False] and found.dtype == torch.float32 and torch.equal(found, expected)


def test_a_sample_costs_the_same_in_any_batch():
    relevance, mask = heatmaps(3, 2, 2, 6, 7), masks(3, 6, 7)
    together = heatmap_loss(relevance, mask, reduction="none")
    alone = [heatmap_loss(relevance[[each]], mask[[each]]) for each in range(3)]
    torch.testing.assert_close(together, torch.stack(alone))
