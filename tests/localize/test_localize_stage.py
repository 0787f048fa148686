from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from pipeline.concepts import Cav, fit_cav
from pipeline.concepts.localization import dilate
from pipeline.config.localize import LocalizationKind
from pipeline.data.dataset import Sample
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.errors import ConfigError, StoreError
from pipeline.localize import stage
from pipeline.localize.methods import Neurons
from pipeline.localize.methods.concept_relevance import ConceptRelevance
from pipeline.precompute import stage as precompute_stage
from pipeline.train import stage as train_stage
from pipeline.workspace.features import FEATURES, FeatureStore
from pipeline.workspace.masks import MaskEntry, MaskSet
from pipeline.workspace.records import Bias, Biases, CavSummary, Finding, Findings
from pipeline.workspace.stage import StageContext

LAYER = "network.relu1"
PRECOMPUTE = {"precompute": {"positions": "full"}}
Make = Callable[..., StageContext]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_dataset) -> Path:
    """A run directory after train and precompute, with a planted bias as reveal would write it, and localized."""
    context = tiny.make_context(tmp_path_factory.mktemp("localize") / "run", tiny_dataset, **PRECOMPUTE)
    train_stage.run(context)
    precompute_stage.run(context)
    write_bias(context, tiny_dataset, "planted")
    stage.run(context)
    return context.directory.root


def write_bias(context: StageContext, dataset: ArrayDataset, name: str, layer: str = LAYER, pooling: str = "max"):
    """Add a finding and a bias of the planted samples to a run's records, with the pattern CAV of a layer."""
    root = context.directory.root
    store = FeatureStore(root / FEATURES)
    table = dataset.table
    rows = np.flatnonzero((table["label"] == tiny.PLANTED_CLASS) & (table["split"] != "test"))
    members = np.array([tiny.is_planted(row) for row in rows])
    if pooling == "full":
        features = store.activation_maps(layer, rows).reshape(len(rows), -1)
    else:
        features = store.activations(layer, pooling, rows)
    cav = fit_cav(features, members, layer=layer, pooling=pooling)
    cav.save(root / f"reveal/cavs/{name}.npz")
    same = {"class_id": tiny.PLANTED_CLASS, "class_name": "square", "sample_ids": store.ids[rows[members]].tolist()}
    summary = CavSummary(
        kind="pattern", layer=layer, auroc=1, auroc_lower=1, auroc_upper=1, n_positive=members.sum(), n_negative=12
    )
    finding = Finding(
        id=f"{name}-finding", rank=1, detector="neurons", layer=layer, score=1, score_parts={},
        neuron_ids=[int(cav.direction.argmax())] if pooling == "max" else [], **same,
    )  # fmt: skip
    bias = Bias(id=name, finding=finding.id, status="unreviewed", cav=summary, candidates=[summary], **same)
    known = (root / "reveal/biases.json").exists()
    findings = context.directory.read_record("reveal/findings.json", Findings).findings if known else []
    biases = context.directory.read_record("reveal/biases.json", Biases).biases if known else []
    context.directory.write_record("reveal/findings.json", Findings(findings=[*findings, finding]))
    context.directory.write_record("reveal/biases.json", Biases(biases=[*biases, bias]))


@pytest.fixture
def make_context(run, tiny_dataset, tmp_path) -> Make:
    """Return a function that makes a context over a copy of the run whose masks are gone."""

    def make(dataset: ArrayDataset = tiny_dataset, **changes) -> StageContext:
        shutil.copytree(run, tmp_path / "run")
        context = tiny.make_context(tmp_path / "run", dataset, **PRECOMPUTE, **changes)
        context.directory.clear("localize")
        return context

    return make


@pytest.fixture(scope="module")
def bias(run) -> Bias:
    return Biases.model_validate_json((run / "reveal/biases.json").read_text()).biases[0]


@pytest.fixture(scope="module")
def masks(run, bias) -> MaskSet:
    return MaskSet(run / f"localize/{bias.id}")


def masks_of(context: StageContext, bias: str = "planted") -> MaskSet:
    return MaskSet(context.directory.root / f"localize/{bias}")


