from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.data.randomness import generator, uniform

ids = st.lists(st.text(max_size=8), unique=True, max_size=12)


@settings(deadline=None)
@given(st.integers(), ids, st.randoms())
def test_a_draw_belongs_to_its_id_whatever_the_order_and_the_company(seed, names, shuffle):
    draws = dict(zip(names, uniform(seed, names, "split"), strict=True))
    shuffled = names[:]
    shuffle.shuffle(shuffled)
    shuffled = shuffled[: len(names) // 2 + 1]
    assert [draws[name] for name in shuffled] == list(uniform(seed, shuffled, "split"))


@settings(deadline=None)
@given(st.integers(), st.lists(st.text(max_size=4), min_size=1, max_size=4))
def test_seed_and_every_key_count(seed, keys):
    first = generator(seed, *keys).random()
    assert generator(seed, *keys).random() == first
    others = [
        generator(seed + 1, *keys),
        generator(seed, *keys, ""),
        generator(seed, *keys[:-1]),
        generator(seed, *keys[:-1], keys[-1] + "x"),
    ]
    assert all(other.random() != first for other in others)


def test_keys_are_not_run_together():
    assert generator(0, "ab", "c").random() != generator(0, "a", "bc").random()
    assert generator(0, 'a", "b').random() != generator(0, "a", "b").random()


def test_draws_are_the_same_in_another_process():
    program = "from pipeline.data.randomness import uniform; print(uniform(7, ['x', 'ü'], 'attack').tolist())"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(uniform(7, ["x", "ü"], "attack").tolist())


def test_draws_over_ids_are_uniform_and_purposes_independent():
    names = [f"image_{i}" for i in range(3000)]
    first, second = uniform(0, names, "attack"), uniform(0, names, "split")
    assert stats.kstest(first, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
    assert abs(np.corrcoef(first, uniform(1, names, "attack"))[0, 1]) < 0.06
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.06


def test_the_global_generator_is_left_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    generator(0, "a").random(5)
    assert np.array_equal(before, np.random.get_state()[1])


def test_no_ids_give_no_draws():
    assert uniform(0, [], "attack").shape == (0,)
