"""All models in all worlds, and the earlier stages against the truth, into `evaluate/metrics.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import numpy as np

from pipeline.attribution import make_composite
from pipeline.concepts.cav import Cav, acting_layer
from pipeline.concepts.corrected import differs, load_corrected
from pipeline.concepts.features import cav_features, layer_features
from pipeline.concepts.pasting import pasted_world
from pipeline.concepts.projection import own_layer
from pipeline.data.checks import require_column
from pipeline.data.dataset import AuditDataset
from pipeline.data.memory import split_indices
from pipeline.data.open import open_world
from pipeline.data.worlds import WorldView
from pipeline.errors import PipelineError
from pipeline.models.build import AuditModel
from pipeline.models.open import open_original
from pipeline.models.predict import predict_logits
from pipeline.statistics import Interval, macro_f1, over_seeds, wilson
from pipeline.workspace.atomic import write_text
from pipeline.workspace.features import FEATURES, FeatureStore
from pipeline.workspace.masks import MaskSet
from pipeline.workspace.records import Bias, Biases, Contest, Contestant, Findings, MethodRecord, Metric
from pipeline.workspace.stage import StageContext

from .detection import PIPELINE, best_finding, exactly, score_finding, score_masks, score_pairs, score_ranking
from .performance import flip_rate, performance, record, subgroup_accuracy
from .reliance import concept_sensitivity, mean_share, relevance_shares

METRICS = "evaluate/metrics.csv"
Worlds = dict[str, AuditDataset]
PlantedMask = Callable[[int], np.ndarray]
Region = Callable[[int], np.ndarray | None]


def run(context: StageContext) -> None:
    """Measure everything."""
    dataset = open_world(context)
    for column in context.config.evaluate.subgroups:
        require_column(column, dataset.table.columns, "evaluate.subgroups", "the data set (data.group_columns)")
    original = open_original(context, dataset)
    biases = context.directory.read_record("reveal/biases.json", Biases).biases
    worlds, planted = _worlds(context, dataset, biases)
    rows = split_indices(dataset, "test")
    metrics: list[Metric] = []
    corrected = _corrected(context, original)
    models = [("original", original)] + [(contestant.id, model) for contestant, model in corrected]
    for name, model in context.reporter.track(models, "models in all worlds"):
        metrics += _model_metrics(context, name, model, dataset, worlds, planted, biases, rows)
    metrics = by_method([contestant for contestant, _ in corrected], metrics, context.config.evaluate.confidence)
    metrics += _detection_metrics(context, dataset, original, biases)
    _write(context, metrics)
    context.notes["worlds"] = list(worlds)
    context.notes["attacked_by"] = "planting" if context.config.data.attack else "pasting" if planted else "nothing"
    _say(context, metrics, [name for name, _ in models])


def _worlds(context: StageContext, dataset: WorldView, biases: list[Bias]) -> tuple[Worlds, PlantedMask | None]:
    """Return the test worlds, and row -> artifact mask in the attacked one.

    With a controlled artifact: as it is, clean, attacked. Without: as it is, and attacked by pasting what was
    localized.
    """
    if context.config.data.attack is not None:
        attacked = open_world(context, "attacked")
        return {"asis": dataset, "clean": open_world(context, "clean"), "attacked": attacked}, attacked.truth_mask
    grow = context.config.localize.dilate
    pasted = pasted_world(context.directory.root, dataset, biases, grow, context.config.seed)
    if pasted is None:
        context.reporter.say("    no artifact was localized, so there is no attacked world")
        return {"asis": dataset}, None
    return {"asis": dataset, "attacked": pasted}, pasted.planted_mask


def _corrected(context: StageContext, original: AuditModel) -> list[tuple[Contestant, AuditModel]]:
    """Return the corrected models that the contest chose for the evaluation."""
    contest = context.directory.read_record("mitigate/contest.json", Contest)
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


def by_method(contestants: list[Contestant], metrics: list[Metric], confidence: float) -> list[Metric]:
    """Return metrics under the names of methods: of several trainings their mean, with an interval over seeds as well.

    Each single training then follows as `<method id>_seed-<number>`, the first one as number 0.

    Args:
        contestants: those that were measured; of every family first the method itself.
        metrics: rows of all models, each training under its own id.
        confidence: of the intervals.
    """
    families: dict[str, list[str]] = {}
    for contestant in contestants:
        families.setdefault(contestant.family, []).append(contestant.id)
    repeated = {ids[0]: ids for ids in families.values() if len(ids) > 1}
    rows = {(each.model, each.world, each.subgroup, each.metric): each for each in metrics}
    arranged, single = [], []
    for row in metrics:
        ids = repeated.get(row.model)
        if ids is None:
            further = any(row.model in others[1:] for others in repeated.values())
            (single if further else arranged).append(row)
            continue
        found = [rows[key] for name in ids if (key := (name, row.world, row.subgroup, row.metric)) in rows]
        mean = over_seeds([Interval(each.value, each.lower, each.upper, each.n) for each in found], confidence)
        arranged.append(record(row.model, row.world, row.subgroup, row.metric, mean))
        single.append(row.model_copy(update={"model": f"{row.model}_seed-0"}))
    return arranged + single


def _model_metrics(
    context: StageContext,
    name: str,
    model: AuditModel,
    dataset: WorldView,
    worlds: Worlds,
    planted: PlantedMask | None,
    biases: list[Bias],
    rows: np.ndarray,
) -> list[Metric]:
    config, options = context.config.evaluate, _options(context)
    labels = dataset.table["label"].to_numpy()[rows]
    metrics: list[Metric] = []
    logits = {
        world: predict_logits(model, view, rows, batch_size=config.batch_size, device=context.device)
        for world, view in worlds.items()
    }
    for world, values in logits.items():
        groups = _groups(dataset, world, rows)
        metrics += performance(name, world, values, labels, dataset.classes, groups, **options)
        metrics.append(record(name, world, "all", "macro_f1", macro_f1(labels, values.argmax(1), **options)))
        for column in config.subgroups:
            entries = dataset.table[column].astype(str).to_numpy()[rows]
            metrics += subgroup_accuracy(name, world, values.argmax(1), labels, column, entries, config.confidence)
    some = rows[np.linspace(0, len(rows) - 1, min(config.relevance_samples, len(rows))).astype(int)]
    known = np.array([row for row in some if dataset.roi_mask(int(row)) is not None], dtype=int)
    if len(known):
        metrics += _relevance(context, name, model, dataset, "asis", known, None, dataset.roi_mask)
    if planted is not None:
        without = logits["clean"] if "clean" in logits else logits["asis"]
        metrics.append(flip_rate(name, without, logits["attacked"], config.confidence))
        metrics += _relevance(context, name, model, worlds["attacked"], "attacked", some, planted, dataset.roi_mask)
        for bias in biases:
            metrics += _tcav(context, name, model, dataset, worlds["attacked"], bias, some)
    return metrics


def _relevance(
    context: StageContext,
    name: str,
    model: AuditModel,
    view: AuditDataset,
    world: str,
    rows: np.ndarray,
    artifact: PlantedMask | None,
    region: Region,
) -> list[Metric]:
    """Explain the rows once; measure the relevance on the artifact and in the background, as far as they are known."""
    composite = make_composite(context.config.precompute.composite, context.config.precompute.rules)
    shares = relevance_shares(model, view, rows, artifact, region, composite, context.device)
    measured = {} if artifact is None else {"artifact_relevance": shares.artifact}
    if not np.isnan(shares.background.area).all():
        measured |= {"background_relevance": shares.background.relevance, "background_area": shares.background.area}
    return [
        record(name, world, "all", metric, mean_share(values, **_options(context)))
        for metric, values in measured.items()
    ]


def _tcav(
    context: StageContext,
    name: str,
    model: AuditModel,
    dataset: WorldView,
    attacked: AuditDataset,
    bias: Bias,
    rows: np.ndarray,
) -> list[Metric]:
    config = context.config.evaluate
    layer = own_layer(model, acting_layer(bias.candidates)[0])
    if layer is None:
        return []  # this correction has another architecture
    usable = dataset.table["split"].to_numpy() != "test"
    fitting = np.flatnonzero(usable & (dataset.table["label"].to_numpy() == bias.class_id))
    members = np.isin(dataset.table["id"].to_numpy()[fitting], bias.sample_ids)
    quotient, control = concept_sensitivity(
        model,
        dataset,
        fitting,
        members,
        attacked,
        rows,
        layer,
        bias.class_id,
        random_count=config.random_directions,
        confidence=config.confidence,
        resamples=config.resamples,
        seed=context.config.seed,
        device=context.device,
    )
    return [
        record(name, "attacked", bias.id, "tcav_quotient", quotient),
        record(name, "attacked", bias.id, "tcav_random", control),
    ]


def _groups(dataset: WorldView, world: str, rows: np.ndarray) -> list[str]:
    """Return class x artifact for each row: planted, or listed in the table."""
    labels = dataset.table["label"].to_numpy()[rows]
    if world == "asis":
        carrying = dataset.attacked_flags()[rows]
        for artifact in dataset.artifact_names():
            carrying = carrying | dataset.artifact_flags(artifact)[rows]
    else:
        carrying = np.full(len(rows), world == "attacked")
    return [
        f"{dataset.classes[label]}, {'with' if flag else 'without'}"
        for label, flag in zip(labels, carrying, strict=True)
    ]


def _detection_metrics(
    context: StageContext, dataset: WorldView, original: AuditModel, biases: list[Bias]
) -> list[Metric]:
    metrics: list[Metric] = []
    if context.config.data.attack is not None:
        metrics += _score_planted(context, dataset, original, biases)
    for artifact in dataset.artifact_names():
        metrics += _score_listed(context, dataset, biases, artifact)
    return metrics


def _score_planted(context: StageContext, dataset: WorldView, original: AuditModel, biases: list[Bias]) -> list[Metric]:
    """Score the top finding and the biases against the planted artifact."""
    confidence = context.config.evaluate.confidence
    findings = context.directory.read_record("reveal/findings.json", Findings).findings
    ids, truth = dataset.table["id"].to_numpy(), dataset.attacked_flags()
    test = dataset.table["split"].to_numpy() == "test"
    metrics = score_finding(findings[0], ids, truth, ~test, findings[0].id, confidence) if findings else []
    store = FeatureStore(context.directory.root / FEATURES)
    rows = np.flatnonzero(test)
    for bias in biases:
        cav = Cav.load(context.directory.root / f"reveal/cavs/{bias.id}.npz")
        scores = cav.scores(cav_features(store, cav.layer, cav.pooling, rows).astype(np.float64))
        metrics += score_ranking(scores, truth[rows], bias.id, **_options(context))
        if cav.pooling != "full":
            paired = [
                layer_features(
                    original, open_world(context, world), rows, cav.layer, cav.pooling, device=context.device
                )
                for world in ("clean", "attacked")
            ]
            metrics += score_pairs(cav, *paired, bias.id, confidence, context.config.seed)
        metrics += _score_masks(context, dataset, bias, dataset.truth_mask, bias.id)
    return metrics


def _score_listed(context: StageContext, dataset: WorldView, biases: list[Bias], artifact: str) -> list[Metric]:
    """Score findings and biases against an artifact that the table lists; not listed is no proof of absence."""
    confidence = context.config.evaluate.confidence
    findings = context.directory.read_record("reveal/findings.json", Findings).findings
    ids, truth = dataset.table["id"].to_numpy(), dataset.artifact_flags(artifact)
    test = dataset.table["split"].to_numpy() == "test"
    subgroup = f"artifact={artifact}"
    best = best_finding(findings, ids, truth, ~test)
    metrics = [record(PIPELINE, "asis", subgroup, "prevalence", _share(truth[~test], confidence))]
    if best is not None:
        metrics += score_finding(best, ids, truth, ~test, subgroup, confidence)
        metrics.append(record(PIPELINE, "asis", subgroup, "finding_rank", exactly(best.rank, len(findings))))
    store = FeatureStore(context.directory.root / FEATURES)
    rows = np.flatnonzero(test)
    for bias in biases:
        cav = Cav.load(context.directory.root / f"reveal/cavs/{bias.id}.npz")
        scores = cav.scores(cav_features(store, cav.layer, cav.pooling, rows).astype(np.float64))
        name = f"{bias.id}, {subgroup}"
        metrics += score_ranking(scores, truth[rows], name, **_options(context))
        metrics += _score_masks(context, dataset, bias, lambda row: dataset.artifact_mask(artifact, row), name)
    return metrics


def _share(flags: np.ndarray, confidence: float) -> Interval:
    return wilson(int(flags.sum()), len(flags), confidence)


def _score_masks(
    context: StageContext,
    dataset: WorldView,
    bias: Bias,
    truth: Callable[[int], np.ndarray | None],
    subgroup: str,
) -> list[Metric]:
    masks = MaskSet(context.directory.root / f"localize/{bias.id}")
    row_of = {sample_id: row for row, sample_id in enumerate(dataset.table["id"].astype(str))}
    ids = [entry.id for entry in masks.index() if entry.shows_artifact]
    return score_masks(
        ids,
        masks.read,
        lambda sample_id: masks.read(sample_id, "soft"),
        lambda sample_id: truth(row_of[sample_id]),
        subgroup,
        **_options(context),
    )


def _options(context: StageContext) -> dict[str, float]:
    """Return what the intervals need."""
    config = context.config.evaluate
    return {"confidence": config.confidence, "resamples": config.resamples, "seed": context.config.seed}


def _write(context: StageContext, metrics: list[Metric]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Metric.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(metric.model_dump() for metric in metrics)
    write_text(context.directory.root / METRICS, text.getvalue())


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
