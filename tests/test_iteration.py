"""Several biases, one after another: an audit of corrected weights starts from what the earlier audit found."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest
import tiny

from pipeline.errors import CheckpointError
from pipeline.mitigate import stage as mitigate_stage
from pipeline.train import stage as train_stage
from pipeline.workspace.masks import MaskSet
from pipeline.workspace.records import Biases, Findings
from pipeline.workspace.stage import StageContext

METHODS = [{"kind": "rrr", "epochs": 2}, {"kind": "p_clarc"}]
REVEAL = {
    "detectors": [{"kind": "spray", "spaces": ["heatmap", "latent"], "tsne": False}],
    "stability_runs": 0,
    "pictured": 0,
}


@pytest.fixture(scope="module")
def first(tiny_run, tiny_dataset, tmp_path_factory) -> Path:
    """Audit A: the tiny run, corrected."""
    root = tmp_path_factory.mktemp("iteration") / "A"
    shutil.copytree(tiny_run, root)
    mitigate_stage.run(tiny.make_context(root, tiny_dataset, mitigate={"methods": METHODS}))
    return root


def started_from(root: Path, weights: Path, dataset) -> StageContext:
    """Return the context of an audit of corrected weights that starts from what their run had found."""
    earlier = weights.parents[2]
    return tiny.make_context(
        root, dataset, model={"checkpoint": str(weights)}, reveal=REVEAL | {"earlier": [str(earlier)]}
    )


def audited(context: StageContext, *stages: str) -> Path:
    for name in stages:
        importlib.import_module(f"pipeline.{name}.stage").run(context)
    return context.directory.root


@pytest.fixture(scope="module")
def second(first, tiny_dataset) -> Path:
    """Audit B: of the weights that A corrected."""
    context = started_from(first.parent / "B", first / "mitigate/rrr/model.pt", tiny_dataset)
    return audited(context, "train", "precompute", "reveal", "localize")


def biases(run: Path) -> list:
    return Biases.model_validate_json((run / "reveal/biases.json").read_text()).biases


def masks(run: Path, name: str) -> dict[str, bytes]:
    folder = run / "localize" / name
    return {str(each.relative_to(folder)): each.read_bytes() for each in sorted(folder.glob("[ms]*/*.png"))}


def test_the_bias_keeps_its_id_its_samples_and_its_masks(first, second):
    (before,) = biases(first)
    after = next(each for each in biases(second) if each.id == before.id)
    assert (after.earlier, after.sample_ids, after.class_name) == (str(first), before.sample_ids, before.class_name)
    assert after.cav != before.cav, "its CAV is one of the corrected model"
    assert masks(second, before.id) == masks(first, before.id) != {}
    sources = [
        [(each.id, each.source) for each in MaskSet(run / "localize" / before.id).index()] for run in (first, second)
    ]
    assert sources[0] == sources[1]


def test_a_new_finding_is_accepted_beside_it_and_localized(first, second):
    (before,) = biases(first)
    (new,) = [each for each in biases(second) if each.id != before.id]
    findings = Findings.model_validate_json((second / "reveal/findings.json").read_text()).findings
    assert new.earlier is None
    assert new.id == next(each.id for each in findings if each.id != before.id), "the first of the new ones"
    assert masks(second, new.id)


def test_the_chain_goes_on(first, second, tiny_dataset):
    """Audit C: both biases of B, of which one is A's; corrections know both."""
    root = first.parent / "C"
    shutil.copytree(second, root, ignore=shutil.ignore_patterns("reveal", "localize"))
    context = tiny.make_context(
        root,
        tiny_dataset,
        reveal=REVEAL | {"earlier": [str(second)], "accept_top": 0},
        mitigate={"methods": [{"kind": "rrr", "epochs": 1}]},
    )
    audited(context, "reveal", "localize", "mitigate")
    found = {each.id: each.earlier for each in biases(root)}
    assert found == {each.id: str(second) for each in biases(second)} and len(found) == 2
    assert all(masks(root, name) == masks(second, name) for name in found)
    assert f'"{biases(first)[0].id}"' in (root / "mitigate/rrr/method.json").read_text()


def test_a_model_with_projections_is_no_start(first, tiny_dataset):
    context = started_from(first.parent / "P", first / "mitigate/p_clarc/model.pt", tiny_dataset)
    with pytest.raises(CheckpointError, match="corrected model with projections"):
        train_stage.run(context)
