from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from pipeline.mitigate.stage import what_is_missing

MASK = np.ones((2, 2), bool)
KINDS = {"fine_tune": "nothing", "p_clarc": "cav", "rrr": "masks", "isnet": "masks"}


def known(mask: np.ndarray | None) -> SimpleNamespace:
    return SimpleNamespace(bias=SimpleNamespace(sample_ids=["a", "b"]), mask=lambda name: mask if name == "b" else None)


def data(*, rois: bool) -> SimpleNamespace:
    table = pd.DataFrame({"split": ["train", "train", "val"]})
    return SimpleNamespace(table=table, roi_mask=lambda row: MASK if rois and row == 1 else None)


@pytest.mark.parametrize("rois", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_correction_is_made_only_from_what_it_needs(section, kind, rois):
    method, dataset = section(kind), data(rois=rois)
    assert what_is_missing(method, [known(MASK)], dataset) == ""
    assert ("no bias" in what_is_missing(method, [], dataset)) == (KINDS[kind] != "nothing")
    assert ("mask" in what_is_missing(method, [known(None)], dataset)) == (KINDS[kind] == "masks")


def test_regions_of_interest_stand_in_for_masks_of_artifacts():
    roi, union = (SimpleNamespace(kind="isnet", background=background) for background in ("roi", "union"))
    for biases in ([], [known(None)], [known(MASK)]):
        assert what_is_missing(roi, biases, data(rois=True)) == what_is_missing(union, biases, data(rois=True)) == ""
        assert "no regions of interest" in what_is_missing(roi, biases, data(rois=False))
    assert what_is_missing(union, [known(MASK)], data(rois=False)) == ""
    assert "no bias" in what_is_missing(union, [], data(rois=False))
