"""What to label next for a bias that people describe by labels, and whether looking on is worth the time."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from pipeline.concepts.retrieval import calibrate, enough_found, few_shot_scores, positives_left, rank
from pipeline.workspace.atomic import write_text
from pipeline.workspace.journal import Journal, latest_labels

from .labelled import LabelledBias
from .view import DataView

COUNT = 40
COLUMNS = ("id", "score", "why")


def suggest(view: DataView, bias: LabelledBias, journal: Journal, path: Path) -> str | None:
    """Write samples to look at next as CSV (id, score, why), and return a line about what is left to find.

    Scores come from all activation layers; every sample of the training and validation split is ranked. The estimate of
    positives that are left needs negatives, and labels of more than one time: those of the first were picked because
    they show the bias, and say nothing about how many others do.

    Args:
        view: all samples.
        bias: the labels; without any positive among the view's rows nothing is written, and None returned.
        journal: all labels, with times.
        path: of the CSV file.
    """
    positives, negatives = (np.intersect1d(rows, view.rows) for rows in (bias.positives, bias.negatives))
    if not len(positives):
        return None
    everyone = np.arange(len(view.store.ids))
    layers = [view.store.activations(layer, "max", everyone) for layer in reversed(view.deep_layers)]
    scores = few_shot_scores(layers, positives, negatives, pool=view.rows, seed=view.seed)
    labelled = np.concatenate([bias.positives, bias.negatives, bias.unsure])
    rows, said = _later_labels(view, bias, journal)
    calibration = calibrate(scores[rows], said) if len(rows) else None
    suggestions = rank(
        scores,
        view.rows,
        labelled,
        count=COUNT,
        boundary=None if calibration is None else calibration.boundary,
        embedding=layers[-1],
    )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((view.store.ids[each.row], f"{each.score:.4f}", each.reason) for each in suggestions)
    write_text(path, text.getvalue())
    line = f"{bias.name}: {len(positives)} samples labelled as showing it; look next at {path.name}"
    if calibration is None:
        return line
    left = positives_left(calibration, scores[np.setdiff1d(view.rows, labelled)])
    advice = "; enough are found" if enough_found(left, len(positives)) else ""
    return f"{line}; about {left.value:.0f} [{left.lower:.0f}, {left.upper:.0f}] more are estimated to show it{advice}"


def _later_labels(view: DataView, bias: LabelledBias, journal: Journal) -> tuple[np.ndarray, np.ndarray]:
    """Return rows, and whether each is positive, of labels that were not among the first."""
    first = min(label.when for label in journal.labels if label.bias == bias.name)
    row_of = {sample: row for row, sample in enumerate(view.store.ids)}
    later = [
        (row_of[sample], label.label == "positive")
        for (name, sample), label in latest_labels(journal).items()
        if name == bias.name and label.when != first and label.label != "unsure" and sample in row_of
    ]
    rows = np.array([row for row, _ in later], dtype=np.int64)
    return rows, np.array([positive for _, positive in later], dtype=bool)
