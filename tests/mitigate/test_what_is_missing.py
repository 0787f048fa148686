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
    assert what_is_missing(method, [known(MASK)], dataset, "artifact") == ""
    assert ("no bias" in what_is_missing(method, [], dataset, "artifact")) == (KINDS[kind] != "nothing")
    assert ("mask" in what_is_missing(method, [known(None)], dataset, "artifact")) == (KINDS[kind] == "masks")


@pytest.mark.parametrize("own", [False, True], ids=["of localize", "of its own"])
def test_regions_of_interest_stand_in_for_masks_of_artifacts(section, own):
    def missing(background: str, biases: list, rois: bool) -> str:
        method = section("isnet", background=background) if own else section("isnet")
        return what_is_missing(method, biases, data(rois=rois), "artifact" if own else background)

    for biases in ([], [known(None)], [known(MASK)]):
        assert missing("roi", biases, rois=True) == missing("union", biases, rois=True) == ""
        assert "no regions of interest" in missing("roi", biases, rois=False)
    assert missing("union", [known(MASK)], rois=False) == ""
    assert "no bias" in missing("union", [], rois=False)


def test_other_corrections_need_masks_of_artifacts_whatever_localize_calls_background(section):
    assert "no bias" in what_is_missing(section("rrr"), [], data(rois=True), "roi")
