from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.errors import ConfigError, DataError
from pipeline.evaluate.perturbation import (
    aopc,
    aopc_curves,
    aopc_per_sample,
    artifact_aopc,
    cells,
    filled,
    is_local,
    moved,
)
from pipeline.models.small_cnn import small_cnn

FILLS = ("mean", "blur", "black", "white", "noise")


class MeanValue(nn.Module):
    """f(x) = mean of the pixels, as the only logit."""

    def forward(self, x):
        return x.flatten(1).mean(1, keepdim=True)


class Weighted(nn.Module):
    """f(x) = sum of w x, as the first of two logits."""

    def __init__(self, weights: torch.Tensor):
        super().__init__()
        self.weights = weights

    def forward(self, x):
        value = (x * self.weights).flatten(1).sum(1)
        return torch.stack([value, torch.zeros_like(value)], 1)


class Counting(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.batches = model, []

    def forward(self, x):
        self.batches.append(len(x))
        return self.model(x)


def names(count: int) -> list[str]:
    return [f"s{number}" for number in range(count)]


def network(classes: int = 3, channels: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return small_cnn(classes, channels, width=4, blocks=2).eval()


def images(count: int, *shape: int) -> torch.Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))


QUARTERS = torch.tensor([[1.0, 0.25], [0.5, 0.0]]).repeat_interleave(2, 0).repeat_interleave(2, 1)


def test_falls_and_areas_of_four_patches_by_hand():
    options = {"ids": ["a"], "grid": 2, "steps": 4, "fill": "black", "output": "logit"}
    drops = aopc_curves(MeanValue(), QUARTERS[None, None], torch.tensor([0]), QUARTERS[None], **options)
    np.testing.assert_allclose(drops, [[0, 0.25, 0.375, 0.4375, 0.4375]])
    areas = [aopc(drops[:, : last + 1])[0] for last in range(5)]
    np.testing.assert_allclose(areas, [0, 0.125, 0.625 / 3, 0.265625, 0.3])
    reverse = aopc_curves(MeanValue(), QUARTERS[None, None], torch.tensor([0]), QUARTERS[None], order="lerf", **options)
    np.testing.assert_allclose(reverse, [[0, 0, 0.0625, 0.1875, 0.4375]])


def one_by_one(model, image, target, heatmap, grid, steps, fill, sign, output) -> list[float]:
    """Blank the cells of one image, one after another, in Python."""
    place, fillings = cells(image.shape[1:], grid), filled(image[None], fill, ids=["s0"], seed=0)[0]
    means = [sign * float(heatmap.numpy()[place == cell].mean()) for cell in range(place.max() + 1)]
    shown, values = image.clone(), []
    for cell in [None, *sorted(range(len(means)), key=lambda cell: -means[cell])[:steps]]:
        if cell is not None:
            shown[:, place == cell] = fillings[:, place == cell]
        with torch.no_grad():
            logits = model(shown[None])[0]
        values.append(float(logits.softmax(0)[target] if output == "probability" else logits[target]))
    return [values[0] - value for value in values]


@pytest.mark.parametrize(("order", "sign"), [("morf", 1), ("lerf", -1)])
@pytest.mark.parametrize("output", ["probability", "logit"])
@pytest.mark.parametrize("fill", FILLS)
def test_batches_of_steps_give_what_a_loop_over_images_and_steps_gives(order, sign, output, fill):
    model, x = network(), images(5, 2, 11, 8)
    heatmaps, targets = images(5, 11, 8) - 0.5, torch.tensor([0, 1, 2, 0, 1])
    found = aopc_curves(
        model, x, targets, heatmaps, ids=["s0"] * 5, grid=3, steps=7, fill=fill, order=order, output=output,
        batch_size=8,
    )  # fmt: skip
    for number in range(5):
        expected = one_by_one(
            model, x[number], int(targets[number]), heatmaps[number], 3, 7, fill, sign, output
        )  # fmt: skip
        np.testing.assert_allclose(found[number], expected, atol=2e-6)


