"""From an accepted finding to a bias with concept activation vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pipeline.concepts.cav import Cav, fit_cav, held_out_auroc, is_constant
from pipeline.config.reveal import CavConfig
from pipeline.workspace.features import FeatureStore
from pipeline.workspace.records import Bias, CavSummary, Finding, Verdict

TIE = 0.005


def fit_candidates(
    config: CavConfig, store: FeatureStore, rows: np.ndarray, members: np.ndarray, layers: tuple[str, ...], seed: int
) -> Iterator[tuple[Cav, CavSummary]]:
    """Yield a CAV and its held-out evidence for every estimator and every layer that responds.

    Args:
        config: section `reveal.cav`.
        store: features.
        rows: rows of the affected class, training and validation split; a CAV over all classes would learn the class.
        members: who belongs to the finding.
        layers: layers to try, from input to output.
        seed: of the folds.
    """
    for layer in layers:
        features = store.activations(layer, config.pooling, rows)
        if is_constant(features):
            continue
        position_means = store.activations(layer, "mean", rows[~members])
        for kind in config.kinds:
            cav = fit_cav(features, members, kind, layer=layer, pooling=config.pooling)
            cav = replace(cav, position_without=float((position_means @ cav.direction).mean()))
            evidence = held_out_auroc(features, members, kind, seed=seed)
            yield (
                cav,
                CavSummary(
                    kind=kind,
                    layer=layer,
                    auroc=evidence.value,
                    auroc_lower=evidence.lower,
                    auroc_upper=evidence.upper,
                    n_positive=int(members.sum()),
                    n_negative=int((~members).sum()),
                ),
            )


def choose(candidates: list[tuple[Cav, CavSummary]]) -> int:
    """Return the position of the CAV with the best held-out AUROC; among equals the first kind, then the first layer.

    An AUROC within 0.005 of the best is equal to it.
    """
    best = max(summary.auroc for _, summary in candidates)
    kinds = list(dict.fromkeys(summary.kind for _, summary in candidates))
    eligible = [i for i, (_, summary) in enumerate(candidates) if summary.auroc >= best - TIE]
    return min(eligible, key=lambda i: (kinds.index(candidates[i][1].kind), i))


def make_bias(finding: Finding, verdict: Verdict | None, chosen: CavSummary, candidates: list[CavSummary]) -> Bias:
    """Return the record of an accepted finding; its id stays the same through masks, corrections and metrics."""
    return Bias(
        id=finding.id,
        finding=finding.id,
        class_id=finding.class_id,
        class_name=finding.class_name,
        status="unreviewed" if verdict is None else "reviewed",
        verdict=verdict,
        sample_ids=finding.sample_ids,
        cav=chosen,
        candidates=candidates,
    )