def figures_of(context: StageContext, bias: str = "planted") -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((masks_of(context, bias).folder / "metrics.json").read_text(), parse_constant=refuse)


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


def test_training_samples_outside_the_finding_are_left_alone_however_they_score(run, tiny_dataset, bias):
    store = FeatureStore(run / FEATURES)
    cav = Cav.load(run / f"reveal/cavs/{bias.id}.npz")
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


def test_the_figures_say_how_the_masks_were_made_and_how_good_they_look(run, masks):
    figures = json.loads((masks.folder / "metrics.json").read_text())
    entries = masks.index()
    assert (figures["samples"], figures["n"], figures["no_evidence"]) == (len(entries), len(entries), 0)
    assert figures["imported"] == 0
    assert (figures["method"], figures["threshold"]) == ("concept_relevance", "otsu")
    assert (figures["layer"], figures["cav"]) == (LAYER, "pattern")
    assert figures["mean_area"] == pytest.approx(np.mean([entry.area for entry in entries]))
    assert (figures["quality_n_with"], figures["quality_n_without"]) == (24, 16)
    assert 0.5 < figures["quality"] <= 1


def test_masks_cover_most_of_the_planted_square_and_little_else_under_sharp_rules(make_context):
    context = make_context()
    sharp = context.config.precompute.model_copy(update={"composite": "epsilon_plus"})
    context.config = context.config.model_copy(update={"precompute": sharp})
    stage.run(context)
    shared = []
    for entry in masks_of(context).index():
        truth, mask = tiny.square(int(entry.id[1:])), masks_of(context).read(entry.id)
        shared.append((mask & truth).sum() / (mask | truth).sum())
    assert np.mean(shared) > 0.5


@pytest.mark.parametrize("method", LocalizationKind.__args__)
def test_every_method_makes_masks_on_the_planted_square(make_context, method):
    context = make_context(localize={"method": method, "shap_samples": 256})
    stage.run(context)
    entries = masks_of(context).index()
    shared = []
    for entry in entries:
        truth, mask = tiny.square(int(entry.id[1:])), masks_of(context).read(entry.id)
        shared.append((mask & truth).sum() / (mask | truth).sum())
    # one sixteenth is what a mask at random reaches
    assert np.mean(shared) > 0.25
    assert figures_of(context)["method"] == method


def test_neuron_relevance_needs_a_finding_with_neurons(make_context, tiny_dataset):
    context = make_context(localize={"method": "neuron_relevance"})
    write_bias(context, tiny_dataset, "nameless", pooling="mean")
    with pytest.raises(ConfigError, match="nameless-finding"):
        stage.run(context)


def test_every_bias_has_masks_of_its_own_also_from_a_direction_over_all_positions(make_context, tiny_dataset):
    context = make_context()
    write_bias(context, tiny_dataset, "second", "network.relu2", "full")
    stage.run(context)
    for name in ("planted", "second"):
        masks = masks_of(context, name)
        assert figures_of(context, name)["n"] == len(masks.index()) > 30
        assert np.mean([(masks.read(e.id) & tiny.square(int(e.id[1:]))).sum() / 16 for e in masks.index()]) > 0.7
    assert figures_of(context, "second")["layer"] == "network.relu2"


def test_scores_over_all_positions_are_those_of_the_stored_maps(make_context, tiny_dataset, monkeypatch):
    monkeypatch.setattr(stage, "ROWS_AT_ONCE", 7)
    context = make_context()
    write_bias(context, tiny_dataset, "second", "network.relu2", "full")
    store = FeatureStore(context.directory.root / FEATURES)
    cav = Cav.load(context.directory.root / "reveal/cavs/second.npz")
    maps = store.activation_maps("network.relu2").astype(np.float64)
    expected = np.einsum("nchw,chw->n", maps, cav.direction.reshape(maps.shape[1:])) + cav.intercept
    np.testing.assert_allclose(stage.stored_scores(store, cav), expected, rtol=1e-6)


