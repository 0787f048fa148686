"""The causal test of a bias: what was localized is pasted into samples without it, and filled in on those with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.concepts.pasting import (
    insertion_control_views,
    insertion_views,
    removal_control_view,
    removal_view,
    without_bias_rows,
)
from pipeline.data.cleaned import CleanedView
from pipeline.data.dataset import AuditDataset
from pipeline.data.pasted import PastedView
from pipeline.models.build import AuditModel
from pipeline.statistics import Interval
from pipeline.workspace import pictures
from pipeline.workspace.records import Bias, EvaluationPicture, Metric
from pipeline.workspace.stage import StageContext

from .causal import Direction, intervention, paste_seam
from .detection import PIPELINE
from .explanations import evenly
from .performance import Resampling
from .pictures import Changes, intervention_sheet, predictions
from .predictions import Predictions, predict_all
from .rows import AS_IT_IS, record, shown_models
from .worlds import TestWorlds

CAPTIONS: dict[Direction, str] = {
    "inserted": "Test samples without {bias}, and the same with its localized region pasted in",
    "removed": "Test samples that show {bias}, and the same with the localized region filled in",
}


@dataclass(frozen=True)
class Intervening:
    """What the causal test of one bias needs.

    Attributes:
        context: configuration, device, reporter, run directory.
        worlds: test worlds.
        bias: whose localized regions are pasted and filled in.
        resampling: how intervals are made.
    """

    context: StageContext
    worlds: TestWorlds
    bias: Bias
    resampling: Resampling

    def limited(self, rows: np.ndarray) -> np.ndarray:
        """Return at most `evaluate.relevance_samples` of the rows, evenly spread."""
        return rows[evenly(len(rows), self.context.config.evaluate.relevance_samples)]


def intervene(
    test: Intervening, models: Mapping[str, AuditModel], preferred: str | None
) -> tuple[list[Metric], list[EvaluationPicture]]:
    """Return the effects of inserting and removing a bias on every model, and pictures of both.

    Args:
        test: what it needs.
        models: name -> model; the one under audit is "original".
        preferred: the correction whose predictions the pictures show beside those of the original.
    """
    config, root, bias = test.context.config, test.context.directory.root, test.bias
    asis, grow, seed = test.worlds.asis, config.localize.dilate, config.seed
    placements = config.evaluate.placements
    metrics: list[Metric] = []
    drawn: list[EvaluationPicture] = []
    pasted = insertion_views(root, asis, bias, grow, seed, placements)
    rows = test.limited(without_bias_rows(root, asis, bias))
    if pasted and len(rows):
        elsewhere = insertion_control_views(root, asis, bias, grow, seed, placements)
        metrics += _effects(test, models, "inserted", pasted, elsewhere, rows, rows)
        seam = paste_seam(pasted, rows, **test.resampling.options)
        metrics += [record(PIPELINE, "inserted", bias.id, "paste_seam", seam)]
        drawn += _picture(test, models, preferred, "inserted", pasted[0], rows)
    filled, rows = removal_view(root, asis, bias, grow)
    rows = test.limited(rows)
    if len(rows):
        elsewhere, movable = removal_control_view(root, asis, bias, grow, seed)
        metrics += _effects(test, models, "removed", [filled], [elsewhere], rows, np.intersect1d(rows, movable))
        drawn += _picture(test, models, preferred, "removed", filled, rows)
    return metrics, drawn


def _effects(
    test: Intervening,
    models: Mapping[str, AuditModel],
    direction: Direction,
    changed: Sequence[AuditDataset],
    elsewhere: Sequence[AuditDataset],
    rows: np.ndarray,
    control_rows: np.ndarray,
) -> list[Metric]:
    """Return the effects on all models, and those of the control where there is one."""
    bias, options = test.bias, test.resampling.options
    labels = test.worlds.asis.table["label"].to_numpy()
    before, after = _logits(test, models, changed, rows, direction)
    controlled = len(elsewhere) > 0 and len(control_rows) > 0
    if controlled:
        untouched, control = _logits(test, models, elsewhere, control_rows, f"{direction} elsewhere")

    def effect_of(before: np.ndarray, after: np.ndarray, rows: np.ndarray) -> dict[str, Interval]:
        return intervention(before, after, labels[rows], bias.class_id, direction=direction, **options)

    metrics = []
    for name in models:
        effect = effect_of(before[name], after[name], rows)
        if controlled:
            # what exceeds these is the artifact's doing, the rest that of pasting or filling
            elsewhere_effect = effect_of(untouched[name], control[name], control_rows)
            effect["flip_rate_elsewhere"] = elsewhere_effect["flip_rate"]
            effect["flip_to_class_rate_elsewhere"] = elsewhere_effect["flip_to_class_rate"]
            effect["relative_logit_shift_elsewhere"] = elsewhere_effect["relative_logit_shift"]
        metrics += [record(name, direction, bias.id, metric, interval) for metric, interval in effect.items()]
    return metrics


def _logits(
    test: Intervening,
    models: Mapping[str, AuditModel],
    changed: Sequence[AuditDataset],
    rows: np.ndarray,
    label: str,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return of every model the logits of the samples as they are `[N, K]`, and changed `[P, N, K]`."""
    views = {AS_IT_IS: test.worlds.asis} | {f"{label} {number}": view for number, view in enumerate(changed)}
    found: Predictions = predict_all(
        models,
        views,
        rows,
        batch_size=test.context.config.evaluate.batch_size,
        device=test.context.device,
        reporter=test.context.reporter,
        label=f"{test.bias.id} {label}",
    )
    before = {name: worlds[AS_IT_IS] for name, worlds in found.items()}
    after = {
        name: np.stack([logits for world, logits in worlds.items() if world != AS_IT_IS])
        for name, worlds in found.items()
    }
    return before, after


def _picture(
    test: Intervening,
    models: Mapping[str, AuditModel],
    preferred: str | None,
    direction: Direction,
    view: PastedView | CleanedView,
    rows: np.ndarray,
) -> list[EvaluationPicture]:
    """Draw some samples before and after; none for signals, which have no pictures."""
    count, bias, dataset = test.context.config.evaluate.pictured_samples, test.bias, test.worlds.asis
    if not count or len(dataset.shape) != 3:
        return []
    rows = rows[evenly(len(rows), count)]
    shown = shown_models(models, preferred)
    before, after = _logits(test, shown, [view], rows, f"{direction}, pictured")
    classes = dataset.classes
    labels = dataset.table["label"].to_numpy()[rows]
    samples = [dataset[int(row)] for row in rows]
    image = intervention_sheet(
        np.stack([sample.x.numpy() for sample in samples]),
        np.stack([view[int(row)].x.numpy() for row in rows]),
        np.stack([_region(view, int(row)) for row in rows]),
        [f"class {classes[label]}" for label in labels],
        [Changes(name, predictions(before[name], classes), predictions(after[name][0], classes)) for name in shown],
        direction,
    )
    path = f"evaluate/{bias.id}-{direction}.png"
    pictures.save(image, test.context.directory.root / path)
    caption = CAPTIONS[direction].format(bias=bias.id)
    ids = [sample.id for sample in samples]
    return [EvaluationPicture(kind=direction, bias=bias.id, path=path, caption=caption, samples=ids)]


def _region(view: PastedView | CleanedView, row: int) -> np.ndarray:
    """Return where a sample was changed `[H, W]`."""
    if isinstance(view, PastedView):
        return view.planted_mask(row)
    return view.mask(str(view.table["id"].iloc[row]))
