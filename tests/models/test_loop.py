from __future__ import annotations

import csv
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.data.batches import Batches
from pipeline.data.memory import split_indices
from pipeline.errors import PipelineError
from pipeline.models.classification import validation_metrics
from pipeline.models.loop import Epoch, LoopSettings, train_loop, write_history


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 2)
    )  # fmt: skip


def cross_entropy(model, batch, epoch):
    return {"total": F.cross_entropy(model(batch.x), batch.y)}


def train(dataset, model, settings, losses=cross_entropy, validate=None, **options):
    rows = split_indices(dataset, "train")
    validate = validate or (lambda model: validation_metrics(model, dataset, split_indices(dataset, "val"), "cpu"))
    return train_loop(model, Batches(dataset, rows, 8, shuffle_seed=1), losses, validate, settings, **options)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


def test_the_loss_falls_and_the_classes_are_learned(striped):
    model = network().train()
    history = train(striped(), model, LoopSettings(epochs=4, lr=0.02))
    assert [epoch.number for epoch in history] == [1, 2, 3, 4]
    assert history[-1].losses["total"] < 0.5 * history[0].losses["total"]
    assert max(epoch.validation["accuracy"] for epoch in history) >= 0.9
    assert not any(module.training for module in model.modules())


def test_every_epoch_visits_all_rows_in_an_order_of_its_own(striped):
    orders: dict[int, list[int]] = {1: [], 2: []}

    def losses(model, batch, epoch):
        orders[epoch] += batch.index.tolist()
        return cross_entropy(model, batch, epoch)

    dataset = striped()
    train(dataset, network(), LoopSettings(epochs=2, lr=0.01), losses)
    assert sorted(orders[1]) == sorted(orders[2]) == split_indices(dataset, "train").tolist()
    assert orders[1] != orders[2]