def test_a_sample_without_evidence_is_listed_without_files(make_context, monkeypatch):
    heatmaps = ConceptRelevance.heatmaps

    def first_are_none(method, x, cav):
        found = heatmaps(method, x, cav)
        if len(x) > 30:
            found[0], found[1] = 0.0, np.nan
        return found

    monkeypatch.setattr(ConceptRelevance, "heatmaps", first_are_none)
    context = make_context(localize={"batch_size": 1000})
    stage.run(context)
    masks = masks_of(context)
    first, second, *others = masks.index()
    assert all((entry.status, entry.area) == ("no evidence", 0.0) for entry in (first, second))
    assert all(entry.status == "ok" for entry in others)
    assert not list(masks.folder.rglob(f"{first.id}.png")) and not list(masks.folder.rglob(f"{second.id}.png"))
    figures = figures_of(context)
    assert (figures["samples"], figures["n"], figures["no_evidence"]) == (len(others) + 2, len(others), 2)


def test_a_bias_without_any_evidence_has_an_index_and_valid_figures(make_context, monkeypatch):
    monkeypatch.setattr(ConceptRelevance, "heatmaps", lambda method, x, cav: np.zeros((len(x), 16, 16)))
    context = make_context()
    said = []
    context.reporter.say = said.append
    stage.run(context)
    assert {entry.status for entry in masks_of(context).index()} == {"no evidence"}
    figures = figures_of(context)
    assert figures["mean_area"] is None and figures["quality"] == 0
    assert "nan" not in said[-1] and "without evidence" in said[-1]


@pytest.mark.parametrize("batch_size", [1, 7])
def test_masks_do_not_depend_on_the_batch_size(make_context, masks, monkeypatch, batch_size):
    heatmaps, sizes = ConceptRelevance.heatmaps, []

    def counted(method, x, cav):
        sizes.append(len(x))
        return heatmaps(method, x, cav)

    monkeypatch.setattr(ConceptRelevance, "heatmaps", counted)
    context = make_context(localize={"batch_size": batch_size})
    stage.run(context)
    assert max(sizes) == batch_size
    again = masks_of(context)
    pairs = [(masks.read(entry.id), again.read(entry.id)) for entry in masks.index()]
    assert np.mean([(one == other).mean() for one, other in pairs]) > 0.999
    before = json.loads((masks.folder / "metrics.json").read_text())["quality"]
    assert figures_of(context)["quality"] == pytest.approx(before, abs=1e-3)


def test_percentiles_and_growth_are_taken_from_the_configuration(make_context):
    context = make_context(localize={"threshold": "percentile", "percentile": 75, "dilate": 0})
    stage.run(context)
    masks = masks_of(context)
    for entry in masks.index():
        assert entry.area == pytest.approx(0.25, abs=0.01)
        assert np.array_equal(masks.read(entry.id), ~masks.read(entry.id, "foreground"))


@pytest.mark.parametrize(
    ("settings", "area"),
    [({"threshold": "area", "area": 0.125}, 0.125), ({"threshold": "fixed", "fixed": 0.99}, 1 / 256)],
)
def test_area_and_fixed_thresholds_are_taken_from_the_configuration(make_context, settings, area):
    context = make_context(localize=settings)
    stage.run(context)
    assert np.mean([entry.area for entry in masks_of(context).index()]) == pytest.approx(area, rel=0.3)


def test_small_regions_are_left_out_and_samples_that_have_no_other_count_as_without_evidence(make_context):
    context = make_context(localize={"min_component": 0.5})
    stage.run(context)
    assert {entry.status for entry in masks_of(context).index()} == {"no evidence"}


def roi_dataset(dataset: ArrayDataset) -> ArrayDataset:
    """Return the data set with the middle as region of interest, of which every fifth sample has none."""
    roi = np.zeros((16, 16), dtype=bool)
    roi[3:13, 3:13] = True
    return ArrayDataset(
        dataset.pixels, dataset.table, dataset.classes, roi_masks=lambda row: roi if row // 3 % 5 else None
    )


