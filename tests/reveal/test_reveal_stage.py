from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import tiny
from PIL import Image

from pipeline.concepts import Cav
from pipeline.errors import ConfigError
from pipeline.reveal import stage
from pipeline.reveal.candidates import Candidate
from pipeline.reveal.evidence import Evidence
from pipeline.reveal.suspicion import combine
from pipeline.reveal.view import DataView
from pipeline.workspace.features import FEATURES, FeatureStore
from pipeline.workspace.journal import append
from pipeline.workspace.records import Biases, Findings, SampleLabel

QUICK = {
    "detectors": [{"kind": "spray", "spaces": ["heatmap", "latent"], "tsne": False}],
    "stability_runs": 0,
    "pictured": 1,
}


@pytest.fixture(scope="module")
def findings(tiny_run):
    return Findings.model_validate_json((tiny_run / "reveal/findings.json").read_text()).findings


@pytest.fixture(scope="module")
def biases(tiny_run):
    return Biases.model_validate_json((tiny_run / "reveal/biases.json").read_text()).biases


def test_the_planted_group_is_the_first_finding(findings, tiny_dataset):
    first = findings[0]
    usable = set(tiny_dataset.table["id"][tiny_dataset.table["split"] != "test"])
    planted = tiny.planted_ids(tiny_dataset) & usable
    found = set(first.sample_ids)
    assert first.class_name == "square"
    assert len(found & planted) / len(found | planted) > 0.9
    assert first.score > 1.3 * findings[1].score


def test_findings_are_ranked_by_score_and_have_all_parts(findings):
    assert [each.rank for each in findings] == list(range(1, len(findings) + 1))
    assert all(a.score >= b.score for a, b in zip(findings, findings[1:], strict=False))
    for each in findings:
        assert each.score_parts.keys() == {"separation", "evidence", "concentration", "effect"}
        assert each.score == pytest.approx(combine(each.score_parts), abs=1e-6)
        assert {"consistency", "area", "effect_pasted"} <= each.details.keys()
    assert len({each.id for each in findings}) == len(findings)


def test_no_test_sample_is_part_of_a_finding(findings, tiny_dataset):
    test = set(tiny_dataset.table["id"][tiny_dataset.table["split"] == "test"])
    assert all(not test & set(each.sample_ids) for each in findings)


def test_evidence_pictures_are_there(findings, tiny_run):
    captions = list(findings[0].evidence)
    for start in (
        "samples of the finding",
        "samples of the same class outside",
        "held-out scores",
        "samples of the class by",
    ):
        assert any(caption.startswith(start) for caption in captions)
    for each in findings[:6]:
        assert len(each.evidence) >= 3
        for path in each.evidence.values():
            with Image.open(tiny_run / path) as image:
                assert image.width > 100
    assert all(not each.evidence for each in findings[6:])


def test_the_first_finding_becomes_an_unreviewed_bias_with_a_cav(biases, findings, tiny_run, tiny_dataset):
    (bias,) = biases
    assert (bias.id, bias.status, bias.sample_ids) == (findings[0].id, "unreviewed", findings[0].sample_ids)
    assert bias.cav.auroc > 0.95 and bias.cav in bias.candidates
    cav = Cav.load(tiny_run / f"reveal/cavs/{bias.id}.npz")
    assert (cav.layer, cav.kind) == (bias.cav.layer, bias.cav.kind)
    store = FeatureStore(tiny_run / FEATURES)
    planted = np.array([tiny.is_planted(row) for row in range(len(tiny_dataset))])
    held_out = (tiny_dataset.table["split"] == "test").to_numpy() & (store.labels == tiny.PLANTED_CLASS)
    scores = cav.scores(store.activations(cav.layer, cav.pooling).astype(float))
    assert ((scores > 0) == planted)[held_out].all()


def test_every_candidate_cav_is_stored_under_its_layer_and_kind(biases, tiny_run):
    (bias,) = biases
    names = {f"{each.layer}--{each.kind}.npz" for each in bias.candidates}
    assert {path.name for path in (tiny_run / f"reveal/cavs/{bias.id}").iterdir()} == names
    for each in bias.candidates:
        cav = Cav.load(tiny_run / f"reveal/cavs/{bias.id}/{each.layer}--{each.kind}.npz")
        assert (cav.layer, cav.kind) == (each.layer, each.kind)


def run_again(context, words: dict[str, str] | None = None) -> tuple[Findings, Biases]:
    entries = [{"finding": name, "verdict": word, "by": "ann", "when": "now"} for name, word in (words or {}).items()]
    context.directory.annotations_path.write_text(json.dumps(entries))
    stage.run(context)
    return (
        context.directory.read_record("reveal/findings.json", Findings),
        context.directory.read_record("reveal/biases.json", Biases),
    )


def test_running_again_gives_the_same_findings(tiny_context, findings):
    first, _ = run_again(tiny_context(reveal=QUICK))
    second, _ = run_again(tiny_context(reveal=QUICK))
    assert first == second
    assert first.findings[0].id == findings[0].id


def test_what_a_person_called_valid_is_not_accepted_and_the_next_finding_is(tiny_context, findings):
    found, biases = run_again(tiny_context(reveal=QUICK), {findings[0].id: "valid"})
    assert found.findings[0].id == findings[0].id
    assert [bias.id for bias in biases.biases] == [found.findings[1].id]


def test_what_a_person_called_spurious_is_accepted_as_reviewed(tiny_context, findings):
    _, biases = run_again(tiny_context(reveal=QUICK | {"accept_top": 0}), {findings[0].id: "spurious"})
    (bias,) = biases.biases
    assert (bias.id, bias.status, bias.verdict.by) == (findings[0].id, "reviewed", "ann")


