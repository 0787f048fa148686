"""Several processes train as one does."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.data.batches import Batches
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.models.loop import LoopSettings, train_loop
from pipeline.models.training_group import TrainingGroup, training_group
from pipeline.workspace.rank import Rank

ROWS = 21
"""The last batch of 4 has a single row: nothing is left of it for a second process."""


def dataset() -> ArrayDataset:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (ROWS, 1, 6, 6), dtype=np.uint8)
    return ArrayDataset(
        pixels, make_table([str(row) for row in range(ROWS)], np.arange(ROWS) % 2, ["train"] * ROWS), "ab"
    )


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))


def train(rank: Rank, state_path=None, epochs: int = 2) -> tuple[dict, list]:
    model, validated = network(), []

    def losses(model, batch, epoch):
        loss = F.cross_entropy(model(batch.x), batch.y)
        return {"total": loss, "classification": loss}

    def validate(model):
        validated.append(rank.number)
        return {"accuracy": float(len(validated))}

    settings = LoopSettings(epochs=epochs, lr=0.05, optimizer="sgd", clip_norm=0.5, frozen_norms=True)
    with training_group(rank, "cpu") as group:
        batches = Batches(dataset(), np.arange(ROWS), 4, shuffle_seed=1, part=(rank.number, rank.of))
        history = train_loop(model, batches, losses, validate, settings, group=group, key="k", state_path=state_path)
    return model.state_dict(), [(epoch.losses, epoch.validation) for epoch in history], validated


def take_part(number: int, of: int, port: int, folder: str, epochs: int) -> None:
    """What one of the processes does."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(of), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    found = train(Rank(number, of), Path(folder) / "state.pt", epochs)
    torch.save(found, Path(folder) / f"{number}.pt")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> list:
    """What two processes have that trained one epoch, ended, and went on for a second one."""
    folder = tmp_path_factory.mktemp("together")
    for epochs in (1, 2):
        torch.multiprocessing.spawn(take_part, (2, free_port(), str(folder), epochs), nprocs=2)
    return [torch.load(folder / f"{number}.pt", weights_only=False) for number in range(2)]


def test_two_processes_end_with_the_weights_of_one(together):
    alone, _, _ = train(Rank())
    for state, _, _ in together:
        for name, value in alone.items():
            torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)


def test_losses_are_means_over_the_samples_of_all_processes(together):
    _, history, _ = train(Rank())
    for _, found, _ in together:
        for (losses, _), (expected, _) in zip(found, history, strict=True):
            assert losses == pytest.approx(expected, rel=1e-5)


def test_only_the_leading_process_validates_and_the_other_is_told(together):
    (_, first, validated), (_, second, nothing) = together
    assert validated == [0] and nothing == []
    assert [validation for _, validation in first] == [validation for _, validation in second]


def test_parts_of_a_batch_are_disjoint_and_together_the_batch():
    whole = list(Batches(dataset(), np.arange(ROWS), 4, shuffle_seed=1))
    parts = [Batches(dataset(), np.arange(ROWS), 4, shuffle_seed=1, part=(number, 3)) for number in range(3)]
    for step, (batch, *found) in enumerate(zip(whole, *parts, strict=True)):
        own = [part.count(step) for part in parts]
        assert {size for _, size in own} == {len(batch.index)}
        rows = [row for each, (count, _) in zip(found, own, strict=True) for row in each.index[:count]]
        assert sorted(rows) == sorted(batch.index)
        assert all(len(each.index) == max(count, 1) for each, (count, _) in zip(found, own, strict=True))


def test_alone_nothing_is_exchanged():
    group, parameter = TrainingGroup(), nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    group.average_gradients([parameter], 1, 4)
    assert parameter.grad.tolist() == [1.0, 2.0] and group.agree("a") == "a" and group.add({"a": 1.0}) == {"a": 1.0}
    assert group.leads and not torch.distributed.is_initialized()
