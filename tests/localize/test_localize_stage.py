from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from pipeline.concepts import Cav
from pipeline.concepts.localization import dilate
from pipeline.localize import stage
from pipeline.workspace.features import FEATURES, FeatureStore
from pipeline.workspace.masks import MaskSet
from pipeline.workspace.records import Biases


@pytest.fixture(scope="module")
def bias(tiny_run):
    return Biases.model_validate_json((tiny_run / "reveal/biases.json").read_text()).biases[0]


@pytest.fixture(scope="module")
def masks(tiny_run, bias):
    return MaskSet(tiny_run / f"localize/{bias.id}")


def test_the_index_lists_every_sample_of_the_finding_and_the_test_samples_that_show_the_concept(
    masks, bias, tiny_dataset
):
    entries = {entry.id: entry for entry in masks.index()}
    assert {name for name, entry in entries.items() if entry.source == "finding"} == set(bias.sample_ids)
    table = tiny_dataset.table
    in_test = set(table["id"][(table["split"] == "test") & (table["label"] == bias.class_id)])
    retrieved = {name for name, entry in entries.items() if entry.source == "retrieved"}
    assert retrieved == in_test & tiny.planted_ids(tiny_dataset)
    splits = dict(zip(table["id"], table["split"], strict=True))
    assert all(entry.split == splits[name] for name, entry in entries.items())
    assert all(entries[name].score > 0 for name in retrieved)


def test_training_samples_outside_the_finding_are_left_alone_however_they_score(tiny_run, tiny_dataset, bias):
    store = FeatureStore(tiny_run / FEATURES)
    cav = Cav.load(tiny_run / f"reveal/cavs/{bias.id}.npz")
    half = bias.model_copy(update={"sample_ids": bias.sample_ids[::2]})
    rows, scores, member = stage.rows_to_localize(tiny_dataset, store, half, cav)
    assert store.ids[rows[member]].tolist() == half.sample_ids
    assert set(tiny_dataset.table["split"].iloc[rows[~member]]) == {"test"}
    np.testing.assert_allclose(scores, cav.scores(store.activations(cav.layer, cav.pooling, rows)), rtol=1e-5)


def test_the_index_is_in_the_order_of_the_data_set(masks):
    ids = [entry.id for entry in masks.index()]
    assert ids == sorted(ids)


def test_masks_cover_the_planted_square(masks, tiny_dataset):
    shared = []
    for entry in masks.index():
        truth = tiny.square(int(entry.id[1:]))
        mask = masks.read(entry.id)
        shared.append((mask & truth).sum() / (mask | truth).sum())
        assert entry.area == pytest.approx(mask.mean()) and entry.status == "ok"
    assert min(shared) > 0.3


def test_the_foreground_is_the_complement_of_the_grown_mask(masks):
    for entry in masks.index()[:5]:
        mask, foreground = masks.read(entry.id), masks.read(entry.id, "foreground")
        assert np.array_equal(~foreground, dilate(mask[None], 0.02)[0])
        assert (~foreground).sum() > mask.sum()


def test_the_soft_mask_peaks_at_one_inside_the_mask(masks):
    for entry in masks.index()[:5]:
        soft, mask = masks.read(entry.id, "soft"), masks.read(entry.id)
        assert soft.max() == 1 and mask[soft == 1].all()
        assert soft[mask].min() >= soft[~mask].max() - 1 / 255


def test_the_folder_holds_what_the_index_lists_and_nothing_else(masks):
    ids = {entry.id for entry in masks.index()}
    for kind in ("masks", "soft", "foreground"):
        assert {path.stem for path in (masks.folder / kind).iterdir()} == ids
    others = {path.name for path in masks.folder.iterdir()} - {"masks", "soft", "foreground"}
    assert others == {"index.csv", "metrics.json", "overview.png"}
    with Image.open(masks.folder / "overview.png") as image:
        assert image.height > 3 * 96


def test_a_sample_without_evidence_is_listed_without_files(tiny_context, bias, monkeypatch):
    heatmaps = stage.concept_heatmaps

    def first_is_empty(explainer, x, cav):
        found = heatmaps(explainer, x, cav)
        found[0] = 0.0
        return found

    monkeypatch.setattr(stage, "concept_heatmaps", first_is_empty)
    context = tiny_context(localize={"batch_size": 1000})
    context.directory.clear("localize")
    stage.run(context)
    masks = MaskSet(context.directory.root / f"localize/{bias.id}")
    first, *others = masks.index()
    assert (first.status, first.area) == ("no evidence", 0.0)
    assert all(entry.status == "ok" for entry in others)
    assert not list(masks.folder.rglob(f"{first.id}.png"))
    summary = json.loads((masks.folder / "metrics.json").read_text())
    assert (summary["samples"], summary["no_evidence"]) == (len(others) + 1, 1)


def test_a_bias_without_any_evidence_has_an_index_and_valid_figures(tiny_context, bias, monkeypatch):
    monkeypatch.setattr(stage, "concept_heatmaps", lambda explainer, x, cav: np.zeros((len(x), 16, 16)))
    context = tiny_context()
    context.directory.clear("localize")
    said = []
    context.reporter.say = said.append
    stage.run(context)
    masks = MaskSet(context.directory.root / f"localize/{bias.id}")
    assert {entry.status for entry in masks.index()} == {"no evidence"}

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    summary = json.loads((masks.folder / "metrics.json").read_text(), parse_constant=refuse)
    assert summary["mean_area"] is None
    assert "nan" not in said[-1] and "without evidence" in said[-1]


@pytest.mark.parametrize("batch_size", [1, 7])
def test_masks_do_not_depend_on_the_batch_size(tiny_context, masks, bias, batch_size):
    context = tiny_context(localize={"batch_size": batch_size})
    context.directory.clear("localize")
    stage.run(context)
    again = MaskSet(context.directory.root / f"localize/{bias.id}")
    pairs = [(masks.read(entry.id), again.read(entry.id)) for entry in masks.index()]
    assert np.mean([(one == other).mean() for one, other in pairs]) > 0.999


def test_percentiles_and_growth_are_taken_from_the_configuration(tiny_context, bias):
    context = tiny_context(localize={"threshold": "percentile", "percentile": 75, "dilate": 0})
    context.directory.clear("localize")
    stage.run(context)
    masks = MaskSet(context.directory.root / f"localize/{bias.id}")
    for entry in masks.index():
        assert entry.area == pytest.approx(0.25, abs=0.01)
        assert np.array_equal(masks.read(entry.id), ~masks.read(entry.id, "foreground"))


def test_without_a_bias_nothing_is_written(tiny_context):
    context = tiny_context()
    context.directory.clear("localize")
    context.directory.write_record("reveal/biases.json", Biases(biases=[]))
    stage.run(context)
    assert list(context.directory.folder("localize").iterdir()) == []
