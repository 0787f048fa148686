"""The manifest survives a round trip, and a damaged one is refused with the next step."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import StoreError
from pipeline.workspace.manifest import DatasetEntry, FileEntry, Manifest, StageEntry


def test_round_trip(tmp_path):
    manifest = Manifest(
        dataset=DatasetEntry(signature="s", fingerprint="f", skipped=[("a", "truncated")]),
        stages={
            "train": StageEntry(
                status="done",
                key="k",
                parts={"config": {"seed": 0}, "inputs": {}},
                outputs={"model/original.pt": FileEntry(bytes=3, modified_ns=2**60 + 1, digest="d")},
                seconds=1.5,
                notes={"accuracy": float("nan"), "layers": ["a"]},
            )
        },
    )
    manifest.save(tmp_path / "manifest.json")
    again = Manifest.load(tmp_path / "manifest.json")
    assert again.model_dump_json() == manifest.model_dump_json()
    assert again.stages["train"].outputs["model/original.pt"].modified_ns == 2**60 + 1


def test_missing_file_is_an_empty_manifest(tmp_path):
    assert Manifest.load(tmp_path / "manifest.json") == Manifest()


@pytest.mark.parametrize("text", ["{", "[]", '{"stages": {"train": {"status": "perhaps"}}}', '{"unknown": 1}'])
def test_damaged_file_is_named_with_the_next_step(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match=r"manifest\.json cannot be read: .*Move it away"):
        Manifest.load(tmp_path / "manifest.json")


def test_other_version_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(StoreError, match="schema version 99, this program reads 1"):
        Manifest.load(tmp_path / "manifest.json")
