from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from pipeline.concepts.stored import Stored
from pipeline.errors import StoreError


@dataclass(frozen=True)
class Kept(Stored):
    values: np.ndarray
    height: float = 0.5
    name: str = ""


@dataclass(frozen=True)
class Earlier(Stored):
    values: np.ndarray


def test_arrays_numbers_and_texts_come_back_as_what_they_were(tmp_path):
    Kept(np.arange(6.0).reshape(2, 3), 1 / 3, "layer1.0 é").save(tmp_path / "new/one.npz")
    found = Kept.load(tmp_path / "new/one.npz")
    assert found.values.tolist() == [[0, 1, 2], [3, 4, 5]] and found.values.dtype == np.float64
    assert (found.height, found.name) == (1 / 3, "layer1.0 é")
    assert (type(found), type(found.height), type(found.name)) == (Kept, float, str)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["one.npz"]


def test_a_file_of_another_version_or_with_objects_is_refused(tmp_path):
    path = tmp_path / "one.npz"
    Earlier(np.ones(3)).save(path)
    with pytest.raises(StoreError, match=r"one\.npz cannot be read .*height.*Start reveal again, with --force"):
        Kept.load(path)
    np.savez(path, values=np.array([{}]), height=1.0, name="")
    with pytest.raises(StoreError, match=r"one\.npz cannot be read"):
        Kept.load(path)
