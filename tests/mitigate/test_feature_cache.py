"""Layers that stay frozen are computed once, and the result is that of computing them in every step."""

from __future__ import annotations

import copy
import dataclasses
import os
import socket

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from pipeline.config.mitigate import FineTuneMethod
from pipeline.config.model import AugmentConfig
from pipeline.data.memory import split_indices
from pipeline.data.worlds import WorldView
from pipeline.mitigate import feature_cache, make_mitigation
from pipeline.mitigate import fine_tuning as shell
from pipeline.mitigate.fine_tuning import classification_loss, fine_tune
from pipeline.mitigate.interface import Problem
from pipeline.models.build import AuditModel
from pipeline.models.small_cnn import small_cnn
from pipeline.models.split import Head
from pipeline.models.training_group import TrainingGroup, training_group
from pipeline.workspace.progress import SilentReporter
from pipeline.workspace.rank import Rank

LAYER = "network.relu1"


class Listening(SilentReporter):
    """Keeps what is said."""

    def __init__(self):
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def plain(problem, seen=None):
    """The loss of a plain training, which notes what it is given."""

    def losses(network, batch):
        if seen is not None:
            seen.append((network, batch))
        return {"total": classification_loss(problem, network(batch.x), batch.y)}

    return losses


def state_of(correction) -> dict[str, torch.Tensor]:
    return correction.model.state_dict()


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["fine_tune", "rr_clarc"])
@pytest.mark.parametrize("lies", ["in memory", "in a file"])
def test_the_weights_after_two_epochs_are_those_without_it(audited, section, monkeypatch, tmp_path, kind, lies):
    model, problem = audited
    problem = dataclasses.replace(problem, state_path=tmp_path / "method/state.pt", key="key")
    if lies == "in a file":
        monkeypatch.setattr(feature_cache, "MEMORY_MEGABYTES", 0)

    def fit(cached: bool):
        config = section(kind, epochs=2, cache_features=cached)
        if kind == "rr_clarc":
            return make_mitigation(section(kind, epochs=2, cache_features=cached, layer=LAYER)).fit(model, problem)
        return fine_tune(model, problem, config, plain(problem), frozen_up_to=LAYER)

    expected = fit(False)
    problem.state_path.unlink()
    found = fit(True)
    assert_equal(state_of(found), state_of(expected))
    assert not torch.equal(state_of(found)["network.conv2.weight"], model.state_dict()["network.conv2.weight"])
    for one, other in zip(found.history, expected.history, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-4)
    assert os.listdir(tmp_path / "method") == ["state.pt"], "no file stays behind"


def test_frozen_layers_run_once_per_sample_and_images_are_read_once(audited, section, monkeypatch):
    model, problem = audited
    model, passed, read = copy.deepcopy(model), [], []

    def count(module, given, output):
        passed.append(len(given[0]) if module.training else 0)

    model.network.conv1.register_forward_hook(count)
    get = WorldView.__getitem__
    monkeypatch.setattr(WorldView, "__getitem__", lambda self, index: read.append(index) or get(self, index))
    train = split_indices(problem.dataset, "train")
    for cached, times in ((True, 1), (False, 3)):
        read.clear()
        passed.clear()
        config = section("fine_tune", epochs=3, cache_features=cached)
        fine_tune(model, problem, config, plain(problem), frozen_up_to=LAYER)
        assert {read.count(row) for row in train[feature_cache.SHOWN + 1 :]} == {times}
        trials = 10 * feature_cache.SHOWN
        assert times * len(train) <= sum(passed) <= times * len(train) + trials


def test_losses_get_the_head_and_may_choose_rows(audited, section):
    model, problem = audited
    seen = []
    fine_tune(model, problem, section("fine_tune"), plain(problem, seen), frozen_up_to=LAYER)
    network, batch = seen[0]
    assert isinstance(network, Head) and batch.x.shape == (len(batch.y), network.width)
    assert batch.mask.shape == (len(batch.y), 1, tiny.SIDE, tiny.SIDE), "masks are of the images all the same"
    assert batch.rows.shape == (len(batch.y),)
    chosen = batch.y == 1
    torch.testing.assert_close(network(batch.x[chosen]), network(batch.x)[chosen])
    images = torch.stack([problem.dataset[int(row)].x for row in batch.rows])
    with torch.no_grad():
        expected = model.network.pool1(model.network[:3](images))
    torch.testing.assert_close(batch.x, expected.flatten(1))


