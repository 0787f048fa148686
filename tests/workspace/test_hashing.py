"""Hashes depend on content only."""

from __future__ import annotations

import hashlib

from pipeline.workspace import hashing
from pipeline.workspace.hashing import digest_file, digest_json, digest_sources


def test_json_hash_ignores_the_order_of_keys_but_not_of_items():
    assert digest_json({"a": 1, "b": [1, 2]}) == digest_json({"b": [1, 2], "a": 1})
    assert digest_json([1, 2]) != digest_json([2, 1])
    assert digest_json({"a": 1}) != digest_json({"a": "1"})


def test_file_hash_is_blake2b_of_the_bytes(tmp_path):
    content = bytes(range(256)) * 8192  # more than one block
    (tmp_path / "file").write_bytes(content)
    assert digest_file(tmp_path / "file") == hashlib.blake2b(content, digest_size=16).hexdigest()


def test_source_hash_follows_sources_templates_and_names(tmp_path, monkeypatch):
    room = tmp_path / "room"
    (room / "templates").mkdir(parents=True)
    (tmp_path / "workspace").mkdir()
    monkeypatch.setattr(hashing, "__file__", str(tmp_path / "workspace" / "hashing.py"))
    (room / "a.py").write_text("1")
    seen = [fresh_digest()]
    for name, text in (("a.py", "2"), ("b.py", ""), ("templates/page.j2", ""), ("templates/page.css", "")):
        (room / name).write_text(text)
        seen.append(fresh_digest())
    assert len(set(seen)) == len(seen)
    for name in ("a.pyc", ".a.py", "notes.txt"):
        (room / name).write_text("3")
    assert fresh_digest() == seen[-1]


def fresh_digest() -> str:
    digest_sources.cache_clear()
    value = digest_sources(("room",))
    digest_sources.cache_clear()
    return value