@pytest.mark.parametrize(
    ("select", "values", "best"),
    [
        ("accuracy", [0.1, 0.9, 0.3], 2),
        ("loss", [0.4, 0.9, 0.3], 3),
        ("loss", [0.2, 0.9, 0.3], 1),
        ("last", [0.9, 0.5, 0.1], 3),
        ("auroc", [math.nan, 0.6, math.nan], 2),
    ],
)
def test_the_weights_of_the_best_epoch_are_kept(striped, select, values, best):
    model, seen = network(), []

    def validate(model):
        assert not model.training
        seen.append(weights(model))
        return {"accuracy": 0.5} | ({} if select == "last" else {select: values[len(seen) - 1]})

    train(striped(), model, LoopSettings(epochs=3, lr=0.02, select=select), validate=validate)
    assert torch.equal(weights(model), seen[best - 1])
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize(("optimizer", "schedule"), [("sgd", "cosine"), ("adam", "constant"), ("adamw", "cosine")])
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(striped, tmp_path, optimizer, schedule):
    settings = LoopSettings(epochs=4, lr=0.01, optimizer=optimizer, schedule=schedule, weight_decay=0.01, select="last")
    whole = network()
    expected = train(striped(), whole, settings)
    calls = 0

    def killed_in_epoch_three(model, batch, epoch):
        nonlocal calls
        calls += 1
        if calls == 13:  # the third of five batches of epoch 3
            raise KeyboardInterrupt
        return cross_entropy(model, batch, epoch)

    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        train(striped(), network(), settings, killed_in_epoch_three, key="k", state_path=state)
    torch.manual_seed(99)
    resumed, epochs = network(), []

    def watched(model, batch, epoch):
        epochs.append(epoch)
        return cross_entropy(model, batch, epoch)

    history = train(striped(), resumed, settings, watched, key="k", state_path=state)
    assert set(epochs) == {3, 4}
    assert weights(resumed) == pytest.approx(weights(whole), abs=1e-6)
    assert [epoch.number for epoch in history] == [1, 2, 3, 4]
    losses = [[epoch.losses["total"] for epoch in epochs] for epochs in (history, expected)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize(
    ("patience", "values", "trained"),
    [
        (2, [0.9, 0.8, 0.7, 0.6, 0.5], 3),
        (2, [0.5, 0.6, 0.5, 0.7, 0.6], 5),
        (1, [0.5, 0.5, 0.5, 0.5, 0.5], 5),  # as good as the best counts as better, as everywhere
        (1, [0.5, 0.4, 0.9, 0.9, 0.9], 2),
        (None, [0.9, 0.8, 0.7, 0.6, 0.5], 5),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
def test_training_ends_when_no_epoch_has_been_better_for_a_while(striped, tmp_path, patience, values, trained, killed):
    settings = LoopSettings(epochs=5, lr=0.01, select="accuracy", patience=patience)
    state, seen, interrupted = tmp_path / "state.pt", [], []

    def validate(model):
        seen.append(weights(model))
        return {"accuracy": values[len(seen) - 1]}

    def losses(model, batch, epoch):
        if killed and epoch == 2 and not interrupted:
            interrupted.append(epoch)
            raise KeyboardInterrupt
        return cross_entropy(model, batch, epoch)

    model = network()
    if killed:
        with pytest.raises(KeyboardInterrupt):
            train(striped(), model, settings, losses, validate, key="k", state_path=state)
        model = network()
    history = train(striped(), model, settings, losses, validate, key="k", state_path=state)
    assert len(history) == trained
    best = max(range(trained), key=lambda place: (values[place], place))
    assert torch.equal(weights(model), seen[best])


@pytest.mark.parametrize("damage", ["key", "truncated", "bytes", "list"])
def test_a_foreign_or_damaged_state_only_costs_its_epochs(striped, tmp_path, damage):
    settings, state = LoopSettings(epochs=2, lr=0.01), tmp_path / "state.pt"
    train(striped(), network(), settings, key="old" if damage == "key" else "k", state_path=state)
    if damage == "truncated":
        state.write_bytes(state.read_bytes()[:2000])
    elif damage == "bytes":
        state.write_bytes(b"no state")
    elif damage == "list":
        torch.save([1, 2], state)
    model, fresh = network(), network()
    history = train(striped(), model, settings, key="k", state_path=state)
    train(striped(), fresh, settings)
    assert len(history) == 2 and torch.equal(weights(model), weights(fresh))


def test_a_finished_training_is_not_repeated(striped, tmp_path):
    def never(model, batch, epoch):
        raise AssertionError("trained again")

    settings, state = LoopSettings(epochs=2, lr=0.01, select="loss"), tmp_path / "state.pt"
    model, again = network(), network()
    train(striped(), model, settings, key="k", state_path=state)
    train(striped(), again, settings, never, key="k", state_path=state)
    assert torch.equal(weights(model), weights(again))


@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_epoch(striped, where):
    def losses(model, batch, epoch):
        broken = where == "training" and epoch == 2
        return {"total": cross_entropy(model, batch, epoch)["total"] * (math.nan if broken else 1)}

    reached = iter([0.5, math.inf])
    validate = (lambda model: {"accuracy": 0.5, "loss": next(reached)}) if where == "validation" else None
    with pytest.raises(
        PipelineError, match="fine-tuning: the .*loss became (nan|inf) in epoch 2. Lower the learning rate"
    ):
        train(striped(), network(), LoopSettings(epochs=3, lr=0.01), losses, validate, label="fine-tuning")


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_norms_keep_their_statistics_and_still_learn(striped, frozen):
    model = network()
    before = {name: value.clone() for name, value in model[1].state_dict().items()}
    train(striped(), model, LoopSettings(epochs=1, lr=0.01, frozen_norms=frozen))
    after = model[1].state_dict()
    assert torch.equal(before["running_mean"], after["running_mean"]) == frozen
    assert torch.equal(before["running_var"], after["running_var"]) == frozen
    assert not torch.equal(before["weight"], after["weight"])


class Slope(nn.Module):
    """One parameter, whose gradient is 1 under the loss `slope`."""

    def __init__(self):
        super().__init__()
        self.at = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.fixed = nn.Parameter(torch.ones(()), requires_grad=False)


def slope(model, batch, epoch):
    return {"total": model.at + 0 * model.fixed, "part": torch.tensor(float(len(batch.y)))}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("clip_norm", [None, 0.25])
def test_rates_and_clipping_follow_the_closed_form(striped, schedule, clip_norm):
    model, epochs, batches, rate = Slope(), 3, 5, 0.1
    settings = LoopSettings(epochs, rate, "sgd", schedule=schedule, clip_norm=clip_norm, select="last")
    history = train(striped(), model, settings, slope, lambda model: {})
    steps, velocity, place = epochs * batches, 0.0, 0.0
    for step in range(steps):
        velocity = 0.9 * velocity + (clip_norm or 1)
        factor = (1 + math.cos(math.pi * step / steps)) / 2 if schedule == "cosine" else 1
        place -= rate * factor * velocity
    assert float(model.at.detach()) == pytest.approx(place, rel=1e-5)
    assert model.fixed == 1
    assert history[0].losses["part"] == pytest.approx(8), "the mean over samples, 5 batches of 8"


def test_the_history_has_a_column_for_every_loss_and_metric(tmp_path):
    history = [
        Epoch(1, {"total": 1.5, "penalty": 0.5}, {"accuracy": 0.25}),
        Epoch(2, {"total": 1.0, "penalty": 0.25}, {"accuracy": 0.75}),
    ]
    write_history(tmp_path / "history.csv", history)
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "train_total", "train_penalty", "val_accuracy"]
    assert [list(map(float, row.values())) for row in rows] == [[1, 1.5, 0.5, 0.25], [2, 1.0, 0.25, 0.75]]