@pytest.mark.parametrize("fill", FILLS)
def test_relevant_first_beats_random_beats_irrelevant_first_at_every_step_of_a_linear_model(fill):
    weights, x = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(2)), images(6, 2, 12, 12)
    ids = names(6)
    contribution = (weights * (x - filled(x, fill, ids=ids, seed=0))).sum(1)
    curves = {
        order: aopc_curves(
            Weighted(weights), x, torch.zeros(6, dtype=int), contribution, ids=ids, grid=4, steps=16, fill=fill,
            order=order, output="logit",
        )
        for order in ("morf", "random", "lerf")
    }  # fmt: skip
    inside = slice(1, 16)
    assert (curves["morf"][:, inside] > curves["random"][:, inside]).all()
    assert (curves["random"][:, inside] > curves["lerf"][:, inside]).all()
    for curve in curves.values():  # all cells are blanked in the end
        np.testing.assert_allclose(curve[:, -1], contribution.flatten(1).sum(1), rtol=1e-3, atol=1e-4)


def test_scores_are_the_areas_of_the_three_orders_and_their_gap():
    model, x, heatmaps, targets = network(), images(4, 2, 8, 8), images(4, 8, 8), torch.tensor([0, 1, 2, 0])
    options = {"ids": names(4), "grid": 4, "fill": "blur", "seed": 3}
    scores = aopc_per_sample(model, x, targets, heatmaps.numpy(), **options)
    for order in ("morf", "lerf", "random"):
        curve = aopc_curves(model, x, targets, heatmaps, order=order, steps=8, **options)  # half of 16 by default
        np.testing.assert_allclose(getattr(scores, order), curve.mean(1), atol=1e-9)
    np.testing.assert_allclose(scores.gap, scores.morf - scores.random)


def test_the_explained_class_stays_although_the_prediction_changes():
    class Switching(nn.Module):  # class 1 as soon as anything is blanked
        def forward(self, x):
            bright = x.flatten(1).mean(1)
            return torch.stack([bright, torch.where(bright < 1, 5.0, 0.0)], 1)

    options = {"ids": ["a"], "grid": 2, "steps": 4, "fill": "black", "output": "logit"}
    drops = aopc_curves(Switching(), torch.ones(1, 1, 4, 4), torch.tensor([0]), torch.rand(1, 4, 4), **options)
    np.testing.assert_allclose(drops, [[0, 0.25, 0.5, 0.75, 1]])


def test_random_orders_belong_to_the_sample_and_the_seed_and_are_averaged():
    model, x, targets = network(), images(4, 2, 8, 8), torch.tensor([0, 1, 2, 0])
    flat = torch.zeros(4, 8, 8)

    def curves(rows, seed=0, permutations=3):
        ids = [f"s{row}" for row in rows]
        options = {"ids": ids, "grid": 4, "order": "random", "seed": seed, "permutations": permutations}
        return aopc_curves(model, x[rows], targets[rows], flat[rows], **options)

    together = curves([0, 1, 2, 3])
    np.testing.assert_allclose(together[[3, 1]], curves([3, 1]), atol=1e-6)
    assert not np.allclose(together, curves([0, 1, 2, 3], seed=1), atol=1e-6)
    single = [curves([0, 1, 2, 3], permutations=count) for count in (1, 2)]
    second = 2 * single[1] - single[0]
    assert not np.allclose(second, single[0], atol=1e-6)


def test_cells_of_equal_relevance_are_blanked_in_random_order():
    # a heatmap that says nothing must not profit from an object in the upper left
    x = torch.zeros(200, 1, 4, 4)
    x[:, :, :1, :1] = 1
    options = {"ids": names(200), "grid": 4, "steps": 8, "fill": "black", "output": "logit"}
    for order in ("morf", "lerf"):
        drops = aopc_curves(
            Weighted(torch.ones(4, 4)), x, torch.zeros(200, dtype=int), torch.zeros(200, 4, 4), order=order, **options
        )
        assert drops[:, 8].mean() == pytest.approx(0.5, abs=0.15)


