from __future__ import annotations

import json
import os

import pytest
import torch

from pipeline.concepts.corrected import method_weights
from pipeline.errors import PipelineError
from pipeline.mitigate import stage
from pipeline.mitigate.groups import NoCounterExamples
from pipeline.workspace.records import Biases, Contest, MethodRecord

FINE_TUNE = {"kind": "fine_tune", "epochs": 1}
P_CLARC = {"kind": "p_clarc"}


@pytest.fixture
def fit(tiny_context, monkeypatch):
    """Run the stage with these methods; return the context and the ids of those that were fitted."""

    def run(*methods: dict, unit_key: str = "unit"):
        context = tiny_context(mitigate={"methods": list(methods)})
        context.unit_key = unit_key
        fitted, make = [], stage.make_mitigation
        with monkeypatch.context() as patch:
            patch.setattr(stage, "make_mitigation", lambda method: fitted.append(method.method_id) or make(method))
            stage.run(context)
        return context, fitted

    return run


def folders(context) -> dict[str, set[str]]:
    folder = context.directory.folder("mitigate")
    return {entry.name: {path.name for path in entry.iterdir()} for entry in folder.iterdir() if entry.is_dir()}


def test_each_method_has_a_folder_of_its_own(fit):
    context, fitted = fit(FINE_TUNE, P_CLARC, P_CLARC | {"id": "pooled", "mode": "pooled"})
    assert fitted == ["fine_tune", "p_clarc", "pooled"]
    assert folders(context) == {
        "fine_tune": {"model.pt", "method.json", "history.csv"},
        "p_clarc": {"model.pt", "method.json"},
        "pooled": {"model.pt", "method.json"},
    }
    record = context.directory.read_record("mitigate/pooled/method.json", MethodRecord)
    assert (record.id, record.kind, record.parameters["mode"]) == ("pooled", "p_clarc", "pooled")
    assert [each.mode for each in record.changes] == ["pooled"]


