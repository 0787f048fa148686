"""Whatever is wrong with input or machine: the exit code, a message that helps, and nothing finished is lost."""

from __future__ import annotations

import csv
import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import types
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from commands import Ended, results, run_command
from PIL import Image

from pipeline.config.model import ModelConfig
from pipeline.models.build import build_model
from pipeline.models.checkpoints import save_weights
from pipeline.run.stages import STAGE_NAMES
from pipeline.workspace import atomic
from pipeline.workspace.directory import RunDirectory
from pipeline.workspace.records import Audit

PROJECT = Path(__file__).parents[1]
BAD = "s050"
"""The sample that is damaged: of class "square", in the training split."""
SETTINGS = {
    "name": "audit",
    "device": "cpu",
    "data": {
        "kind": "table",
        "path": "images/{file}",
        "label_column": "shape",
        "split_column": "part",
        "channels": 1,
    },
    "model": {"params": {"width": 4, "blocks": 2}, "train": {"epochs": 4, "lr": 0.01, "batch_size": 32}},
    "reveal": {
        "detectors": [{"kind": "spray", "tsne": False, "spaces": ["heatmap"]}],
        "stability_runs": 0,
        "accept_score": 0.0,
    },
    "mitigate": {"methods": [{"kind": "fine_tune", "epochs": 1}, {"kind": "p_clarc"}]},
    "evaluate": {"resamples": 100, "relevance_samples": 16},
}


