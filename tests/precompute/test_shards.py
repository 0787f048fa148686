"""Several processes compute parts of the rows; rank 0 joins them; a lost one is resumed alone."""

from __future__ import annotations

import shutil
import threading
import time

import h5py
import numpy as np
import pytest

from pipeline.data.memory import Subset
from pipeline.errors import StoreError
from pipeline.precompute import stage
from pipeline.precompute.chunks import ChunkFolder, assemble
from pipeline.precompute.seals import is_sealed, seal, seal_path
from pipeline.precompute.shards import join, shard_path
from pipeline.workspace import waiting
from pipeline.workspace.features import FEATURES, FeatureStore
from pipeline.workspace.rank import Rank

CHUNKS = 5
PATIENCE_MINUTES = 0.005


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.02)


@pytest.fixture
def dataset(tiny_dataset):
    return Subset(tiny_dataset, np.arange(70))


@pytest.fixture
def make(tiny_context, dataset):
    """Return a function that makes the context of one of several processes, in a run directory before precompute."""
    tiny_context().directory.clear("precompute")

    def make(number: int = 0, of: int = 1, **precompute):
        settings = {"chunk_rows": 16, "patience_minutes": PATIENCE_MINUTES, "layers": ["network.relu*"]}
        context = tiny_context(dataset, precompute=settings | precompute)
        context.rank = Rank(number, of)
        return context

    return make


@pytest.fixture
def computed(monkeypatch):
    """First rows of the chunks that were computed, in order."""
    found, write = [], ChunkFolder.write

    def counted(self, number, arrays):
        found.append(number)
        write(self, number, arrays)

    monkeypatch.setattr(ChunkFolder, "write", counted)
    return found


def contents(path) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None
        )
    return found


def assert_same_data(path, expected: dict[str, np.ndarray]) -> None:
    found = contents(path)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.fixture
def alone(make) -> dict[str, np.ndarray]:
    """What one process stores."""
    context = make()
    stage.run(context)
    found = contents(context.directory.root / FEATURES)
    context.directory.clear("precompute")
    return found


@pytest.mark.parametrize("of", [2, 3, 7])
def test_several_processes_store_what_one_does(make, alone, computed, of):
    for number in range(1, of):
        stage.run(make(number, of))
    context = make(0, of)
    stage.run(context)
    assert sorted(computed) == list(range(CHUNKS)), "every chunk is computed once"
    path = context.directory.root / FEATURES
    assert_same_data(path, alone)
    with h5py.File(path) as file:
        assert file["heatmaps/label"].is_virtual
    folder = context.directory.folder("precompute")
    assert not (folder / "chunks").exists()
    assert len(list((folder / "shards").glob("*.h5"))) == min(of, CHUNKS)
    store = FeatureStore(path)
    assert store.ids.tolist() == [f"s{row:03d}" for row in range(70)]
    rows = np.array([69, 0, 34, 33, 34])
    assert np.array_equal(store.activations("network.relu1", rows=rows), store.activations("network.relu1")[rows])


