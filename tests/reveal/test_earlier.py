from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from pipeline.concepts import Cav
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.errors import ConfigError, DataError
from pipeline.reveal import stage
from pipeline.reveal.earlier import earlier_candidates, read_earlier, why_dropped, without_direction
from pipeline.reveal.evidence import Evidence
from pipeline.reveal.labelled import LabelledBias
from pipeline.reveal.suspicion import EFFECT_FLOOR, combine
from pipeline.reveal.view import DataView
from pipeline.workspace.directory import RunDirectory
from pipeline.workspace.features import FEATURES, FeatureStore
from pipeline.workspace.journal import append
from pipeline.workspace.progress import SilentReporter
from pipeline.workspace.records import Bias, Biases, CavSummary, Findings, LabelCounts, SampleLabel, Verdict

QUICK = {
    "detectors": [{"kind": "spray", "spaces": ["heatmap", "latent"], "tsne": False}],
    "stability_runs": 0,
    "pictured": 0,
}
SUMMARY = CavSummary(kind="pattern", layer="gone", auroc=1, auroc_lower=1, auroc_upper=1, n_positive=9, n_negative=9)
SPURIOUS = Verdict(finding="marker", verdict="spurious", by="ann", when="2026-01-01T00:00:00Z")


class Listener(SilentReporter):
    def __init__(self):
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def bias_of(name: str, samples, class_name: str = "square", class_id: int = 2, **changes) -> Bias:
    values = {"status": "unreviewed", "cav": SUMMARY, "candidates": [SUMMARY], "finding": name} | changes
    return Bias(id=name, class_id=class_id, class_name=class_name, sample_ids=list(samples), **values)


def earlier_run(root: Path, *biases: Bias) -> str:
    """Write the biases of an earlier run, and return its directory."""
    RunDirectory(root).write_record("reveal/biases.json", Biases(biases=list(biases)))
    return str(root)


@pytest.fixture
def dataset() -> ArrayDataset:
    ids = ["a", "b", "c", "d"]
    return ArrayDataset(np.zeros((4, 1, 8, 8), np.uint8), make_table(ids, [0, 1, 1, 1], ["train"] * 4), ("cat", "dog"))


@pytest.fixture
def here(tmp_path) -> RunDirectory:
    return RunDirectory(tmp_path / "here")


# Reading


def test_samples_are_found_by_id_and_classes_by_name(tmp_path, dataset, here):
    run = earlier_run(tmp_path / "A", bias_of("marker", ["d", "b"], "dog", class_id=0))
    found = read_earlier([run], dataset, here, SilentReporter())
    assert list(found) == ["marker"]
    assert (found["marker"].run, found["marker"].class_id, found["marker"].rows.tolist()) == (run, 1, [1, 3])


def test_samples_that_are_gone_are_counted_and_named(tmp_path, dataset, here):
    run = earlier_run(tmp_path / "A", bias_of("marker", ["d", "x", "y"], "dog"))
    listener = Listener()
    assert read_earlier([run], dataset, here, listener)["marker"].rows.tolist() == [3]
    (line,) = listener.lines
    assert "marker" in line and run in line and "1 of 3 samples" in line and "2 are not: 'x', 'y'" in line


def test_no_sample_at_all_is_an_error(tmp_path, dataset, here):
    run = earlier_run(tmp_path / "A", bias_of("marker", ["x", "y"], "dog"))
    with pytest.raises(DataError, match=r"none of the 2 samples of bias 'marker' of .*A is in .*'x', 'y'.*reveal\.ear"):
        read_earlier([run], dataset, here, SilentReporter())


def test_a_class_that_is_gone_is_an_error(tmp_path, dataset, here):
    run = earlier_run(tmp_path / "A", bias_of("marker", ["d"], "dogs"))
    with pytest.raises(ConfigError, match=r"'marker' of .*A .*'dogs'.*Did you mean 'dog'\? Classes: cat, dog"):
        read_earlier([run], dataset, here, SilentReporter())


def test_of_two_runs_with_the_same_id_the_first_wins(tmp_path, dataset, here):
    first = earlier_run(tmp_path / "A", bias_of("marker", ["b"], "dog"))
    second = earlier_run(tmp_path / "B", bias_of("marker", ["c", "d"], "dog"), bias_of("band", ["c"], "dog"))
    listener = Listener()
    found = read_earlier([first, second], dataset, here, listener)
    assert {name: each.run for name, each in found.items()} == {"marker": first, "band": second}
    assert found["marker"].rows.tolist() == [1]
    assert any("marker" in line and "passed over" in line and second in line for line in listener.lines)


