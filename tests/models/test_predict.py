from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.models.predict import predict_logits


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2))


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_rows_come_in_the_order_asked_for_whatever_the_batches(striped, batch_size):
    dataset, model = striped(), network()
    rows = np.array([5, 40, 3, 3, 59, 0, 11, 12])
    found = predict_logits(model, dataset, rows, batch_size=batch_size)
    with torch.no_grad():
        expected = model.eval()(torch.stack([dataset[int(row)].x for row in rows]))
    assert found.dtype == np.float32 and found == pytest.approx(expected.numpy(), abs=1e-6)


def test_the_model_is_left_as_it_was(striped):
    model = network().train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict_logits(model, striped(), np.arange(9))
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
