from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.config.mitigate import FineTuneMethod, IsnetMethod


@pytest.mark.parametrize("cuts", [{"cut": 1.0}, {"cut2": 5.0}, {"cut": 5.0, "cut2": 1.0}])
def test_cuts_come_in_pairs_and_in_order(cuts):
    with pytest.raises(ValidationError, match="cut"):
        IsnetMethod(kind="isnet", **cuts)


def test_both_cuts_or_none_are_fine():
    assert IsnetMethod(kind="isnet").cut is None
    assert IsnetMethod(kind="isnet", cut=1.0, cut2=25.0).cut2 == 25.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "dual"}, "rule: block"),
        ({"variant": "softmax_gradient_x_input", "rule": "block"}, "no LRP"),
        ({"variant": "softmax_gradient_x_input", "deep_supervision": True}, "no LRP"),
        ({"variant": "original", "explain_labels": True}, "selective and stochastic, not original"),
        ({"variant": "selective", "rule": "block", "explain_labels": True}, "rule: flex"),
        ({"variant": "stochastic", "selective_stabilizer": 0.01}, "variant: selective"),
        ({"variant": "selective", "rule": "block", "selective_stabilizer": 0.01}, "rule: flex"),
        ({"heatmap_share": 1.5}, "less than or equal to 1"),
        ({"heatmap_share": {0: 0.5}}, "greater than or equal to 1"),
    ],
)
def test_options_of_isnet_that_do_not_fit_together_are_refused_with_what_does(options, words):
    with pytest.raises(ValidationError, match=words):
        IsnetMethod(kind="isnet", **options)


def test_the_share_of_the_heatmap_loss_may_change_with_the_epochs():
    assert [IsnetMethod(kind="isnet", heatmap_share=1).share_at(epoch) for epoch in (1, 9)] == [1, 1]
    method = IsnetMethod(kind="isnet", heatmap_share={5: 0.7, 2: 0.3})
    assert [method.share_at(epoch) for epoch in (1, 2, 4, 5, 50)] == [0, 0.3, 0.3, 0.7, 0.7]


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({}, True),
        ({"start": "scratch"}, False),
        ({"norms": "training"}, False),
        ({"start": "scratch", "norms": "frozen"}, True),
    ],
)
def test_statistics_of_batch_norm_are_trained_from_scratch_only_unless_said_otherwise(options, frozen):
    assert IsnetMethod(kind="isnet", **options).frozen_norms is frozen


def test_patience_needs_a_metric_to_be_better_in():
    with pytest.raises(ValidationError, match="select: loss"):
        FineTuneMethod(kind="fine_tune", patience=2)
    assert FineTuneMethod(kind="fine_tune", patience=2, select="accuracy").patience == 2
    assert IsnetMethod(kind="isnet", patience=2, select="total").select == "total"
