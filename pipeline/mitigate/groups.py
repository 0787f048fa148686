"""Groups of samples by class and artifact, and whether they hold counter-examples to the shortcut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.concepts.cav import Cav
from pipeline.concepts.features import layer_features
from pipeline.config.mitigate import CarrierSource
from pipeline.data.memory import split_indices
from pipeline.data.randomness import generator
from pipeline.errors import ConfigError, DataError
from pipeline.models.build import AuditModel

from .interface import KnownBias, Problem
from .truth import true_carriers

WITH, WITHOUT = "with the artifact", "without the artifact"


class NoCounterExamples(DataError):
    """Every class carries the artifact as a whole or not at all, so that groups say nothing that labels do not."""


@dataclass(frozen=True)
class Groups:
    """Samples divided by class and artifact.

    Attributes:
        rows: positions in the data set `[N]`.
        ids: group of each row `[N]`, 0 to G - 1; every group has at least one row.
        names: of the groups, G of them: class, and whether with the artifact, where both kinds are groups.
        divided: names of the classes that are two groups.
    """

    rows: np.ndarray
    ids: np.ndarray
    names: tuple[str, ...]
    divided: tuple[str, ...]

    @property
    def sizes(self) -> np.ndarray:
        """Return the number of rows of each group `[G]`."""
        return np.bincount(self.ids, minlength=len(self.names))

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return the group `[B]` of positions in the data set, all of which must be among the rows."""
        order = np.argsort(self.rows)
        return self.ids[order[np.searchsorted(self.rows, rows, sorter=order)]]


def carriers(model: AuditModel, problem: Problem, source: CarrierSource) -> np.ndarray:
    """Return who carries an artifact, booleans `[N]`; of the test split nobody, since corrections may not know it.

    Args:
        model: whose activations the CAVs were fitted on; looked at for "detected" alone.
        problem: data set and biases.
        source: "found", members of the findings, all of the class in which a finding was made; "detected", samples of
            any class whose score is above the boundary of a bias's CAV; "truth", for comparison.

    Raises:
        ConfigError: "detected", and a CAV was fitted on whole maps.
    """
    if source == "truth":
        return true_carriers(problem.dataset) & _seen(problem)
    each = [bias_carriers(model, problem, known, source) for known in problem.biases]
    return np.logical_or.reduce(each) if each else np.zeros(len(problem.dataset), dtype=bool)


def bias_carriers(model: AuditModel, problem: Problem, known: KnownBias, source: CarrierSource) -> np.ndarray:
    """Return who carries the artifact of one bias, as `carriers`; the truth does not tell biases apart."""
    if source == "truth":
        return carriers(model, problem, source)
    if source == "found":
        return np.isin(problem.dataset.table["id"].to_numpy(), known.bias.sample_ids) & _seen(problem)
    found, rows = np.zeros(len(problem.dataset), dtype=bool), np.flatnonzero(_seen(problem))
    found[rows] = _scores(model, problem, known.cav, rows) > 0
    # processes may round activations differently, and must not disagree about the length of an epoch
    return problem.group.agree(found)


def _seen(problem: Problem) -> np.ndarray:
    return problem.dataset.table["split"].to_numpy() != "test"


def _scores(model: AuditModel, problem: Problem, cav: Cav, rows: np.ndarray) -> np.ndarray:
    if cav.pooling == "full":
        raise ConfigError(
            "mitigate.methods: groups: detected needs a CAV on pooled activations, but reveal.cav.pooling is full. "
            "Set it to max or mean, or groups: found."
        )
    features = layer_features(model, problem.dataset, rows, cav.layer, cav.pooling, device=problem.device)
    return cav.scores(features.astype(np.float64))


def divide(
    labels: np.ndarray, carrier: np.ndarray, rows: np.ndarray, classes: Sequence[str], smallest: int = 1
) -> Groups:
    """Return the groups of class and artifact, class by class, those without the artifact first.

    Args:
        labels: class ids of the whole data set `[N]`.
        carrier: who carries the artifact, booleans `[N]`.
        rows: which samples to divide.
        classes: names.
        smallest: a class is divided only if both its groups have at least so many rows.
    """
    ids, names, divided = np.zeros(len(rows), dtype=np.int64), [], []
    for class_id, name in enumerate(classes):
        inside = labels[rows] == class_id
        carrying = inside & carrier[rows]
        count, whole = int(carrying.sum()), int(inside.sum())
        if not whole:
            continue
        ids[inside] = len(names)
        if min(count, whole - count) >= max(smallest, 1):
            ids[carrying] = len(names) + 1
            names += [f"{name} {WITHOUT}", f"{name} {WITH}"]
            divided.append(name)
        else:
            names.append(name)
    return Groups(np.asarray(rows), ids, tuple(names), tuple(divided))