@pytest.mark.parametrize("background", ["artifact", "roi", "union"])
def test_what_is_background_is_taken_from_the_configuration(make_context, tiny_dataset, background):
    dataset = roi_dataset(tiny_dataset)
    context = make_context(dataset, localize={"background": background})
    stage.run(context)
    masks = masks_of(context)
    for entry in masks.index():
        roi = dataset.roi_mask(int(entry.id[1:]))
        artifact = dilate(masks.read(entry.id)[None], 0.02)[0]
        outside = np.zeros((16, 16), bool) if roi is None else ~roi
        expected = {"artifact": artifact, "roi": outside, "union": artifact | outside}[background]
        assert np.array_equal(~masks.read(entry.id, "foreground"), expected)


def save(folder: Path, name: str, mask: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{name}.png")


def box(top: int, left: int) -> np.ndarray:
    mask = np.zeros((16, 16), dtype=bool)
    mask[top : top + 3, left : left + 3] = True
    return mask


def test_masks_from_elsewhere_take_the_place_of_computed_ones_and_are_merged(
    make_context, tiny_dataset, tmp_path, bias
):
    member, second, third = bias.sample_ids[:3]
    save(tmp_path / "a", member, box(8, 8))
    save(tmp_path / "a", "s000", box(0, 0))
    save(tmp_path / "a", "s178", box(0, 0))
    save(tmp_path / "a", second, np.zeros((16, 16)))
    save(tmp_path / "b", member, box(12, 2))
    save(tmp_path / "c", "s003", box(4, 4))
    folders = {"a": "planted", "b": "planted", "c": "second"}
    sections = [{"bias": name, "folder": str(tmp_path / folder)} for folder, name in folders.items()]
    context = make_context(localize={"import_masks": sections})
    write_bias(context, tiny_dataset, "second")
    stage.run(context)
    assert {entry.id for entry in masks_of(context, "second").index() if entry.source == "imported"} == {"s003"}
    masks = masks_of(context)
    entries = {entry.id: entry for entry in masks.index()}
    assert list(entries) == sorted(entries)
    assert np.array_equal(masks.read(member), box(8, 8) | box(12, 2))
    assert np.array_equal(masks.read("s000"), box(0, 0)) and masks.read("s000", "soft").max() == 1
    assert {name for name, entry in entries.items() if entry.source == "imported"} == {member, second, "s000", "s178"}
    assert (entries[second].status, entries[third].status) == ("no evidence", "ok")
    assert entries[third].source == "finding"
    store = FeatureStore(context.directory.root / FEATURES)
    cav = Cav.load(context.directory.root / "reveal/cavs/planted.npz")
    assert entries["s000"].score == pytest.approx(
        cav.scores(store.activations(LAYER, "max", np.array([0])))[0], rel=1e-5
    )
    assert figures_of(context)["imported"] == 4


def test_masks_for_a_bias_that_is_not_there_are_refused(make_context, tmp_path):
    context = make_context(localize={"import_masks": [{"bias": "plantet", "folder": str(tmp_path)}]})
    with pytest.raises(ConfigError, match=r"no bias 'plantet'. Did you mean 'planted'\?"):
        stage.run(context)


class Signals:
    """Four noisy signals `[2, 40]` of one class; of the first two samples 10 to 15 are what the finding is about."""

    classes = ("only",)
    shape = (2, 40)
    table = make_table([f"s{row}" for row in range(4)], [0] * 4, ["train"] * 4)

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.rand(2, 40, generator=torch.Generator().manual_seed(index)), 0, f"s{index}")

    def roi_mask(self, index: int) -> None:
        return None


class Peaks:
    """A method that finds samples 10 to 15 of every signal."""

    def heatmaps(self, x: torch.Tensor, cav: Cav) -> np.ndarray:
        found = np.zeros((len(x), x.shape[2]))
        found[:, 10:15] = 1.0
        return found


