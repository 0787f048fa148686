from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline.config.mitigate import IsnetMethod


@pytest.mark.parametrize("cuts", [{"cut": 1.0}, {"cut2": 5.0}, {"cut": 5.0, "cut2": 1.0}])
def test_cuts_come_in_pairs_and_in_order(cuts):
    with pytest.raises(ValidationError, match="cut"):
        IsnetMethod(kind="isnet", **cuts)


def test_both_cuts_or_none_are_fine():
    assert IsnetMethod(kind="isnet").cut is None
    assert IsnetMethod(kind="isnet", cut=1.0, cut2=25.0).cut2 == 25.0
