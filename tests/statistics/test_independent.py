from __future__ import annotations

import math

import pytest

from pipeline.statistics import Interval, difference_of_independent, unmeasured, wilson


@pytest.mark.parametrize(
    ("before", "after", "lower", "upper"),
    [
        ((48, 80), (56, 70), 0.0524, 0.3339),
        ((3, 10), (9, 10), 0.1705, 0.8090),
        ((0, 10), (10, 10), 0.6075, 1.0),
        ((0, 20), (0, 10), -0.1611, 0.2775),
    ],
)
def test_the_published_examples_of_differences_of_shares(before, after, lower, upper):
    # Newcombe, Statistics in Medicine 1998, 17:873-890, table II, method 10
    found = difference_of_independent(wilson(*before), wilson(*after))
    assert found[1:3] == pytest.approx((lower, upper), abs=5.1e-5) and found.n == min(before[1], after[1])


def test_intervals_that_are_symmetric_add_their_squares():
    found = difference_of_independent(Interval(1.0, 0.7, 1.3, 40), Interval(3.0, 2.6, 3.4, 50))
    assert found == pytest.approx((2.0, 1.5, 2.5, 40))


def test_each_bound_is_made_of_the_sides_that_face_it():
    found = difference_of_independent(Interval(0.5, 0.5, 0.8, 9), Interval(0.9, 0.5, 0.9, 12))
    assert found == pytest.approx((0.4, 0.4 - math.hypot(0.4, 0.3), 0.4, 9))


def test_a_figure_that_was_not_measured_leaves_the_difference_open():
    for pair in ((unmeasured(3), wilson(4, 9)), (wilson(4, 9), unmeasured(3))):
        found = difference_of_independent(*pair)
        assert all(math.isnan(figure) for figure in found[:3]) and found.n == 3
