from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.reveal.candidates import Candidate
from pipeline.reveal.effect import exchange_effects, shift_effects, shifted_probability


class Model(nn.Module):
    """Two classes; class 1 where the mean of channel 0 behind the layer is large."""

    def __init__(self):
        super().__init__()
        self.layer = nn.ReLU()

    def forward(self, x):
        seen = self.layer(x).mean((2, 3))
        return torch.stack([torch.zeros(len(x)), 4 * seen[:, 0] - 2], 1)


def probability(mean: float) -> float:
    return 1 / (1 + np.exp(-(4 * mean - 2)))


def constant(value: float, count: int = 3) -> torch.Tensor:
    return torch.full((count, 2, 4, 4), value)


def test_pasting_and_removing_are_measured_beyond_the_control():
    inside = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    inside[:, :, :2] = True
    pasted, removed = exchange_effects(
        Model(), 1, inside, members=constant(1.0), plain=constant(0.2), others_of_class=constant(0.4),
        receivers=constant(0.0),
    )  # fmt: skip
    assert pasted == pytest.approx([probability(0.5) - probability(0.1)] * 3)
    by_itself = probability(0.4) - probability(0.3)
    assert removed == pytest.approx([probability(1.0) - probability(0.6) - by_itself] * 3)


def test_an_empty_region_changes_nothing():
    inside = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    pasted, removed = exchange_effects(Model(), 1, inside, *[torch.rand(3, 2, 4, 4) for _ in range(4)])
    assert not pasted.any() and not removed.any()


def test_activations_move_by_the_shift_of_their_channel_and_stay_non_negative():
    x = constant(0.5, 1)
    assert shifted_probability(Model(), x, 1, "layer", np.array([0.25, 9.0])) == pytest.approx([probability(0.75)])
    assert shifted_probability(Model(), x, 1, "layer", np.array([-9.0, 0.0])) == pytest.approx([probability(0.0)])


def test_channels_last_are_moved_along_their_axis():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            seen = self.layer(x.flatten(2).transpose(1, 2)).mean(1)
            return torch.stack([torch.zeros(len(x)), 4 * seen[:, 0] - 2], 1)

    moved = shifted_probability(Tokens(), constant(-0.5, 1), 1, "layer", np.array([1.0, 0.0]))
    assert moved == pytest.approx([probability(0.5)])


def test_the_hook_is_taken_away_also_after_an_error():
    model = Model()
    with pytest.raises(RuntimeError):
        shifted_probability(model, constant(0.5), 1, "layer", np.ones(7))
    assert not model.layer._forward_hooks


class Samples:
    """40 images; the first ten show a bright channel 0."""

    def __init__(self):
        self.x = torch.rand(40, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.1
        self.x[:10, 0] += 1.0

    def images(self, rows):
        return self.x[rows]

    def activations(self, layer, pooling, rows):
        assert pooling == "mean"
        return self.x[rows].mean((2, 3)).numpy()


def shift_of(members: np.ndarray) -> tuple[float, float]:
    samples = Samples()
    view = SimpleNamespace(store=samples, images=samples.images, model=Model(), batch_size=7)
    candidate = Candidate("spray", 1, "layer", np.arange(30), members)
    rows = np.flatnonzero(members)
    return shift_effects(view, candidate, "layer", rows, np.arange(30, 40), np.random.default_rng(0))


def test_a_concept_that_the_model_uses_acts_when_it_is_put_in_and_taken_out():
    inserted, projected = shift_of(np.arange(30) < 10)
    assert inserted > 0.3 and projected > 0.3


def test_a_group_without_a_concept_does_not_act():
    inserted, projected = shift_of(np.arange(30) % 3 == 0)
    assert abs(inserted) < 0.2 and abs(projected) < 0.2
