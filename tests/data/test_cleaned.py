from __future__ import annotations

import numpy as np
import torch

from pipeline.data.cleaned import CleanedView
from pipeline.data.inpainting import inpaint


def test_only_masked_regions_are_filled_and_the_data_set_stays(small_dataset):
    data = small_dataset(n=12)
    region = np.zeros(data.shape[1:], dtype=bool)
    region[2:5, 2:5] = True
    names = set(data.table["id"][:4])
    masks = {name: region for name in names} | {data.table["id"][4]: np.zeros_like(region)}
    view = CleanedView(data, masks.get)
    assert len(view) == len(data) and view.classes == data.classes and view.shape == data.shape
    for row in range(len(data)):
        before, after = data[row], view[row]
        assert after[1:] == before[1:]
        if before.id in names:
            expected = inpaint(before.x[None], torch.from_numpy(region)[None, None])[0]
            torch.testing.assert_close(after.x, expected)
            assert (after.x != before.x).any() and torch.equal(after.x[:, ~region], before.x[:, ~region])
        else:
            assert torch.equal(after.x, before.x)
