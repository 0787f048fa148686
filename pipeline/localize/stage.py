"""Masks of every bias: for the samples of the finding, for test samples that its CAV recognises, and from elsewhere.

A bias that an earlier run found keeps the masks that it had there: on a model that was corrected since, heatmaps are no
evidence of where the artifact sits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from pipeline.attribution import Explainer, make_composite
from pipeline.concepts.cav import Cav
from pipeline.concepts.features import cav_features
from pipeline.concepts.localization import binarize, blur, localization_quality
from pipeline.data.open import open_world
from pipeline.data.worlds import WorldView
from pipeline.errors import ConfigError, nearest
from pipeline.models.open import open_original
from pipeline.workspace import pictures
from pipeline.workspace.atomic import write_json
from pipeline.workspace.features import FEATURES, FeatureStore
from pipeline.workspace.masks import MaskEntry, MaskSet
from pipeline.workspace.records import Bias, Biases, Findings
from pipeline.workspace.stage import StageContext

from .import_masks import carried_over, imported_and_merged
from .methods import LocalizationMethod, Neurons, Tools, make_method
from .training_masks import foreground_mask

OVERVIEW = 12
QUALITY_SAMPLES = 24
ROWS_AT_ONCE = 4096


def run(context: StageContext) -> None:
    """Localize every bias."""
    biases = context.directory.read_record("reveal/biases.json", Biases).biases
    _require_known([each.bias for each in context.config.localize.import_masks], [bias.id for bias in biases])
    if not biases:
        context.reporter.say("    no bias to localize")
        return
    dataset = open_world(context)
    store = FeatureStore(context.directory.root / FEATURES)
    model = open_original(context, dataset)
    composite = make_composite(context.config.precompute.composite, context.config.precompute.rules)
    explainer = Explainer(model, dataset[0].x[None].to(context.device), composite)
    findings = context.directory.read_record("reveal/findings.json", Findings)
    for bias in biases:
        cav = Cav.load(context.directory.root / f"reveal/cavs/{bias.id}.npz")
        tools = Tools(explainer, context.config.localize, neurons_of(bias, findings))
        Localization(context, dataset, store, partial(make_method, tools), bias, cav).run()


def rows_to_localize(
    dataset: WorldView, store: FeatureStore, bias: Bias, cav: Cav
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, their CAV scores, and whether each is a member of the finding (else: a retrieved test sample)."""
    scores = stored_scores(store, cav)
    member = np.isin(dataset.table["id"].to_numpy(), bias.sample_ids)
    test = dataset.table["split"].to_numpy() == "test"
    retrieved = test & (dataset.table["label"].to_numpy() == bias.class_id) & (scores > 0)
    rows = np.flatnonzero(member | retrieved)
    return rows, scores[rows], member[rows]


def stored_scores(store: FeatureStore, cav: Cav) -> np.ndarray:
    """Return the CAV score `[N]` of every sample of the store, read a few thousand rows at a time.

    With pooling "full" from maps of activations `[N, C, ...positions]`, else from pooled activations `[N, C]`.
    """
    count = len(store.ids)
    parts = []
    for start in range(0, count, ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, count))
        features = cav_features(store, cav.layer, cav.pooling, rows)
        parts.append(cav.scores(features.astype(np.float64)))
    return np.concatenate(parts)


def neurons_of(bias: Bias, findings: Findings) -> Neurons:
    """Return the neurons that define the finding behind a bias; none where it was found otherwise, or is unknown."""
    for finding in findings.findings:
        if finding.id == bias.finding:
            return Neurons(finding.layer, tuple(finding.neuron_ids), finding.id)
    return Neurons("", (), bias.finding)


def evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """Return at most `count` of the rows, evenly spread over all of them."""
    return rows if len(rows) <= count else rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]


def _require_known(wanted: list[str], known: list[str]) -> None:
    for bias in wanted:
        if bias not in known:
            listed = f"Biases: {', '.join(known)}." if known else "No finding was accepted as a bias."
            raise ConfigError(
                f"localize.import_masks: there is no bias '{bias}'.{nearest(bias, known)} {listed} "
                "The ids are in reveal/biases.json."
            )


