from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax

from pipeline.data.memory import ArrayDataset, make_table
from pipeline.data.pasted import PastedView
from pipeline.evaluate.causal import intervention, mean_of_shares, paste_seam, ratio_of_sums
from pipeline.statistics import bootstrap, wilson
from pipeline.workspace.metric_catalogue import METRICS

OPTIONS = {"confidence": 0.95, "resamples": 200, "seed": 0}
BEFORE = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 2.0, 5.0], [0.0, 4.0, 1.0]])
"""Predicted: 0, 1, 2, 1."""
LABELS = np.array([0, 1, 2, 0])


def logits_of(*predicted: int) -> np.ndarray:
    return 4.0 * np.eye(3)[list(predicted)]


def inserted(before, after, **changes):
    arguments = {"labels": LABELS, "class_id": 1, "direction": "inserted"} | OPTIONS | changes
    return intervention(before, after, **arguments)


def test_hand_made_logits_have_the_figures_of_the_closed_form():
    after = BEFORE[None] + np.array([0.0, 1.5, 0.0])  # only the class's logit rises; the first sample flips to it
    found = inserted(BEFORE, after)
    assert set(found) <= set(METRICS)
    assert found["flip_rate"] == wilson(1, 4)
    assert found["flip_to_class_rate"] == wilson(1, 2)  # two samples were not predicted as the class
    assert found["logit_shift"] == (1.5, 1.5, 1.5, 4)
    assert found["relative_logit_shift"].value == pytest.approx(6 / 10)
    expected = softmax(after[0], axis=1)[:, 1] - softmax(BEFORE, axis=1)[:, 1]
    assert found["probability_shift"].value == pytest.approx(expected.mean())
    assert found["accuracy_change"].value == -0.25  # the first was right and is not any more
    assert all(each.lower <= each.value <= each.upper for each in found.values())


def test_removed_counts_predictions_that_stop_being_the_class():
    after = logits_of(0, 0, 1, 1)[None]  # were 0, 1, 2, 1
    found = inserted(BEFORE, after, direction="removed")
    assert found["flip_to_class_rate"] == wilson(1, 2)
    assert found["flip_rate"] == wilson(2, 4)
    assert inserted(BEFORE, after)["flip_to_class_rate"] == wilson(1, 2)  # of 0 and 2, the 2 becomes 1


def test_figures_are_means_over_samples_of_means_over_placements():
    after = np.stack([logits_of(0, 1, 2, 1), logits_of(1, 1, 1, 1), logits_of(1, 1, 2, 0)])
    found = inserted(BEFORE, after)
    assert found["flip_rate"].value == pytest.approx(np.mean([2 / 3, 0, 1 / 3, 1 / 3]))
    assert found["flip_rate"].n == 4
    assert found["flip_rate"] == bootstrap(np.array([2, 0, 1, 1]) / 3, **OPTIONS)
    assert found["flip_to_class_rate"].value == pytest.approx(np.mean([2 / 3, 1 / 3]))
    assert found["flip_to_class_rate"].n == 2
    assert found["logit_shift"].value == pytest.approx(after[:, :, 1].mean() - BEFORE[:, 1].mean())
    probability = softmax(after, axis=2)[:, :, 1].mean() - softmax(BEFORE, axis=1)[:, 1].mean()
    assert found["probability_shift"].value == pytest.approx(probability)
    assert found["accuracy_change"].value == pytest.approx(np.mean([-2 / 3, 0, -1 / 3, 1 / 3]))


def test_repeating_a_placement_changes_no_value_but_the_kind_of_interval():
    after = BEFORE[None] + np.array([0.0, 1.5, 0.0])
    once, twice = inserted(BEFORE, after), inserted(BEFORE, after.repeat(2, 0))
    for name, figure in once.items():
        assert twice[name].value == pytest.approx(figure.value), name


def test_relative_shift_is_nan_where_logits_are_zero_and_else_scales_with_nothing():
    found = inserted(np.zeros((4, 3)), np.ones((1, 4, 3)))
    assert math.isnan(found["relative_logit_shift"].value) and found["relative_logit_shift"].n == 4
    assert found["logit_shift"].value == 1
    after = BEFORE[None] + np.array([0.0, 1.5, 0.0])
    small, large = (inserted(BEFORE * k, after * k)["relative_logit_shift"] for k in (1e-3, 1e3))
    assert small.value == pytest.approx(large.value) and small.lower == pytest.approx(large.lower)


def test_relative_shift_counts_magnitudes_so_that_signs_do_not_cancel():
    before = np.array([[0.0, 2.0, 0.0], [0.0, -2.0, 0.0]])
    found = inserted(before, before[None] - np.array([0.0, 1.0, 0.0]), labels=np.array([1, 0]))
    assert found["relative_logit_shift"].value == pytest.approx(-0.5)


