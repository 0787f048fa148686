"""A file appears whole, or the old one stays."""

from __future__ import annotations

import errno
import json
import os

import pytest

from pipeline.errors import StoreError
from pipeline.workspace.atomic import atomic_path, write_json, write_text


def test_file_appears_only_when_the_block_ends(tmp_path):
    path = tmp_path / "deep" / "file.bin"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_failing_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half of the ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_is_told_and_leaves_the_old_file(tmp_path, code):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with (
        pytest.raises(StoreError, match=r"no space left while writing .*file\.txt .*kept"),
        atomic_path(path) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(code, os.strerror(code))
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_disk_that_fills_up_at_the_last_moment_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="no space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_forbidden_folder_names_output_dir(tmp_path, monkeypatch, code):
    def forbidden(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", forbidden)
    with pytest.raises(StoreError, match="Choose another output_dir"):
        write_text(tmp_path / "file.txt", "new")


def test_folder_that_cannot_be_made_is_a_store_error(tmp_path, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.mkdir", full)
    with pytest.raises(StoreError, match="no space left"):
        write_text(tmp_path / "deep" / "file.txt", "new")


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file.txt"):
        pass  # the block wrote nothing


def test_equal_contents_are_equal_bytes(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.5, None], "b": 1}
