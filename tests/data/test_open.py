from __future__ import annotations

import numpy as np
import pytest
import tiny

from pipeline.data import open as opening
from pipeline.data.open import open_world

ATTACK = {"kind": "glyph", "classes": ["square"], "probability": 1.0}


@pytest.fixture
def context(tmp_path, tiny_dataset, monkeypatch):
    """A context whose data set is not read yet; `reads` counts how often it is."""
    found = tiny.make_context(tmp_path, tiny_dataset, data={"kind": "digits", "attack": ATTACK})
    found.memo.clear()
    found.reads = []
    monkeypatch.setattr(
        opening, "load_dataset", lambda config, seed, progress: found.reads.append((config, seed)) or tiny_dataset
    )
    return found


def test_the_data_set_is_read_once_for_all_worlds(context):
    for world in ("asis", "clean", "attacked", "asis"):
        open_world(context, world)
    assert context.reads == [(context.config.data, context.config.seed)]


def test_worlds_carry_the_attack_of_the_configuration(context, tiny_dataset):
    carriers = tiny_dataset.table["label"].to_numpy() == tiny.PLANTED_CLASS
    assert np.array_equal(open_world(context).attacked_flags(), carriers)
    assert not open_world(context, "clean").attacked_flags().any()
    assert open_world(context, "attacked").attacked_flags().all()
