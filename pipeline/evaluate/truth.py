"""The earlier stages scored against what the data set knows: planted artifacts, and those that the table lists."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.concepts.cav import Cav
from pipeline.concepts.features import cav_features, layer_features
from pipeline.data.worlds import WorldView
from pipeline.models.build import AuditModel
from pipeline.statistics import Interval, wilson
from pipeline.workspace.features import FEATURES, FeatureStore
from pipeline.workspace.masks import MaskSet
from pipeline.workspace.records import Bias, Findings, Metric
from pipeline.workspace.stage import StageContext

from .detection import PIPELINE, best_finding, score_finding, score_masks, score_pairs, score_ranking
from .performance import Resampling
from .rows import exactly, record
from .worlds import TestWorlds


def detection_metrics(
    context: StageContext, worlds: TestWorlds, original: AuditModel, biases: list[Bias], resampling: Resampling
) -> list[Metric]:
    """Return the scores of findings, concept vectors and masks, under the model name `pipeline`.

    How common a bias is in the training samples of its class needs no truth and is always there.
    """
    dataset = worlds.asis
    metrics = [_prevalence(dataset, bias, resampling.confidence) for bias in biases]
    if context.config.data.attack is not None:
        metrics += _score_planted(context, worlds, original, biases, resampling)
    for artifact in dataset.artifact_names():
        metrics += _score_listed(context, dataset, biases, artifact, resampling)
    return metrics


def _prevalence(dataset: WorldView, bias: Bias, confidence: float) -> Metric:
    """Return the share of the training samples of the bias's class that show it as revealed."""
    training = dataset.table["split"].to_numpy() == "train"
    inside = training & (dataset.table["label"].to_numpy() == bias.class_id)
    members = np.isin(dataset.table["id"].to_numpy()[inside], bias.sample_ids)
    return record(PIPELINE, "asis", bias.id, "prevalence", _share(members, confidence))


def _score_planted(
    context: StageContext, worlds: TestWorlds, original: AuditModel, biases: list[Bias], resampling: Resampling
) -> list[Metric]:
    """Score the top finding and the biases against the planted artifact."""
    dataset, confidence = worlds.asis, resampling.confidence
    findings = context.directory.read_record("reveal/findings.json", Findings).findings
    ids, truth = dataset.table["id"].to_numpy(), dataset.attacked_flags()
    test = dataset.table["split"].to_numpy() == "test"
    metrics = score_finding(findings[0], ids, truth, ~test, findings[0].id, confidence) if findings else []
    store = FeatureStore(context.directory.root / FEATURES)
    rows = np.flatnonzero(test)
    for bias in biases:
        cav = Cav.load(context.directory.root / f"reveal/cavs/{bias.id}.npz")
        scores = cav.scores(cav_features(store, cav.layer, cav.pooling, rows).astype(np.float64))
        metrics += score_ranking(scores, truth[rows], bias.id, **resampling.options)
        if cav.pooling != "full":
            paired = [
                layer_features(original, worlds.views[world], rows, cav.layer, cav.pooling, device=context.device)
                for world in ("clean", "attacked")
            ]
            metrics += score_pairs(cav, *paired, bias.id, confidence, context.config.seed)
        metrics += _score_masks(context, dataset, bias, dataset.truth_mask, bias.id, resampling)
    return metrics


def _score_listed(
    context: StageContext, dataset: WorldView, biases: list[Bias], artifact: str, resampling: Resampling
) -> list[Metric]:
    """Score findings and biases against an artifact that the table lists; not listed is no proof of absence."""
    confidence = resampling.confidence
    findings = context.directory.read_record("reveal/findings.json", Findings).findings
    ids, truth = dataset.table["id"].to_numpy(), dataset.artifact_flags(artifact)
    split = dataset.table["split"].to_numpy()
    test, training = split == "test", split == "train"
    subgroup = f"artifact={artifact}"
    best = best_finding(findings, ids, truth, ~test)
    metrics = [record(PIPELINE, "asis", subgroup, "prevalence", _share(truth[training], confidence))]
    if best is not None:
        metrics += score_finding(best, ids, truth, ~test, subgroup, confidence)
        metrics.append(record(PIPELINE, "asis", subgroup, "finding_rank", exactly(best.rank, len(findings))))
    store = FeatureStore(context.directory.root / FEATURES)
    rows = np.flatnonzero(test)
    for bias in biases:
        cav = Cav.load(context.directory.root / f"reveal/cavs/{bias.id}.npz")
        scores = cav.scores(cav_features(store, cav.layer, cav.pooling, rows).astype(np.float64))
        name = f"{bias.id}, {subgroup}"
        metrics += score_ranking(scores, truth[rows], name, **resampling.options)
        metrics += _score_masks(
            context, dataset, bias, lambda row: dataset.artifact_mask(artifact, row), name, resampling
        )
    return metrics


def _share(flags: np.ndarray, confidence: float) -> Interval:
    return wilson(int(flags.sum()), len(flags), confidence)


def _score_masks(
    context: StageContext,
    dataset: WorldView,
    bias: Bias,
    truth: Callable[[int], np.ndarray | None],
    subgroup: str,
    resampling: Resampling,
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
        **resampling.options,
    )