@pytest.mark.parametrize(
    "reason, problem_changes, options",
    [
        ("nothing is frozen", {}, {"frozen_up_to": None}),
        ("images change", {"augment": AugmentConfig(horizontal_flip=True)}, {}),
        ("pixels are asked for", {}, {"needs_images": True}),
        ("not wanted", {}, {"cache_features": False}),
    ],
)
def test_images_are_given_where(audited, section, reason, problem_changes, options):
    model, problem = audited
    reporter, seen = Listening(), []
    problem = dataclasses.replace(problem, reporter=reporter, **problem_changes)
    config = section("fine_tune", cache_features=options.pop("cache_features", True))
    fine_tune(model, problem, config, plain(problem, seen), **({"frozen_up_to": LAYER} | options))
    assert all(isinstance(network, AuditModel) and batch.x.ndim == 4 for network, batch in seen)
    assert not any("computed in every step" in line for line in reporter.said), "that is no failure"


class Deciding(nn.Module):
    """Asks for a value in its code, which cannot be traced."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) if x.mean() < 5 else x


def test_without_a_trunk_every_step_computes_all_and_says_so_once(audited, section):
    model, problem = audited
    model, reporter = copy.deepcopy(model), Listening()
    model.network = Deciding(model.network)
    problem = dataclasses.replace(problem, reporter=reporter, label="trial")
    config = section("fine_tune", epochs=2)
    found = fine_tune(model, problem, config, plain(problem), frozen_up_to="network.inner.relu1")
    (line,) = [line for line in reporter.said if "computed in every step" in line]
    assert line.startswith("    trial: frozen layers are computed in every step, since the network cannot be traced: ")
    expected = fine_tune(audited[0], audited[1], config, plain(problem), frozen_up_to=LAYER)
    assert_equal({name.replace(".inner", ""): value for name, value in state_of(found).items()}, state_of(expected))


def test_what_fits_nowhere_is_computed_in_every_step(audited, section, monkeypatch, tmp_path):
    model, problem = audited
    reporter = Listening()
    problem = dataclasses.replace(problem, reporter=reporter, state_path=tmp_path / "state.pt")
    monkeypatch.setattr(feature_cache, "MEMORY_MEGABYTES", 0)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda folder: type("", (), {"free": 10_000})())
    fine_tune(model, problem, section("fine_tune"), plain(problem), frozen_up_to=LAYER)
    assert any("every step, since what they pass on takes 0.0 GB, more than half" in line for line in reporter.said)


def test_rows_of_a_given_order_are_computed_and_no_others(audited, section, monkeypatch):
    model, problem = audited
    rows = split_indices(problem.dataset, "val")[:10]
    order = lambda epoch: np.tile(rows[epoch : epoch + 2], 4)  # noqa: E731
    seen, computed = [], []
    write = feature_cache.CachedRows.write
    monkeypatch.setattr(
        feature_cache.CachedRows, "write", lambda self, batch, x: computed.extend(batch.index) or write(self, batch, x)
    )
    config = section("fine_tune", epochs=3)
    fine_tune(model, problem, config, plain(problem, seen), frozen_up_to=LAYER, order=order)
    assert computed == list(rows[1:5])
    assert np.concatenate([batch.rows for _, batch in seen]).tolist() == [*order(1), *order(2), *order(3)]
    labels = problem.dataset.table["label"].to_numpy()
    for _, batch in seen:
        assert batch.y.tolist() == labels[batch.rows].tolist()


def test_a_killed_training_goes_on_to_the_same_weights(audited, section, monkeypatch, tmp_path):
    model, problem = audited
    method = make_mitigation(section("rr_clarc", epochs=3, batch_size=16))
    expected = state_of(method.fit(model, problem))
    problem = dataclasses.replace(problem, key="key", state_path=tmp_path / "state.pt")
    monkeypatch.setattr(feature_cache, "MEMORY_MEGABYTES", 0)
    measure, calls = shell.validation_metrics, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(shell, "validation_metrics", killed)
    with pytest.raises(KeyboardInterrupt):
        method.fit(model, problem)
    found = state_of(method.fit(model, problem))
    assert len(calls) == 4
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def train_tiny(rank: Rank) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    model = AuditModel(small_cnn(3, 1, width=4, blocks=2)).eval()
    with training_group(rank, "cpu") as group:
        return state_of(fine_tune(model, *_tiny_problem(group), frozen_up_to=LAYER))


def _tiny_problem(group: TrainingGroup):
    problem = Problem(dataset=WorldView(tiny.make_dataset(), None, "asis", 0), biases=[], group=group)
    return problem, FineTuneMethod(kind="fine_tune", epochs=2, batch_size=25), plain(problem)


def take_part(number: int, of: int, port: int, folder: str) -> None:
    """What one of the processes does."""
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(of), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.save(train_tiny(Rank(number, of)), f"{folder}/{number}.pt")


def test_two_processes_end_with_the_weights_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(take_part, (2, port, str(tmp_path)), nprocs=2, start_method="fork")
    alone = train_tiny(Rank())
    for number in range(2):
        found = torch.load(tmp_path / f"{number}.pt", weights_only=True)
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4, msg=name)