def test_without_samples_everything_is_unmeasured():
    found = inserted(np.zeros((0, 3)), np.zeros((2, 0, 3)), labels=np.zeros(0, int))
    assert all(figure.n == 0 and math.isnan(figure.value) for figure in found.values())
    none_of_the_class = inserted(logits_of(0, 2, 0, 2), logits_of(0, 2, 0, 2)[None], direction="removed")
    assert none_of_the_class["flip_to_class_rate"].n == 0 and none_of_the_class["flip_rate"].n == 4


def test_no_change_at_all_is_no_certainty():
    found = inserted(BEFORE, BEFORE[None].repeat(3, 0))
    assert found["flip_rate"] == wilson(0, 4)
    reach = wilson(0, 4).upper
    assert found["accuracy_change"] == (0, -reach, reach, 4)
    assert mean_of_shares(np.ones((3, 8), bool), **OPTIONS) == wilson(8, 8)


@pytest.mark.parametrize(
    ("after", "labels", "direction"),
    [
        (BEFORE, LABELS, "inserted"),
        (BEFORE[None, :3], LABELS, "inserted"),
        (np.zeros((0, 4, 3)), LABELS, "inserted"),
        (BEFORE[None], LABELS[:2], "inserted"),
        (BEFORE[None], LABELS, "pasted"),
    ],
)
def test_what_does_not_belong_together_is_refused(after, labels, direction):
    with pytest.raises(ValueError):
        inserted(BEFORE, after, labels=labels, direction=direction)


def test_an_interval_of_a_ratio_covers_it_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        below = generator.uniform(1, 3, 60)
        figure = ratio_of_sums(0.5 * below + generator.normal(0, 1, 60), below, 1e-6, **OPTIONS)
        hits += figure.lower <= 0.5 <= figure.upper
    assert 86 <= hits <= 100


def pasted(receivers: np.ndarray, donors: np.ndarray, seam: float = 0) -> PastedView:
    """Paste a square of the donors `[D, 1, H, W]` into other samples; values 0..255."""
    ids = [f"r{row}" for row in range(len(receivers))]
    dataset = ArrayDataset(receivers.astype(np.uint8), make_table(ids, [0] * len(ids), ["test"] * len(ids)), ["a"])
    masks = np.zeros((len(donors), *donors.shape[2:]), dtype=bool)
    masks[:, 3:7, 3:7] = True
    images = torch.from_numpy(donors / 255).float()
    return PastedView(dataset, images, masks, [f"d{row}" for row in range(len(donors))], 0, seam=seam)


@pytest.fixture
def ramp() -> np.ndarray:
    """Two equal images that rise by 4 of 255 to the right and to the bottom."""
    return 4 * np.add.outer(np.arange(12), np.arange(12))[None, None].repeat(2, 0)


@pytest.mark.parametrize("seam", [0, 0.1])
def test_a_copy_onto_itself_has_a_seam_of_one(ramp, seam):
    found = paste_seam([pasted(ramp, ramp, seam)], np.arange(2), **OPTIONS)
    assert found.value == pytest.approx(1, rel=1e-5) and found.n == 2


def test_a_hard_foreign_paste_has_the_step_of_the_closed_form(ramp):
    donors = ramp + 60
    found = paste_seam([pasted(ramp, donors)], np.arange(2), **OPTIONS)
    # of 16 pairs across the border the upper and the left ones step by 60 + 4, the others by 60 - 4
    assert found.value == pytest.approx((64 + 56) / 2 / 4, rel=1e-5)


def test_blending_lowers_the_seam(ramp):
    hard, soft, softer = (
        paste_seam([pasted(ramp, ramp + 60, seam)], np.arange(2), **OPTIONS).value for seam in (0, 0.07, 0.15)
    )
    assert hard > 1.5 * soft > 1.5 * softer > 1.5


def test_placements_are_averaged_within_a_sample(ramp):
    views = [pasted(ramp, ramp), pasted(ramp, ramp + 60)]
    apart = [paste_seam([view], np.arange(2), **OPTIONS).value for view in views]
    both = paste_seam(views, np.arange(2), **OPTIONS)
    assert both.value == pytest.approx(np.mean(apart), rel=1e-5) and both.n == 2


def test_a_seam_is_unmeasured_where_donors_are_flat_or_nothing_was_pasted(ramp):
    flat = paste_seam([pasted(ramp, np.full_like(ramp, 100))], np.arange(2), **OPTIONS)
    assert math.isnan(flat.value) and flat.n == 2
    assert paste_seam([], np.arange(2), **OPTIONS).n == 0
    assert paste_seam([pasted(ramp, ramp)], np.arange(0), **OPTIONS).n == 0
    view = pasted(ramp, ramp)
    view.masks[:] = True
    assert paste_seam([view], np.arange(2), **OPTIONS).n == 0
