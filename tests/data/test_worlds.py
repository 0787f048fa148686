from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.config.data import ClassMarkAttack, GlyphAttack, TintAttack
from pipeline.data.memory import Subset
from pipeline.data.worlds import WORLDS, WorldView, attacked_classes
from pipeline.errors import ConfigError

GLYPH = GlyphAttack(kind="glyph", classes=["b"], probability=0.5)


@pytest.fixture
def data(small_dataset):
    return small_dataset(n=240)


def worlds(data, attack=GLYPH, seed=0):
    return {world: WorldView(data, attack, world, seed) for world in WORLDS}


def same(one, other):
    return all(torch.equal(one[row].x, other[row].x) for row in range(len(one)))


def test_without_an_attack_all_worlds_are_the_data_set(data):
    for view in worlds(data, None).values():
        assert same(view, data) and view.fingerprint() == data.fingerprint() and not view.attacked_flags().any()
        assert view.truth_mask(0) is None


def test_artifact_is_where_its_world_says(data):
    views = worlds(data)
    assert not views["clean"].attacked_flags().any() and views["attacked"].attacked_flags().all()
    flags = views["asis"].attacked_flags()
    assert set(data.table["label"][flags]) == {1} and 25 < flags.sum() < 55


def test_pixels_change_inside_the_mask_of_attacked_samples_only(data):
    for view in worlds(data).values():
        for row, attacked in enumerate(view.attacked_flags()):
            changed = (view[row].x != data[row].x).any(0).numpy()
            mask = view.truth_mask(row)
            assert view[row][1:] == data[row][1:] and changed.any() == attacked
            if attacked:
                assert mask.dtype == bool and not changed[~mask].any() and changed[mask].mean() > 0.8
            else:
                assert mask is None


def test_sample_attacked_in_two_worlds_looks_the_same(data):
    views = worlds(data)
    rows = np.flatnonzero(views["asis"].attacked_flags())
    assert all(torch.equal(views["asis"][row].x, views["attacked"][row].x) for row in rows)


def test_probability_one_and_zero_are_exact(data):
    all_of_b = WorldView(data, GLYPH.model_copy(update={"probability": 1.0}), "asis", 0).attacked_flags()
    assert np.array_equal(all_of_b, data.table["label"].to_numpy() == 1)
    assert not WorldView(data, GLYPH.model_copy(update={"probability": 0.0}), "asis", 0).attacked_flags().any()


def test_elsewhere_plants_counter_examples_in_the_other_classes(data):
    before = WorldView(data, GLYPH, "asis", 0).attacked_flags()
    flags = WorldView(data, GLYPH.model_copy(update={"elsewhere": 0.25}), "asis", 0).attacked_flags()
    others = data.table["label"].to_numpy() != 1
    assert (flags[~others] == before[~others]).all()
    assert 0.1 < flags[others].mean() < 0.4


def test_who_is_attacked_depends_on_seed_and_id_only(data):
    flags = WorldView(data, GLYPH, "asis", 0).attacked_flags()
    rows = np.random.default_rng(0).permutation(len(data))[:100]
    whole, view = WorldView(data, GLYPH, "asis", 0), WorldView(Subset(data, rows), GLYPH, "asis", 0)
    assert np.array_equal(view.attacked_flags(), flags[rows])
    assert all(torch.equal(view[place].x, whole[row].x) for place, row in enumerate(rows))
    assert not np.array_equal(WorldView(data, GLYPH, "asis", 1).attacked_flags(), flags)


def test_table_and_protocol_do_not_reveal_who_is_attacked(data):
    for view in worlds(data).values():
        assert view.table.equals(data.table) and view.artifact_names() == data.artifact_names()
        assert np.array_equal(view.artifact_flags("ruler"), data.artifact_flags("ruler"))
        assert np.array_equal(view.roi_mask(4), data.roi_mask(4)) and view.roi_mask(5) is None
        assert view.artifact_mask("ruler", 5) is None and view.classes == data.classes and view.shape == data.shape


def test_flags_are_copies(data):
    view = WorldView(data, GLYPH, "asis", 0)
    view.attacked_flags()[:] = True
    assert not view.attacked_flags().all()


def test_fingerprint_depends_on_attack_world_seed_and_data(data, small_dataset):
    stronger = GLYPH.model_copy(update={"size": 7})
    views = [
        *worlds(data).values(),
        WorldView(data, GLYPH, "asis", 1),
        WorldView(data, stronger, "asis", 0),
        WorldView(data, TintAttack(kind="tint", classes=["b"]), "asis", 0),
        WorldView(small_dataset(), GLYPH, "asis", 0),
    ]
    prints = [view.fingerprint() for view in views]
    assert len(set(prints)) == len(prints) and WorldView(data, GLYPH, "asis", 0).fingerprint() == prints[0]


def test_classes_are_named_or_numbered():
    attack = GlyphAttack(kind="glyph", classes=["c", 0, "a"])
    assert attacked_classes(attack, ("a", "b", "c")) == [0, 2]
    assert attacked_classes(GlyphAttack(kind="glyph", classes=["1"]), ("1", "0")) == [0]


@pytest.mark.parametrize("wrong", ["melanomas", 3, -1])
def test_wrong_class_lists_the_right_ones(data, wrong):
    attack = GlyphAttack(kind="glyph", classes=["a", wrong])
    for world in WORLDS:
        with pytest.raises(ConfigError, match=rf"data\.attack\.classes names {wrong!r}.*0 = a, 1 = b, 2 = c"):
            WorldView(data, attack, world, 0)


def test_unknown_world_is_refused(data):
    with pytest.raises(ValueError, match="unknown world 'dirty'"):
        WorldView(data, GLYPH, "dirty", 0)


def test_a_mark_tells_the_class_as_trained_and_a_wrong_one_when_attacked(data):
    views = worlds(data, ClassMarkAttack(kind="class_mark", classes=["a", "b", "c"], size=1))
    labels = data.table["label"].to_numpy()
    places = {}
    for world in ("asis", "attacked"):
        places[world] = [int(np.flatnonzero(views[world].truth_mask(row))[0]) for row in range(len(data))]
    place_of = {
        label: {place for place, each in zip(places["asis"], labels, strict=True) if each == label}
        for label in (0, 1, 2)
    }
    assert all(len(found) == 1 for found in place_of.values()) and len(set.union(*place_of.values())) == 3
    deceived = np.array([place in place_of[label] for place, label in zip(places["attacked"], labels, strict=True)])
    assert not deceived.any(), "no attacked sample shows the mark of its own class"
    for label in (0, 1, 2):
        told = {place for place, each in zip(places["attacked"], labels, strict=True) if each == label}
        assert told == set.union(*place_of.values()) - place_of[label], "every wrong class is told somewhere"
    assert all(torch.equal(views["clean"][row].x, data[row].x) for row in range(len(data)))
