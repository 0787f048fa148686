from __future__ import annotations

import h5py
import numpy as np
import pytest

from pipeline.workspace.arrays import write_arrays


def test_arrays_come_back_under_their_names_with_their_types(tmp_path):
    arrays = {
        "0/input/scores": np.linspace(0, 1, 5000, dtype=np.float32),
        "0/input/members": np.arange(7) % 2 == 0,
        "names": np.array(["brightness", "größe"]),
        "one": np.array(3),
    }
    write_arrays(tmp_path / "reveal/x.h5", arrays)
    with h5py.File(tmp_path / "reveal/x.h5") as file:
        assert set(file) == {"0", "names", "one"}
        for name in ("0/input/scores", "0/input/members", "one"):
            assert file[name].dtype == arrays[name].dtype and np.array_equal(file[name][()], arrays[name])
        assert file["names"].asstr()[()].tolist() == ["brightness", "größe"]


def test_nothing_appears_when_writing_fails(tmp_path):
    with pytest.raises(TypeError):
        write_arrays(tmp_path / "x.h5", {"bad": np.array([object()])})
    assert not list(tmp_path.iterdir())
