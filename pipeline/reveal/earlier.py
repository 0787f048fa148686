"""Biases that earlier runs found: tried again on this run's model under the ids that they had there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.concepts.cav import Cav
from pipeline.data.dataset import AuditDataset
from pipeline.errors import ConfigError, DataError, StoreError, nearest
from pipeline.workspace.directory import RunDirectory
from pipeline.workspace.progress import Reporter
from pipeline.workspace.records import Bias, Biases

from .candidates import Candidate
from .effect import Effect
from .evidence import Evidence
from .labelled import LabelledBias, clearest_layer, refined
from .suspicion import Suspicion, combine, effect_part
from .view import DataView

DETECTOR = "earlier"
BIASES = "reveal/biases.json"
NAMED_AT_MOST = 5


@dataclass(frozen=True)
class EarlierBias:
    """A bias as an earlier run left it, in terms of this run's data set.

    Attributes:
        run: directory of the earlier run, as configured.
        record: what stands there; its class id may be another one here.
        class_id: of its class in this data set.
        rows: of its samples in this data set, ascending.
    """

    run: str
    record: Bias
    class_id: int
    rows: np.ndarray

    @property
    def id(self) -> str:
        """Return the id, which is the same in every run."""
        return self.record.id


def read_earlier(
    runs: Sequence[str], dataset: AuditDataset, here: RunDirectory, reporter: Reporter
) -> dict[str, EarlierBias]:
    """Return the biases of earlier runs by id; of several under one id the first.

    Args:
        runs: run directories, as in `reveal.earlier`; relative ones from the working directory.
        dataset: whose samples and classes are meant.
        here: of this run, which cannot be an earlier one.
        reporter: is told how many samples are found again, and which ids stand twice.

    Raises:
        ConfigError: a directory is no finished run, or is this run's own; a class is not in the data set.
        DataError: not one sample of a bias is in the data set.
    """
    found: dict[str, EarlierBias] = {}
    for run in runs:
        for record in _read_biases(run, here, reporter):
            if record.id in found:
                reporter.say(f"    bias {record.id} of {run} is passed over: {found[record.id].run} has it, too")
            else:
                found[record.id] = _match(run, record, dataset, reporter)
    return found


def earlier_candidates(
    view: DataView, earlier: Sequence[EarlierBias], labels: Sequence[LabelledBias] = ()
) -> list[Candidate]:
    """Return one candidate of detector "earlier" for each bias, named by its id.

    Members are its samples in `view.rows`, as far as the class is still theirs, corrected by labels under its id.

    Args:
        view: samples of the training and validation split.
        earlier: as `read_earlier` returns them.
        labels: of this run's journal.
    """
    return [_candidate(view, each, {bias.name: bias for bias in labels}.get(each.id)) for each in earlier]


def without_direction(view: DataView, candidate: Candidate, separation: float, evidence: Evidence) -> Suspicion:
    """Return a measured group that no CAV tells better than chance: its effect is 0, and its direction has length 0.

    This is what a correction that works leaves of a bias. Nothing points the same way as a direction of length 0.

    Args:
        view: all samples.
        candidate: the group.
        separation: in [0, 1].
        evidence: of the group, whose layer the direction stands in.
    """
    parts = {
        "separation": separation,
        "evidence": evidence.separability,
        "concentration": evidence.concentration,
        "effect": effect_part(Effect(0.0, 0.0, 0.0, 0.0)),
    }
    nothing = np.zeros(view.store.activations(evidence.layer, "max", candidate.rows[:1]).shape[1])
    cav = Cav(nothing, 0.0, "pattern", nothing, layer=evidence.layer)
    return Suspicion(candidate, combine(parts), parts, {}, cav)


def why_dropped(candidate: Candidate, least: int) -> str:
    """Return why a group could not be measured, in words that follow "this model has no CAV of it, since".

    Args:
        candidate: the group.
        least: members, and others of the class, that measuring takes.
    """
    members, others = int(candidate.members.sum()), int((~candidate.members).sum())
    if min(members, others) < least:
        return (
            f"{members} samples of its class in training and validation show it and {others} do not, and at least "
            f"{least} of both are needed"
        )
    return "no layer tells them apart"


def _read_biases(run: str, here: RunDirectory, reporter: Reporter) -> list[Bias]:
    directory = RunDirectory(Path(run).expanduser())
    name = "Name the directory of a finished audit, such as artifacts/my_audit"
    if directory.root.resolve() == here.root.resolve():
        raise ConfigError(f"reveal.earlier: {run} is the directory of this run itself. {name} of another name.")
    if not (directory.root / BIASES).is_file():
        what = "holds no" if directory.root.is_dir() else "is no directory, so there is no"
        raise ConfigError(f"reveal.earlier: {run} {what} {BIASES}. {name}, or run its reveal stage first.")
    try:
        biases = directory.read_record(BIASES, Biases).biases
    except StoreError as error:
        raise ConfigError(f"reveal.earlier: {error} That is, of the earlier run {run}.") from None
    if not biases:
        reporter.say(f"    the earlier run {run} accepted no bias")
    return biases


def _match(run: str, record: Bias, dataset: AuditDataset, reporter: Reporter) -> EarlierBias:
    classes = [str(each) for each in dataset.classes]
    if record.class_name not in classes:
        raise ConfigError(
            f"reveal.earlier: bias '{record.id}' of {run} is about class '{record.class_name}', which the data set "
            f"does not have.{nearest(record.class_name, classes)} Classes: {', '.join(classes)}. Use the data that the "
            "earlier run was made of, or take it out of reveal.earlier."
        )
    row_of = {str(each): row for row, each in enumerate(dataset.table["id"])}
    unmatched = [each for each in record.sample_ids if each not in row_of]
    matched = [row_of[each] for each in record.sample_ids if each in row_of]
    if not matched:
        raise DataError(
            f"reveal.earlier: none of the {len(unmatched)} samples of bias '{record.id}' of {run} is in the data set. "
            f"Its ids: {_some(unmatched)}. Ids of the data set: {_some(list(row_of))}. Use the data that the earlier "
            "run was made of, or take it out of reveal.earlier."
        )
    text = f"    bias {record.id} of {run}: {len(matched)} of {len(record.sample_ids)} samples are in the data set"
    if unmatched:
        text += f"; WARNING: {len(unmatched)} are not: {_some(unmatched)}"
    reporter.say(text)
    return EarlierBias(run, record, classes.index(record.class_name), np.array(sorted(matched), dtype=np.int64))


def _candidate(view: DataView, bias: EarlierBias, labels: LabelledBias | None) -> Candidate:
    rows = view.rows[view.labels == bias.class_id]
    candidate = Candidate(
        detector=DETECTOR,
        class_id=bias.class_id,
        layer=view.deep_layers[0],
        rows=rows,
        members=np.isin(rows, bias.rows),
        note=f"The run {bias.run} found this bias; here it is tried on this run's model, in {len(bias.rows)} samples.",
        name=bias.id,
    )
    if labels is not None:
        candidate = refined(candidate, labels)
    return replace(candidate, layer=clearest_layer(view, rows, candidate.members))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:NAMED_AT_MOST])
    return shown + (", ..." if len(names) > NAMED_AT_MOST else "")
