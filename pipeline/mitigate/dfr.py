"""Deep feature reweighting: the last layer is fitted anew on balanced groups (Kirichenko et al., ICLR 2023)."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.config.mitigate import DfrMethod
from pipeline.data.batches import Batches
from pipeline.data.dataset import AuditDataset
from pipeline.data.memory import split_indices
from pipeline.data.randomness import generator
from pipeline.errors import ConfigError, DataError
from pipeline.models.build import AuditModel
from pipeline.models.classification import validation_metrics
from pipeline.models.loop import Epoch
from pipeline.models.modes import evaluation_mode

from .groups import Groups, find_groups
from .interface import Correction, Problem

COSTS = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Values of C that are tried, from the least to the most regularized."""
STEPS = 1000


@dataclass(frozen=True)
class LastLayer:
    """Weights `[K, D]` and bias `[K]` of a linear layer, float64."""

    weights: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return logits `[N, K]` of features `[N, D]`."""
        return features @ self.weights.T + self.bias


class DeepFeatureReweighting:
    """A copy of the model whose last linear layer is the mean of logistic regressions on balanced groups."""

    def __init__(self, config: DfrMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return the corrected copy; its history is one line with the loss of the new layer on the balanced samples.

        Raises:
            ConfigError: the logits are not the output of a linear layer.
            DataError: a class has no sample in the split.
            NoCounterExamples: no class is divided by the artifact there.
        """
        config, dataset = self.config, problem.dataset
        name = last_linear(model, dataset[0].x[None].to(problem.device))
        splits = ("train", "val") if config.split == "both" else (config.split,)
        groups = find_groups(model, problem, config.groups, config.min_group, splits)
        labels = dataset.table["label"].to_numpy()[groups.rows]
        _require_every_class(labels, dataset.classes, config)
        features = layer_inputs(model, name, dataset, groups.rows, problem.device)
        with_bias = model.get_submodule(name).bias is not None
        cost, found = reweighted_layer(
            features, labels, groups, len(dataset.classes), config.subsamples, problem.seed, with_bias=with_bias
        )
        corrected = copy.deepcopy(model)
        write_layer(corrected.get_submodule(name), found)
        losses = F.cross_entropy(torch.from_numpy(found.logits(features)), torch.from_numpy(labels), reduction="none")
        # every group weighs the same, as in the regressions
        mean = float(np.mean([losses.numpy()[groups.ids == group].mean() for group in range(len(groups.names))]))
        validation = validation_metrics(corrected, dataset, split_indices(dataset, "val"), problem.device)
        return Correction(
            corrected,
            [Epoch(1, {"total": mean}, validation)],
            notes={"layer": name, "C": cost, "samples of each group": float(groups.sizes.min())},
        )


def _require_every_class(labels: np.ndarray, classes: tuple[str, ...], config: DfrMethod) -> None:
    missing = [name for class_id, name in enumerate(classes) if not (labels == class_id).any()]
    if missing:
        raise DataError(
            f"mitigate.methods: '{config.method_id}' fits the last layer on split: {config.split}, which has no sample "
            f"of class {missing[0]}. Set split: both, or divide the data otherwise."
        )


def last_linear(model: nn.Module, example: torch.Tensor) -> str:
    """Return the name of the linear layer whose output are the logits.

    Args:
        example: input `[1, ...]`.

    Raises:
        ConfigError: there is none; or it runs more than once, or on more than one feature vector per sample.
    """
    calls: list[tuple[str, torch.Size, torch.Tensor]] = []
    handles = [
        module.register_forward_hook(lambda _, given, output, name=name: calls.append((name, given[0].shape, output)))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with evaluation_mode(model), torch.no_grad():
            logits = model(example)
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, _, _ in calls]
    for name, shape, output in reversed(calls):
        if names.count(name) == 1 and len(shape) == 2 and torch.equal(output, logits):
            return name
    linear = f"Linear layers that run: {', '.join(dict.fromkeys(names))}." if names else "It has no linear layer."
    raise ConfigError(
        "mitigate.methods: dfr fits the last linear layer anew, but the logits of the model are not the output of one "
        f"(a convolution as classifier, or something behind it). {linear} Use group_balance or group_dro instead."
    )


def layer_inputs(model: nn.Module, name: str, dataset: AuditDataset, rows: np.ndarray, device: str) -> np.ndarray:
    """Return what a linear layer is given for each row, `[len(rows), D]` float64, in evaluation mode."""
    kept: list[np.ndarray] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _, given: kept.append(given[0].double().cpu().numpy())
    )
    try:
        with evaluation_mode(model), torch.no_grad():
            for batch in Batches(dataset, rows, 256):
                model(batch.x.to(device))
    finally:
        handle.remove()
    return np.concatenate(kept)


