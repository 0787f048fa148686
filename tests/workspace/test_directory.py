"""One process at a time; damage is noticed; clearing keeps what it should; records come back as they were."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import BusyError, StoreError
from pipeline.workspace import directory as directory_module
from pipeline.workspace.atomic import write_text
from pipeline.workspace.directory import RunDirectory
from pipeline.workspace.records import Finding, Findings


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    folder = run.folder("reveal")
    (folder / "cavs").mkdir(parents=True)
    (folder / "findings.json").write_text("0123456789")
    (folder / "cavs" / "bias.npz").write_bytes(b"abc")
    return run


def test_two_processes_cannot_hold_the_lock(run):
    code = (
        "import sys; from pipeline.workspace.directory import RunDirectory\n"
        "with RunDirectory(sys.argv[1]).lock(): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(run.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=rf"in use by process {holder.pid}\b.*--set name="), run.lock():
            pass
    finally:
        holder.kill()  # SIGKILL: the lock must not outlive its holder
        holder.communicate()
    with run.lock():
        assert (run.root / ".lock").read_text() == str(os.getpid())


def test_lock_does_not_outlive_its_holder_in_a_process_that_it_forked(run):
    """As workers of a data loader do, which notice only after seconds that their parent was killed."""
    code = (
        "import os, sys, time; from pipeline.workspace.directory import RunDirectory\n"
        "with RunDirectory(sys.argv[1]).lock():\n"
        "    child = os.fork()\n"
        "    None if child else print(os.getpid(), flush=True)\n"
        "    time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(run.root)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(BusyError), run.lock():
            pass
        holder.kill()
        holder.wait()
        with run.lock():
            os.kill(child, 0)  # still there
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_lock_is_released_when_the_block_fails(run):
    with pytest.raises(RuntimeError), run.lock():
        raise RuntimeError
    with run.lock():
        pass


def test_directory_that_cannot_be_made_names_output_dir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Choose another output_dir"), RunDirectory(tmp_path / "file" / "run").lock():
        pass


def test_directory_that_cannot_be_written_names_output_dir(run):
    (run.root / ".lock").mkdir()  # cannot be opened for writing, whoever asks
    with pytest.raises(StoreError, match="Choose another output_dir"), run.lock():
        pass


def test_intact_outputs_are_not_read_again(run, monkeypatch):
    outputs = run.outputs("reveal")
    assert sorted(outputs) == ["reveal/cavs/bias.npz", "reveal/findings.json"]

    def forbidden(path):
        raise AssertionError(f"{path} was hashed")

    monkeypatch.setattr(directory_module, "digest_file", forbidden)
    assert run.damage(outputs) is None


def test_damage_names_the_file_and_what_is_wrong(run):
    outputs = run.outputs("reveal")
    file = run.root / "reveal" / "findings.json"
    file.write_text("01234")
    assert run.damage(outputs) == "reveal/findings.json has 5 bytes instead of 10"
    file.write_text("987654321_")
    os.utime(file, ns=(0, 0))
    assert run.damage(outputs) == "reveal/findings.json was changed"
    file.write_text("0123456789")
    os.utime(file, ns=(0, 0))
    assert run.damage(outputs) is None, "same content under another time is intact"
    file.unlink()
    assert run.damage(outputs) == "reveal/findings.json is missing"


def test_half_written_files_are_no_outputs(run):
    (run.folder("reveal") / f".findings.json.1{directory_module.TEMPORARY_SUFFIX}").write_text("0")
    assert sorted(run.outputs("reveal")) == ["reveal/cavs/bias.npz", "reveal/findings.json"]


@pytest.mark.parametrize(
    ("keep", "left"),
    [((), []), (("cavs",), ["cavs"]), (("*",), ["cavs", "findings.json"]), (("*.json",), ["findings.json"])],
)
def test_old_files_go_but_for_what_is_kept(run, keep, left):
    run.clear_old("reveal", run.written("reveal"), keep)
    assert sorted(entry.name for entry in run.folder("reveal").iterdir()) == left


def test_what_was_written_meanwhile_stays(run):
    before = run.written("reveal")
    run.write_record("reveal/findings.json", Findings(findings=[]))
    (run.folder("reveal") / "new").mkdir()
    (run.folder("reveal") / "new" / "picture.png").write_text("")
    run.clear_old("reveal", before)
    assert sorted(run.outputs("reveal")) == ["reveal/findings.json", "reveal/new/picture.png"]
    assert not (run.folder("reveal") / "cavs").exists(), "it is empty"


def test_equal_content_that_was_written_again_is_not_old(run):
    before = run.written("reveal")
    write_text(run.root / "reveal/findings.json", "0123456789")
    run.clear_old("reveal", before)
    assert sorted(run.outputs("reveal")) == ["reveal/findings.json"]


@pytest.mark.parametrize("clear", [RunDirectory.clear, lambda run, stage: run.clear_old(stage, run.written(stage))])
def test_clear_removes_links_but_not_what_they_lead_to(run, tmp_path, clear):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("")
    (run.folder("reveal") / "link").symlink_to(tmp_path / "elsewhere")
    clear(run, "reveal")
    assert list(run.folder("reveal").iterdir()) == []
    assert (tmp_path / "elsewhere" / "precious").exists()


def test_clear_of_a_stage_that_never_ran_does_nothing(run):
    run.clear("train")
    run.clear_old("train", run.written("train"))
    assert not run.folder("train").exists()


def make_finding(score: float) -> Finding:
    return Finding(
        id="a",
        rank=1,
        detector="spray",
        class_id=0,
        class_name="0",
        layer="input",
        score=score,
        score_parts={"gap": math.nan, "size": math.inf},
        sample_ids=["1"],
    )


def test_record_comes_back_as_it_was_also_with_figures_that_are_not_finite(run):
    run.write_record("reveal/findings.json", Findings(findings=[make_finding(0.5)]))
    (again,) = run.read_record("reveal/findings.json", Findings).findings
    assert (again.id, again.score) == ("a", 0.5)
    assert math.isnan(again.score_parts["gap"])
    assert again.score_parts["size"] == math.inf


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, "is missing"), ("{", "cannot be read as Findings"), ('{"findings": [], "new": 1}', "cannot be read as")],
)
def test_unreadable_record_names_file_and_next_step(run, text, expected):
    file = run.root / "reveal" / "findings.json"
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(StoreError, match=rf"findings\.json {expected}.*--force"):
        run.read_record("reveal/findings.json", Findings)


def test_files_that_vanish_while_they_are_listed_are_left_out(run, monkeypatch):
    """Another process that shares the stage renames its temporary files."""
    lstat = Path.lstat

    def vanished(path):
        if path.name == "findings.json":
            path.unlink()
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", vanished)
    assert [path.name for path in run.written("reveal")] == ["bias.npz"]
