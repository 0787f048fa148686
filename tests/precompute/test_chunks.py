from __future__ import annotations

import gc
import weakref

import h5py
import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.precompute.chunks import ChunkFolder, assemble

TOTAL, SIZE = 10, 4


@pytest.fixture
def values():
    return np.random.default_rng(0).standard_normal((TOTAL, 3)).astype(np.float32)


@pytest.fixture
def fill(tmp_path, values):
    """Compute what is missing under a key; return the chunks and the numbers that were computed."""

    def run(key: str = "key") -> tuple[ChunkFolder, list[int]]:
        chunks = ChunkFolder(tmp_path / "chunks", key, TOTAL, SIZE)
        missing = chunks.missing()
        for number, rows in missing:
            names = np.array([f"sämple {row}" for row in rows])
            chunks.write(number, {"layers/a.b/activation_max": values[rows], "ids": names, "labels": rows})
        return chunks, [number for number, _ in missing]

    return run


def test_chunks_cover_every_row_once_in_order(fill):
    chunks, computed = fill()
    assert computed == [0, 1, 2]
    assert np.concatenate([rows for _, rows in chunks]).tolist() == list(range(TOTAL))


def test_what_is_there_is_not_computed_again(fill):
    fill()
    assert fill()[1] == []


def test_only_a_missing_chunk_is_computed_again(fill):
    chunks, _ = fill()
    chunks._path(1).unlink()
    assert fill()[1] == [1]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_only_a_damaged_chunk_is_computed_again(fill, damage):
    chunks, _ = fill()
    path = chunks._path(2)
    content = bytearray(path.read_bytes())
    content[content.index(b"activation_max") + 160] ^= 0xFF  # a byte of the values: only the checksum tells
    path.write_bytes({"cut": content[: len(content) // 2], "flip": content, "empty": b""}[damage])
    assert fill()[1] == [2]


def test_a_chunk_of_another_number_of_rows_is_computed_again(fill, values):
    chunks, _ = fill()
    chunks.write(0, {"layers/a.b/activation_max": values[:1], "ids": np.array(["x"]), "labels": np.array([0])})
    assert fill()[1] == [0]


def test_chunks_of_another_key_are_ignored(fill):
    fill("one key")
    assert fill("another key")[1] == [0, 1, 2]


def test_the_store_holds_all_rows_in_order_and_says_that_it_is_complete(fill, values, tmp_path):
    chunks, _ = fill()
    path = tmp_path / "features.h5"
    assemble(path, chunks, {"a.b": "convolution"}, {"arch": "tiny"})
    with h5py.File(path) as file:
        assert np.array_equal(file["layers/a.b/activation_max"][()], values)
        assert file["labels"][()].tolist() == list(range(TOTAL))
        assert file["ids"].asstr()[()].tolist() == [f"sämple {row}" for row in range(TOTAL)]
        assert list(file["layers"].attrs["order"]) == ["a.b"]
        assert file["layers/a.b"].attrs["kind"] == "convolution"
        assert file.attrs["arch"] == "tiny" and file.attrs["complete"]


def test_a_store_that_cannot_be_finished_does_not_appear(fill, tmp_path):
    chunks, _ = fill()
    chunks._path(1).unlink()
    with pytest.raises(StoreError, match="chunk 1 below .* vanished"):
        assemble(tmp_path / "features.h5", chunks, {"a.b": "convolution"}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["chunks"]


def test_equal_features_are_equal_bytes(fill, tmp_path):
    """Else features that are computed again would make every later stage stale. LZF would leave this to chance."""
    for name in ("first.h5", "second.h5"):
        assemble(tmp_path / name, fill()[0], {"a.b": "activation"}, {"key": "key"})
    assert (tmp_path / "first.h5").read_bytes() == (tmp_path / "second.h5").read_bytes()
    with h5py.File(tmp_path / "first.h5") as file:
        assert file["layers/a.b/activation_max"].compression == "gzip"


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_parts_are_contiguous_and_hold_every_chunk_once(fill, of):
    chunks, _ = fill()
    parts = [chunks.part(number, of) for number in range(of)]
    assert [number for part in parts for number, _ in part] == [0, 1, 2]
    assert [row for part in parts for row in part.rows] == list(range(TOTAL))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_part_is_assembled_from_its_own_rows(fill, values, tmp_path):
    chunks, _ = fill()
    part = chunks.part(1, 2)
    assert part.rows == range(4, 10) and part.written() == 2
    assemble(tmp_path / "shard.h5", part, {"a.b": "block"}, {})
    with h5py.File(tmp_path / "shard.h5") as file:
        assert np.array_equal(file["layers/a.b/activation_max"][()], values[4:])
        assert file["labels"][()].tolist() == list(range(4, 10))


def test_memory_holds_one_chunk_while_all_are_assembled(fill, tmp_path, monkeypatch):
    chunks, _ = fill()
    read, alive = chunks.read, []

    class Watched(dict):
        """A dict that can be watched."""

    def watched(number, rows):
        gc.collect()
        assert all(each() is None for each in alive)
        found = Watched(read(number, rows))
        alive.append(weakref.ref(found))
        return found

    monkeypatch.setattr(chunks, "read", watched)
    assemble(tmp_path / "features.h5", chunks, {"a.b": "activation"}, {})
    assert len(alive) == 3


@pytest.mark.parametrize(("shape", "rows"), [((512,), 32), ((64,), 256), ((112, 112), 1), ((512, 7, 7), 1)], ids=str)
def test_few_small_rows_or_one_large_row_make_an_hdf5_chunk(tmp_path, shape, rows):
    chunks = ChunkFolder(tmp_path / "chunks", "key", 300, 300)
    chunks.write(0, {"layers/a/x": np.zeros((300, *shape), np.float16)})
    assemble(tmp_path / "features.h5", chunks, {"a": "activation"}, {})
    with h5py.File(tmp_path / "features.h5") as file:
        assert file["layers/a/x"].chunks == (rows, *shape)