def test_a_bias_that_was_carried_over_before_is_carried_on(tmp_path, dataset, here):
    run = earlier_run(tmp_path / "B", bias_of("marker", ["b"], "dog", earlier="somewhere/A"))
    assert read_earlier([run], dataset, here, SilentReporter())["marker"].run == run


def test_a_record_without_the_field_of_earlier_runs_is_read(tmp_path, dataset, here):
    run = earlier_run(tmp_path / "A", bias_of("marker", ["b"], "dog"))
    path = tmp_path / "A/reveal/biases.json"
    content = json.loads(path.read_text())
    content["schema_version"] = 2
    del content["biases"][0]["earlier"]
    path.write_text(json.dumps(content))
    assert list(read_earlier([run], dataset, here, SilentReporter())) == ["marker"]


def test_a_run_that_found_nothing_is_told(tmp_path, dataset, here):
    listener = Listener()
    assert read_earlier([earlier_run(tmp_path / "A")], dataset, here, listener) == {}
    assert any("accepted no bias" in line for line in listener.lines)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"A is no directory.*Name the directory of a finished audit"),
        (lambda root: root.mkdir(), r"A holds no reveal/biases\.json.*run its reveal stage first"),
        (lambda root: root.write_text("file"), r"A is no directory"),
        (lambda root: damaged(root, "[1, 2"), r"biases\.json cannot be read as Biases.*earlier run .*A"),
        (lambda root: damaged(root, '{"biases": [], "surprise": 1}'), r"biases\.json cannot be read as Biases"),
    ],
)
def test_what_is_no_run_is_an_error_that_names_it(tmp_path, dataset, here, make, message):
    make(tmp_path / "A")
    with pytest.raises(ConfigError, match=rf"reveal\.earlier: .*{message}"):
        read_earlier([str(tmp_path / "A")], dataset, here, SilentReporter())


def damaged(root: Path, text: str) -> None:
    (root / "reveal").mkdir(parents=True)
    (root / "reveal/biases.json").write_text(text)