class Localization:
    """The masks of one bias.

    Args:
        context: configuration, run directory, device and reporter.
        dataset: images or signals, rows as in the store.
        store: features, for the CAV scores.
        make: returns the method that says where the concept sits; called only where something is to be computed.
        bias: the bias.
        cav: its concept activation vector.
    """

    def __init__(
        self,
        context: StageContext,
        dataset: WorldView,
        store: FeatureStore,
        make: Callable[[], LocalizationMethod],
        bias: Bias,
        cav: Cav,
    ):
        self.context, self.config, self.dataset = context, context.config.localize, dataset
        self.make, self.bias, self.cav = make, bias, cav
        self.masks = MaskSet(context.directory.root / f"localize/{bias.id}")
        self.splits = dataset.table["split"].to_numpy()
        self.rows, _, self.member = rows_to_localize(dataset, store, bias, cav)
        self.scores = stored_scores(store, cav)
        self.shown: list[list] = [[], [], []]

    @cached_property
    def method(self) -> LocalizationMethod:
        """Return the method of localization."""
        return self.make()

    def run(self) -> None:
        """Write masks, index, figures and the overview."""
        entries = self._import()
        carried = self._carry_over(list(entries))
        entries |= carried
        missing = ~np.isin(self.rows, list(entries))
        if carried:
            # members that people added get masks; what the CAV of a corrected model retrieves is worth none
            missing &= self.member
        entries |= self._compute(self.rows[missing], self.member[missing])
        if self.shown[0]:
            pictures.save(pictures.sheet(self.shown), self.masks.folder / "overview.png")
        elif len(self.dataset.shape) == 2:
            self.context.reporter.say("    signals have no overview picture; their masks are in masks/ and soft/")
        self.masks.write_index([entries[row] for row in sorted(entries)])
        self._summarize(list(entries.values()), len(carried), *self._quality(self.rows[missing & self.member]))

    def _import(self) -> dict[int, MaskEntry]:
        """Write masks from elsewhere, merged where several show the same sample; return the entry of every row.

        An empty one is a person's word that there is nothing to see: no mask is computed in its place.
        """
        sections = [each for each in self.config.import_masks if each.bias == self.bias.id]
        if not sections:
            return {}
        found = imported_and_merged(sections, self.dataset, self.dataset.shape[1:], self.context.reporter)
        return {row: self._write(row, "imported", soft, mask if mask.any() else None) for row, soft, mask in found}

    def _carry_over(self, imported: list[int]) -> dict[int, MaskEntry]:
        """Write the masks that an earlier run has of the bias, but for imported rows; return the entry of every row."""
        if self.bias.earlier is None:
            return {}
        masks = MaskSet(Path(self.bias.earlier).expanduser() / f"localize/{self.bias.id}")
        if not (masks.folder / "index.csv").is_file():
            self.context.reporter.say(
                f"    WARNING: {self.bias.id}: the earlier run {self.bias.earlier} has no masks of it, so they are "
                "made with this model, which may have unlearned the artifact; better run localize there first"
            )
            return {}
        members, entries = set(self.rows[self.member].tolist()), {}
        for row, entry, soft, mask in carried_over(masks, self.dataset, self.dataset.shape[1:]):
            source = self._source(entry, row in members, self.splits[row])
            if source is not None and row not in imported:
                entries[row] = self._write(row, source, soft, mask)
        return entries

    @staticmethod
    def _source(entry: MaskEntry, member: bool, split: str) -> str | None:
        """Return the source that an earlier run's entry has here; None where the sample does not show the bias here."""
        if entry.source == "imported":
            return entry.source
        if member:
            return "finding"
        return "retrieved" if split == "test" else None

    def _compute(self, rows: np.ndarray, member: np.ndarray) -> dict[int, MaskEntry]:
        """Write masks of the rows where there is evidence; return the entry of every row."""
        config, entries = self.config, {}
        batches = range(0, len(rows), config.batch_size)
        for start in self.context.reporter.track(batches, f"masks of {self.bias.id}"):
            part = slice(start, start + config.batch_size)
            heatmaps = blur(self._heatmaps(rows[part]), config.blur)
            for row, inside, heatmap in zip(rows[part], member[part], heatmaps, strict=True):
                mask = binarize(
                    heatmap,
                    config.threshold,
                    config.percentile,
                    area=config.area,
                    fixed=config.fixed,
                    min_component=config.min_component,
                )
                soft = heatmap if mask is None else heatmap / heatmap.max()
                entries[int(row)] = self._write(int(row), "finding" if inside else "retrieved", soft, mask)
        return entries

    def _heatmaps(self, rows: np.ndarray) -> np.ndarray:
        x = torch.stack([self.dataset[int(row)].x for row in rows])
        return self.method.heatmaps(x.to(self.context.device), self.cav)

    def _in_batches(self, rows: np.ndarray) -> np.ndarray:
        size = self.config.batch_size
        return np.concatenate([self._heatmaps(rows[start : start + size]) for start in range(0, len(rows), size)])

    def _write(self, row: int, source: str, soft: np.ndarray, mask: np.ndarray | None) -> MaskEntry:
        """Store the files of one sample, none where there is no mask; return its entry."""
        sample = self.dataset[row]
        if mask is not None:
            foreground = foreground_mask(mask, self.dataset.roi_mask(row), self.config.background, self.config.dilate)
            # without a region of interest, `background: roi` knows of nothing that must not be used
            self.masks.write(sample.id, soft, mask, np.ones_like(mask) if foreground is None else foreground)
            if mask.ndim == 2 and source != "retrieved" and len(self.shown[0]) < OVERVIEW:
                self.shown[0].append(pictures.to_image(sample.x.numpy()))
                self.shown[1].append(pictures.heatmap_image(soft))
                self.shown[2].append(pictures.outlined(sample.x.numpy(), mask))
        return MaskEntry(
            id=sample.id,
            split=str(self.splits[row]),
            source=source,
            score=float(self.scores[row]),
            area=float(mask.mean()) if mask is not None else 0.0,
            status="ok" if mask is not None else "no evidence",
        )

    def _quality(self, members: np.ndarray) -> tuple[float | None, int, int]:
        """Return how well the method localizes (None: unknown), and from how many samples with and without."""
        others = (self.dataset.table["label"].to_numpy() == self.bias.class_id) & (self.splits != "test")
        others[np.isin(self.dataset.table["id"].to_numpy(), self.bias.sample_ids)] = False
        shown, rest = evenly(members, QUALITY_SAMPLES), evenly(np.flatnonzero(others), QUALITY_SAMPLES)
        if not len(shown) or not len(rest):
            return None, len(shown), len(rest)
        return localization_quality(self._in_batches(shown), self._in_batches(rest)), len(shown), len(rest)

    def _summarize(
        self, entries: list[MaskEntry], carried: int, quality: float | None, n_with: int, n_without: int
    ) -> None:
        areas = [entry.area for entry in entries if entry.status == "ok"]
        without = len(entries) - len(areas)
        summary = {
            "samples": len(entries),
            "n": len(areas),
            "no_evidence": without,
            "imported": sum(entry.source == "imported" for entry in entries),
            "carried_over": carried,
            "mean_area": float(np.mean(areas)) if areas else None,
            "layer": self.cav.layer,
            "cav": self.cav.kind,
            "method": self.config.method,
            "threshold": self.config.threshold,
            "quality": quality,
            "quality_n_with": n_with,
            "quality_n_without": n_without,
        }
        write_json(self.masks.folder / "metrics.json", summary)
        self.context.reporter.say(
            f"    {self.bias.id}: {len(areas)} masks"
            + (f", {carried} samples as the earlier run {self.bias.earlier} left them" if carried else "")
            + (f", mean area {np.mean(areas):.1%}" if areas else "")
            + (f", localization quality {quality:.2f}" if quality is not None else "")
            + (f", {without} samples without evidence" if without else "")
        )