def test_the_model_sees_every_image_once_as_it_is_and_once_per_step_in_full_batches():
    model, x, targets = Counting(network()), images(5, 2, 8, 8), torch.zeros(5, dtype=int)
    options = {"ids": names(5), "grid": 4, "steps": 6, "batch_size": 16}
    aopc_curves(model, x, targets, images(5, 8, 8), **options)
    assert model.batches == [16, 16, 3]  # 5 * (1 + 6)
    model.batches.clear()
    aopc_curves(model, x, targets, images(5, 8, 8), order="random", permutations=2, **options)
    assert sum(model.batches) == 5 * (1 + 2 * 6) and set(model.batches[:-1]) == {16}
    model.batches.clear()
    masks = torch.zeros(5, 8, 8, dtype=bool)
    masks[1:, :2, :2] = True
    artifact_aopc(model, x, targets, masks, ids=names(5), draws=4, batch_size=16)
    assert sum(model.batches) == 4 * (1 + 4)  # nothing to blank in the first


@given(st.lists(st.integers(1, 23), min_size=1, max_size=2), st.integers(2, 9))
def test_cells_cover_every_position_once_in_blocks_of_nearly_equal_sides(shape, grid):
    numbers = cells(shape, grid)
    assert numbers.shape == tuple(shape)
    parts = [min(grid, side) for side in shape]
    assert sorted(set(numbers.ravel())) == list(range(int(np.prod(parts))))
    for axis, (side, count) in enumerate(zip(shape, parts, strict=True)):
        along = np.moveaxis(numbers, axis, 0).reshape(side, -1)[:, 0]
        lengths = np.unique(along, return_counts=True)[1]
        assert (np.diff(along) >= 0).all() and len(lengths) == count and np.ptp(lengths) <= 1
    if len(shape) == 2:  # rectangles: row part and column part
        rows, columns = np.divmod(numbers, parts[1])
        assert (rows == rows[:, :1]).all() and (columns == columns[:1]).all()


def test_the_mean_over_a_cell_counts_not_the_sum():
    heatmap = torch.zeros(1, 1, 5)  # columns 0-2 and 3-4
    heatmap[..., :3], heatmap[..., 3:] = 1.0, 1.2
    x = torch.ones(1, 1, 1, 5)
    weights = torch.tensor([[1.0, 1, 1, 10, 10]])
    drops = aopc_curves(
        Weighted(weights), x, torch.tensor([0]), heatmap, ids=["a"], grid=2, steps=2, fill="black", output="logit"
    )
    np.testing.assert_allclose(drops, [[0, 20, 23]])


def test_signals_are_blanked_along_time():
    x = torch.tensor([[[1.0, 1, 2, 2, 3, 3]]])
    drops = aopc_curves(
        Weighted(torch.ones(1, 6)), x, torch.tensor([0]), x[:, 0], ids=["a"], grid=3, steps=3, fill="black",
        output="logit",
    )  # fmt: skip
    np.testing.assert_allclose(drops, [[0, 6, 10, 12]])
    assert filled(x, "blur", ids=["a"], seed=0).shape == x.shape


def test_rows_of_labels_count_by_their_sigmoids_or_the_sum_of_their_logits():
    model, x = network(), images(3, 2, 8, 8)
    present = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    options = {"ids": names(3), "grid": 2, "steps": 4, "fill": "black"}
    with torch.no_grad():
        before, after = model(x).double(), model(torch.zeros(1, 2, 8, 8)).double()
    drops = aopc_curves(model, x, present, images(3, 8, 8), **options)
    first = (before[0].sigmoid() - after[0].sigmoid())[[0, 2]].mean()
    np.testing.assert_allclose(drops[:2, -1], [first, (before[1].sigmoid() - after[0].sigmoid())[1]], atol=1e-6)
    sums = aopc_curves(model, x, present, images(3, 8, 8), output="logit", **options)
    assert sums[0, -1] == pytest.approx(float((before[0] - after[0])[[0, 2]].sum()), abs=1e-5)
    assert np.isnan(drops[2]).all() and np.isnan(sums[2]).all()


