from __future__ import annotations

import json

import pytest

from pipeline.errors import StoreError
from pipeline.workspace.journal import latest, read_journal

ENTRY = {"finding": "f1", "verdict": "spurious", "by": "ann", "when": "2026-01-01T10:00:00+01:00"}


def test_a_missing_journal_is_an_empty_one(tmp_path):
    assert read_journal(tmp_path / "annotations.json") == []


def test_the_last_verdict_on_a_finding_counts(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(
        json.dumps([ENTRY, ENTRY | {"finding": "f2"}, ENTRY | {"verdict": "valid", "by": "bob", "why": "anatomy"}])
    )
    entries = read_journal(path)
    assert [entry.finding for entry in entries] == ["f1", "f2", "f1"]
    words = latest(entries)
    assert (words["f1"].verdict, words["f1"].by, words["f1"].why) == ("valid", "bob", "anatomy")
    assert words["f2"].verdict == "spurious"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[",
        b"\xff\xfe[]",
        json.dumps(ENTRY).encode(),
        json.dumps([ENTRY | {"verdict": "maybe"}]).encode(),
        json.dumps([ENTRY | {"colour": "red"}]).encode(),
        json.dumps([{"finding": "f1", "verdict": "valid"}]).encode(),
    ],
    ids=["empty", "cut off", "no text", "no list", "unknown verdict", "unknown field", "nobody said it"],
)
def test_a_bad_journal_says_what_an_entry_needs(tmp_path, content):
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"annotations\.json is not a list of verdicts .*needs finding, verdict"):
        read_journal(path)
