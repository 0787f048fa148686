from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.mitigate.stage import what_is_missing


def known(mask: np.ndarray | None) -> SimpleNamespace:
    return SimpleNamespace(bias=SimpleNamespace(sample_ids=["a", "b"]), mask=lambda name: mask if name == "b" else None)


@pytest.mark.parametrize("needs", ["nothing", "cav", "masks"])
def test_a_correction_is_made_only_from_what_it_needs(needs):
    mask = np.ones((2, 2), bool)
    assert what_is_missing(needs, [known(mask)]) == ""
    assert ("no bias" in what_is_missing(needs, [])) == (needs != "nothing")
    assert ("mask" in what_is_missing(needs, [known(None)])) == (needs == "masks")
