from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.data.memory import ArrayDataset, NaturalArtifact, split_indices
from pipeline.data.worlds import WorldView
from pipeline.errors import ConfigError
from pipeline.mitigate import fine_tuning as shell
from pipeline.mitigate import make_mitigation
from pipeline.mitigate.fine_tuning import MaskedBatch
from pipeline.mitigate.group_dro import WithGroupWeights, dro_losses, group_means, raised_weights
from pipeline.mitigate.groups import Groups, NoCounterExamples
from pipeline.mitigate.jtt import upsampled_rows
from pipeline.models.build import build_model
from pipeline.models.predict import predict_logits
from pipeline.models.training_group import TrainingGroup


@pytest.fixture
def visited(monkeypatch):
    """The rows of every batch that is trained on, epoch by epoch."""
    seen: dict[int, list[int]] = {}
    train_loop = shell.train_loop

    def watched(model, batches, losses, *arguments, **options):
        def note(network, batch, epoch):
            seen.setdefault(epoch, []).extend(batch.index.tolist())
            return losses(network, batch, epoch)

        return train_loop(model, batches, note, *arguments, **options)

    monkeypatch.setattr(shell, "train_loop", watched)
    return seen


def parts_of(problem) -> list[np.ndarray]:
    """Return the training rows of the four groups."""
    rows = split_indices(problem.dataset, "train")
    planted = np.array([tiny.is_planted(row) for row in rows])
    labels = problem.dataset.table["label"].to_numpy()[rows]
    return [rows[labels == 0], rows[labels == 1], rows[(labels == 2) & ~planted], rows[(labels == 2) & planted]]


@pytest.mark.parametrize("kind", ["group_balance", "group_dro"])
def test_all_groups_are_seen_equally_often_in_every_epoch(audited, section, visited, kind):
    model, problem = audited
    make_mitigation(section(kind, epochs=2)).fit(model, problem)
    parts = parts_of(problem)
    assert [len(part) for part in parts] == [36, 36, 12, 24]
    for epoch in (1, 2):
        assert [int(np.isin(visited[epoch], part).sum()) for part in parts] == [27] * 4
    assert visited[1] != visited[2]


@pytest.mark.parametrize("kind", ["group_balance", "group_dro"])
def test_class_weights_do_not_undo_the_balance(audited, section, kind):
    model, problem = audited
    weighted = dataclasses.replace(problem, class_weights=torch.tensor([1.0, 0.0, 5.0]))
    first, second = (make_mitigation(section(kind)).fit(model, each).model for each in (problem, weighted))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize("kind", ["group_balance", "group_dro", "dfr"])
def test_without_counter_examples_group_methods_refuse(audited, section, kind):
    model, problem = audited
    known = problem.biases[0]
    names = problem.dataset.table["id"][problem.dataset.table["label"] == 2].tolist()
    whole = dataclasses.replace(known, bias=known.bias.model_copy(update={"sample_ids": names}))
    with pytest.raises(NoCounterExamples, match="groups would only repeat the labels"):
        make_mitigation(section(kind)).fit(model, dataclasses.replace(problem, biases=[whole]))


def test_weights_of_groups_follow_their_losses_exponentially():
    found = raised_weights(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([1.0, 3.0, 0.0]), 0.1)
    raised = [0.5 * math.exp(0.1), 0.25 * math.exp(0.3), 0.25]
    torch.testing.assert_close(found, torch.tensor(raised) / sum(raised))


GROUPS = Groups(np.arange(6), np.array([0, 0, 1, 1, 1, 2]), ("a", "b", "c"), ("a",))