def reweighted_layer(
    features: np.ndarray,
    labels: np.ndarray,
    groups: Groups,
    classes: int,
    subsamples: int,
    seed: int,
    *,
    with_bias: bool = True,
) -> tuple[float, LastLayer]:
    """Return C, and the mean of logistic regressions on balanced subsamples, for features as they are.

    Regressions see features with mean 0 and deviation 1; C is that of `chosen_cost`.

    Args:
        features: `[N, D]`.
        labels: class ids `[N]`; every class occurs.
        groups: of the same samples, in the same order.
        classes: K.
        subsamples: number of regressions that are averaged, and of cuts in halves that C is chosen by.
        seed: of the subsamples.
        with_bias: False: without bias, and without subtracting means.
    """
    mean = features.mean(0) if with_bias else np.zeros(features.shape[1])
    deviation = features.std(0)
    deviation[deviation == 0] = 1
    scaled = (features - mean) / deviation
    cost = chosen_cost(scaled, labels, groups, classes, subsamples, seed, with_bias=with_bias)
    layers = []
    for number in range(subsamples):
        chosen = balanced_subsample(groups.ids, generator(seed, "dfr subsample", str(number)))
        layers.append(regression(scaled[chosen], labels[chosen], classes, cost, with_bias))
    weights = np.mean([layer.weights for layer in layers], 0) / deviation
    bias = np.mean([layer.bias for layer in layers], 0)
    return cost, LastLayer(weights, bias - weights @ mean)


def chosen_cost(
    features: np.ndarray,
    labels: np.ndarray,
    groups: Groups,
    classes: int,
    subsamples: int,
    seed: int,
    *,
    with_bias: bool,
) -> float:
    """Return the C that is best in the worst group of samples that were not fitted on.

    Each time every group is cut in two halves. Regressions are fitted on balanced parts of the first ones, and the
    accuracy of each group in the second ones is averaged over the times. Of equals the best mean of groups counts, then
    the strongest regularization.

    Args:
        features: `[N, D]`, standardized; others as in `reweighted_layer`. Groups of a single sample are not looked at.
    """
    accuracies = np.zeros((len(COSTS), len(groups.names)))
    for number in range(subsamples):
        rng = generator(seed, "dfr halves", str(number))
        first = half_of_groups(groups.ids, rng)
        fitted = np.flatnonzero(first)[balanced_subsample(groups.ids[first], rng)]
        for place, cost in enumerate(COSTS):
            layer = regression(features[fitted], labels[fitted], classes, cost, with_bias)
            right = layer.logits(features[~first]).argmax(1) == labels[~first]
            accuracies[place] += np.bincount(groups.ids[~first], right, len(groups.names))
    seen = groups.sizes > 1
    accuracies = accuracies[:, seen] / (subsamples * (groups.sizes // 2)[seen])
    # rounded, so that equals are equal
    ranks = [
        (*np.round(each, 9), place)
        for place, each in enumerate(zip(accuracies.min(1), accuracies.mean(1), strict=True))
    ]
    return COSTS[max(ranks)[-1]]


def half_of_groups(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return who belongs to the first half of its group, booleans `[N]`; of odd groups the first half is the larger."""
    first = np.zeros(len(ids), dtype=bool)
    for group in np.unique(ids):
        members = rng.permutation(np.flatnonzero(ids == group))
        first[members[: -(-len(members) // 2)]] = True
    return first


def balanced_subsample(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return places in `ids`, ascending: of every group as many as the smallest has, without repetition."""
    smallest = np.bincount(ids)[np.unique(ids)].min()
    parts = [rng.permutation(np.flatnonzero(ids == group))[:smallest] for group in np.unique(ids)]
    return np.sort(np.concatenate(parts))


def regression(features: np.ndarray, labels: np.ndarray, classes: int, cost: float, with_bias: bool) -> LastLayer:
    """Return the logistic regression with an L2 penalty; of two classes as two opposite rows of half the weights.

    Args:
        features: `[N, D]`, standardized.
        labels: class ids `[N]`; every class occurs.
        classes: K.
        cost: C of scikit-learn, the inverse of the penalty.
        with_bias: whether an intercept is fitted.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # groups that are perfectly apart push weak penalties to ever longer weights, whose direction stays
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=cost, max_iter=STEPS, fit_intercept=with_bias).fit(features, labels)
    weights, bias = fitted.coef_, np.broadcast_to(fitted.intercept_, len(fitted.coef_))
    if classes == 2:
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return LastLayer(weights, bias)


def write_layer(linear: nn.Linear, layer: LastLayer) -> None:
    """Replace the values of a linear layer, in place."""
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(layer.weights))
        if linear.bias is not None:
            linear.bias.copy_(torch.from_numpy(layer.bias))