def test_masks_of_signals_are_written_without_an_overview(tmp_path, bias):
    context = tiny.make_context(tmp_path / "run", Signals(), localize={"blur": 0, "dilate": 0.05})
    store = tiny.write_store(tmp_path, {"relu": np.eye(4, dtype=np.float32)})
    said = []
    context.reporter.say = said.append
    found = bias.model_copy(update={"class_id": 0, "sample_ids": ["s0", "s1"]})
    cav = Cav(np.array([1.0, 0, 0, 0]), 0.0, "pattern", np.zeros(4), "relu")
    stage.Localization(context, Signals(), store, Peaks, found, cav).run()
    masks = masks_of(context)
    assert [(entry.id, entry.status, entry.area) for entry in masks.index()] == [
        ("s0", "ok", 0.125),
        ("s1", "ok", 0.125),
    ]
    assert np.flatnonzero(masks.read("s0")).tolist() == list(range(10, 15))
    assert np.flatnonzero(~masks.read("s0", "foreground")).tolist() == list(range(8, 17))
    assert not (masks.folder / "overview.png").exists()
    assert "signals have no overview" in said[0]
    # every signal lights up, so the heatmaps tell nothing about who has the concept
    assert figures_of(context)["quality"] == 0


def test_neurons_are_those_of_the_finding_behind_the_bias(run, bias):
    findings = Findings.model_validate_json((run / "reveal/findings.json").read_text())
    found = stage.neurons_of(bias, findings)
    assert found == Neurons(LAYER, tuple(findings.findings[0].neuron_ids), "planted-finding") and found.ids
    assert stage.neurons_of(bias.model_copy(update={"finding": "gone"}), findings).ids == ()


def test_samples_for_the_quality_are_spread_over_all_rows():
    assert stage.evenly(np.arange(5) * 2, 9).tolist() == [0, 2, 4, 6, 8]
    assert stage.evenly(np.arange(100), 4).tolist() == [0, 33, 66, 99]


def test_without_a_bias_nothing_is_written(make_context):
    context = make_context()
    context.directory.write_record("reveal/biases.json", Biases(biases=[]))
    stage.run(context)
    assert list(context.directory.folder("localize").iterdir()) == []


# Carried over from an earlier run


@pytest.fixture
def carried(run, make_context) -> Callable[..., tuple[StageContext, list[str]]]:
    """Return a function that localizes the planted bias as carried over, and what was said."""

    def localize(earlier: Path = run, dataset: ArrayDataset | None = None, **changes) -> tuple[StageContext, list[str]]:
        bias = changes.pop("bias", {})
        context = make_context(**changes) if dataset is None else make_context(dataset, **changes)
        (known,) = context.directory.read_record("reveal/biases.json", Biases).biases
        known = known.model_copy(update={"earlier": str(earlier)} | bias)
        context.directory.write_record("reveal/biases.json", Biases(biases=[known]))
        said: list[str] = []
        context.reporter.say = said.append
        stage.run(context)
        return context, said

    return localize


@pytest.fixture
def before(run, tmp_path) -> Path:
    """A copy of the earlier run whose masks may be changed."""
    shutil.copytree(run / "localize", tmp_path / "before/localize")
    return tmp_path / "before"


def files_of(root: Path, *kinds: str) -> dict[str, bytes]:
    folder = root / "localize/planted"
    return {str(path.relative_to(folder)): path.read_bytes() for kind in kinds for path in (folder / kind).iterdir()}


def test_masks_of_an_earlier_run_are_carried_over_byte_for_byte_and_nothing_is_computed(
    run, carried, monkeypatch, tiny_dataset
):
    monkeypatch.setattr(stage, "make_method", lambda _: pytest.fail("something is computed"))
    monkeypatch.setattr(stage, "stored_scores", lambda store, _: np.ones(len(store.ids)))  # retrieves every test sample
    context, said = carried()
    kinds = ("masks", "soft", "foreground")
    assert files_of(context.directory.root, *kinds) == files_of(run, *kinds)
    assert len(files_of(run, "masks")) == 40
    now, then = masks_of(context).index(), MaskSet(run / "localize/planted").index()
    assert [(each.id, each.source, each.area, each.status) for each in now] == [
        (each.id, each.source, each.area, each.status) for each in then
    ]
    assert {each.source for each in then} == {"finding", "retrieved"}
    assert {each.score for each in now} == {1.0}, "scores are those of this model"
    assert figures_of(context)["carried_over"] == len(now) and figures_of(context)["quality"] is None
    assert any(f"{len(now)} samples as the earlier run {run} left them" in line for line in said)