def test_a_heatmap_that_is_not_finite_has_no_curve():
    heatmaps = images(2, 8, 8)
    heatmaps[1, 3, 3] = torch.nan
    found = aopc_per_sample(network(), images(2, 2, 8, 8), torch.tensor([0, 0]), heatmaps, ids=names(2))
    assert np.isnan([found.morf[1], found.lerf[1], found.gap[1]]).all()
    assert np.isfinite([found.morf[0], found.gap[0], found.random[1]]).all()


def test_the_model_is_used_in_evaluation_mode_and_left_as_it_was():
    model, x = network().train(), images(3, 2, 8, 8)
    model[-1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    aopc_curves(model, x, torch.zeros(3, dtype=int), images(3, 8, 8), ids=names(3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and model[0].training and not model[-1].training


@pytest.mark.parametrize("fill", FILLS)
def test_what_fills_stays_between_black_and_white(fill):
    x = torch.cat([images(3, 3, 9, 14), torch.ones(1, 3, 9, 14), torch.zeros(1, 3, 9, 14)])
    found = filled(x, fill, ids=names(5), seed=0)
    assert found.shape == x.shape and found.dtype == x.dtype
    assert found.min() >= 0 and found.max() <= 1
    if fill in ("mean", "blur"):  # nothing changes where there is nothing to blur
        assert torch.equal(found[3], x[3]) and torch.equal(found[4], x[4])


def test_each_fill_is_what_it_is_called():
    x, ids = images(2, 3, 20, 30), names(2)
    flat = filled(x, "mean", ids=ids, seed=0)
    assert torch.allclose(flat[1, 2], x[1, 2].mean()) and not torch.allclose(flat[1, 2], flat[1, 0])
    assert not filled(x, "black", ids=ids, seed=0).any() and filled(x, "white", ids=ids, seed=0).eq(1).all()
    noise = filled(x, "noise", ids=ids, seed=0)
    assert torch.equal(noise[1:], filled(x[1:], "noise", ids=["s1"], seed=0))
    assert not torch.equal(noise[0], noise[1]) and not torch.equal(noise, filled(x, "noise", ids=ids, seed=1))
    assert noise.mean() == pytest.approx(0.5, abs=0.03) and noise.std() == pytest.approx(12**-0.5, abs=0.02)
    with pytest.raises(ConfigError, match="'grey' is unknown. Allowed: mean, blur"):
        filled(x, "grey", ids=ids, seed=0)


def test_blur_is_a_gaussian_of_a_tenth_of_the_shorter_side():
    from scipy.ndimage import gaussian_filter

    x = torch.zeros(1, 1, 40, 61)
    x[0, 0, 20, 30] = 1
    expected = gaussian_filter(x[0, 0].double().numpy(), 4.0, truncate=8)
    inner = slice(16, 25), slice(16, 45)  # far enough from the border
    np.testing.assert_allclose(filled(x, "blur", ids=["a"], seed=0)[0, 0][inner], expected[inner], rtol=1e-3)


def test_steps_and_sizes_that_do_not_fit_are_refused():
    x, targets = images(2, 2, 8, 8), torch.zeros(2, dtype=int)
    with pytest.raises(ConfigError, match=r"steps: 17, but a grid of 4 .* 16 cells"):
        aopc_curves(network(), x, targets, images(2, 8, 8), ids=names(2), grid=4, steps=17)
    with pytest.raises(DataError, match=r"heatmaps have the size \[4, 4\], images \[8, 8\]"):
        aopc_curves(network(), x, targets, images(2, 4, 4), ids=names(2))
    with pytest.raises(DataError, match="2 samples, 2 targets, 2 heatmaps, 1 ids"):
        aopc_curves(network(), x, targets, images(2, 8, 8), ids=names(1))


def square(*corner: int, side: int = 3, shape=(12, 12)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(start, start + side) for start in corner)] = True
    return mask


def test_blanking_the_artifact_counts_beyond_blanking_as_much_elsewhere():
    weights = torch.full((12, 12), 0.1)
    weights[1:4, 2:5] = 2.0
    x, masks = torch.ones(3, 1, 12, 12), np.stack([square(1, 2), square(8, 8), np.zeros((12, 12), bool)])
    options = {"ids": names(3), "fill": "black", "output": "logit", "draws": 8}
    found = artifact_aopc(Weighted(weights), x, torch.zeros(3, dtype=int), masks, **options)
    assert found[0] == pytest.approx(9 * 2.0 - 9 * 0.1, rel=1e-5)
    assert found[1] <= 1e-6 and np.isnan(found[2])  # elsewhere, the model loses as much or more


def test_an_artifact_is_compared_with_the_mean_over_its_draws_under_the_same_fill():
    model, x, targets = network(), images(2, 2, 12, 12), torch.tensor([0, 2])
    masks = np.stack([square(1, 2), square(5, 6)])
    found = artifact_aopc(model, x, targets, torch.from_numpy(masks), ids=["a", "b"], fill="noise", seed=4, draws=3)
    from pipeline.data.randomness import generator

    fillings = filled(x, "noise", ids=["a", "b"], seed=4)
    for row, name in enumerate("ab"):
        places = moved(masks[row], 3, generator(4, "elsewhere", name))

        def value(mask, row=row):
            shown = torch.where(torch.from_numpy(mask)[None], fillings[row], x[row])
            with torch.no_grad():
                return float(model(shown[None]).softmax(1)[0, targets[row]])

        expected = np.mean([value(place) for place in places]) - value(masks[row])
        assert found[row] == pytest.approx(expected, abs=1e-6)


def test_masks_of_nothing_or_of_almost_everything_are_not_measured():
    almost = np.ones((12, 12), bool)
    almost[0, :7] = False  # 137 of 144 pixels
    less = np.ones((12, 12), bool)
    less[0, :8] = False
    assert [is_local(mask) for mask in (np.zeros((12, 12), bool), almost, less, square(0, 0))] == [0, 0, 1, 1]
    masks = np.stack([almost, np.ones((12, 12), bool)])
    x, targets = images(2, 2, 12, 12), torch.tensor([0, 2])
    assert np.isnan(artifact_aopc(network(), x, targets, masks, ids=names(2))).all()


def test_a_moved_mask_keeps_its_shape_and_lies_beside_itself():
    mask = square(4, 5)
    mask[4, 5] = False
    places = moved(mask, 40, np.random.default_rng(0))
    assert not (places & mask).any() and len({place.tobytes() for place in places}) == 40
    for place in places:
        rows, columns = np.nonzero(place)
        window = place[rows.min() : rows.min() + 3, columns.min() : columns.min() + 3]
        assert np.array_equal(window, mask[4:7, 5:8])  # in one piece


def test_a_mask_as_wide_as_the_image_moves_around_its_border():
    frame = np.zeros((10, 10), bool)
    frame[[0, -1]] = frame[:, [0, -1]] = True
    overlaps = [(np.roll(frame, (i, j), (0, 1)) & frame).sum() for i in range(10) for j in range(10)]
    for place in moved(frame, 6, np.random.default_rng(0)):
        assert place.sum() == frame.sum() and (place & frame).sum() == min(overlaps)
    signal = np.zeros(9, bool)
    signal[[0, 8]] = True
    for place in moved(signal, 4, np.random.default_rng(0)):
        assert place.sum() == 2 and not (place & signal).any()


def test_places_repeat_only_where_there_are_too_few():
    half = np.zeros(4, bool)
    half[:2] = True
    assert moved(half, 5, np.random.default_rng(0)).astype(int).tolist() == [[0, 0, 1, 1]] * 5
