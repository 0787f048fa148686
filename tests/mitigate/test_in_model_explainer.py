"""Training of a classifier behind the maps of an explainer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from pipeline.concepts.corrected import load_corrected
from pipeline.config.mitigate import AnyMethod, ExplainerPhase, InModelExplainerMethod
from pipeline.data.memory import split_indices
from pipeline.errors import ConfigError
from pipeline.mitigate import fine_tuning as shell
from pipeline.mitigate import in_model_explainer as module
from pipeline.mitigate import stage
from pipeline.mitigate.fine_tuning import MaskedBatch
from pipeline.mitigate.in_model_explainer import (
    InModelExplainer,
    candidate_mask,
    candidate_masks,
    gated_losses,
    hold_still,
    write_candidates,
)
from pipeline.models.build import AuditModel
from pipeline.models.gated import GatedClassifier
from pipeline.models.map_explainer import MapExplainer
from pipeline.workspace.masks import MaskSet
from pipeline.workspace.progress import SilentReporter
from pipeline.workspace.records import MethodRecord

KIND = "in_model_explainer"
ALONE = {"trains": "explainer", "share": 0.5, "classification_share": 0.25}
JOINT = {"trains": "both", "share": 0.5, "classification_share": 0.9}
ONLY_EXPLAINER = [ALONE | {"share": 1.0}]


class Saying(SilentReporter):
    """Remembers what was said."""

    def __init__(self):
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def method(section):
    """Return a function that makes the correction with a small explainer."""

    def make(**values) -> InModelExplainer:
        return InModelExplainer(section(KIND, **{"width": 4} | values))

    return make


def same(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def test_while_the_explainer_trains_alone_the_classifier_stays_bit_by_bit(audited, method):
    model, problem = audited
    correction = method(epochs=2, phases=ONLY_EXPLAINER).fit(model, problem)
    assert same(model.network, correction.model.network.network)
    start = module._gated(model, correction.changes[0], problem)
    assert not same(start.network.explainer, correction.model.network.explainer)


def test_while_the_classifier_trains_alone_the_explainer_stays_bit_by_bit(audited, method):
    model, problem = audited
    made = method(epochs=2, phases=[JOINT | {"trains": "classifier"}, JOINT])
    start = module._gated(model, made.fit(model, problem).changes[0], problem)
    trained = made._train(start, problem, 1, 1).model
    assert same(start.network.explainer, trained.network.explainer)
    assert not same(start.network.network, trained.network.network)


def test_the_joint_phase_trains_both_but_no_statistics_of_the_classifier(audited, method):
    model, problem = audited
    correction = method(phases=[JOINT | {"share": 1.0}]).fit(model, problem)
    trained = correction.model.network.network.state_dict()
    moved = {name for name, value in model.network.state_dict().items() if not torch.equal(value, trained[name])}
    assert moved and not any("running" in name or "num_batches" in name for name in moved)
    assert correction.model.network.explainer.norm.num_batches_tracked > 0


@pytest.mark.parametrize("trains", ["classifier", "explainer", "both"])
def test_what_a_phase_does_not_train_drops_nothing_out_and_counts_nothing(trains):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.LazyLinear(2))
    gated = GatedClassifier(network, MapExplainer(1, 2), ["network.1"], 1).train()
    hold_still(gated, ExplainerPhase(trains=trains, share=1))
    assert not network[1].training
    assert network[2].training == (trains != "explainer")
    assert gated.explainer.norm.training == (trains != "classifier")


def test_phases_follow_each_other_and_their_epochs_sum_up(audited, method):
    model, problem = audited
    correction = method(epochs=3, phases=[ALONE, JOINT]).fit(model, problem)
    assert [epoch.number for epoch in correction.history] == [1, 2, 3]
    for epoch, share in zip(correction.history, (0.25, 0.25, 0.9), strict=True):
        expected = share * epoch.losses["classification"] + (1 - share) * epoch.losses["explanation"]
        assert epoch.losses["total"] == pytest.approx(expected, rel=1e-5)
    assert correction.notes["mean_map"] == pytest.approx(correction.history[-1].validation["mean_map"], rel=1e-5)


@pytest.mark.parametrize(("epochs", "expected"), [(1, [0, 1]), (2, [0, 2]), (3, [1, 2]), (5, [1, 4]), (20, [5, 15])])
def test_epochs_are_divided_by_the_shares(section, epochs, expected):
    assert section(KIND, epochs=epochs).epochs_of_phases() == expected


def test_a_phase_may_have_a_learning_rate_of_its_own(audited, method, monkeypatch):
    rates = []
    train = shell.train_loop

    def watched(model, batches, losses, validate, settings, **more):
        rates.append(settings.lr)
        return train(model, batches, losses, validate, settings, **more)

    monkeypatch.setattr(shell, "train_loop", watched)
    method(epochs=2, lr=0.002, phases=[ALONE | {"lr": 0.01}, JOINT]).fit(*audited)
    assert rates == [0.01, 0.002]


def batch_of(problem, rows) -> MaskedBatch:
    x = torch.stack([problem.dataset[row].x for row in rows])
    y = torch.tensor([problem.dataset[row].y for row in rows])
    mask = torch.zeros(len(rows), 1, 16, 16)
    mask[0, :, :8] = 1
    return MaskedBatch(x, y, mask)


def test_the_hybrid_loss_adds_what_is_open_in_the_masks(audited, method):
    model, problem = audited
    made = method(mask_weight=2.0)
    gated = module._gated(model, made.fit(model, problem).changes[0], problem)
    batch, phase = batch_of(problem, range(4)), made.config.phases[1]
    hybrid = gated_losses(gated, batch, problem, made.config, phase)
    plain = gated_losses(gated, batch, problem, method(loss="unsupervised").config, phase)
    opening = gated.network.forward_with_map(gated.normalize(batch.x))[1]
    added = 2 * opening[0, :, :8].mean() / 4
    torch.testing.assert_close(hybrid["explanation"] - plain["explanation"], added, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hybrid["classification"], plain["classification"])


def test_maps_close_more_where_the_masks_are(audited, method):
    model, problem = audited
    corner = np.zeros((16, 16), bool)
    corner[:8] = True
    known = dataclasses.replace(problem.biases[0], mask=lambda name: corner)
    problem = dataclasses.replace(problem, biases=[known])
    phases = [ALONE | {"share": 1.0, "classification_share": 0.0}]
    values = {"epochs": 4, "lr": 0.01, "batch_size": 8, "mask_weight": 10.0}
    trained = method(phases=phases, **values).fit(model, problem).model
    maps = candidate_masks(trained, problem.dataset, np.arange(20))
    assert maps.shape == (20, 16, 16) and maps.dtype == np.float32
    assert maps[:, :6].mean() < maps[:, 10:].mean() - 0.2


def test_the_masked_image_is_filled_by_the_mean_color_of_the_training_images(audited, method):
    model, problem = audited
    trained = method(gated="input").fit(model, problem).model
    rows = split_indices(problem.dataset, "train")
    mean = model.normalize(torch.stack([problem.dataset[row].x for row in rows])).mean()
    torch.testing.assert_close(trained.network.fill, mean.view(1, 1, 1), rtol=1e-4, atol=1e-5)
    assert trained.network.layers == ()


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_a_killed_training_goes_on_within_its_phase(audited, method, tmp_path, monkeypatch, stop_at):
    model, problem = audited
    made = method(epochs=4, phases=[ALONE, JOINT])
    expected = made.fit(model, problem)
    problem = dataclasses.replace(problem, key="key", state_path=tmp_path / "state.pt")
    measure, calls = shell.validation_metrics, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(shell, "validation_metrics", killed)
    with pytest.raises(KeyboardInterrupt):
        made.fit(model, problem)
    found = made.fit(model, problem)
    assert len(calls) == 5, "no finished epoch is repeated"
    assert same(found.model, expected.model) and found.history == expected.history
    assert not list(tmp_path.glob("*state*"))


def test_a_phase_that_closes_the_map_ends_before_that(audited, method, monkeypatch):
    model, problem = audited
    shrinking = {"lr": 0.01, "batch_size": 8, "phases": [ALONE | {"share": 1.0, "classification_share": 0.0}]}
    means = [epoch.validation["mean_map"] for epoch in method(epochs=2, **shrinking).fit(model, problem).history]
    assert means[0] > means[1]
    expected = method(epochs=1, **shrinking).fit(model, problem)
    monkeypatch.setattr(module, "CLOSED", (means[0] + means[1]) / 2)
    said = Saying()
    found = method(epochs=2, **shrinking).fit(model, dataclasses.replace(problem, reporter=said))
    assert same(found.model, expected.model) and found.history == expected.history
    assert found.notes["collapsed"] == "closed in phase 1, open"
    assert any("WARNING" in text and "in epoch 2 of phase 1 (explainer)" in text for text in said.said)


def test_a_phase_that_closes_the_map_at_once_is_left_out(audited, method, monkeypatch):
    model, problem = audited
    made = method(epochs=2, phases=ONLY_EXPLAINER)
    monkeypatch.setattr(module, "CLOSED", 1.1)
    correction = made.fit(model, problem)
    start = module._gated(model, correction.changes[0], problem)
    assert same(start, correction.model) and correction.history == []
    assert all(parameter.requires_grad for parameter in correction.model.parameters())


def test_a_map_that_stays_open_is_called_so(audited, method):
    model, problem = audited
    said = Saying()
    correction = method(lr=1e-6).fit(model, dataclasses.replace(problem, reporter=said))
    assert correction.notes["collapsed"] == "open" and correction.notes["mean_map"] > 0.95
    assert any("stayed open everywhere" in text for text in said.said)


def test_without_training_maps_the_logits_are_nearly_those_of_the_model(audited, method):
    model, problem = audited
    correction = method(lr=1e-7, width=8).fit(model, problem)
    x = torch.stack([problem.dataset[row].x for row in range(20)])
    with torch.no_grad():
        assert (correction.model(x).argmax(1) == model(x).argmax(1)).all()


def test_candidates_are_the_bright_part_without_margin_and_specks():
    soft = np.full((40, 40), 0.1)
    soft[10:20, 12:24] = 0.9
    soft[0], soft[:, -1] = 1.0, 1.0  # as zero padding lights it
    soft[30, 30] = 0.9
    expected = np.zeros((40, 40), bool)
    expected[10:20, 12:24] = True
    assert np.array_equal(candidate_mask(soft), expected)
    assert candidate_mask(0.5 + soft / 20) is None, "too little contrast"
    assert candidate_mask(np.ones((40, 40))) is None
    assert candidate_mask(np.ones((2, 2))) is None


class Drawing(nn.Module):
    """Draws the image itself, for the first half of the samples nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :1] * (x.amax((1, 2, 3), keepdim=True) == 1)