def test_the_foreground_of_carried_masks_follows_this_runs_configuration(run, carried):
    context, _ = carried(localize={"dilate": 0.2})
    assert files_of(context.directory.root, "masks", "soft") == files_of(run, "masks", "soft")
    assert files_of(context.directory.root, "foreground") != files_of(run, "foreground")


def test_without_masks_in_the_earlier_run_they_are_computed_which_is_said(run, before, carried):
    (before / "localize/planted/index.csv").unlink()
    context, said = carried(before)
    assert files_of(context.directory.root, "masks") == files_of(run, "masks"), "it is the same model here"
    assert figures_of(context)["carried_over"] == 0
    assert any("planted" in line and f"the earlier run {before} has no masks of it" in line for line in said)


def test_masks_from_elsewhere_go_before_carried_ones(run, carried, tmp_path, bias):
    first, second = bias.sample_ids[:2]
    save(tmp_path / "a", first, box(8, 8))
    save(tmp_path / "a", second, np.zeros((16, 16)))
    context, _ = carried(localize={"import_masks": [{"bias": "planted", "folder": str(tmp_path / "a")}]})
    entries = {entry.id: entry for entry in masks_of(context).index()}
    assert np.array_equal(masks_of(context).read(first), box(8, 8))
    assert (entries[first].source, entries[second].status) == ("imported", "no evidence")
    assert not (masks_of(context).folder / f"masks/{second}.png").exists()
    kept = files_of(run, "masks").keys() - {f"masks/{first}.png", f"masks/{second}.png"}
    assert all(files_of(context.directory.root, "masks")[name] == files_of(run, "masks")[name] for name in kept)


def test_samples_that_people_added_get_masks_and_those_that_they_took_out_none(carried, bias, tiny_dataset):
    gone, added = bias.sample_ids[0], "s003"
    context, _ = carried(bias={"sample_ids": [*bias.sample_ids[1:], added]})
    entries = {entry.id: entry for entry in masks_of(context).index()}
    assert gone not in entries and entries[added].source == "finding"
    assert figures_of(context)["carried_over"] == len(entries) - 1


def test_what_had_no_evidence_or_was_imported_stays_so(run, before, carried, bias):
    masks = MaskSet(before / "localize/planted")
    empty, brought, *_ = bias.sample_ids
    changed = {empty: {"status": "no evidence", "area": 0.0}, brought: {"source": "imported"}}
    masks.write("s000", box(0, 0).astype(float), box(0, 0), ~box(0, 0))
    other = MaskEntry("s000", "train", "imported", 0.0, 9 / 256, "ok")
    masks.write_index([*(replace(each, **changed.get(each.id, {})) for each in masks.index()), other])
    context, _ = carried(before)
    entries = {entry.id: entry for entry in masks_of(context).index()}
    assert (entries[empty].status, entries[empty].source) == ("no evidence", "finding")
    assert not (masks_of(context).folder / f"masks/{empty}.png").exists()
    assert entries[brought].source == entries["s000"].source == "imported"
    assert np.array_equal(masks_of(context).read("s000"), box(0, 0))
    assert list(entries) == sorted(entries)


def test_what_is_in_the_test_split_now_is_retrieved_and_what_left_it_is_nothing(carried, bias, tiny_dataset):
    table = tiny_dataset.table.copy()
    retrieved = next(each for each in table["id"][table["split"] == "test"] if tiny.is_planted(int(each[1:])))
    moved = bias.sample_ids[0]
    table.loc[table["id"] == retrieved, "split"] = "train"
    table.loc[table["id"] == moved, "split"] = "test"
    divided = copy.copy(tiny_dataset)
    divided.table = table
    context, _ = carried(dataset=divided, bias={"sample_ids": bias.sample_ids[1:]})
    entries = {entry.id: entry for entry in masks_of(context).index()}
    assert (entries[moved].source, entries[moved].split) == ("retrieved", "test")
    assert retrieved not in entries


def test_a_damaged_mask_of_the_earlier_run_is_named(before, carried, bias):
    path = before / f"localize/planted/masks/{bias.sample_ids[3]}.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StoreError, match=str(path)):
        carried(before)
