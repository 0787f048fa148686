from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from pipeline.data.memory import split_indices
from pipeline.data.randomness import generator
from pipeline.errors import ConfigError, DataError
from pipeline.mitigate import make_mitigation
from pipeline.mitigate.dfr import (
    COSTS,
    LastLayer,
    balanced_subsample,
    chosen_cost,
    half_of_groups,
    last_linear,
    layer_inputs,
    regression,
    reweighted_layer,
    write_layer,
)
from pipeline.mitigate.groups import Groups


def groups_of(ids: np.ndarray) -> Groups:
    return Groups(np.arange(len(ids)), ids, tuple("abcdefgh"[: ids.max() + 1]), ("a",))


def shortcut(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Groups]:
    """Return features whose first columns tell the class, and whose last one tells most of class 0 still better."""
    rng = np.random.default_rng(seed)
    labels = np.arange(60 * classes) % classes
    carrier = (labels == 0) & (np.arange(len(labels)) // classes % 10 < 9)
    features = rng.normal(size=(len(labels), classes + 1)) + 5
    features[np.arange(len(labels)), labels] += 2.5
    features[:, -1] = 6 * carrier + 0.1 * rng.normal(size=len(labels))
    ids = np.where(carrier, classes, labels)
    return features, labels, groups_of(ids)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_regression_is_that_of_the_library(classes):
    features, labels, _ = shortcut(classes)
    library = LogisticRegression(C=0.3, max_iter=1000).fit(features, labels)
    found = regression(features, labels, classes, 0.3, with_bias=True)
    assert found.weights.shape == (classes, classes + 1) and found.bias.shape == (classes,)
    probabilities = torch.softmax(torch.from_numpy(found.logits(features)), 1).numpy()
    np.testing.assert_allclose(probabilities, library.predict_proba(features), atol=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("with_bias", [True, False])
def test_of_groups_of_one_size_the_layer_is_the_library_on_standardized_features(classes, with_bias):
    features, labels, _ = shortcut(classes)
    groups = groups_of(labels)
    cost, found = reweighted_layer(features, labels, groups, classes, 3, 0, with_bias=with_bias)
    mean, deviation = features.mean(0) * with_bias, features.std(0)
    scaled = (features - mean) / deviation
    library = LogisticRegression(C=cost, max_iter=1000, fit_intercept=with_bias).fit(scaled, labels)
    probabilities = torch.softmax(torch.from_numpy(found.logits(features)), 1).numpy()
    np.testing.assert_allclose(probabilities, library.predict_proba(scaled), atol=1e-6)
    assert with_bias or not found.bias.any()


@pytest.mark.parametrize("classes", [2, 3])
def test_the_shortcut_weighs_less_than_in_a_plain_regression(classes):
    features, labels, groups = shortcut(classes)
    _, found = reweighted_layer(features, labels, groups, classes, 10, 0)
    plain = regression(features, labels, classes, 1.0, with_bias=True)

    def reliance(layer: LastLayer) -> float:
        return abs(layer.weights[0, -1]) / abs(layer.weights[0, :-1]).max()

    assert reliance(found) < 0.7 * reliance(plain)
    tested, answers, held_out = shortcut(classes, seed=1)
    alone = held_out.ids == 0
    right = [(layer.logits(tested).argmax(1) == answers)[alone].mean() for layer in (found, plain)]
    assert right[0] > right[1]


def test_a_subsample_has_of_every_group_as_many_as_the_smallest():
    ids = np.repeat([0, 1, 2], [3, 50, 7])
    chosen = balanced_subsample(ids, np.random.default_rng(0))
    assert np.bincount(ids[chosen]).tolist() == [3, 3, 3] and len(set(chosen)) == 9
    assert not np.array_equal(chosen, balanced_subsample(ids, np.random.default_rng(1)))


def test_every_group_is_cut_in_halves():
    ids = np.repeat([0, 1, 2, 3], [3, 50, 2, 1])
    assert np.bincount(ids[half_of_groups(ids, np.random.default_rng(0))]).tolist() == [2, 25, 1, 1]


@pytest.mark.parametrize("seed", range(8))
def test_the_chosen_cost_is_best_in_the_worst_group_of_the_other_halves(seed):
    features, labels, groups = shortcut(2, seed)
    features = features + np.random.default_rng(seed).normal(scale=3, size=features.shape)
    scaled = (features - features.mean(0)) / features.std(0)
    found = chosen_cost(scaled, labels, groups, 2, 1, seed, with_bias=True)
    rng = generator(seed, "dfr halves", "0")
    first = half_of_groups(groups.ids, rng)
    fitted = np.flatnonzero(first)[balanced_subsample(groups.ids[first], rng)]
    worst = {}
    for cost in COSTS:
        model = LogisticRegression(C=cost, max_iter=1000).fit(scaled[fitted], labels[fitted])
        right = model.predict(scaled[~first]) == labels[~first]
        means = [right[groups.ids[~first] == group].mean() for group in range(3)]
        worst[cost] = (round(min(means), 9), round(float(np.mean(means)), 9), -cost)
    assert found == max(worst, key=worst.get)


def test_a_group_of_one_sample_has_no_say_about_the_cost():
    features, labels, _ = shortcut(2)
    ids = np.where(np.arange(len(labels)) == 0, 2, labels)
    assert chosen_cost(features, labels, groups_of(ids), 2, 2, 0, with_bias=True) in COSTS


class Branches(nn.Module):
    """Linear layers in the middle, aside and at the end, of which the last runs first."""

    def __init__(self):
        super().__init__()
        self.last, self.inner, self.aside = nn.Linear(4, 3), nn.Linear(4, 4), nn.Linear(4, 3)
        self.dropout = nn.Dropout()

    def forward(self, x):
        self.aside(x)
        return self.dropout(self.last(self.inner(x).relu()))


def test_the_layer_that_makes_the_logits_is_found_wherever_it_stands():
    model = Branches().train()
    assert last_linear(model, torch.rand(1, 4)) == "last"
    assert model.training and not any(module._forward_hooks for module in model.modules())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(self.linear(x))


@pytest.mark.parametrize(
    ("model", "shape", "text"),
    [
        (nn.Sequential(nn.Conv2d(2, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (1, 2, 4, 4), "has no linear layer"),
        (nn.Sequential(nn.Linear(4, 3), nn.Softplus()), (1, 4), "layers that run: 0. Use"),
        (Twice(), (1, 4), "layers that run: linear. Use"),
    ],
    ids=["convolution", "something behind it", "twice"],
)
def test_without_such_a_layer_the_error_says_what_there_is(model, shape, text):
    with pytest.raises(ConfigError, match=f"logits of the model are not the output of one.*{text}"):
        last_linear(model, torch.rand(shape))


def test_a_written_layer_has_the_logits_of_the_regression():
    layer = LastLayer(np.random.default_rng(0).normal(size=(3, 4)), np.arange(3.0))
    linear, x = nn.Linear(4, 3), torch.rand(5, 4)
    write_layer(linear, layer)
    np.testing.assert_allclose(linear(x).detach(), layer.logits(x.double().numpy()), rtol=1e-5)
    bare = nn.Linear(4, 3, bias=False)
    write_layer(bare, layer)
    torch.testing.assert_close(bare.weight, linear.weight)


def test_nothing_but_the_last_layer_changes_and_the_held_out_split_is_fitted(audited, section):
    model, problem = audited
    correction = make_mitigation(section("dfr")).fit(model, problem)
    old, new = model.state_dict(), correction.model.state_dict()
    assert {name for name in old if not torch.equal(old[name], new[name])} == {
        "network.linear.weight",
        "network.linear.bias",
    }
    assert correction.notes["layer"] == "network.linear" and correction.notes["samples of each group"] == 4
    (epoch,) = correction.history
    assert 0 < epoch.losses["total"] < 1 and epoch.validation["accuracy"] > 0.9
    for split, smallest in (("train", 12), ("both", 16)):
        assert (
            make_mitigation(section("dfr", split=split)).fit(model, problem).notes["samples of each group"] == smallest
        )


def test_features_are_what_the_last_layer_is_given(audited):
    model, problem = audited
    rows = split_indices(problem.dataset, "val")
    features = layer_inputs(model, "network.linear", problem.dataset, rows, "cpu")
    x = torch.stack([problem.dataset[row].x for row in rows])
    with torch.no_grad():
        expected = model.network[:-1](x)
    np.testing.assert_allclose(features, expected, rtol=1e-5)


def test_a_class_without_samples_in_the_split_is_named(audited, section):
    model, problem = audited
    dataset = problem.dataset
    table = dataset.table.copy()
    table.loc[(table["label"] == 1) & (table["split"] == "val"), "split"] = "train"

    class Changed:
        def __getattr__(self, name):
            return table if name == "table" else getattr(dataset, name)

        def __len__(self):
            return len(dataset)

        def __getitem__(self, row):
            return dataset[row]

    with pytest.raises(DataError, match="split: val, which has no sample of class down. Set split: both"):
        make_mitigation(section("dfr")).fit(model, dataclasses.replace(problem, dataset=Changed()))
