"""How suspicious a group of samples is: four parts in [0, 1], and their geometric mean.

separation    the group is an island among the samples of its class: 1 / (1 + conductance / 0.02).
evidence      a CAV tells its members from the rest of the class on samples it was not fitted on: 2 AUROC - 1.
compactness   what sets the group apart sits in a small region: 1 - area / a quarter of the image, at least 0.05.
effect        pasting that region into images of other classes draws the model to the class: mean gain of the class's
              probability over pasting the same region from images of other classes.

An artifact scores high on all four; a natural way of writing or looking lacks separation or compactness, and a
difference that the model ignores lacks effect.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.attribution import Explainer
from pipeline.concepts.cav import Cav, fit_cav, held_out_auroc, is_constant
from pipeline.concepts.localization import binarize, blur, concept_heatmaps, dilate
from pipeline.data.dataset import AuditDataset
from pipeline.workspace.features import FeatureStore

from .candidates import Candidate

HALF_SEPARATION = 0.02
LARGE_AREA = 0.25
LEAST_COMPACTNESS = 0.05
CHANCE_MARGIN = 0.05


@dataclass(frozen=True)
class Settings:
    """How candidates are measured.

    Attributes:
        layers: layers in which a CAV is tried.
        pooling: of activations.
        blur: deviation of the Gaussian as a share of the image side.
        pairs: images that donate and receive a region.
        batch_size: for attribution and prediction.
        seed: of the choice of pairs.
    """

    layers: tuple[str, ...]
    pooling: str = "max"
    blur: float = 0.02
    pairs: int = 64
    batch_size: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Suspicion:
    """A measured candidate: score in [0, 1], its parts, and the CAV that localized it."""

    candidate: Candidate
    score: float
    parts: dict[str, float]
    cav: Cav


def separation(conductance: float) -> float:
    """Return 1 for an island, 1/2 at a conductance of 0.02, near 0 for a group that the graph does not set apart."""
    return 1 / (1 + conductance / HALF_SEPARATION)


def compactness(area: float) -> float:
    """Return 1 for a point, 0.05 for a region over a quarter of the image."""
    return max(LEAST_COMPACTNESS, 1 - area / LARGE_AREA)


def combine(parts: dict[str, float]) -> float:
    """Return the geometric mean of the parts, each clipped to [0, 1]."""
    values = np.clip(list(parts.values()), 0, 1)
    return float(np.prod(values) ** (1 / len(values)))


def best_cav(candidate: Candidate, store: FeatureStore, settings: Settings) -> tuple[Cav, float] | None:
    """Return the pattern CAV of the layer with the best held-out AUROC, and that AUROC; None where no layer has any."""
    best: tuple[Cav, float] | None = None
    for layer in settings.layers:
        features = store.activations(layer, settings.pooling, candidate.rows)
        if is_constant(features):
            continue
        evidence = held_out_auroc(features, candidate.members, "pattern", seed=settings.seed).value
        # of layers that separate equally well the earlier one is kept: it localizes more sharply
        if best is None or evidence > best[1] + 0.005:
            best = fit_cav(features, candidate.members, "pattern", layer=layer, pooling=settings.pooling), evidence
    return best if best is not None and best[1] > 0.5 + CHANCE_MARGIN else None


class SuspicionMeter:
    """Measures candidates on a model and its data."""

    def __init__(
        self,
        explainer: Explainer,
        model: torch.nn.Module,
        dataset: AuditDataset,
        store: FeatureStore,
        settings: Settings,
        device: str,
    ):
        self.explainer, self.model, self.dataset, self.store = explainer, model, dataset, store
        self.settings, self.device = settings, device
        self.usable = np.flatnonzero(dataset.table["split"].to_numpy() != "test")

    def measure(self, candidate: Candidate, cav: Cav, auroc: float) -> Suspicion:
        """Return the four parts and the score of a candidate."""
        generator = np.random.default_rng([self.settings.seed, candidate.class_id, int(candidate.members.sum())])
        labels = self.dataset.table["label"].to_numpy()
        others = self.usable[labels[self.usable] != candidate.class_id]
        donors = generator.choice(candidate.member_rows, self.settings.pairs)
        receivers, controls = generator.choice(others, (2, self.settings.pairs))
        areas, gains = [], []
        for start in range(0, self.settings.pairs, self.settings.batch_size):
            part = slice(start, start + self.settings.batch_size)
            region = self._regions(self._images(donors[part]), cav)
            areas += region.mean((1, 2)).tolist()
            gains += self._gains(candidate.class_id, donors[part], receivers[part], controls[part], region)
        parts = {
            "separation": separation(candidate.conductance),
            "evidence": max(0.0, 2 * auroc - 1),
            "compactness": compactness(float(np.mean(areas))),
            "effect": max(0.0, float(np.mean(gains))),
        }
        return Suspicion(candidate, combine(parts), parts, cav)

    def _images(self, rows: np.ndarray) -> torch.Tensor:
        return torch.stack([self.dataset[int(row)].x for row in rows]).to(self.device)

    def _regions(self, x: torch.Tensor, cav: Cav) -> np.ndarray:
        heatmaps = blur(concept_heatmaps(self.explainer, x, cav), self.settings.blur)
        masks = [binarize(heatmap) for heatmap in heatmaps]
        nothing = np.zeros(heatmaps.shape[1:], bool)
        return dilate(np.stack([nothing if mask is None else mask for mask in masks]), self.settings.blur)

    def _gains(self, class_id: int, donors, receivers, controls, region: np.ndarray) -> list[float]:
        """Return per pair how much more a region from the group raises the class than the same one from elsewhere."""
        inside = torch.as_tensor(region, device=self.device)[:, None]
        receiving = self._images(receivers)
        pasted = torch.where(inside, self._images(donors), receiving)
        control = torch.where(inside, self._images(controls), receiving)
        with torch.no_grad():
            gain = self.model(pasted).softmax(1)[:, class_id] - self.model(control).softmax(1)[:, class_id]
        return gain.cpu().tolist()
