"""Masks of every bias, for the samples of the finding and for test samples that its CAV recognises."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.attribution import Explainer, make_composite
from pipeline.concepts.cav import Cav
from pipeline.concepts.localization import binarize, blur, concept_heatmaps, dilate
from pipeline.data.open import open_world
from pipeline.data.worlds import WorldView
from pipeline.models.open import open_original
from pipeline.workspace import pictures
from pipeline.workspace.atomic import write_json
from pipeline.workspace.features import FEATURES, FeatureStore
from pipeline.workspace.masks import MaskEntry, MaskSet
from pipeline.workspace.records import Bias, Biases
from pipeline.workspace.stage import StageContext

OVERVIEW = 12


def run(context: StageContext) -> None:
    """Localize every bias."""
    biases = context.directory.read_record("reveal/biases.json", Biases).biases
    if not biases:
        context.reporter.say("    no bias to localize")
        return
    dataset = open_world(context)
    store = FeatureStore(context.directory.root / FEATURES)
    model = open_original(context, dataset)
    composite = make_composite(context.config.precompute.composite, context.config.precompute.rules)
    explainer = Explainer(model, dataset[0].x[None].to(context.device), composite)
    for bias in biases:
        cav = Cav.load(context.directory.root / f"reveal/cavs/{bias.id}.npz")
        _localize(context, dataset, store, explainer, bias, cav)


def rows_to_localize(
    dataset: WorldView, store: FeatureStore, bias: Bias, cav: Cav
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, their CAV scores, and whether each is a member of the finding (else: a retrieved test sample)."""
    scores = cav.scores(store.activations(cav.layer, cav.pooling).astype(np.float64))
    member = np.isin(dataset.table["id"].to_numpy(), bias.sample_ids)
    test = dataset.table["split"].to_numpy() == "test"
    retrieved = test & (dataset.table["label"].to_numpy() == bias.class_id) & (scores > 0)
    rows = np.flatnonzero(member | retrieved)
    return rows, scores[rows], member[rows]


def _localize(
    context: StageContext, dataset: WorldView, store: FeatureStore, explainer: Explainer, bias: Bias, cav: Cav
) -> None:
    config = context.config.localize
    rows, scores, member = rows_to_localize(dataset, store, bias, cav)
    masks = MaskSet(context.directory.root / f"localize/{bias.id}")
    entries: list[MaskEntry] = []
    shown: list[list] = [[], [], []]
    splits = dataset.table["split"].to_numpy()
    for start in context.reporter.track(range(0, len(rows), config.batch_size), f"masks of {bias.id}"):
        samples = [dataset[int(row)] for row in rows[start : start + config.batch_size]]
        x = torch.stack([sample.x for sample in samples])
        heatmaps = blur(concept_heatmaps(explainer, x.to(context.device), cav), config.blur)
        for offset, (sample, heatmap) in enumerate(zip(samples, heatmaps, strict=True)):
            position = start + offset
            mask = binarize(heatmap, config.threshold, config.percentile)
            if mask is not None:
                soft = heatmap / heatmap.max()
                masks.write(sample.id, soft, mask, ~dilate(mask[None], config.dilate)[0])
                if len(shown[0]) < OVERVIEW and member[position]:
                    shown[0].append(pictures.to_image(sample.x.numpy()))
                    shown[1].append(pictures.heatmap_image(soft))
                    shown[2].append(pictures.outlined(sample.x.numpy(), mask))
            entries.append(
                MaskEntry(
                    id=sample.id,
                    split=str(splits[rows[position]]),
                    source="finding" if member[position] else "retrieved",
                    score=float(scores[position]),
                    area=float(mask.mean()) if mask is not None else 0.0,
                    status="ok" if mask is not None else "no evidence",
                )
            )
    if shown[0]:
        pictures.save(pictures.sheet(shown), masks.folder / "overview.png")
    masks.write_index(entries)
    areas = [entry.area for entry in entries if entry.status == "ok"]
    without = len(entries) - len(areas)
    summary = {
        "samples": len(entries),
        "no_evidence": without,
        "mean_area": float(np.mean(areas)) if areas else None,
        "layer": cav.layer,
        "cav": cav.kind,
        "threshold": config.threshold,
    }
    write_json(masks.folder / "metrics.json", summary)
    context.reporter.say(
        f"    {bias.id}: {len(areas)} masks"
        + (f", mean area {np.mean(areas):.1%}" if areas else "")
        + (f", {without} samples without evidence" if without else "")
    )
