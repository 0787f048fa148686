from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from pipeline.data.dataset import Sample
from pipeline.data.remembered import Remembered
from pipeline.evaluate.predictions import predict_all
from pipeline.workspace.progress import SilentReporter


class Pixels:
    classes = ("a", "b")
    shape = (1, 2, 2)

    def __init__(self, count: int = 7):
        self.x = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        self.table = pd.DataFrame({"id": [str(row) for row in range(count)], "label": 0, "split": "test"})
        self.decoded = 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Sample:
        self.decoded += 1
        return Sample(self.x[index], 0, str(index))


class Brighter:
    """A world in which everything is brighter."""

    def __init__(self, dataset):
        self.dataset, self.table, self.shape = dataset, dataset.table, dataset.shape

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return sample._replace(x=sample.x + 1)


def make_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Dropout(0.9))


def predict(dataset, models, rows, batch_size=3):
    views = {"asis": dataset, "brighter": Brighter(dataset)}
    return predict_all(
        models, views, rows, batch_size=batch_size, device="cpu", reporter=SilentReporter(), label="models"
    )


def test_logits_are_those_of_each_model_in_each_world_in_the_order_of_the_rows():
    dataset, models, rows = Pixels(), {"a": make_model(0), "b": make_model(1)}, np.array([5, 0, 3, 6, 2])
    found = predict(dataset, models, rows)
    for name, model in models.items():
        for world, offset in (("asis", 0), ("brighter", 1)):
            with torch.no_grad():
                expected = model[1](model[0](dataset.x[rows] + offset))
            assert found[name][world] == pytest.approx(expected.numpy(), abs=1e-6)


def test_samples_are_decoded_once_for_all_models_and_worlds():
    dataset = Pixels()
    predict(Remembered(dataset, 3), {str(seed): make_model(seed) for seed in range(4)}, np.arange(7))
    assert dataset.decoded == 7


def test_training_flags_are_given_back():
    model = make_model(0).train()
    predict(Pixels(), {"a": model}, np.arange(4))
    assert model.training and model[2].training
