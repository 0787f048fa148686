from __future__ import annotations

from itertools import product

import pytest

from pipeline.mitigate.selection import Standing, choose, mean_standing, pareto_front, rule_text

ORIGINAL = Standing(0.95, 0.3)


def test_the_best_worst_group_wins_among_those_that_cost_little():
    standings = [Standing(0.95, 0.5), Standing(0.94, 0.8), Standing(0.90, 0.9)]
    assert choose(standings, ORIGINAL, 0.02) == 1
    assert choose(standings, ORIGINAL, 0.05) == 2
    assert choose(standings, ORIGINAL, 0.0) == 0


def test_where_all_cost_too_much_the_one_that_costs_least_wins():
    assert choose([Standing(0.5, 0.5), Standing(0.7, 0.2), Standing(0.6, 0.6)], ORIGINAL, 0.02) == 1


def test_of_equals_the_first_wins():
    assert choose([Standing(0.95, 0.5)] * 3, ORIGINAL, 0.02) == 0


def test_the_front_holds_those_that_nobody_beats():
    standings = [Standing(0.9, 0.5), Standing(0.8, 0.8), Standing(0.8, 0.7), Standing(0.9, 0.5), Standing(0.7, 0.8)]
    assert pareto_front(standings) == [True, True, False, True, False]
    assert pareto_front([]) == []


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2, 1.0])
def test_the_preferred_correction_lies_on_the_front(loss):
    standings = [Standing(clean / 10, worst / 10) for clean, worst in product(range(5, 10), range(3, 8))]
    assert pareto_front(standings)[choose(standings, ORIGINAL, loss)]


def test_the_rule_in_words_names_the_loss_and_the_split():
    assert "0.050" in rule_text(0.05) and "validation" in rule_text(0.05)


def test_the_mean_over_seeds():
    assert mean_standing([Standing(0.8, 0.2), Standing(1.0, 0.4)]) == Standing(0.9, pytest.approx(0.3))
