"""Biases that people describe by labels of samples: groups for the findings, and what their CAVs are fitted on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.concepts.cav import held_out_auroc, is_constant
from pipeline.statistics.intervals import wilson
from pipeline.workspace.journal import Journal, latest_labels
from pipeline.workspace.records import LabelCounts

from .candidates import Candidate
from .view import DataView

DETECTOR = "labels"
FEWEST = 2
"""Members, and others, from which some can be held out."""


@dataclass(frozen=True)
class LabelledBias:
    """What people said last about the samples of one bias.

    Attributes:
        name: id of a finding, or a name of the person's own.
        positives: rows of the data set that show the bias, ascending.
        negatives: rows that do not show it.
        unsure: rows of which nobody could tell; nothing is fitted on them.
        by: who labelled.
        missing: labelled samples that the data set does not have.
        disputed: samples on which the last words of several people differ; the very last one counts.
    """

    name: str
    positives: np.ndarray
    negatives: np.ndarray
    unsure: np.ndarray
    by: tuple[str, ...]
    missing: int = 0
    disputed: int = 0

    def counts(self) -> LabelCounts:
        """Return the numbers of labels, as the record of a bias carries them."""
        sizes = len(self.positives), len(self.negatives), len(self.unsure)
        return LabelCounts(positive=sizes[0], negative=sizes[1], unsure=sizes[2], by=list(self.by))


def labelled_biases(journal: Journal, ids: Sequence[str]) -> list[LabelledBias]:
    """Return the biases of a journal's labels in the order in which they were first named.

    Args:
        journal: entries in order; of one sample the last counts.
        ids: of the data set's samples, row by row.
    """
    rows = {str(each): row for row, each in enumerate(ids)}
    words: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for (bias, sample), label in latest_labels(journal).items():
        words[bias][label.label if sample in rows else "missing"].append(rows.get(sample, -1))
    return [
        LabelledBias(
            name=bias,
            positives=_ascending(found["positive"]),
            negatives=_ascending(found["negative"]),
            unsure=_ascending(found["unsure"]),
            by=tuple(dict.fromkeys(label.by for label in journal.labels if label.bias == bias)),
            missing=len(found["missing"]),
            disputed=_disputed(journal, bias),
        )
        for bias, found in words.items()
    ]


def labelled_candidates(
    view: DataView, biases: Sequence[LabelledBias], findings: Sequence[str] = ()
) -> list[Candidate]:
    """Return one candidate of detector "labels" for each bias that is no finding, in the class that shows it most.

    The class is the one with the highest lower bound (Wilson) of its share of positives, which is the class of the
    largest lift unless that rests on too few samples; members are its positives in `view.rows`.

    Args:
        view: samples of the training and validation split; labels of others are left out.
        biases: as `labelled_biases` returns them.
        findings: ids of findings; labels on these refine them instead, see `refined`.
    """
    found = (_candidate(view, bias) for bias in biases if bias.name not in set(findings))
    return [candidate for candidate in found if candidate is not None]


def refined(candidate: Candidate, bias: LabelledBias) -> Candidate:
    """Return a candidate without the members that people called negative, and with those that they called positive.

    Samples of other classes are no rows of the candidate and stay out; unsure ones stay as they were detected.
    """
    members = candidate.members & ~np.isin(candidate.rows, bias.negatives)
    return replace(candidate, members=members | np.isin(candidate.rows, bias.positives))


def without_unsure(candidate: Candidate, bias: LabelledBias) -> Candidate:
    """Return a candidate without the rows that people labelled unsure: what its CAV is fitted on.

    All rows stay where fewer than two members, or two others, would be left: nothing could be held out.
    """
    sure = ~np.isin(candidate.rows, bias.unsure)
    members = candidate.members[sure]
    if min(members.sum(), (~members).sum()) < FEWEST:
        return candidate
    return replace(candidate, rows=candidate.rows[sure], members=members)


def _candidate(view: DataView, bias: LabelledBias) -> Candidate | None:
    shares = []
    for each in view.classes():
        members = np.isin(each.rows, bias.positives)
        if members.any():
            shares.append((wilson(int(members.sum()), len(members)).lower, each, members))
    if not shares:
        return None
    _, chosen, members = max(shares, key=lambda share: share[0])
    labelled = len(np.intersect1d(view.rows, bias.positives))
    lift = members.mean() / (labelled / len(view.rows))
    return Candidate(
        detector=DETECTOR,
        class_id=chosen.class_id,
        layer=clearest_layer(view, chosen.rows, members),
        rows=chosen.rows,
        members=members,
        note=_note(bias, chosen.class_name, int(members.sum()), labelled, lift),
        name=bias.name,
    )


def clearest_layer(view: DataView, rows: np.ndarray, members: np.ndarray) -> str:
    """Return the activation layer whose pattern CAV tells members best (held-out AUROC), of equals the deepest.

    With fewer than two members, or two others, nothing can be held out, and the deepest layer is returned.
    """
    deepest = view.deep_layers[0]
    if min(members.sum(), (~members).sum()) < FEWEST:
        return deepest
    evidence = {deepest: 0.0}
    for layer in view.deep_layers:
        features = view.store.activations(layer, "max", rows)
        if not is_constant(features):
            evidence[layer] = held_out_auroc(features, members, "pattern", seed=view.seed).value
    return max(evidence, key=lambda layer: evidence[layer])


def _note(bias: LabelledBias, class_name: str, members: int, positives: int, lift: float) -> str:
    people = ", ".join(bias.by)
    note = (
        f"{people} labelled {len(bias.positives)} samples as showing '{bias.name}' and {len(bias.negatives)} as not "
        f"showing it; {members} of the {positives} in training and validation are of class {class_name}, {lift:.1f} "
        "times as many as by chance"
    )
    return note + (f", and people disagree on {bias.disputed}." if bias.disputed else ".")


def _disputed(journal: Journal, bias: str) -> int:
    words: dict[str, dict[str, str]] = defaultdict(dict)
    for label in journal.labels:
        if label.bias == bias:
            words[label.sample][label.by] = label.label
    return sum(len(set(said.values())) > 1 for said in words.values())


def _ascending(rows: list[int]) -> np.ndarray:
    return np.array(sorted(rows), dtype=np.int64)
