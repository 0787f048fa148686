from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny
import torch

from pipeline.config.model import AugmentConfig
from pipeline.data.inpainting import inpaint
from pipeline.data.memory import split_indices
from pipeline.mitigate import counterfactual as module
from pipeline.mitigate import make_mitigation
from pipeline.mitigate.counterfactual import Donors, counterfactuals, paste
from pipeline.mitigate.fine_tuning import MaskedBatch
from pipeline.mitigate.training_masks import TrainingMasks


def exact(problem):
    """Return the problem with the masks of the squares as they are."""

    def mask(name: str) -> np.ndarray | None:
        return tiny.square(int(name[1:])) if tiny.is_planted(int(name[1:])) else None

    return dataclasses.replace(problem, biases=[dataclasses.replace(problem.biases[0], mask=mask)])


@pytest.fixture
def setting(audited):
    """Donors of the tiny data, and one batch of all training samples with their masks."""
    problem = exact(audited[1])
    rows = split_indices(problem.dataset, "train")
    masks = TrainingMasks(problem, rows)
    x = torch.stack([problem.dataset[row].x for row in rows])
    y = torch.from_numpy(problem.dataset.table["label"].to_numpy()[rows])
    return Donors(problem, masks), MaskedBatch(x, y, masks.of(rows), 1, rows)


def test_pasted_pixels_are_those_inside_the_mask_alone():
    images, donors = torch.rand(4, 3, 6, 5), torch.rand(4, 3, 6, 5)
    masks = (torch.rand(4, 1, 6, 5) < 0.3).float()
    found, inside = paste(images, donors, masks), masks.bool().expand_as(images)
    assert torch.equal(found[inside], donors[inside]) and torch.equal(found[~inside], images[~inside])


def changed(batch, found) -> torch.Tensor:
    return (found != batch.x).flatten(1).any(1)


@pytest.mark.parametrize("mode", ["paste", "inpaint", "both"])
def test_other_classes_get_the_artifact_and_those_that_carry_it_lose_it(setting, section, mode):
    donors, batch = setting
    before = batch.x.clone()
    found = counterfactuals(batch, donors, section("counterfactual", mode=mode, share=1.0), 0)
    assert torch.equal(batch.x, before)
    planted, others = batch.masked, batch.y != 2
    alone = ~planted & ~others
    assert torch.equal(found[alone], batch.x[alone]), "its own class gets no artifact pasted"
    assert changed(batch, found)[others].all() == (mode != "inpaint")
    assert changed(batch, found)[planted].all() == (mode != "paste")
    if mode != "inpaint":
        squares = {bytes(tiny.square(number).tobytes()) for number in range(4)}
        moved = (found == 1)[others, 0]
        assert {bytes(each.numpy().tobytes()) for each in moved} == squares, "white is the square alone"
        assert torch.equal(found[others, 0][~moved], batch.x[others, 0][~moved])
    if mode != "paste":
        torch.testing.assert_close(found[planted], inpaint(batch.x[planted], batch.mask[planted]))
        assert (found[planted] < 0.9).all()


def test_about_a_share_is_changed_by_seed_epoch_and_id_and_not_by_the_place_in_the_batch(setting, section):
    donors, batch = setting
    config = section("counterfactual", share=0.3)
    found = counterfactuals(batch, donors, config, 0)
    possible = batch.masked | (batch.y != 2)
    assert 0.15 < float(changed(batch, found)[possible].double().mean()) < 0.45
    assert torch.equal(counterfactuals(batch, donors, config, 0), found)
    other = counterfactuals(dataclasses.replace(batch, epoch=2), donors, config, 0)
    assert not torch.equal(changed(batch, other), changed(batch, found))
    assert not torch.equal(changed(batch, counterfactuals(batch, donors, config, 1)), changed(batch, found))
    order = torch.randperm(len(batch.x), generator=torch.Generator().manual_seed(0))
    turned = MaskedBatch(batch.x[order], batch.y[order], batch.mask[order], 1, batch.rows[order.numpy()])
    torch.testing.assert_close(counterfactuals(turned, donors, config, 0), found[order], rtol=0, atol=1e-6)
    none = counterfactuals(batch, donors, section("counterfactual", share=0.0), 0)
    assert torch.equal(none, batch.x)


def test_donors_are_of_another_class_and_all_of_them_come(audited):
    problem = exact(audited[1])
    everybody = dataclasses.replace(problem.biases[0], mask=lambda name: tiny.square(int(name[1:])))
    rows = split_indices(problem.dataset, "train")
    labels = problem.dataset.table["label"].to_numpy()
    donors = Donors(problem, TrainingMasks(dataclasses.replace(problem, biases=[everybody]), rows))
    drawn = [donors.draw(1, position) for position in np.linspace(0, 1, 500, endpoint=False)]
    assert set(drawn) == set(rows[labels[rows] != 1])
    assert Donors(problem, TrainingMasks(problem, rows)).draw(2, 0.5) is None


def test_of_each_class_some_donors_are_kept(audited, monkeypatch):
    problem = audited[1]
    monkeypatch.setattr(module, "MOST_DONORS", 3)
    everybody = dataclasses.replace(problem.biases[0], mask=lambda name: tiny.square(int(name[1:])))
    problem = dataclasses.replace(problem, biases=[everybody])
    donors = Donors(problem, TrainingMasks(problem, split_indices(problem.dataset, "train")))
    assert np.bincount(donors.labels[donors.rows]).tolist() == [3, 3, 3] and len(donors.images) == 9
    other = Donors(dataclasses.replace(problem, seed=1), donors.masks)
    assert sorted(other.rows) != sorted(donors.rows)


def test_donors_and_their_masks_are_augmented_together(audited):
    problem = dataclasses.replace(exact(audited[1]), augment=AugmentConfig(horizontal_flip=True, translate=0.2))
    donors = Donors(problem, TrainingMasks(problem, split_indices(problem.dataset, "train")))
    images, masks = donors.regions(donors.rows.tolist(), 3)
    assert images[masks.bool()].min() == 1 and images[~masks.bool()].max() < 1
    plain = donors.masks.of(donors.rows)
    assert not torch.equal(masks, plain)


class Spoken:
    """A reporter that keeps what is said."""

    def __init__(self):
        self.said: list[str] = []

    def say(self, text):
        self.said.append(text)

    def track(self, items, label, total=None):
        yield from items


def test_without_masks_it_is_plain_fine_tuning_and_says_so(audited, section):
    model, problem = audited
    nobody = [dataclasses.replace(known, mask=lambda name: None) for known in problem.biases]
    reporter = Spoken()
    problem = dataclasses.replace(problem, biases=nobody, reporter=reporter)
    found = make_mitigation(section("counterfactual", id="cf")).fit(model, problem).model.state_dict()
    plain = make_mitigation(section("fine_tune")).fit(model, problem).model.state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in found.items())
    assert any("cf: no training sample has a mask" in text for text in reporter.said)


def test_labels_stay_and_images_are_changed_in_training(audited, section, monkeypatch):
    model, problem = audited
    seen = []
    loss = module.classification_loss

    def noted(problem, logits, y):
        seen.append(y)
        return loss(problem, logits, y)

    monkeypatch.setattr(module, "classification_loss", noted)
    correction = make_mitigation(section("counterfactual")).fit(model, exact(problem))
    assert torch.cat(seen).bincount().tolist() == [36, 36, 36]
    assert correction.notes == {"samples with a mask": 24.0}
    plain = make_mitigation(section("fine_tune")).fit(model, problem).model
    assert not torch.equal(plain.network.linear.weight, correction.model.network.linear.weight)