def test_where_nothing_is_accepted_the_biases_are_an_empty_list(tiny_context):
    context = tiny_context(reveal=QUICK | {"accept_top": 0})
    said = []
    context.reporter.say = said.append
    found, biases = run_again(context, {"spray-gone-00000000": "spurious"})
    assert found.findings and biases.biases == []
    assert any("nothing was accepted" in line for line in said)
    assert any("WARNING" in line and "spray-gone-00000000" in line for line in said)


@pytest.fixture
def view(tiny_run, tiny_dataset) -> DataView:
    usable = np.flatnonzero(tiny_dataset.table["split"].to_numpy() != "test")
    return DataView(FeatureStore(tiny_run / FEATURES), tiny_dataset, None, usable)


def test_configured_layers_are_tried_from_input_to_output_and_must_be_stored(view):
    wanted = ["network.relu2", "network.conv1", "network.relu2"]
    assert stage.cav_layers(view, wanted) == ("network.conv1", "network.relu2")
    assert stage.cav_layers(view, "auto") == ("network.relu1", "network.relu2")
    with pytest.raises(ConfigError, match="reveal.cav.layers: no layer 'network.relu3'.*Did you mean 'network.relu"):
        stage.cav_layers(view, ["network.relu3"])


def entry(members, promise: float, class_id: int = 0) -> stage.Shortlisted:
    candidate = Candidate("spray", class_id, "input", np.arange(60), members)
    evidence = Evidence("deep", "max", 1000, 0.5 + promise / 2, 1.0, 0.0, members)
    return stage.Shortlisted(candidate, 0.5, evidence)


def test_the_most_promising_are_kept_best_first_and_few_of_each_class():
    generator = np.random.default_rng(0)
    many = [entry(generator.random(60) < 0.3, promise) for promise in np.linspace(0.2, 0.9, 40)]
    kept = stage._most_promising(many, 5)
    assert [each.promise for each in kept] == sorted((each.promise for each in kept), reverse=True)
    assert len(kept) == 5 and kept[0] is many[-1]
    assert len(stage._most_promising([*many, entry(np.arange(60) < 9, 0.1, class_id=1)], 5)) == 6


def test_of_groups_that_are_much_the_same_only_the_best_few_are_kept():
    alike = [entry(np.arange(60) < 20 + step, 0.9 - step / 100) for step in range(0, 10, 2)]
    other = entry(np.arange(60) % 6 == 5, 0.2)
    kept = stage._most_promising([*alike, other], 8)
    assert [id(each) for each in kept] == [*map(id, alike[: stage.MOST_ALIKE]), id(other)]


def test_the_same_group_from_another_space_is_kept_once():
    same = np.arange(60) < 20
    assert len(stage._most_promising([entry(same, 0.9), entry(same, 0.8)], 8)) == 1


def label(context, bias: str, positives: list[str], negatives: list[str]) -> list[SampleLabel]:
    words = [(each, "positive") for each in positives] + [(each, "negative") for each in negatives]
    labels = [SampleLabel(bias=bias, sample=sample, label=word, by="ann", when="now") for sample, word in words]
    append(context.directory.annotations_path, labels)
    return labels


def read(context) -> tuple[list, list]:
    stage.run(context)
    return (
        context.directory.read_record("reveal/findings.json", Findings).findings,
        context.directory.read_record("reveal/biases.json", Biases).biases,
    )


def test_what_a_person_described_by_labels_becomes_a_finding_and_a_bias_under_that_name(tiny_context, tiny_dataset):
    context = tiny_context(reveal=QUICK)
    planted = sorted(
        tiny.planted_ids(tiny_dataset) & set(tiny_dataset.table["id"][tiny_dataset.table["split"] != "test"])
    )
    label(context, "white_square", planted, [])
    found, biases = read(context)
    described = next(each for each in found if each.id == "white_square")
    assert described.detector == "labels" and described.class_name == "square"
    assert sorted(described.sample_ids) == planted
    (bias,) = biases
    assert (bias.id, bias.status, bias.labels.positive) == ("white_square", "reviewed", len(planted))
    assert not any(each.id != "white_square" and set(each.sample_ids) == set(planted) for each in found)


def test_labels_on_a_finding_correct_its_samples_and_keep_its_id(tiny_context, findings):
    first = findings[0]
    context = tiny_context(reveal=QUICK)
    before, _ = read(context)
    wrong = before[0].sample_ids[:3]
    label(context, before[0].id, [], wrong)
    after, biases = read(context)
    assert after[0].id == before[0].id == first.id
    assert set(after[0].sample_ids) == set(before[0].sample_ids) - set(wrong)
    assert biases[0].sample_ids == after[0].sample_ids


def test_what_to_label_next_is_written_for_a_described_bias(tiny_context, tiny_dataset):
    context = tiny_context(reveal=QUICK)
    usable = set(tiny_dataset.table["id"][tiny_dataset.table["split"] != "test"])
    planted = sorted(tiny.planted_ids(tiny_dataset) & usable)
    plain = sorted(usable - set(planted))
    label(context, "white_square", planted[:6], plain[:6])
    read(context)
    with open(context.directory.root / "reveal/to_label-white_square.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"id", "score", "why"} <= rows[0].keys()
    suggested = [row["id"] for row in rows]
    assert not set(suggested) & {*planted[:6], *plain[:6]} and set(suggested) <= usable
    assert sum(each in planted for each in suggested[:10]) >= 8
