"""What every detector promises, whatever it looks for."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import tiny
from pydantic import TypeAdapter

from pipeline.config.reveal import DetectorConfig
from pipeline.reveal.candidates import ClassView
from pipeline.reveal.registry import DETECTORS, make_detector
from pipeline.workspace.features import FEATURES, FeatureStore

SECTIONS = {section.model_fields["kind"].annotation: section for section in get_args(get_args(DetectorConfig)[0])}


@pytest.fixture(scope="module")
def views(tiny_run, tiny_dataset):
    store = FeatureStore(tiny_run / FEATURES)
    usable = tiny_dataset.table["split"].to_numpy() != "test"
    deep = ("network.relu2", "network.relu1")
    return [
        ClassView(store, each, np.flatnonzero(usable & (store.labels == each)), "label", deep, 0)
        for each in range(len(tiny.CLASSES))
    ]


def make(kind: str):
    return make_detector(TypeAdapter(DetectorConfig).validate_python({"kind": kind}))


def test_every_kind_of_the_configuration_has_a_detector_and_the_other_way_round():
    assert {get_args(kind)[0] for kind in SECTIONS} == set(DETECTORS)


@pytest.mark.parametrize("kind", DETECTORS)
def test_every_candidate_is_a_part_of_its_class(kind, views):
    found = [(view, each) for view in views for each in make(kind).detect(view)]
    assert found
    for view, each in found:
        assert each.detector == kind and each.class_id == view.class_id
        assert each.layer in ("input", *view.store.layers)
        assert np.array_equal(each.rows, view.rows)
        assert each.members.dtype == bool and each.members.shape == view.rows.shape
        assert 0 < each.members.sum() < len(each.members)
        assert 0 <= each.conductance <= 1
        assert set(each.member_rows) <= set(view.rows)


@pytest.mark.parametrize("kind", DETECTORS)
def test_the_planted_group_is_among_the_candidates(kind, views):
    view = views[tiny.PLANTED_CLASS]
    planted = np.array([tiny.is_planted(row) for row in view.rows])
    shared = [(each.members & planted).sum() / (each.members | planted).sum() for each in make(kind).detect(view)]
    assert max(shared) > 0.8


@pytest.mark.parametrize("kind", DETECTORS)
def test_detecting_twice_gives_the_same(kind, views):
    first, second = (make(kind).detect(views[0]) for _ in range(2))
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.members, other.members)
        assert (one.layer, one.conductance, one.neuron_ids) == (other.layer, other.conductance, other.neuron_ids)


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_tiny_class_has_nothing_to_say(kind, count, views):
    view = views[0]
    assert make(kind).detect(ClassView(view.store, 0, view.rows[:count], "label", view.deep_layers, 0)) == []
