from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from pipeline.concepts import Cav
from pipeline.errors import ConfigError
from pipeline.reveal import stage
from pipeline.reveal.candidates import Candidate
from pipeline.workspace.features import FEATURES, FeatureStore
from pipeline.workspace.records import Biases, Findings

QUICK = {"detectors": [{"kind": "spray", "spaces": ["heatmap"], "umap": False}]}


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
        assert each.score_parts.keys() == {"separation", "evidence", "compactness", "effect"}
        assert each.score == pytest.approx(np.prod(list(each.score_parts.values())) ** 0.25, abs=1e-6)
    assert len({each.id for each in findings}) == len(findings)


def test_no_test_sample_is_part_of_a_finding(findings, tiny_dataset):
    test = set(tiny_dataset.table["id"][tiny_dataset.table["split"] == "test"])
    assert all(not test & set(each.sample_ids) for each in findings)


def test_evidence_pictures_are_there(findings, tiny_run):
    assert len(findings[0].evidence) == 3
    for each in findings[: stage.PICTURED]:
        assert len(each.evidence) == (3 if each.detector == "spray" else 2)
        for path in each.evidence.values():
            with Image.open(tiny_run / path) as image:
                assert image.width > 100
    assert all(not each.evidence for each in findings[stage.PICTURED :])


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


def test_configured_layers_are_tried_from_input_to_output_and_must_be_stored(tiny_run):
    store = FeatureStore(tiny_run / FEATURES)
    wanted = ["network.relu2", "network.conv1", "network.relu2"]
    assert stage.cav_layers(store, wanted) == ("network.conv1", "network.relu2")
    assert stage.cav_layers(store, "auto") == ("network.relu1", "network.relu2")
    with pytest.raises(ConfigError, match="reveal.cav.layers: no layer 'network.relu3'.*Did you mean 'network.relu"):
        stage.cav_layers(store, ["network.relu3"])


@pytest.mark.parametrize("eigenvectors", [2, 3, 16])
def test_an_embedding_of_few_eigenvectors_can_be_pictured(tiny_context, findings, tiny_dataset, eigenvectors):
    settings = {"detectors": [{"kind": "spray", "eigenvectors": eigenvectors, "umap": False}]}
    context = tiny_context(reveal=settings)
    store = FeatureStore(context.directory.root / FEATURES)
    rows = np.flatnonzero((store.labels == 2) & (tiny_dataset.table["split"] != "test").to_numpy())
    members = np.isin(store.ids[rows], findings[0].sample_ids)
    suspicion = stage.Suspicion(Candidate("spray", 2, "input", rows, members, 0.0), 0.5, {}, None)
    path = stage._embedding(context, store, findings[0], suspicion)
    assert (context.directory.root / path).stat().st_size > 1000


def test_the_shortlist_holds_a_group_from_several_spaces_once_and_few_of_each_class():
    generator = np.random.default_rng(0)

    def entry(members, class_id=0, conductance=0.01, area=0.9):
        return Candidate("spray", class_id, "input", np.arange(60), members, conductance), None, area

    same = np.arange(60) < 20
    kept = stage._shortlist([entry(same, area=0.8), entry(same), entry(~same), entry(same, class_id=1)])
    assert [(each[0].class_id, each[2]) for each in kept] == [(0, 0.9), (0, 0.9), (1, 0.9)]
    many = [entry(generator.random(60) < 0.5, conductance=value) for value in np.linspace(0, 0.5, 40)]
    kept = stage._shortlist(many[::-1])
    assert [each[0].conductance for each in kept] == [each[0].conductance for each in many[: stage.SHORTLIST_PER_CLASS]]


@pytest.mark.slow
def test_umap_spreads_the_embedding_over_a_plane_the_same_way_every_time():
    points = np.random.default_rng(0).standard_normal((40, 6))
    first, second = (stage._umap(points, 3) for _ in range(2))
    assert first.shape == (40, 2) and np.isfinite(first).all()
    assert np.array_equal(first, second)
