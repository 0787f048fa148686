from __future__ import annotations

import json
from threading import Thread

import pytest

from pipeline.errors import StoreError
from pipeline.workspace.journal import append, latest, latest_labels, read_journal
from pipeline.workspace.records import SampleLabel, Verdict

ENTRY = {"finding": "f1", "verdict": "spurious", "by": "ann", "when": "2026-01-01T10:00:00+01:00"}
LABEL = {"bias": "ruler", "sample": "s0", "label": "positive", "by": "ann", "when": "2026-01-01T10:00:00+01:00"}


def make_label(**changes) -> SampleLabel:
    return SampleLabel(**LABEL | changes)


def test_a_missing_journal_is_an_empty_one(tmp_path):
    journal = read_journal(tmp_path / "annotations.json")
    assert (journal.verdicts, journal.labels) == ([], [])
    assert latest(journal) == latest_labels(journal) == {}


def test_the_last_verdict_on_a_finding_counts(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(
        json.dumps([ENTRY, ENTRY | {"finding": "f2"}, ENTRY | {"verdict": "valid", "by": "bob", "why": "anatomy"}])
    )
    journal = read_journal(path)
    assert [entry.finding for entry in journal.verdicts] == ["f1", "f2", "f1"]
    words = latest(journal)
    assert (words["f1"].verdict, words["f1"].by, words["f1"].why) == ("valid", "bob", "anatomy")
    assert words["f2"].verdict == "spurious"


def test_verdicts_and_labels_stand_in_one_list_in_any_order(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([LABEL, ENTRY, LABEL | {"sample": "s1"}]))
    journal = read_journal(path)
    assert journal.verdicts == [Verdict(**ENTRY)]
    assert journal.labels == [make_label(), make_label(sample="s1")]


def test_the_last_label_of_a_sample_counts_for_each_bias_by_itself(tmp_path):
    path = tmp_path / "annotations.json"
    append(path, [make_label(), make_label(label="negative"), make_label(bias="ink"), make_label(sample="s1")])
    labels = latest_labels(read_journal(path))
    assert {key: label.label for key, label in labels.items()} == {
        ("ruler", "s0"): "negative",
        ("ink", "s0"): "positive",
        ("ruler", "s1"): "positive",
    }


def test_a_bad_entry_is_named_by_its_number(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([LABEL, ENTRY, LABEL | {"label": "perhaps"}]))
    with pytest.raises(StoreError, match=r"\(entry 3: label: .*'positive', 'negative' or 'unsure'"):
        read_journal(path)


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
        json.dumps([LABEL | {"finding": "f1"}]).encode(),
        json.dumps(["f1"]).encode(),
    ],
    ids=[
        "empty",
        "cut off",
        "no text",
        "no list",
        "unknown verdict",
        "unknown field",
        "nobody said it",
        "both",
        "text",
    ],
)
def test_a_bad_journal_says_what_an_entry_needs_and_is_not_written_to(tmp_path, content):
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    for use in (read_journal, lambda journal: append(journal, [make_label()])):
        with pytest.raises(StoreError, match=r"annotations\.json is not a list of verdicts .*needs finding, verdict"):
            use(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "earlier", ["[]", "[ ]\n", json.dumps([ENTRY]), json.dumps([ENTRY, LABEL], indent=4, ensure_ascii=False) + "\n\n"]
)
def test_appending_keeps_what_was_written_byte_for_byte(tmp_path, earlier):
    path = tmp_path / "annotations.json"
    path.write_text(earlier)
    before = read_journal(path)
    append(path, [make_label(sample="new", why="Maßstab")])
    assert path.read_text(encoding="utf-8").startswith(earlier.rstrip()[:-1].rstrip())
    after = read_journal(path)
    assert after.verdicts == before.verdicts
    assert after.labels == [*before.labels, make_label(sample="new", why="Maßstab")]


def test_appending_makes_the_folder_and_appending_nothing_makes_no_file(tmp_path):
    path = tmp_path / "new" / "annotations.json"
    append(path, [])
    assert not path.parent.exists()
    append(path, [Verdict(**ENTRY)])
    assert read_journal(path).verdicts == [Verdict(**ENTRY)]


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "annotations.json"

    def write(who: int) -> None:
        for number in range(10):
            append(path, [make_label(by=f"person {who}", sample=f"s{number}")])

    threads = [Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    labels = read_journal(path).labels
    assert len(labels) == 40
    for who in range(4):
        assert [each.sample for each in labels if each.by == f"person {who}"] == [f"s{number}" for number in range(10)]