def test_a_run_is_not_its_own_earlier_run(tmp_path, dataset, here, monkeypatch):
    earlier_run(here.root, bias_of("marker", ["b"], "dog"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="here is the directory of this run itself"):
        read_earlier(["here"], dataset, here, SilentReporter())


# Candidates


@pytest.fixture
def view(tiny_run, tiny_dataset) -> DataView:
    usable = np.flatnonzero(tiny_dataset.table["split"].to_numpy() != "test")
    return DataView(FeatureStore(tiny_run / FEATURES), tiny_dataset, None, usable)


@pytest.fixture
def planted(tiny_dataset) -> list[str]:
    table = tiny_dataset.table
    return sorted(tiny.planted_ids(tiny_dataset) & set(table["id"][table["split"] != "test"]))


def candidates(view, tmp_path, *biases, labels=()):
    found = read_earlier(
        [earlier_run(tmp_path / "A", *biases)], view.dataset, RunDirectory(tmp_path / "B"), SilentReporter()
    )
    return earlier_candidates(view, list(found.values()), labels)


def test_a_candidate_is_named_by_the_id_and_says_where_it_comes_from(view, tmp_path, planted, tiny_dataset):
    (found,) = candidates(view, tmp_path, bias_of("marker", planted))
    assert (found.name, found.detector, found.class_id) == ("marker", "earlier", 2)
    assert sorted(tiny_dataset.table["id"].iloc[found.member_rows]) == planted
    assert str(tmp_path / "A") in found.note
    assert np.array_equal(found.rows, view.rows[view.labels == 2])
    assert found.layer in view.deep_layers


def test_samples_of_other_classes_and_of_the_test_split_are_no_members(view, tmp_path, planted, tiny_dataset):
    table = tiny_dataset.table
    test = table["id"][(table["split"] == "test") & (table["label"] == 2)].iloc[0]
    (found,) = candidates(view, tmp_path, bias_of("marker", [*planted[:5], "s000", test]))
    assert sorted(tiny_dataset.table["id"].iloc[found.member_rows]) == planted[:5]


def test_labels_of_this_run_correct_the_samples(view, tmp_path, planted, tiny_dataset):
    row = {each: number for number, each in enumerate(tiny_dataset.table["id"])}
    nobody = np.empty(0, dtype=np.int64)
    corrected = LabelledBias("marker", np.array([row[planted[-1]]]), np.array([row[planted[0]]]), nobody, ("ann",))
    other = LabelledBias("other", nobody, np.array([row[planted[1]]]), nobody, ("ann",))
    (found,) = candidates(view, tmp_path, bias_of("marker", planted[:6]), labels=[corrected, other])
    assert sorted(tiny_dataset.table["id"].iloc[found.member_rows]) == [*planted[1:6], planted[-1]]


def test_a_group_without_direction_has_no_effect_and_points_nowhere(view, tmp_path, planted):
    (found,) = candidates(view, tmp_path, bias_of("marker", planted))
    evidence = Evidence("network.relu1", "max", len(planted), 0.5, 0.9, 0.2, found.members)
    measured = without_direction(view, found, 0.4, evidence)
    expected = {"separation": 0.4, "evidence": 0.0, "effect": EFFECT_FLOOR / (1 + EFFECT_FLOOR)}
    assert measured.parts == {**expected, "concentration": evidence.concentration} and evidence.concentration > 0.5
    assert measured.score == combine(measured.parts) == 0
    assert measured.cav.layer == "network.relu1" and not measured.cav.direction.any()
    assert len(measured.cav.direction) == view.store.activations("network.relu1", "max").shape[1]


def test_why_a_group_is_dropped_is_said(view, tmp_path, planted):
    (found,) = candidates(view, tmp_path, bias_of("marker", planted[:3]))
    assert why_dropped(found, 4).startswith(f"3 samples of its class in training and validation show it and {48 - 3}")
    assert why_dropped(found, 3) == "no layer tells them apart"


# The stage


def reveal(context) -> tuple[list, dict[str, Bias], list[str]]:
    """Run the stage; return findings, biases by id, and what was said."""
    listener = Listener()
    context.reporter = listener
    stage.run(context)
    findings = context.directory.read_record("reveal/findings.json", Findings).findings
    biases = context.directory.read_record("reveal/biases.json", Biases).biases
    return findings, {each.id: each for each in biases}, listener.lines


@pytest.fixture
def few(monkeypatch) -> None:
    """Try few new groups on the model, which is what takes time."""
    monkeypatch.setattr(stage, "SHORTLIST", 3)


def other_group(tiny_dataset, count: int = 10) -> list[str]:
    """Return samples of class "across" in no order that a detector could find."""
    table = tiny_dataset.table
    ids = table["id"][(table["label"] == 0) & (table["split"] != "test")]
    return sorted(np.random.default_rng(3).choice(ids, count, replace=False).tolist())


def test_an_earlier_bias_keeps_its_id_and_uses_up_no_place_of_new_findings(few, tiny_context, tmp_path, planted):
    run = earlier_run(tmp_path / "A", bias_of("marker", planted))
    context = tiny_context(reveal=QUICK | {"earlier": [run]})
    findings, biases, said = reveal(context)
    marker = next(each for each in findings if each.id == "marker")
    assert marker.detector == "earlier" and run in marker.note and marker.sample_ids == planted
    assert any(each.startswith("spray") for each in marker.also_seen), "the same group is found anew, and merged"
    assert not any(set(each.sample_ids) == set(planted) for each in findings if each is not marker)
    assert [each.rank for each in findings] == list(range(1, len(findings) + 1))
    assert [each.score for each in findings] == sorted((each.score for each in findings), reverse=True)
    first_new = next(each for each in findings if each.id != "marker")
    assert set(biases) == {"marker", first_new.id}
    assert (biases["marker"].earlier, biases[first_new.id].earlier) == (run, None)
    assert biases["marker"].status == "unreviewed" and biases["marker"].cav.layer.startswith("network.")
    assert Cav.load(context.directory.root / "reveal/cavs/marker.npz").direction.any()
    assert any("bias marker" in line and "carried over from" in line for line in said)


def test_a_word_of_the_earlier_run_is_carried_over(few, tiny_context, tmp_path, planted):
    counts = LabelCounts(positive=5, negative=2, unsure=0, by=["ann"])
    judged = bias_of("marker", planted, status="reviewed", verdict=SPURIOUS, labels=counts)
    run = earlier_run(tmp_path / "A", judged)
    findings, biases, _ = reveal(tiny_context(reveal=QUICK | {"earlier": [run]}))
    marker = biases["marker"]
    assert (marker.status, marker.verdict, marker.labels) == ("reviewed", SPURIOUS, counts)
    assert len(biases) == 2, "that it was judged before keeps no new finding from being accepted"


@pytest.mark.parametrize(("word", "kept"), [("valid", False), ("unsure", False), ("spurious", True)])
def test_a_newer_word_in_the_journal_of_this_run_wins(few, tiny_context, tmp_path, planted, word, kept):
    run = earlier_run(tmp_path / "A", bias_of("marker", planted, status="reviewed", verdict=SPURIOUS))
    context = tiny_context(reveal=QUICK | {"earlier": [run]})
    newer = SPURIOUS.model_copy(update={"verdict": word, "by": "bob"})
    append(context.directory.annotations_path, [newer])
    findings, biases, said = reveal(context)
    assert ("marker" in biases) is kept and len(biases) == 1 + kept
    assert any(each.id == "marker" for each in findings)
    assert any("not carried over: bob called it" in line for line in said) is not kept
    assert not kept or biases["marker"].verdict.by == "bob"


def test_labels_on_an_earlier_bias_correct_it_instead_of_making_another(few, tiny_context, tmp_path, planted):
    run = earlier_run(tmp_path / "A", bias_of("marker", planted))
    context = tiny_context(reveal=QUICK | {"earlier": [run]})
    wrong = SampleLabel(bias="marker", sample=planted[0], label="negative", by="ann", when="now")
    right = [wrong.model_copy(update={"sample": each, "label": "positive"}) for each in planted[1:9]]
    append(context.directory.annotations_path, [wrong, *right])
    findings, biases, _ = reveal(context)
    assert [each.sample_ids for each in findings if each.id == "marker"] == [planted[1:]]
    assert biases["marker"].sample_ids == planted[1:]
    assert (biases["marker"].labels.negative, biases["marker"].status) == (1, "reviewed")


def test_what_the_model_no_longer_sees_stays_a_bias_however_it_ranks(
    few, tiny_context, tiny_dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(stage, "REPORTED", 1)
    group = other_group(tiny_dataset)
    run = earlier_run(tmp_path / "A", bias_of("marker", group, "across", class_id=0))
    findings, biases, _ = reveal(tiny_context(reveal=QUICK | {"earlier": [run], "pictured": 2}))
    first, marker = findings
    assert (marker.id, marker.rank, marker.details) == ("marker", 2, {}), "no CAV tells it better than chance"
    assert marker.score < 0.2 and len(marker.evidence) >= 3
    assert set(biases) == {first.id, "marker"} and biases["marker"].sample_ids == group


def test_without_any_cav_the_run_goes_on_and_says_so(few, tiny_context, tmp_path, planted):
    run = earlier_run(tmp_path / "A", bias_of("marker", planted[:2]))
    findings, biases, said = reveal(tiny_context(reveal=QUICK | {"earlier": [run]}))
    assert "marker" not in biases and len(biases) == 1
    (line,) = [each for each in said if "not carried over" in each]
    assert "bias marker of" in line and run in line and "no CAV" in line and "2 samples" in line


def test_where_no_estimator_finds_a_direction_the_run_goes_on_and_says_so(
    few, tiny_context, tmp_path, planted, monkeypatch
):
    run = earlier_run(tmp_path / "A", bias_of("marker", planted))
    monkeypatch.setattr(stage, "fit_candidates", lambda *_, **__: iter(()))
    _, biases, said = reveal(tiny_context(reveal=QUICK | {"earlier": [run], "accept_top": 0}))
    assert biases == {}
    assert any("marker" in line and "no estimator" in line for line in said)


def test_two_earlier_biases_of_much_the_same_samples_are_both_kept(few, tiny_context, tmp_path, planted):
    run = earlier_run(tmp_path / "A", bias_of("marker", planted), bias_of("band", planted[1:]))
    findings, biases, _ = reveal(tiny_context(reveal=QUICK | {"earlier": [run]}))
    assert {"marker", "band"} < set(biases)


def test_an_unknown_run_stops_before_anything_is_detected(few, tiny_context, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_detect", lambda *_: pytest.fail("detection began"))
    with pytest.raises(ConfigError, match=r"reveal\.earlier: .*gone is no directory"):
        reveal(tiny_context(reveal=QUICK | {"earlier": [str(tmp_path / "gone")]}))
