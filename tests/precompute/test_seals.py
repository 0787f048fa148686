from __future__ import annotations

import pytest

from pipeline.precompute.seals import break_seal, is_sealed, seal, seal_path


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "0-of-2.h5"
    path.write_bytes(b"features")
    return path


def test_a_finished_file_is_known_by_its_seal(path):
    assert not is_sealed(path, "key")
    seal(path, "key")
    assert is_sealed(path, "key")
    assert not is_sealed(path, "another key")
    assert path.with_name("0-of-2.seal.json").exists()


@pytest.mark.parametrize("content", [b"featurez", b"feature", b""])
def test_a_file_that_has_changed_is_not_sealed(path, content):
    seal(path, "key")
    path.write_bytes(content)
    assert not is_sealed(path, "key")


def test_without_the_file_there_is_no_seal(path):
    seal(path, "key")
    path.unlink()
    assert not is_sealed(path, "key")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "key"}'])
def test_a_damaged_seal_does_not_count(path, text):
    seal_path(path).write_text(text)
    assert not is_sealed(path, "key")


def test_a_broken_seal_is_gone(path):
    seal(path, "key")
    break_seal(path)
    break_seal(path)
    assert not is_sealed(path, "key") and path.exists()


def test_equal_files_have_equal_seals(path, tmp_path):
    other = tmp_path / "elsewhere" / path.name
    other.parent.mkdir()
    other.write_bytes(path.read_bytes())
    for each in (path, other):
        seal(each, "key")
    assert seal_path(path).read_bytes() == seal_path(other).read_bytes()
