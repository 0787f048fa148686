"""What every detector promises, whatever it looks for."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import tiny
from PIL import Image
from pydantic import TypeAdapter

from pipeline.config.reveal import DetectorConfig
from pipeline.errors import ConfigError
from pipeline.models.open import open_original
from pipeline.reveal.candidates import jaccard
from pipeline.reveal.registry import DETECTORS, make_detector
from pipeline.reveal.view import DataView
from pipeline.workspace.arrays import write_arrays
from pipeline.workspace.features import FEATURES, FeatureStore

SECTIONS = {section.model_fields["kind"].annotation: section for section in get_args(get_args(DetectorConfig)[0])}
SEES_THE_SQUARE = {"spray", "prototypes", "neurons", "dora"}
"""Detectors for which the planted square is what they look for; the others look for lone samples or whole images."""
WITH_LAYERS = {"spray": "spaces", "prototypes": "spaces", "outliers": "spaces", "neurons": "layers", "dora": "layers"}


@pytest.fixture(scope="module")
def view(tiny_run, tiny_dataset):
    context = tiny.make_context(tiny_run, tiny_dataset)
    usable = np.flatnonzero(tiny_dataset.table["split"].to_numpy() != "test")
    return DataView(FeatureStore(tiny_run / FEATURES), tiny_dataset, open_original(context, tiny_dataset), usable)


def make(kind: str, **parameters):
    return make_detector(TypeAdapter(DetectorConfig).validate_python({"kind": kind, **parameters}))


def test_every_kind_of_the_configuration_has_a_detector_and_the_other_way_round():
    assert {get_args(kind)[0] for kind in SECTIONS} == set(DETECTORS)


@pytest.mark.parametrize("kind", DETECTORS)
def test_every_candidate_is_a_part_of_its_class(kind, view):
    rows = {each.class_id: each.rows for each in view.classes()}
    for each in make(kind).detect(view).candidates:
        assert each.detector == kind
        assert each.layer in ("input", *view.store.layers)
        assert np.array_equal(each.rows, rows[each.class_id])
        assert each.members.dtype == bool and each.members.shape == each.rows.shape
        assert 0 < each.members.sum() < len(each.members)
        assert set(each.member_rows) <= set(view.rows)
        assert each.note and not each.name


@pytest.mark.parametrize("kind", sorted(SEES_THE_SQUARE))
def test_the_planted_group_or_its_complement_is_among_the_candidates(kind, view):
    found = [each for each in make(kind).detect(view).candidates if each.class_id == tiny.PLANTED_CLASS]
    planted = [np.array([tiny.is_planted(row) for row in each.rows]) for each in found]
    shared = [
        max(jaccard(each.members, truth), jaccard(~each.members, truth))
        for each, truth in zip(found, planted, strict=True)
    ]
    assert max(shared) > 0.8


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_finds_the_same_again(kind, view):
    first, second = make(kind).detect(view), make(kind).detect(view)
    assert len(first.candidates) == len(second.candidates)
    for one, other in zip(first.candidates, second.candidates, strict=True):
        assert (one.layer, one.note, one.neuron_ids) == (other.layer, other.note, other.neuron_ids)
        assert np.array_equal(one.members, other.members)


@pytest.mark.parametrize("kind", DETECTORS)
def test_figures_can_be_stored_and_pictures_are_pictures(kind, view, tmp_path):
    found = make(kind).detect(view)
    assert found.arrays
    write_arrays(tmp_path / "figures.h5", found.arrays)
    assert all(isinstance(each, Image.Image) for each in found.pictures.values())


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_part_of_the_samples_is_detected_on_alone(kind, view):
    part = view.restricted(view.rows[::2], 1)
    for each in make(kind).detect(part).candidates:
        assert set(each.rows) <= set(part.rows)


@pytest.mark.parametrize("kind", DETECTORS)
def test_too_few_samples_give_no_candidates(kind, view):
    assert make(kind).detect(view.restricted(view.rows[:9], 0)).candidates == []


@pytest.mark.parametrize("kind", sorted(WITH_LAYERS))
def test_a_layer_that_is_not_stored_is_refused_with_the_nearest_name(kind, view):
    with pytest.raises(ConfigError, match=f"{kind} cannot look at 'network.relu9'. Did you mean 'network.relu[12]'"):
        make(kind, **{WITH_LAYERS[kind]: ["network.relu9"]}).detect(view)