def test_a_method_that_is_done_is_kept(fit):
    context, _ = fit(FINE_TUNE, P_CLARC)
    before = (context.directory.root / "mitigate/fine_tune/model.pt").stat()
    again, fitted = fit(FINE_TUNE, P_CLARC)
    after = (again.directory.root / "mitigate/fine_tune/model.pt").stat()
    assert fitted == [] and (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_changed_parameter_fits_its_method_alone_again(fit):
    fit(FINE_TUNE, P_CLARC)
    assert fit(FINE_TUNE | {"lr": 0.002}, P_CLARC)[1] == ["fine_tune"]


def test_changed_inputs_fit_everything_again(fit):
    fit(FINE_TUNE, P_CLARC)
    assert fit(FINE_TUNE, P_CLARC, unit_key="other data")[1] == ["fine_tune", "p_clarc"]


def test_a_removed_method_leaves_nothing_behind(fit):
    fit(FINE_TUNE, P_CLARC)
    context, fitted = fit(P_CLARC)
    assert fitted == [] and set(folders(context)) == {"p_clarc"}


@pytest.mark.parametrize("file", ["model.pt", "method.json"])
@pytest.mark.parametrize("damage", ["cut off", "missing"])
def test_a_damaged_result_is_fitted_again(fit, file, damage):
    context, _ = fit(P_CLARC, FINE_TUNE)
    path = context.directory.root / "mitigate/p_clarc" / file
    content = path.read_bytes()
    path.unlink()
    if damage == "cut off":
        path.write_bytes(content[: len(content) // 2])
    assert fit(P_CLARC, FINE_TUNE)[1] == ["p_clarc"]
    assert fit(P_CLARC, FINE_TUNE)[1] == []


def test_a_method_that_changes_its_kind_leaves_no_history_of_the_old_one(fit):
    fit(FINE_TUNE | {"id": "trial"})
    context, _ = fit(P_CLARC | {"id": "trial"})
    assert folders(context) == {"trial": {"model.pt", "method.json"}}


def test_a_method_that_fails_leaves_the_earlier_result_whole_for_the_earlier_parameters(fit):
    fit(FINE_TUNE)
    with pytest.raises(PipelineError):
        fit(FINE_TUNE | {"lr": 1e30, "clip_norm": None, "epochs": 3, "optimizer": "sgd"})
    assert fit(FINE_TUNE)[1] == []


def test_a_stage_killed_while_it_stores_a_result_fits_it_again(fit, monkeypatch):
    fit(P_CLARC)

    def killed(**values):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "MethodRecord", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(P_CLARC | {"mode": "pooled"})
    assert fit(P_CLARC)[1] == ["p_clarc"], "the weights on disk are no longer those of the record"


def without_bias(context) -> None:
    context.directory.write_record("reveal/biases.json", Biases(biases=[]))


def test_without_a_bias_only_what_needs_none_is_fitted(fit, tiny_context):
    without_bias(tiny_context())
    context, fitted = fit(FINE_TUNE, P_CLARC, {"kind": "rrr"}, {"kind": "isnet"})
    assert fitted == ["fine_tune"] and set(folders(context)) == {"fine_tune"}
    record = context.directory.read_record("mitigate/fine_tune/method.json", MethodRecord)
    assert record.biases == [] and record.status == "unreviewed"
    assert "pasted_accuracy" not in record.validation


def test_corrections_of_a_bias_that_is_no_longer_accepted_are_removed(fit):
    context, _ = fit(FINE_TUNE, P_CLARC)
    without_bias(context)
    context, _ = fit(FINE_TUNE, P_CLARC)
    assert set(folders(context)) == {"fine_tune"}


def test_a_correction_of_reviewed_biases_is_reviewed(fit, tiny_context):
    root = tiny_context().directory.root
    path = root / "reveal/biases.json"
    content = json.loads(path.read_text())
    content["biases"][0]["status"] = "reviewed"
    path.write_text(json.dumps(content))
    context, _ = fit(P_CLARC)
    assert context.directory.read_record("mitigate/p_clarc/method.json", MethodRecord).status == "reviewed"


def test_foreign_entries_of_the_folder_are_removed(fit):
    context, _ = fit(P_CLARC)
    folder = context.directory.folder("mitigate")
    (folder / "notes.txt").write_text("left behind")
    os.makedirs(folder / "old/deep")
    context, _ = fit(P_CLARC)
    assert set(folders(context)) == {"p_clarc"}


def test_every_chosen_correction_is_trained_with_further_seeds_and_the_contest_is_written(tiny_context, fit):
    grid = {"kind": "fine_tune", "epochs": 1, "grid": {"lr": [0.001, 1e-6]}}
    context = tiny_context(mitigate={"methods": [grid, P_CLARC], "seeds": 2})
    stage.run(context)
    contest = context.directory.read_record("mitigate/contest.json", Contest)
    chosen = [each.id for each in contest.chosen()]
    assert len(contest.contestants) == 4, "two of the grid, the projection, and one further seed"
    assert chosen[1:] == ["p_clarc", f"{chosen[0]}_seed-1"] and contest.recommended == "p_clarc"
    first, second = (
        context.directory.read_record(f"mitigate/{name}/method.json", MethodRecord) for name in (chosen[0], chosen[2])
    )
    assert (first.seed, second.seed, first.family, second.family) == (0, 1, "fine_tune", "fine_tune")
    assert first.parameters == second.parameters
    weights = [torch.load(method_weights(context.directory.root, each.id)) for each in (first, second)]
    assert any(not torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    before = (context.directory.root / f"mitigate/{chosen[2]}/model.pt").stat().st_mtime_ns
    stage.run(context)
    assert (context.directory.root / f"mitigate/{chosen[2]}/model.pt").stat().st_mtime_ns == before


def test_a_method_without_counter_examples_is_skipped_and_the_others_go_on(fit, monkeypatch):
    def refuse(self, model, problem):
        raise NoCounterExamples("nobody carries it")

    monkeypatch.setattr(stage.MITIGATIONS["group_balance"].method, "fit", refuse)
    context, _ = fit({"kind": "group_balance"}, P_CLARC)
    assert set(folders(context)) == {"p_clarc"}
