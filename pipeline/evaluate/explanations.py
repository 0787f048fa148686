"""What the heatmaps of every model say, and whether they can be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from pipeline.attribution import Composite, Explainer, make_composite
from pipeline.concepts.cav import NoDirection, acting_layer
from pipeline.concepts.projection import own_layer
from pipeline.data.batches import split_rows
from pipeline.data.dataset import AuditDataset
from pipeline.models.build import AuditModel
from pipeline.models.modes import evaluation_mode
from pipeline.statistics import bootstrap
from pipeline.workspace.records import Bias, Metric
from pipeline.workspace.stage import StageContext

from .performance import Resampling
from .perturbation import aopc_per_sample, artifact_aopc
from .reliance import concept_sensitivity, explained_shares, mean_share
from .rows import record, shown_models
from .sanity import conservation, randomised_similarity
from .worlds import TestWorlds

BATCH = 64


@dataclass(frozen=True)
class Held:
    """Test samples that are kept in memory, so that all models explain the same ones, decoded once.

    Attributes:
        rows: in the data set.
        ids: of the samples.
        x: `[N, C, H, W]`.
        y: class ids `[N]`.
        artifact: where the artifact is `[H, W]`, or None.
        region: the region of interest `[H, W]`, or None.
    """

    rows: np.ndarray
    ids: list[str]
    x: torch.Tensor
    y: torch.Tensor
    artifact: list[np.ndarray | None]
    region: list[np.ndarray | None]

    @property
    def has_masks(self) -> bool:
        """Whether an artifact or a region of interest is known in any of them."""
        return any(mask is not None for mask in (*self.artifact, *self.region))

    def first(self, count: int) -> Held:
        """Return at most so many of them, evenly spread."""
        places = evenly(len(self.rows), count)
        return Held(
            self.rows[places],
            [self.ids[place] for place in places],
            self.x[places],
            self.y[places],
            [self.artifact[place] for place in places],
            [self.region[place] for place in places],
        )


def evenly(count: int, wanted: int) -> np.ndarray:
    """Return at most `wanted` of the places 0..count - 1, evenly spread over all of them."""
    return np.arange(count) if count <= wanted else np.linspace(0, count - 1, wanted).round().astype(int)


def hold(
    view: AuditDataset, rows: np.ndarray, artifact: Callable[[int], np.ndarray | None], region: AuditDataset
) -> Held:
    """Read samples of a world into memory.

    Args:
        view: the world.
        rows: at least one.
        artifact: row -> mask `[H, W]` or None.
        region: the data set that knows regions of interest.
    """
    samples = [view[int(row)] for row in rows]
    return Held(
        rows,
        [sample.id for sample in samples],
        torch.stack([sample.x for sample in samples]),
        torch.tensor([sample.y for sample in samples]),
        [artifact(int(row)) for row in rows],
        [region.roi_mask(int(row)) for row in rows],
    )


@dataclass(frozen=True)
class Explaining:
    """What explaining the models needs.

    Attributes:
        context: configuration, device, reporter, run directory.
        worlds: test worlds.
        rows: the test split.
        biases: accepted ones.
        resampling: how intervals are made.
    """

    context: StageContext
    worlds: TestWorlds
    rows: np.ndarray
    biases: list[Bias]
    resampling: Resampling

    @property
    def device(self) -> str:
        """Where the models are."""
        return self.context.device

    @cached_property
    def composite(self) -> Composite:
        """The composite of precompute."""
        config = self.context.config.precompute
        return make_composite(config.composite, config.rules)

    @cached_property
    def held(self) -> dict[str, Held]:
        """World -> samples: with the artifact where there is one, and as they are where a region of interest is known.

        As they are, all are held where nothing else is, since whether heatmaps can be believed is tested on them.
        """
        wanted = self.rows[evenly(len(self.rows), self.context.config.evaluate.relevance_samples)]
        asis, planted = self.worlds.asis, self.worlds.planted
        known = np.array([row for row in wanted if asis.roi_mask(int(row)) is not None], dtype=int)
        found = {"asis": hold(asis, known if len(known) else wanted, lambda row: None, asis)}
        if planted is not None:
            found["attacked"] = hold(self.worlds.views["attacked"], wanted, planted, asis)
        return found


def explain_models(explaining: Explaining, models: Mapping[str, AuditModel], preferred: str | None) -> list[Metric]:
    """Return where the relevance of every model lies, how it reacts to concepts, and how far heatmaps can be believed.

    The latter, which takes many passes, for the original and the preferred correction alone.

    Args:
        explaining: what it needs.
        models: name -> model.
        preferred: the correction that the contest prefers.
    """
    metrics: list[Metric] = []
    for name, model in explaining.context.reporter.track(models.items(), "explanations", total=len(models)):
        for world, held in explaining.held.items():
            if held.has_masks:
                metrics += _shares(explaining, name, model, world, held)
            if world == "attacked":
                metrics += _blanked_artifact(explaining, name, model, held)
            if world == "asis" and name in shown_models(models, preferred):
                metrics += _faithfulness(explaining, name, model, held)
                metrics += _sanity(explaining, name, model, held)
        if explaining.worlds.planted is not None:
            for bias in explaining.biases:
                metrics += _sensitivity(explaining, name, model, bias)
    return metrics


def relevance_of(
    model: AuditModel, x: torch.Tensor, targets: torch.Tensor, composite: Composite, device: str
) -> np.ndarray:
    """Return the relevance of the input for the target classes, `[N, C, H, W]`."""
    explainer = Explainer(model, x[:1].to(device), composite)
    parts = [
        explainer.attribute(x[rows].to(device), targets[rows].to(device)).relevance.cpu().numpy()
        for rows in split_rows(np.arange(len(x)), BATCH)
    ]
    return np.concatenate(parts)


def logits_of(model: AuditModel, x: torch.Tensor, device: str) -> np.ndarray:
    """Return the logits `[N, K]`."""
    with evaluation_mode(model), torch.no_grad():
        parts = [model(x[rows].to(device)).float().cpu().numpy() for rows in split_rows(np.arange(len(x)), BATCH)]
    return np.concatenate(parts)


def _shares(explaining: Explaining, name: str, model: AuditModel, world: str, held: Held) -> list[Metric]:
    relevance = relevance_of(model, held.x, held.y, explaining.composite, explaining.device)
    shares = explained_shares(relevance, held.artifact, held.region)
    return [
        record(name, world, "all", metric, mean_share(values, **explaining.resampling.options))
        for metric, values in shares._asdict().items()
        if not np.isnan(values).all()
    ]


def _blanked_artifact(explaining: Explaining, name: str, model: AuditModel, held: Held) -> list[Metric]:
    config, seed = explaining.context.config.evaluate.perturbation, explaining.context.config.seed
    some = held.first(config.samples)
    if not len(some.rows) or any(mask is None for mask in some.artifact):
        return []
    predicted = torch.from_numpy(logits_of(model, some.x, explaining.device).argmax(1))
    rows = []
    for fill in config.fills:
        falls = artifact_aopc(
            model,
            some.x,
            predicted,
            np.stack(some.artifact),
            fill=fill,
            output=config.output,
            ids=some.ids,
            seed=seed,
            device=explaining.device,
        )
        mean = mean_share(falls, **explaining.resampling.options)
        rows.append(record(name, "attacked", f"fill={fill}", "artifact_aopc", mean))
    return rows


def _faithfulness(explaining: Explaining, name: str, model: AuditModel, held: Held) -> list[Metric]:
    """Return whether blanking what heatmaps call relevant lowers the output (AOPC), for every fill."""
    config = explaining.context.config.evaluate.perturbation
    some, rows = held.first(config.samples), []
    if not len(some.rows):
        return []
    heatmaps = relevance_of(model, some.x, some.y, explaining.composite, explaining.device).sum(1)
    for fill in config.fills:
        found = aopc_per_sample(
            model,
            some.x,
            some.y,
            heatmaps,
            grid=config.grid,
            steps=config.steps,
            fill=fill,
            output=config.output,
            ids=some.ids,
            seed=explaining.context.config.seed,
            device=explaining.device,
        )
        named = {"aopc_morf": found.morf, "aopc_lerf": found.lerf, "aopc_random": found.random, "aopc_gap": found.gap}
        rows += [
            record(name, "asis", f"fill={fill}", metric, mean_share(values, **explaining.resampling.options))
            for metric, values in named.items()
        ]
    return rows


def _sanity(explaining: Explaining, name: str, model: AuditModel, held: Held) -> list[Metric]:
    """Return whether heatmaps add up to the logit, and how alike they are to those of random weights."""
    some, options = held.first(explaining.context.config.evaluate.sanity_samples), explaining.resampling.options
    if not len(some.rows):
        return []
    given = (model, some.x, some.y, explaining.composite)
    ratios = conservation(*given, explaining.device, without_biases=False)
    alike = randomised_similarity(*given, seed=explaining.context.config.seed, device=explaining.device)
    return [
        record(name, "asis", "all", "heatmap_conservation", bootstrap(ratios[~np.isnan(ratios)], np.median, **options)),
        record(name, "asis", "all", "heatmap_randomisation", mean_share(alike, **options)),
    ]


def _sensitivity(explaining: Explaining, name: str, model: AuditModel, bias: Bias) -> list[Metric]:
    layer = own_layer(model, acting_layer(bias.candidates)[0])
    if layer is None:
        return []  # this correction has another architecture
    dataset, config = explaining.worlds.asis, explaining.context.config
    usable = dataset.table["split"].to_numpy() != "test"
    fitting = np.flatnonzero(usable & (dataset.table["label"].to_numpy() == bias.class_id))
    members = np.isin(dataset.table["id"].to_numpy()[fitting], bias.sample_ids)
    if members.all() or not members.any():
        return []  # nothing to tell the concept from
    try:
        found = concept_sensitivity(
            model,
            dataset,
            fitting,
            members,
            explaining.worlds.views["attacked"],
            explaining.held["attacked"].rows,
            layer,
            bias.class_id,
            random_count=config.evaluate.random_directions,
            confidence=config.evaluate.confidence,
            resamples=config.evaluate.resamples,
            seed=config.seed,
            device=explaining.device,
        )
    except NoDirection:
        explaining.context.reporter.say(f"    {name}: {layer} does not respond to {bias.id}, so TCAV is not measured")
        return []
    named = {
        "tcav_quotient": found.quotient,
        "tcav_random": found.random,
        "tcav_p": found.p,
        "tcav_sensitivity": found.sensitivity,
        "tcav_sensitivity_random": found.random_sensitivity,
    }
    return [record(name, "attacked", bias.id, metric, interval) for metric, interval in named.items()]