def test_rank_0_waits_for_the_others(make, alone):
    contexts = [make(0, 2, patience_minutes=1), make(1, 2, patience_minutes=1)]
    threads = [threading.Thread(target=stage.run, args=[context]) for context in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert_same_data(contexts[0].directory.root / FEATURES, alone)


def test_a_rank_that_does_not_come_is_named_and_the_others_work_is_kept(make, alone, computed):
    stage.run(make(2, 3))
    with pytest.raises(StoreError, match=r"no progress for 0.005 minutes while waiting for rank 1 \(0 of 2 chunks\)\."):
        stage.run(make(0, 3))
    assert computed == [3, 4, 0]
    computed.clear()
    stage.run(make(1, 3))
    context = make(0, 3)
    stage.run(context)
    assert computed == [1, 2], "only the part of the lost rank"
    assert_same_data(context.directory.root / FEATURES, alone)


def test_a_rank_that_was_killed_computes_only_its_missing_chunks(make, alone, computed, monkeypatch):
    write = ChunkFolder.write

    def killed(self, number, arrays):
        if number == 4:
            raise KeyboardInterrupt
        write(self, number, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(ChunkFolder, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            stage.run(make(1, 2))
    assert computed == [2, 3]
    stage.run(make(1, 2))
    assert computed == [2, 3, 4]


def test_another_number_of_processes_goes_on_with_the_chunks_that_are_there(make, alone, computed):
    stage.run(make(1, 2))
    context = make()
    stage.run(context)
    assert computed == [2, 3, 4, 0, 1]
    assert_same_data(context.directory.root / FEATURES, alone)
    assert not list((context.directory.folder("precompute") / "shards").iterdir()), "shards of the two are removed"


@pytest.mark.parametrize("harm", ["remove", "cut", "flip"])
def test_a_shard_that_was_harmed_is_computed_again_and_no_other(make, alone, computed, harm):
    for number in (1, 0):
        stage.run(make(number, 2))
    computed.clear()
    context = make(0, 2)
    path = shard_path(context.directory.folder("precompute"), 1, 2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:1000] if harm == "cut" else content)
    for number in (1, 0):
        stage.run(make(number, 2))
    assert computed == [2, 3, 4]
    assert_same_data(context.directory.root / FEATURES, alone)


def test_a_shard_is_not_taken_for_finished_while_it_is_computed_anew(make, monkeypatch):
    context = make(1, 2)
    stage.run(context)
    shard = shard_path(context.directory.folder("precompute"), 1, 2)
    content = shard.read_bytes()
    shard.write_bytes(content[::-1])
    shutil.rmtree(context.directory.folder("precompute") / "chunks")
    seen = []
    write = ChunkFolder.write
    monkeypatch.setattr(
        ChunkFolder, "write", lambda *arguments: (seen.append(seal_path(shard).exists()), write(*arguments))
    )
    stage.run(context)
    assert seen == [False] * 3 and shard.read_bytes() == content


def test_the_seal_of_one_process_does_not_outlive_its_store(make):
    context = make()
    stage.run(context)
    seal_of_one = seal_path(context.directory.root / FEATURES)
    assert seal_of_one.exists()
    for number in (1, 0):
        stage.run(make(number, 2))
    assert not seal_of_one.exists()
    assert FeatureStore(context.directory.root / FEATURES).logits.shape[0] == 70


def test_shards_of_another_key_do_not_count(make, computed):
    stage.run(make(1, 2))
    for number in (1, 0):
        context = make(number, 2)
        context.key = "another key"
        stage.run(context)
    assert computed == [2, 3, 4, 2, 3, 4, 0, 1]


def test_only_rank_0_checks_the_health(make):
    stage.run(make(1, 2))
    context = make(0, 2)
    assert not (context.directory.root / stage.HEALTH).exists()
    stage.run(context)
    assert (context.directory.root / stage.HEALTH).exists()


@pytest.fixture
def joined(make):
    """The store of two processes."""
    for number in (1, 0):
        stage.run(make(number, 2))
    return make(0, 2).directory.root / FEATURES


def test_the_store_may_be_moved_with_its_shards(joined, tmp_path, monkeypatch):
    expected = FeatureStore(joined).activations("network.relu2")
    shutil.move(joined.parent, tmp_path / "elsewhere")
    monkeypatch.chdir("/")
    assert np.array_equal(FeatureStore(tmp_path / "elsewhere" / "features.h5").activations("network.relu2"), expected)


def test_equal_shards_are_joined_to_equal_bytes(joined, make):
    expected = joined.read_bytes()
    joined.unlink()
    time.sleep(1.1)  # HDF5 stores times, if it is not told otherwise, in seconds
    stage.run(make(0, 2))
    assert joined.read_bytes() == expected


@pytest.mark.parametrize("harm", ["remove", "cut", "replace"])
def test_a_missing_or_damaged_shard_is_an_error_and_not_zeros(joined, harm):
    store = FeatureStore(joined)
    shard = shard_path(joined.parent, 1, 2)
    if harm == "remove":
        shard.unlink()
    elif harm == "cut":
        shard.write_bytes(shard.read_bytes()[:-500])
    else:
        with h5py.File(shard, "a") as file:
            file.attrs["key"] = "another key"
    told = {"remove": "is missing", "cut": "is cut off or damaged", "replace": "belongs to another run"}[harm]
    with pytest.raises(
        StoreError, match=rf"features\.h5 cannot be used: its shard 1-of-2\.h5 {told}.*Start precompute"
    ):
        FeatureStore(joined)
    if harm != "replace":
        with pytest.raises(StoreError, match="its shard 1-of-2.h5 was removed or changed since it was opened"):
            store.activations("network.relu1")


def test_other_programs_read_no_number_where_a_shard_is_missing(joined):
    shard_path(joined.parent, 1, 2).unlink()
    with h5py.File(joined) as file:
        found = file["heatmaps/label"][()]
    assert np.isfinite(found[:32]).all() and np.isnan(found[32:]).all()


def test_damage_within_a_shard_is_noticed_when_it_is_read(joined):
    shard = shard_path(joined.parent, 1, 2)
    with h5py.File(shard) as file:
        start = file["heatmaps/label"].id.get_chunk_info(0).byte_offset
    content = bytearray(shard.read_bytes())
    content[start + 20] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        FeatureStore(joined).heatmaps("label")


def test_shards_that_do_not_hold_the_same_are_not_joined(tmp_path):
    for number, name in enumerate(("x", "y")):
        chunks = ChunkFolder(tmp_path / "chunks", f"{number}", 4, 4)
        chunks.write(0, {f"layers/a/{name}": np.zeros((4, 2), np.float16)})
        assemble(shard_path(tmp_path, number, 2), chunks, {"a": "activation"}, {})
    with pytest.raises(StoreError, match=r"differ in 'layers/a/x'"):
        join(tmp_path / "features.h5", [shard_path(tmp_path, number, 2) for number in (0, 1)], {"a": "activation"}, {})
    assert not (tmp_path / "features.h5").exists()


def test_a_shard_is_finished_only_with_its_seal(joined):
    shard = shard_path(joined.parent, 0, 2)
    with h5py.File(shard) as file:
        key = file.attrs["key"]
        assert file.attrs["complete"]
    assert is_sealed(shard, key)
    shard.write_bytes(b"")
    assert not is_sealed(shard, key)
    seal(shard, key)
    assert is_sealed(shard, key)