def test_losses_of_a_batch_are_those_of_the_algorithm():
    network = WithGroupWeights(nn.Linear(4, 3), 3)
    x, y, rows = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), np.array([4, 0, 2, 1, 3])
    each = F.cross_entropy(network(x), y, reduction="none")
    mean_a, mean_b = float(each[[1, 3]].detach().mean()), float(each[[0, 2, 4]].detach().mean())
    margins = 0.4 / torch.tensor([2.0, 3.0, 1.0]).sqrt().double()
    found = dro_losses(network, MaskedBatch(x, y, torch.zeros(5, 1), 1, rows), GROUPS, margins, 0.5, TrainingGroup())
    raised = [math.exp(0.5 * (mean_a + margins[0])), math.exp(0.5 * (mean_b + margins[1])), 1.0]
    weights = torch.tensor(raised, dtype=torch.float64) / sum(raised)
    torch.testing.assert_close(network.weights, weights, rtol=1e-5, atol=0)
    assert found["total"].item() == pytest.approx(float(weights[0]) * mean_a + float(weights[1]) * mean_b, rel=1e-5)
    assert found["classification"].item() == pytest.approx(each.mean().item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(found["total"], network.model.weight, retain_graph=True)
    expected = sum(
        torch.autograd.grad(each[[place]].sum(), network.model.weight, retain_graph=True)[0] * float(weight)
        for place, weight in zip(range(5), weights[[1, 0, 1, 0, 1]] / torch.tensor([3, 2, 3, 2, 3]), strict=True)
    )
    torch.testing.assert_close(gradient, expected)


class OneOfTwo(TrainingGroup):
    """A process that is told what the other one would have sent."""

    def __init__(self, other: dict[str, float]):
        super().__init__()
        self.other, self.sent = other, {}

    def add(self, sums):
        self.sent = sums
        return {name: value + self.other.get(name, 0.0) for name, value in sums.items()}


def test_two_processes_have_the_losses_of_the_whole_batch():
    model = nn.Linear(4, 3)
    x, y, rows = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]), np.array([4, 0, 2, 1, 5])
    margins = torch.zeros(3).double()

    def losses(part: slice, group: TrainingGroup) -> tuple[torch.Tensor, torch.Tensor]:
        network = WithGroupWeights(model, 3)
        batch = MaskedBatch(x[part], y[part], torch.zeros(len(x[part]), 1), 1, rows[part])
        return dro_losses(network, batch, GROUPS, margins, 0.5, group)["total"], network.weights

    whole, weights = losses(slice(0, 5), TrainingGroup())
    shared = []
    for part, other in ((slice(0, 3), slice(3, 5)), (slice(3, 5), slice(0, 3))):
        listener = OneOfTwo({})
        losses(other, listener)
        value, found = losses(part, OneOfTwo(listener.sent))
        torch.testing.assert_close(found, weights)
        shared.append(value * len(x[part]) / 5)
    torch.testing.assert_close(sum(shared), whole)


def test_groups_that_are_not_in_a_batch_have_no_loss():
    means, sizes = group_means(torch.tensor([1.0, 3.0]), torch.tensor([2, 2]), 4, TrainingGroup())
    assert means.tolist() == [0, 0, 2, 0] and sizes.tolist() == [0, 0, 2, 0]


def test_the_worst_group_weighs_most_in_the_end_also_after_a_killed_training(audited, section, tmp_path, monkeypatch):
    model, problem = audited
    method = make_mitigation(section("group_dro", epochs=3, step_size=0.5))
    expected = method.fit(model, problem).notes
    assert sum(expected.values()) == pytest.approx(1) and np.ptp(list(expected.values())) > 0.05
    problem = dataclasses.replace(problem, key="key", state_path=tmp_path / "state.pt")
    measure, calls = shell.validation_metrics, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(shell, "validation_metrics", killed)
    with pytest.raises(KeyboardInterrupt):
        method.fit(model, problem)
    assert method.fit(model, problem).notes == expected and len(calls) == 4


def test_rows_that_were_wrong_come_so_many_times():
    rows, wrong = np.array([3, 5, 8, 9]), np.array([False, True, False, True])
    found = upsampled_rows(rows, wrong, 4, 0, 1)
    assert sorted(found.tolist()) == [3, 5, 5, 5, 5, 8, 9, 9, 9, 9]
    assert np.array_equal(found, upsampled_rows(rows, wrong, 4, 0, 1))
    assert not np.array_equal(found, upsampled_rows(rows, wrong, 4, 0, 2))


def test_jtt_visits_the_errors_of_the_model_more_often(audited, section, visited):
    model, problem = audited
    correction = make_mitigation(section("jtt", upsample=3)).fit(model, problem)
    rows = split_indices(problem.dataset, "train")
    wrong = predict_logits(model, problem.dataset, rows).argmax(1) != problem.dataset.table["label"].to_numpy()[rows]
    assert 0 < wrong.sum() < len(rows) and correction.notes == {"errors upsampled": float(wrong.sum())}
    assert sorted(visited[1]) == sorted(np.repeat(rows, np.where(wrong, 3, 1)).tolist())


class Spoken:
    """A reporter that keeps what is said."""

    def __init__(self):
        self.said: list[str] = []

    def say(self, text):
        self.said.append(text)

    def track(self, items, label, total=None):
        yield from items


class AlwaysRight(nn.Module):
    """Knows the tiny classes by heart of the images."""

    def __init__(self, dataset):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.known = {bytes(dataset[row].x.numpy()): dataset[row].y for row in range(len(dataset))}

    def forward(self, x):
        return F.one_hot(torch.tensor([self.known[bytes(each.numpy())] for each in x]), 3) + self.anchor