class Trial:
    """A folder with images, a table, a configuration and a finished run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = folder / "audit.yaml"
        self.root = folder / "artifacts/audit"
        self.weights = folder / "weights.pt"

    @property
    def table(self) -> Path:
        return self.folder / "data/labels.csv"

    def image(self, sample_id: str = BAD) -> Path:
        return self.folder / f"data/images/{sample_id}.png"

    def write_config(self) -> None:
        sections = {"data": SETTINGS["data"] | {"root": str(self.folder / "data")}}
        if self.weights.exists():
            sections["model"] = SETTINGS["model"] | {"checkpoint": str(self.weights)}
        text = yaml.safe_dump(SETTINGS | sections | {"output_dir": str(self.folder / "artifacts")})
        self.config.write_text(text)

    def change_table(self, change: Callable[[dict[str, str]], None]) -> None:
        with open(self.table, newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            change(row)
        with open(self.table, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def run(self, *overrides: str, stage: str = "run", options: tuple[str, ...] = ()) -> Ended:
        given = ("--set", *overrides) if overrides else ()
        ended = run_command(stage, "--config", self.config, *given, *options)
        assert "Traceback" not in ended.out + ended.err
        return ended

    def results(self, *stages: str) -> dict[str, tuple[int, str]]:
        folders = tuple(f"{RunDirectory('').folder(stage)}/" for stage in stages or STAGE_NAMES)
        return {name: found for name, found in results(self.root).items() if name.startswith(folders)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Trial:
    """The data set of `tiny` as files, audited. Read it only; `trial` is a copy."""
    trial = Trial(tmp_path_factory.mktemp("finished"))
    dataset = tiny.make_dataset()
    trial.image().parent.mkdir(parents=True)
    with open(trial.table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "file", "shape", "part"))
        for index, row in enumerate(dataset.table.itertuples()):
            # every third name could run in a page that does not escape it
            name = f"<script>{row.id}" if index % 3 == 1 else row.id
            Image.fromarray(dataset.pixels[index, 0]).save(trial.image(name))
            writer.writerow((name, f"{name}.png", tiny.CLASSES[row.label], row.split))
    trial.write_config()
    assert trial.run()[::2] == (0, "")
    return trial


@pytest.fixture
def trial(finished, tmp_path) -> Trial:
    """A copy of a finished run, for damage."""
    copied = Trial(tmp_path / "trial")
    shutil.copytree(finished.folder, copied.folder)
    copied.write_config()
    return copied


def assert_refused(ended: Ended, code: int, *expected: str) -> None:
    """The command ended with the code, and says on standard error what is expected, in this order."""
    assert ended.code == code, ended
    assert ended.err.startswith("error: ")
    rest = ended.err
    for each in expected:
        _, found, rest = rest.partition(each)
        assert found, f"{each!r} is not in {ended.err!r}, or not in this order"


def assert_untouched(trial: Trial, before: dict) -> None:
    """All results are what they were, and still count as fresh."""
    assert trial.results() == before
    ended = trial.run()
    assert (ended.code, ended.ran, ended.reused) == (0, [], list(STAGE_NAMES))
    assert trial.results() == before


# The configuration


def test_missing_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = run_command("run", "--config", "demo.yml")
    assert_refused(ended, 2, "--config demo.yml: no such file", "Did you mean 'demo.yaml'?", "Available: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: audit\ndata: [kind: digits\n", ["audit.yaml, line 3, column 1: not valid YAML", "',' or ']'"]),
        ("name: audit\nname: other\n", ["audit.yaml, line 2", "the key 'name' stands twice"]),
        ("just words\n", ["audit.yaml: expected a mapping with the keys name, output_dir"]),
        ("", ["audit.yaml: expected a mapping with the keys name"]),
        ("name: audit\n", ["audit.yaml", "data: this key is required"]),
    ],
    ids=["unclosed", "twice", "no mapping", "empty", "no data"],
)
def test_invalid_yaml(trial, text, expected):
    before = trial.results()
    trial.config.write_text(text)
    assert_refused(trial.run(), 2, *expected)
    trial.write_config()
    assert_untouched(trial, before)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.train.epoch=3", ["model.train.epoch: unknown key 'epoch'", "Did you mean 'epochs'?", "Allowed here: "]),
        ("data.roots=x", ["data.roots: unknown key 'roots'", "Did you mean 'root'?"]),
        ("model.train.epochs=many", ["model.train.epochs", "valid integer", "'many'"]),
        ("evaluate.resamples=10", ["evaluate.resamples", "greater than or equal to 100", "10"]),
        ("device=tpu", ["device: 'tpu' is not allowed", "Allowed: 'auto', 'cpu' or 'cuda'"]),
        ("mitigate.methods.0.kind=rrrr", ["mitigate.methods.0: unknown kind 'rrrr'", "Did you mean 'rrr'?", "Allowed"]),
        ("data.kind=tables", ["data: unknown kind 'tables'", "Did you mean 'table'?", "Allowed: mnist5k, digits"]),
        ("mitigate.methods.7.kind=rrr", ["there is no item '7'", "the items are 0 to 1"]),
    ],
)
def test_wrong_key_or_value(trial, override, expected):
    before = trial.results()
    assert_refused(trial.run(override), 2, *expected)
    assert_untouched(trial, before)


# The data


def remove_root(trial: Trial) -> None:
    shutil.rmtree(trial.folder / "data")


def remove_table(trial: Trial) -> None:
    trial.table.rename(trial.table.with_name("label.csv"))


def remove_image(trial: Trial) -> None:
    trial.image().unlink()


def cut_image(trial: Trial) -> None:
    os.truncate(trial.image(), trial.image().stat().st_size // 2)


def put_nan(trial: Trial) -> None:
    pixels = np.zeros((16, 16), np.float32)
    pixels[3, 4] = np.nan
    with open(trial.image(), "wb") as file:
        np.save(file, pixels)


def put_text(trial: Trial) -> None:
    trial.image().write_text("<html>404 Not Found</html>")


def put_large(trial: Trial) -> None:
    Image.fromarray(np.zeros((20, 16), np.uint8)).save(trial.image())


def label_foreign(trial: Trial) -> None:
    trial.config.write_text(trial.config.read_text().replace("data:\n", "data:\n  classes: [across, down, square]\n"))
    trial.change_table(lambda row: row.update(shape="circle") if row["id"] == BAD else None)


def empty_label(trial: Trial) -> None:
    trial.change_table(lambda row: row.update(shape="") if row["id"] == BAD else None)


def empty_split(trial: Trial) -> None:
    trial.change_table(lambda row: row.update(part="train") if row["part"] == "test" else None)


def class_only_in_training(trial: Trial) -> None:
    trial.change_table(lambda row: row.update(part="train") if row["shape"] == "down" else None)


def repeat_id(trial: Trial) -> None:
    trial.change_table(lambda row: row.update(id="s000") if row["id"] == BAD else None)


def drop_rows(trial: Trial) -> None:
    trial.table.write_text("id,file,shape,part\n")


DAMAGES = [
    (remove_root, ["/data does not exist (key data.root", "Next step: ", "--set data.root="]),
    (remove_table, ["labels.csv does not exist (key data.table)", "Files beside it: label.csv", "Next step: "]),
    (remove_image, ["1 of 180", f"  {BAD} (", f"images/{BAD}.png): missing file", "data.on_bad_sample=skip"]),
    (cut_image, ["1 of 180", f"  {BAD} (", f"images/{BAD}.png): truncated or undecodable", "on_bad_sample=skip"]),
    (put_nan, ["1 of 180", f"images/{BAD}.png): NaN or infinite values", "data.on_bad_sample=skip"]),
    (put_text, ["1 of 180", f"images/{BAD}.png): truncated or undecodable", "data.on_bad_sample=skip"]),
    (put_large, [f"images/{BAD}.png): shape [1, 20, 16]", "[1, 16, 16]", "set data.image_size", "on_bad_sample=skip"]),
    (label_foreign, [f"{BAD} (labels.csv): label 'circle' is not one of the classes across, down, square"]),
    (empty_label, [f"{BAD} (labels.csv): empty label", "data.on_bad_sample=skip"]),
    (empty_split, ["No row of labels.csv has 'test' in the column 'part'", "train 144, val 36", "Next step: "]),
    (class_only_in_training, ["class 'down' has no samples in split 'val'", "down: train 60, val 0, test 0", "Next"]),
    (repeat_id, ["labels.csv: 1 sample ids occur more than once", "'s000'", "Next step: "]),
    (drop_rows, ["labels.csv has no rows", "Next step: "]),
]


@pytest.mark.parametrize(("damage", "expected"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_bad_data_stop_the_run_before_anything_is_touched(trial, finished, damage, expected):
    before = trial.results()
    damage(trial)
    ended = trial.run()
    assert_refused(ended, 1, *expected)
    assert ended.ran == []
    assert_refused(trial.run(options=("--status",)), 1, *expected)
    assert trial.results() == before
    shutil.rmtree(trial.folder / "data", ignore_errors=True)
    shutil.copytree(finished.folder / "data", trial.folder / "data")
    trial.write_config()
    assert_untouched(trial, before)


def test_bad_data_before_the_first_run(trial):
    shutil.rmtree(trial.root)
    cut_image(trial)
    assert_refused(trial.run(), 1, f"{BAD} (", "truncated")
    assert results(trial.root) == {}


def test_wrong_column_names_the_nearest(trial):
    before = trial.results()
    ended = trial.run("data.label_column=shapes")
    assert_refused(ended, 2, "data.label_column", "'shapes'", "Did you mean 'shape'?", "id, file, shape, part")
    assert_untouched(trial, before)


def test_skipped_samples_are_counted_in_manifest_and_report(trial):
    cut_image(trial)
    label = "s053"
    trial.change_table(lambda row: row.update(shape="") if row["id"] == label else None)
    ended = trial.run("data.on_bad_sample=skip")
    assert (ended.code, ended.err) == (0, "")
    assert "data: 2 bad samples are skipped, listed in manifest.json" in ended.out
    skipped = dict(RunDirectory(trial.root).manifest().dataset.skipped)
    assert set(skipped) == {BAD, label}
    assert skipped[label] == "empty label"
    assert "truncated" in skipped[BAD]
    audit = RunDirectory(trial.root).read_record("report/audit.json", Audit)
    assert (audit.provenance.dataset.skipped, sum(audit.provenance.dataset.splits.values())) == (2, 178)
    warning = "2 unreadable samples were left out"
    assert any(text.startswith(warning) for text in audit.warnings)
    assert warning in (trial.root / "report/index.html").read_text()
    assert trial.run("data.on_bad_sample=skip").ran == []


def test_names_of_files_cannot_run_in_the_report(finished):
    page = (finished.root / "report/index.html").read_text()
    assert "&lt;script&gt;s" in page and "<script" not in page
    summary = (finished.root / "report/summary.md").read_text()
    assert "<script" not in summary
    ElementTree.parse(finished.root / "report/junit.xml")


def test_nothing_but_bad_samples(trial):
    for image in trial.image().parent.iterdir():
        image.write_bytes(b"")
    ended = trial.run("data.on_bad_sample=skip")
    assert_refused(ended, 1, "labels.csv: not one of 180 samples can be used", "s000", "empty file")


# The checkpoint


def write_checkpoint(path: Path, **params: int) -> Path:
    save_weights(build_model(ModelConfig(params=params), 3, 1).network, path)
    return path


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def finished_on_weights(finished, tmp_path_factory) -> Trial:
    """A run that was finished on a given checkpoint. Read it only; `given` is a copy."""
    trial = Trial(tmp_path_factory.mktemp("given") / "trial")
    shutil.copytree(finished.folder, trial.folder)
    write_checkpoint(trial.weights, **SETTINGS["model"]["params"])
    trial.write_config()
    assert trial.run()[::2] == (0, "")
    return trial


@pytest.fixture
def given(finished_on_weights, tmp_path) -> Trial:
    """A copy of a run that was finished on a given checkpoint."""
    copied = Trial(tmp_path / "trial")
    shutil.copytree(finished_on_weights.folder, copied.folder)
    copied.write_config()
    return copied


def assert_wrong_checkpoint_costs_nothing(given: Trial, bad: Path, *expected: str) -> None:
    """The checkpoint is refused; with the right one again, everything is still there."""
    before = given.results()
    ended = given.run(f"model.checkpoint={bad}")
    assert_refused(ended, 1, f"checkpoint {bad} ", *expected)
    assert ended.ran == ["train"]
    assert_untouched(given, before)


def test_checkpoint_of_another_architecture(given):
    assert_wrong_checkpoint_costs_nothing(
        given,
        write_checkpoint(given.folder / "other.pt", width=8, blocks=3),
        "does not fit model.arch local:small_cnn",
        "unexpected 6: conv3.weight",
        "of another shape",
        "conv1.weight (8, 1, 3, 3) instead of (4, 1, 3, 3)",
        "Set model.arch",
    )


def test_checkpoint_that_is_no_tensor_file(given):
    bad = given.folder / "bad.pt"
    bad.write_text("no tensors here")
    assert_wrong_checkpoint_costs_nothing(given, bad, "cannot be read with weights_only=True", "state_dict()")


def test_truncated_checkpoint(given):
    bad = given.folder / "cut.pt"
    content = given.weights.read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    assert_wrong_checkpoint_costs_nothing(given, bad, "cannot be read", "It is damaged")


def test_checkpoint_that_would_run_code_is_not_run(given):
    bad, harm = given.folder / "harmful.pt", given.folder / "harm"
    bad.write_bytes(pickle.dumps({"weight": Harmful(harm)}))
    assert_wrong_checkpoint_costs_nothing(given, bad, "cannot be read with weights_only=True", "pickled objects")
    assert not harm.exists()


def test_missing_checkpoint(given):
    assert_wrong_checkpoint_costs_nothing(given, given.folder / "gone.pt", "does not exist. Check model.checkpoint.")


# What only a stage notices


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "precompute.layers=[network.relu9]",
            ["precompute.layers: no layer matches 'network.relu9'", "Did you mean 'network.relu2'?", "Layers: "],
        ),
        (
            "reveal.cav.layers=[network.relu9]",
            ["reveal.cav.layers: no layer 'network.relu9' is stored", "Did you mean 'network.relu2'?", "Stored: "],
        ),
        (
            "mitigate.methods.1.layer=network.relu9",
            ["mitigate.methods: no CAV was fitted in layer 'network.relu9'", "Did you mean 'network.relu2'?", "Add it"],
        ),
        (
            "data.attack={kind: glyph, classes: [square], size: 15}",
            ["data.attack.size 15 with margin 1", "16 x 16 pixels", "at most 16", "Make one of them smaller"],
        ),
        (
            "data.attack={kind: glyph, classes: [squares], size: 3}",
            ["data.attack.classes names 'squares'", "Did you mean 'square'?", "0 = across, 1 = down, 2 = square"],
        ),
        (
            "model.arch=local:small_cn",
            ["model.arch 'local:small_cn' is unknown", "Did you mean 'small_cnn'?", "Allowed"],
        ),
        ("model.arch=no.module:net", ["'no.module:net' cannot be imported", "working directory"]),
        ("model.params.widths=4", ["model.params: local:small_cnn does not take 'widths'", "Did you mean 'width'?"]),
        ("model.mean=[0.5, 0.5, 0.5]", ["model.mean: 3 values for images of 1 channels", "give 1 or 1"]),
        (
            "evaluate.subgroups=[sex]",
            ["evaluate.subgroups names the column 'sex'", "data.group_columns", "Its columns"],
        ),
    ],
)
def test_value_that_only_a_stage_finds_wrong(trial, override, expected):
    before = trial.results()
    assert_refused(trial.run(override), 2, *expected)
    assert_untouched(trial, before)


def test_journal_that_is_no_list_of_verdicts(trial):
    journal = trial.root / "annotations.json"
    journal.write_text(json.dumps([{"finding": "spray", "verdict": "bad", "by": "A", "when": "now"}]))
    content, before = journal.read_bytes(), trial.results()
    ended = trial.run()
    assert_refused(ended, 1, "annotations.json is not a list of verdicts", "spurious, valid or unsure")
    assert journal.read_bytes() == content
    journal.unlink()
    assert trial.run().ran == [], "the findings that were written again are the same"
    rest = {name for name in before if not name.startswith("reveal/")}
    assert {name: trial.results()[name] for name in rest} == {name: before[name] for name in rest}


# The machine


def test_features_cut_off_in_the_middle_are_computed_again(trial):
    features = trial.root / "precompute/features.h5"
    size = features.stat().st_size
    rest = [name for name in STAGE_NAMES if name != "precompute"]
    before, content = trial.results(*rest), features.read_bytes()
    os.truncate(features, size // 2)
    told = f"precompute/features.h5 has {size // 2:,} bytes instead of {size:,}"
    status = trial.run(options=("--status",)).out.splitlines()
    assert status[1].split() == ["train", "fresh"]
    assert status[2].split(maxsplit=2) == ["precompute", "stale", told]
    ended = trial.run()
    assert (ended.code, ended.err) == (0, "")
    assert f"precompute: stale, {told}; running" in ended.out
    assert ended.ran == ["precompute"], "the same features come out, so that later results stand"
    assert features.read_bytes() == content
    assert trial.results(*rest) == before


def test_full_disk_in_the_middle_of_a_write(trial, monkeypatch):
    def replace(source, target):
        if Path(target).parent.name == "masks" and len(list(Path(target).parent.glob("*.png"))) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(source))
        return os.replace(source, target)

    shutil.rmtree(trial.root / "localize")
    finished = trial.results("train", "precompute", "reveal")
    functions = {name: getattr(os, name) for name in ("getpid", "fsync")}
    monkeypatch.setattr(atomic, "os", types.SimpleNamespace(**functions, replace=replace))
    ended = trial.run()
    assert_refused(ended, 1, "no space left while writing ", "/masks/", "Finished stages are kept; free some space")
    assert ended.ran == ["localize"]
    assert trial.results("train", "precompute", "reveal") == finished
    masks = list((trial.root / "localize").rglob("masks/*"))
    assert len(masks) == 3, "no half-written file is left"
    entry = RunDirectory(trial.root).manifest().stages["localize"]
    assert entry.status == "failed"
    assert entry.error.startswith("no space left")

    monkeypatch.undo()
    ended = trial.run()
    assert (ended.code, ended.reused[:3]) == (0, ["train", "precompute", "reveal"])
    assert "localize" in ended.ran
    assert trial.results("train", "precompute", "reveal") == finished
    assert trial.run().ran == []


def test_full_disk_when_the_manifest_is_written(trial, monkeypatch):
    def replace(source, target):
        if Path(target).name == "manifest.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(source))
        return os.replace(source, target)

    before, manifest = trial.results(), (trial.root / "manifest.json").read_bytes()
    functions = {name: getattr(os, name) for name in ("getpid", "fsync")}
    monkeypatch.setattr(atomic, "os", types.SimpleNamespace(**functions, replace=replace))
    ended = trial.run("evaluate.resamples=200")
    assert_refused(ended, 1, "no space left while writing ", "manifest.json", "free some space")
    assert (trial.root / "manifest.json").read_bytes() == manifest
    monkeypatch.undo()
    assert_untouched(trial, before)


def test_two_runs_at_once(trial):
    before = trial.results()
    code = (
        "import sys, time\nfrom pipeline.workspace.directory import RunDirectory\n"
        "with RunDirectory(sys.argv[1]).lock():\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(trial.root)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        ended = trial.run(options=("--force",))
        assert_refused(ended, 1, f"{trial.root} is in use by process {other.pid}", "Wait for it to end", "--set name=")
        assert ended.ran == []
        other.stdin.close()
    assert_untouched(trial, before)


def test_cuda_without_cuda(trial, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = trial.results()
    ended = trial.run(options=("--force", "--device", "cuda"))
    assert_refused(ended, 2, "device is cuda, but PyTorch finds no CUDA device", "--device auto or --device cpu")
    assert_untouched(trial, before)


def test_output_folder_that_cannot_be_made(trial):
    ended = trial.run(f"output_dir={trial.table}/below")
    assert_refused(ended, 1, "cannot write in ", "labels.csv/below", "Choose another output_dir")