def test_candidates_on_disk_cannot_be_taken_for_artifact_masks(audited, tmp_path):
    model, problem = audited
    gated = AuditModel(GatedClassifier(model.network, Drawing(), ["network.relu1"], 1), model.normalize)
    planted = np.flatnonzero([bool(problem.dataset[row].x.max() == 1) for row in range(60)])
    rows = np.array([planted[0], 0])
    write_candidates(gated, problem.dataset, rows, tmp_path / "maps")
    masks, table = MaskSet(tmp_path / "maps"), problem.dataset.table
    entries = masks.index()
    assert [entry.id for entry in entries] == list(table["id"].iloc[rows])
    assert [entry.status for entry in entries] == ["evidence of use, unreviewed", "no evidence"]
    assert not any(entry.shows_artifact for entry in entries)
    image = problem.dataset[int(planted[0])].x[0].numpy()
    np.testing.assert_allclose(masks.read(entries[0].id, "soft"), image, atol=1 / 255)
    found = masks.read(entries[0].id)
    assert found[image == 1].all() and entries[0].area == found.mean() < 0.2
    assert not (tmp_path / "maps/foreground").exists()


def test_candidates_are_written_for_the_samples_of_the_biases_or_else_of_validation(audited, method, tmp_path):
    model, problem = audited
    made = method()
    trained = made.fit(model, problem).model
    made.export(trained, problem, tmp_path / "one")
    ids = {entry.id for entry in MaskSet(tmp_path / "one").index()}
    assert ids == set(problem.biases[0].bias.sample_ids)
    made.export(trained, dataclasses.replace(problem, biases=[]), tmp_path / "other")
    validation = problem.dataset.table["id"].iloc[split_indices(problem.dataset, "val")]
    assert [entry.id for entry in MaskSet(tmp_path / "other").index()] == list(validation)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"phases": [JOINT]}, "must sum to 1, not 0.5"),
        ({"phases": [JOINT | {"trains": "classifier", "share": 1.0}]}, "no phase trains the explainer"),
        ({"phases": [JOINT | {"share": 1.0, "classification_share": 0.0}]}, "train the classifier to forget"),
        ({"loss": "unsupervised", "background": "roi"}, "belong to loss: hybrid"),
        ({"loss": "unsupervised", "masks": "truth"}, "belong to loss: hybrid"),
        ({"gated": []}, "at least 1 item"),
    ],
)
def test_options_that_contradict_each_other_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        InModelExplainerMethod(kind=KIND, **values)


@pytest.mark.parametrize("values", [{}, {"loss": "unsupervised"}, {"gated": ["network.relu1"], "gate": "sigmoid"}])
def test_a_configuration_can_be_written_and_read(values):
    config = InModelExplainerMethod(kind=KIND, **values)
    assert TypeAdapter(AnyMethod).validate_python(config.model_dump()) == config


@pytest.mark.parametrize("gated", ["input", "stages"])
def test_the_stage_stores_a_model_that_can_be_loaded(tiny_context, audited, method, gated):
    model, problem = audited
    made = method(gated=gated)
    context = tiny_context(mitigate={"methods": [made.config.model_dump()]})
    stage.run(context)
    record = context.directory.read_record(f"mitigate/{KIND}/method.json", MethodRecord)
    loaded = load_corrected(context.directory.root, record, model)
    assert same(loaded, made.fit(model, problem).model)
    assert 0 < record.notes["mean_map"] < 1


def test_a_layer_that_is_not_there_is_refused(audited, method):
    with pytest.raises(ConfigError, match="gated names 'network.relu9'"):
        method(gated=["network.relu9"]).fit(*audited)