def find_groups(
    model: AuditModel,
    problem: Problem,
    source: CarrierSource,
    smallest: int,
    splits: Iterable[str] = ("train",),
) -> Groups:
    """Return the groups of a problem's samples.

    Raises:
        NoCounterExamples: no class has at least `smallest` samples both with and without the artifact.
    """
    rows = np.sort(np.concatenate([split_indices(problem.dataset, split) for split in splits]))
    labels, classes = problem.dataset.table["label"].to_numpy(), problem.dataset.classes
    carrier = carriers(model, problem, source)
    groups = divide(labels, carrier, rows, classes, smallest)
    if not groups.divided:
        carrying = int(carrier[rows].sum())
        raise NoCounterExamples(
            f"in {' and '.join(splits)} no class has at least {smallest} samples with and {smallest} without the "
            f"artifact ({carrying} of {len(rows)} samples carry it, groups: {source}), so groups would only repeat the "
            "labels. Add counter-examples, lower min_group, take other groups (detected, found) or a method that acts "
            "on masks or CAVs."
        )
    return groups


def balanced_rows(groups: Groups, seed: int, epoch: int, count: int | None = None) -> np.ndarray:
    """Return rows for one epoch, shuffled, every group drawn equally often.

    Each group is an endless sequence of permutations of its rows, of which each epoch takes the next part: nothing is
    drawn twice before all of its group were drawn once, and over the epochs all samples are.

    Args:
        groups: what to balance.
        seed: of the run.
        epoch: from 0.
        count: draws of each group; default: as many as make the epoch about as long as one over all rows.
    """
    each = count or -(-len(groups.rows) // len(groups.names))
    parts = [
        _next_part(groups.rows[groups.ids == group], epoch * each, each, seed, name)
        for group, name in enumerate(groups.names)
    ]
    return generator(seed, "balanced order", str(epoch)).permutation(np.concatenate(parts))


def _next_part(members: np.ndarray, start: int, count: int, seed: int, name: str) -> np.ndarray:
    first, last = start // len(members), (start + count - 1) // len(members)
    passes = [
        generator(seed, "balanced group", name, str(each)).permutation(members) for each in range(first, last + 1)
    ]
    offset = start - first * len(members)
    return np.concatenate(passes)[offset : offset + count]


@dataclass(frozen=True)
class CounterExamples:
    """How the artifact of a bias and its class go together, in numbers of samples.

    Attributes:
        class_name: of the bias.
        inside_with, inside_without: samples of the class that carry the artifact, and that do not.
        outside_with, outside_without: the same of all other classes.
    """

    class_name: str
    inside_with: int
    inside_without: int
    outside_with: int
    outside_without: int

    @property
    def identifiable(self) -> bool:
        """Whether some sample has the class without the artifact, or the artifact without the class."""
        return self.inside_without > 0 or self.outside_with > 0


def counter_examples(labels: np.ndarray, carrier: np.ndarray, class_id: int, classes: Sequence[str]) -> CounterExamples:
    """Count a bias's class against its artifact.

    Args:
        labels: class ids `[N]`.
        carrier: who carries the artifact, booleans `[N]`.
        class_id: of the bias.
        classes: names.
    """
    inside = labels == class_id
    counts = [int((a & b).sum()) for a in (inside, ~inside) for b in (carrier, ~carrier)]
    return CounterExamples(classes[class_id], *counts)


def warn_without_counter_examples(found: CounterExamples) -> str:
    """Return what to tell the user: a warning, a note about the empty group, or nothing where both kinds are there."""
    name, carrying = found.class_name, found.inside_with + found.outside_with
    sizes = (
        f"{name} {WITH}: {found.inside_with}, {name} {WITHOUT}: {found.inside_without}, "
        f"other classes {WITH}: {found.outside_with}, other classes {WITHOUT}: {found.outside_without}"
    )
    if not carrying:
        return f"no sample is known to carry the artifact of class {name}: groups cannot be formed ({sizes})"
    if not found.identifiable:
        return (
            f"WARNING: no counter-examples: every sample of class {name} carries the artifact, and no other sample "
            f"does ({sizes}). From these groups no method can tell the artifact from the class; group methods are left "
            "out. Add samples of the class without the artifact or of others with it, or use a method that acts on "
            "masks or CAVs, and judge it by people: no metric on these data can."
        )
    if not found.inside_without:
        return (
            f"no sample of class {name} is without the artifact; what the class looks like alone is unknown ({sizes})"
        )
    if not found.outside_with:
        return f"no sample of another class than {name} is known to carry the artifact ({sizes})"
    return ""


def counter_example_warnings(model: AuditModel, problem: Problem, source: CarrierSource) -> list[str]:
    """Return what is to be said about the training samples of each bias; nothing where all is well.

    "found" knows no carriers outside the class in which a finding was made, so "detected" tells more.
    """
    rows = split_indices(problem.dataset, "train")
    labels, classes = problem.dataset.table["label"].to_numpy()[rows], problem.dataset.classes
    texts = [
        warn_without_counter_examples(
            counter_examples(labels, bias_carriers(model, problem, known, source)[rows], known.bias.class_id, classes)
        )
        for known in problem.biases
    ]
    return [f"{known.bias.id}: {text}" for known, text in zip(problem.biases, texts, strict=True) if text]
