"""How suspicious a group of samples is: parts in [0, 1], and their weighted geometric mean.

separation     the group is an island among the samples of its class, compared with the divisions that classes have
               anyway in the same space (`separation.py`).
evidence       a linear score tells members from the rest of their class, held out: 2 AUROC - 1 (`evidence.py`).
concentration  that score takes members, and neither the rest of the class nor other classes, for members.
effect         what the concept does to the model: the largest of four changes of the class's probability (`effect.py`).
outside        share of the concept's relevance outside the region of interest, where the data set has one.

Kept for the reader, without weight, since they did not tell planted artifacts from natural groups: how alike the
concept's heatmaps are over the members (`consistency`), and the share of the image they cover (`area`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.attribution import Explainer
from pipeline.concepts.cav import Cav, fit_cav, held_out_auroc, is_constant
from pipeline.concepts.localization import binarize, blur, concept_heatmaps, dilate
from pipeline.models.trace import ChannelAxes

from .candidates import Candidate
from .effect import Effect, exchange_effects, shift_effects
from .evidence import Evidence
from .view import DataView

WEIGHTS = {"separation": 1.0, "evidence": 1.0, "concentration": 3.0, "effect": 0.5, "outside": 0.5}
EFFECT_FLOOR = 0.1
"""An artifact that the model does not use yet is still worth a look, after those that it does use."""
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
    pairs: int = 48
    batch_size: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Suspicion:
    """A measured candidate.

    Attributes:
        candidate: the group.
        score: in [0, 1].
        parts: what the score is made of, each in [0, 1].
        details: figures behind the parts, and figures without weight.
        cav: the concept activation vector that localized it.
    """

    candidate: Candidate
    score: float
    parts: dict[str, float]
    details: dict[str, float]
    cav: Cav


def combine(parts: dict[str, float]) -> float:
    """Return the geometric mean of the parts, each clipped to [0, 1], by their weights."""
    weights = np.array([WEIGHTS[name] for name in parts])
    values = np.clip(list(parts.values()), 0, 1)
    return float(np.prod(values ** (weights / weights.sum())))


def effect_part(effect: Effect) -> float:
    """Return the largest change of the probability, raised by a floor: 0.09 for none, 1 for the largest possible."""
    return (EFFECT_FLOOR + max(0.0, effect.largest)) / (1 + EFFECT_FLOOR)


def outside_share(heatmaps: np.ndarray, rois: list[np.ndarray | None]) -> float | None:
    """Return the share of heatmaps `[N, H, W]` outside the regions of interest; None where no sample has a region."""
    shares = [
        float(heatmap[~roi].sum() / heatmap.sum())
        for heatmap, roi in zip(heatmaps, rois, strict=True)
        if roi is not None and heatmap.sum() > 0
    ]
    return float(np.mean(shares)) if shares else None


def consistency(heatmaps: np.ndarray) -> float:
    """Return the mean cosine similarity of pairs of heatmaps `[N, ...]`, non-negative; nan for fewer than two."""
    flat = heatmaps.reshape(len(heatmaps), -1).astype(np.float64)
    flat = flat[np.linalg.norm(flat, axis=1) > 0]
    if len(flat) < 2:
        return float("nan")
    total = (flat / np.linalg.norm(flat, axis=1, keepdims=True)).sum(0)
    return float((total @ total - len(flat)) / (len(flat) * (len(flat) - 1)))


def best_cav(candidate: Candidate, view: DataView, settings: Settings) -> Cav | None:
    """Return the pattern CAV of the layer with the best held-out AUROC; None where it is no better than chance."""
    best: tuple[Cav, float] | None = None
    for layer in settings.layers:
        features = view.store.activations(layer, settings.pooling, candidate.rows)
        if is_constant(features):
            continue
        auroc = held_out_auroc(features, candidate.members, "pattern", seed=settings.seed).value
        # of layers that separate equally well the earlier one is kept: it localizes more sharply
        if best is None or auroc > best[1] + 0.005:
            best = fit_cav(features, candidate.members, "pattern", layer=layer, pooling=settings.pooling), auroc
    return best[0] if best is not None and best[1] > 0.5 + CHANCE_MARGIN else None


class SuspicionMeter:
    """Measures on the model what the features alone do not tell: where a concept sits, and what it does."""

    def __init__(self, view: DataView, explainer: Explainer, settings: Settings):
        self.view, self.explainer, self.settings = view, explainer, settings
        self.axes = ChannelAxes(view.model)

    def measure(self, candidate: Candidate, separation: float, evidence: Evidence) -> Suspicion | None:
        """Return score, parts and details of a candidate; None where no CAV finds it."""
        cav = best_cav(candidate, self.view, self.settings)
        if cav is None:
            return None
        generator = np.random.default_rng([self.settings.seed, candidate.class_id, int(candidate.members.sum())])
        donors, plain, same = self._draw(generator, candidate)
        receivers = generator.choice(self.view.rows[self.view.labels != candidate.class_id], self.settings.pairs)
        heatmaps, gains, losses = [], [], []
        for start in range(0, self.settings.pairs, self.settings.batch_size):
            part = slice(start, start + self.settings.batch_size)
            images = [self.view.images(rows[part]) for rows in (donors, plain, same, receivers)]
            axis = self.axes.of(cav.layer, images[0])
            found = blur(concept_heatmaps(self.explainer, images[0], cav, axis=axis), self.settings.blur)
            heatmaps.append(found)
            inside = torch.as_tensor(self._regions(found), device=self.view.device)[:, None]
            pasted, removed = exchange_effects(self.view.model, candidate.class_id, inside, *images)
            gains.append(pasted)
            losses.append(removed)
        inserted, projected = shift_effects(self.view, candidate, cav.layer, donors, receivers, generator)
        effect = Effect(_mean(gains), _mean(losses), inserted, projected)
        heatmaps = np.concatenate(heatmaps)
        outside = outside_share(heatmaps, [self.view.dataset.roi_mask(int(row)) for row in donors])
        parts = {
            "separation": separation,
            "evidence": evidence.separability,
            "concentration": evidence.concentration,
            "effect": effect_part(effect),
        }
        if outside is not None:
            parts["outside"] = outside
        details = {
            **{f"effect_{name}": value for name, value in vars(effect).items()},
            "consistency": consistency(heatmaps),
            "area": float(self._regions(heatmaps).mean()),
        }
        return Suspicion(candidate, combine(parts), parts, details, cav)

    def _draw(self, generator: np.random.Generator, candidate: Candidate) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        members, rest = candidate.member_rows, candidate.rows[~candidate.members]
        pairs = self.settings.pairs
        return generator.choice(members, pairs), generator.choice(rest, pairs), generator.choice(rest, pairs)

    def _regions(self, heatmaps: np.ndarray) -> np.ndarray:
        masks = [binarize(heatmap) for heatmap in heatmaps]
        nothing = np.zeros(heatmaps.shape[1:], bool)
        return dilate(np.stack([nothing if mask is None else mask for mask in masks]), self.settings.blur)


def _mean(parts: list[np.ndarray]) -> float:
    return float(np.concatenate(parts).mean())


def with_score(suspicion: Suspicion, **parts: float) -> Suspicion:
    """Return a measured candidate with other parts, and the score that follows from them."""
    changed = {**suspicion.parts, **parts}
    return replace(suspicion, parts=changed, score=combine(changed))
