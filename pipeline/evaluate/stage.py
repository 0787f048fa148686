"""All models in all worlds, and the earlier stages against the truth, into `evaluate/metrics.csv`."""

from __future__ import annotations

import numpy as np

from pipeline.concepts.corrected import differs, load_corrected
from pipeline.data.checks import require_column
from pipeline.data.dataset import AuditDataset
from pipeline.data.memory import split_indices
from pipeline.data.open import open_world
from pipeline.errors import PipelineError
from pipeline.models.build import AuditModel
from pipeline.models.open import open_original
from pipeline.workspace.records import Biases, Contest, Contestant, EvaluationPictures, MethodRecord, Metric
from pipeline.workspace.stage import StageContext
from pipeline.workspace.tables import METRICS_CSV, write_metrics

from .causal import changed_predictions
from .data_summary import summarize_data
from .detection import PIPELINE
from .explanations import Explaining, explain_models
from .heatmap_pictures import picture_heatmaps
from .interventions import Intervening, intervene
from .operating_points import operating_point, positive_class
from .paired import adjusted, paired_metrics
from .performance import Resampling, performance
from .predictions import Predictions, predict_all
from .rows import AS_IT_IS, ORIGINAL, by_method, held_back, record
from .truth import detection_metrics
from .worlds import TestWorlds, open_worlds


def run(context: StageContext) -> None:
    """Measure everything."""
    config, reporter = context.config.evaluate, context.reporter
    dataset = open_world(context)
    for column in config.subgroups:
        require_column(column, dataset.table.columns, "evaluate.subgroups", "the data set (data.group_columns)")
    positive = positive_class(config.operating_point, dataset.classes)
    resampling = Resampling(config.confidence, config.resamples, context.config.seed)
    original = open_original(context, dataset)
    biases = context.directory.read_record("reveal/biases.json", Biases).biases
    contest = context.directory.read_record("mitigate/contest.json", Contest)
    corrected = _corrected(context, contest, original)
    models = {ORIGINAL: original} | {contestant.id: model for contestant, model in corrected}
    worlds = open_worlds(context, dataset, biases)
    rows = split_indices(worlds.asis, "test")
    context.directory.write_record(
        "evaluate/data.json",
        summarize_data(dataset, config.subgroups, context.config.data.split.group_column, reporter.say),
    )
    predicted = _predict(context, models, worlds.views, rows, "models in all worlds")
    metrics = _performance(context, worlds, predicted, rows, positive, models, resampling)
    explaining = Explaining(context, worlds, rows, biases, resampling)
    metrics += explain_models(explaining, models, contest.recommended)
    pictures = picture_heatmaps(explaining, models, contest.recommended)
    for bias in biases:
        found, drawn = intervene(Intervening(context, worlds, bias, resampling), models, contest.recommended)
        metrics += found
        pictures += drawn
    metrics = by_method([contestant for contestant, _ in corrected], metrics, config.confidence)
    metrics += adjusted(metrics, _methods(contest))
    metrics += detection_metrics(context, worlds, original, biases, resampling)
    write_metrics(context.directory.root / METRICS_CSV, held_back(metrics, config.min_n))
    context.directory.write_record("evaluate/pictures.json", EvaluationPictures(pictures=pictures))
    context.notes["worlds"] = list(worlds.views)
    context.notes["attacked_by"] = worlds.attacked_by
    _say(context, metrics, list(models))


def _corrected(context: StageContext, contest: Contest, original: AuditModel) -> list[tuple[Contestant, AuditModel]]:
    """Return the corrected models that the contest chose for the evaluation."""
    models = []
    for contestant in contest.chosen():
        entry = context.directory.read_record(f"mitigate/{contestant.id}/method.json", MethodRecord)
        model = load_corrected(context.directory.root, entry, original)
        if not differs(model, original):
            raise PipelineError(
                f"the corrected model '{entry.id}' is the same as the original: comparing them would say nothing. "
                "Start mitigate again with --force, with more epochs or a larger weight."
            )
        models.append((contestant, model))
    return models


def _methods(contest: Contest) -> list[str]:
    """Return the names under which methods are compared: of every family the first that was chosen."""
    return list({each.family: each.id for each in reversed(contest.chosen())}.values())


def _predict(
    context: StageContext,
    models: dict[str, AuditModel],
    views: dict[str, AuditDataset],
    rows: np.ndarray,
    label: str,
) -> Predictions:
    return predict_all(
        models,
        views,
        rows,
        batch_size=context.config.evaluate.batch_size,
        device=context.device,
        reporter=context.reporter,
        label=label,
    )


def _performance(
    context: StageContext,
    worlds: TestWorlds,
    predicted: Predictions,
    rows: np.ndarray,
    positive: int | None,
    models: dict[str, AuditModel],
    resampling: Resampling,
) -> list[Metric]:
    config, dataset = context.config.evaluate, worlds.asis
    labels = dataset.table["label"].to_numpy()
    columns = {name: dataset.table[name].fillna("").astype(str).to_numpy()[rows] for name in config.subgroups}
    points = dict.fromkeys(models)
    if positive is not None:
        validation = split_indices(dataset, "val")
        scored = _predict(context, models, {AS_IT_IS: dataset}, validation, "models on validation")
        for name in models:
            logits = scored[name][AS_IT_IS]
            points[name] = operating_point(config.operating_point, positive, logits, labels[validation])
    metrics: list[Metric] = []
    for name in context.reporter.track(models, "intervals"):
        for world, logits in predicted[name].items():
            groups = worlds.groups(world, rows)
            metrics += performance(
                name, world, logits, labels[rows], dataset.classes, groups, columns, points[name], resampling
            )
            if world == "attacked":
                untouched = predicted[name][worlds.untouched]
                changed = changed_predictions(untouched, logits[None], labels[rows], **resampling.options)
                metrics += [record(name, world, "all", metric, interval) for metric, interval in changed.items()]
            if name != ORIGINAL:
                before = predicted[ORIGINAL][world]
                metrics += paired_metrics(name, world, before, logits, labels[rows], config.confidence)
    return metrics


def _say(context: StageContext, metrics: list[Metric], models: list[str]) -> None:
    wanted = [("asis", "accuracy"), ("clean", "accuracy"), ("attacked", "accuracy"), ("attacked", "artifact_relevance")]
    found = {(m.model, m.world, m.metric): m.value for m in metrics if m.subgroup == "all"}
    for name in models:
        shown = [
            f"{world} {metric} {found[name, world, metric]:.3f}"
            for world, metric in wanted
            if (name, world, metric) in found
        ]
        context.reporter.say(f"    {name}: {', '.join(shown)}")
    for metric in metrics:
        if metric.model == PIPELINE:
            context.reporter.say(
                f"    {metric.metric} ({metric.subgroup}): {metric.value:.3f} [{metric.lower:.3f}, {metric.upper:.3f}]"
            )