def test_without_errors_jtt_says_so_and_trains_plainly(audited, section, visited):
    _, problem = audited
    reporter = Spoken()
    make_mitigation(section("jtt", id="twice")).fit(
        AlwaysRight(problem.dataset), dataclasses.replace(problem, reporter=reporter)
    )
    assert any("twice: the identifying model gets every training sample right" in text for text in reporter.said)
    assert sorted(visited[1]) == split_indices(problem.dataset, "train").tolist()


def scratch(problem, seed=0):
    def fresh():
        from pipeline.config.model import ModelConfig

        return build_model(ModelConfig(params={"width": 4, "blocks": 2}), 3, 1, seed)

    return dataclasses.replace(problem, fresh=fresh)


def test_a_first_model_from_scratch_is_trained_briefly_and_leaves_nothing_behind(audited, section, visited, tmp_path):
    model, problem = audited
    problem = dataclasses.replace(scratch(problem), key="key", state_path=tmp_path / "states/training_state.pt")
    method = make_mitigation(section("jtt", identify="scratch", identify_epochs=2, upsample=2))
    correction = method.fit(model, problem)
    errors = int(correction.notes["errors upsampled"])
    assert errors > 5 and sorted(visited) == [1, 2]
    assert len(visited[1]) == 108 + 108 + errors and len(visited[2]) == 108
    assert [path.name for path in (tmp_path / "states").iterdir()] == ["training_state.pt"]
    torch.manual_seed(3)
    again = method.fit(model, dataclasses.replace(problem, state_path=None)).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in correction.model.state_dict().items())


def test_jtt_from_scratch_starts_at_the_first_weights(audited, section):
    model, problem = audited
    method = make_mitigation(section("jtt", start="scratch", lr=1e-9))
    found = method.fit(model, scratch(problem, seed=5)).model.network.conv1.weight
    torch.testing.assert_close(found, scratch(problem, seed=5).fresh().network.conv1.weight)
    for options in ({"start": "scratch"}, {"identify": "scratch"}):
        with pytest.raises(ConfigError, match="'jtt' starts from scratch.*identify: model"):
            make_mitigation(section("jtt", **options)).fit(model, problem)


def with_counter_examples(problem):
    """Return the problem with the square in a few training samples of the other classes too, and the truth about it."""
    dataset = problem.dataset.dataset
    pixels, labels = dataset.pixels.copy(), dataset.table["label"].to_numpy()
    flags = np.array([tiny.is_planted(row) for row in range(len(dataset))])
    for label in (0, 1):
        for row in split_indices(dataset, "train")[labels[split_indices(dataset, "train")] == label][:2]:
            pixels[row, 0][tiny.square(int(row))], flags[row] = 255, True
    artifacts = {"square": NaturalArtifact(flags, lambda row: tiny.square(row) if flags[row] else None)}
    changed = ArrayDataset(pixels, dataset.table, dataset.classes, artifacts=artifacts)
    return dataclasses.replace(problem, dataset=WorldView(changed, None, "asis", 0))


def attacked_accuracy(model, problem) -> float:
    """Return how many samples of the other classes, outside the training split, are right with a square on them."""
    dataset = problem.dataset
    labels = dataset.table["label"].to_numpy()
    held_out = np.flatnonzero((dataset.table["split"] != "train") & (labels != 2))
    x = torch.stack([dataset[row].x.clone() for row in held_out])
    for place, row in enumerate(held_out):
        x[place, 0][torch.from_numpy(tiny.square(int(row)))] = 1
    with torch.no_grad():
        return float((model(x).argmax(1).numpy() == labels[held_out]).mean())


TOLD = {
    "group_balance": {"groups": "truth", "min_group": 2},
    "group_dro": {"groups": "truth", "min_group": 2, "step_size": 0.1},
    "dfr": {"groups": "truth", "split": "train"},
    "jtt": {"upsample": 10},
    "counterfactual": {"masks": "truth"},
}


@pytest.mark.parametrize("kind", TOLD)
def test_with_two_counter_examples_it_beats_plain_fine_tuning_on_attacked_images(audited, section, kind):
    model, problem = audited
    problem = with_counter_examples(problem)
    training = {"epochs": 8, "batch_size": 32}
    plain = make_mitigation(section("fine_tune", **training)).fit(model, problem).model
    options = TOLD[kind] | ({} if kind == "dfr" else training)
    corrected = make_mitigation(section(kind, **options)).fit(model, problem).model
    assert attacked_accuracy(corrected, problem) > attacked_accuracy(plain, problem)
    assert attacked_accuracy(plain, problem) > attacked_accuracy(model, problem) + 0.1
