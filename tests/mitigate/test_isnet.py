from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mitigate.isnet import (
    fit_mask,
    heatmap_loss,
    natural_cuts,
    ranked_pooling,
    selective_margin,
    stochastic_logit,
)

REFERENCE = Path(__file__).parents[2] / "../shared/reference/isnet/loss.npz"
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


@pytest.mark.parametrize("size", ["same", "big"])
@pytest.mark.parametrize("decay", ["0.0", "0.9", "0.996", "1.0"])
@pytest.mark.real_data
def test_the_published_implementation_agrees(decay, size):
    if not REFERENCE.exists():
        pytest.skip(f"needs the reference numbers at {REFERENCE}")
    with np.load(REFERENCE) as stored:
        numbers = dict(stored)
    mask = torch.from_numpy(numbers["mask" if size == "same" else "mask_big"])
    compared = 0
    for key in numbers:
        if not key.startswith(f"loss/d{decay}|") or not key.endswith(size):
            continue
        _, E, norm, A, B, foreground, cut, cut2, _ = key.split("|")
        relevance = torch.from_numpy(numbers["heatmap"]).requires_grad_(True)
        loss = heatmap_loss(
            relevance, mask, decay=float(decay), E=float(E[1:]), norm=norm, foreground=foreground.lower(),
            background_weight=float(A[1:]), foreground_weight=float(B[1:]), cut=float(cut[1:]), cut2=float(cut2),
        )  # fmt: skip
        (gradient,) = torch.autograd.grad(loss, relevance)
        assert loss.item() == pytest.approx(float(numbers[key]), rel=1e-5), key
        assert gradient.norm().item() == pytest.approx(float(numbers["gradnorm" + key[4:]]), rel=1e-4), key
        compared += 1
    assert compared == 52


@pytest.mark.real_data
def test_gradient_mask_and_samples_of_the_published_implementation_agree():
    if not REFERENCE.exists():
        pytest.skip(f"needs the reference numbers at {REFERENCE}")
    with np.load(REFERENCE) as stored:
        numbers = dict(stored)
    assert np.array_equal(fit_mask(torch.from_numpy(numbers["mask_big"]), (12, 10)), numbers["resized_mask"])
    relevance, mask = torch.from_numpy(numbers["heatmap"]).requires_grad_(True), torch.from_numpy(numbers["mask"])
    loss = heatmap_loss(relevance, mask, cut=0.2, cut2=1.0)
    (gradient,) = torch.autograd.grad(loss, relevance)
    np.testing.assert_allclose(gradient, numbers["grad_example_d0.9_E1_A1_B1_hybrid_C0.2_1"], rtol=1e-3, atol=1e-7)
    flat = (relevance.detach().abs() * (1 - mask[:, None])).flatten(3)
    np.testing.assert_allclose(
        relevance.detach().abs().mul(mask[:, None]).sum((2, 3, 4)), numbers["fg_abs_sum"], rtol=1e-5
    )
    assert ranked_pooling(flat, 0.9).shape == numbers["gwrp_d0.9"].shape


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
    relevance = heatmaps(2, 1, 3, 8, 8)
    assert heatmap_loss(relevance, torch.ones(2, 1, 8, 8), foreground_weight=0.0) == 0


def test_a_sample_without_foreground_stays_finite_and_is_worse_than_any_other():
    relevance = heatmaps(1, 1, 3, 8, 8).float().requires_grad_(True)
    loss = heatmap_loss(relevance, torch.zeros(1, 1, 8, 8), foreground_weight=0.0)
    (gradient,) = torch.autograd.grad(loss, relevance)
    assert loss.item() == pytest.approx(15.94, abs=0.01) and gradient.isfinite().all()


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


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.5, 0.9, 0.97, 0.996, 0.99999, 1 - 1e-9, 1.0])
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_truncated_pooling_is_the_full_one(decay, count):
    values = heatmaps(3, count).abs()
    ranked = values.sort(-1, descending=True).values
    weights = torch.tensor([decay**rank if rank else 1.0 for rank in range(count)], dtype=torch.float64)
    torch.testing.assert_close(
        ranked_pooling(values, decay), (ranked * weights).sum(-1) / weights.sum(), rtol=1e-6, atol=0
    )


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


def test_a_soft_mask_is_refused():
    with pytest.raises(ValueError, match="0 and 1 only"):
        heatmap_loss(heatmaps(1, 1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.5))


def test_the_selective_margin_is_the_log_odds_of_the_least_likely_class():
    logits = heatmaps(20, 6)
    least = logits.softmax(1).min(1).values
    torch.testing.assert_close(selective_margin(logits), (least / (1 - least)).log())
    two = torch.tensor([[1.0, 3.5]])
    torch.testing.assert_close(selective_margin(two), torch.tensor([-2.5]))


@pytest.mark.parametrize("gap", [5.0, 20.0, 200.0])
def test_the_selective_margin_neither_vanishes_nor_overflows_for_confident_networks(gap):
    logits = torch.tensor([[gap, 0.0, 1.0], [-gap, 0.0, 0.0]], requires_grad=True)
    margin = selective_margin(logits)
    (gradient,) = torch.autograd.grad(margin.sum(), logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient.pow(2).sum(), logits)
    assert margin.isfinite().all() and gradient.isfinite().all() and second.isfinite().all()
    lowest = logits.argmin(1, keepdim=True)
    torch.testing.assert_close(gradient.gather(1, lowest), torch.ones(2, 1))
    # closed form: 1 for the explained class, -p_j / (1 - p_c) for every other one
    others = torch.where(torch.arange(3) == lowest, float("-inf"), logits).softmax(1)
    torch.testing.assert_close(gradient.scatter(1, lowest, 0.0), -others)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_stochastic_logit_is_the_highest_one_half_of_the_time_and_any_other_alike(classes):
    torch.manual_seed(0)
    count = 20_000
    logits = torch.arange(classes).flip(0).float().roll(1).repeat(count, 1)
    chosen = stochastic_logit(logits)
    shares = torch.stack([(chosen == logits[0, each]).float().mean() for each in range(classes)])
    highest = int(logits[0].argmax())
    expected = torch.full((classes,), 0.5 / (classes - 1))
    expected[highest] = 0.5
    torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)


def test_natural_cuts_bracket_the_usual_relevance():
    assert natural_cuts(torch.tensor([10.0, 10.0, 10.0])) == (10.0, 10.0)
    spread = torch.tensor([1.0, 100.0])
    mean, deviation = float(spread.mean()), float(spread.std())
    assert natural_cuts(spread) == pytest.approx((mean / 5, min(5 * mean, mean + 3 * deviation)))
