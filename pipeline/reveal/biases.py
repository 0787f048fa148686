"""From an accepted finding to a bias with concept activation vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from pipeline.concepts.cav import Cav, NoDirection, fit_cav, held_out_auroc, is_constant
from pipeline.concepts.features import cav_features
from pipeline.config.reveal import CavConfig
from pipeline.errors import DataError
from pipeline.workspace.features import FeatureStore
from pipeline.workspace.records import Bias, CavSummary, Finding, LabelCounts, Verdict

TIE = 0.005

Localization = Callable[[Cav], float]
"""How sharply a CAV's heatmaps point, in [0, 1]; nan where that cannot be told."""


def fit_candidates(
    config: CavConfig,
    store: FeatureStore,
    rows: np.ndarray,
    members: np.ndarray,
    layers: tuple[str, ...],
    seed: int,
    *,
    localization: Localization | None = None,
) -> Iterator[tuple[Cav, CavSummary]]:
    """Yield a CAV and its held-out evidence for every estimator and every layer that responds.

    An estimator that sees no difference in a layer is left out there.

    Args:
        config: section `reveal.cav`.
        store: features.
        rows: rows of the affected class, training and validation split; a CAV over all classes would learn the class.
        members: who belongs to the finding.
        layers: layers to try, from input to output.
        seed: of the folds.
        localization: called for each CAV; None leaves the quality unknown.
    """
    for layer in layers:
        features = cav_features(store, layer, config.pooling, rows)
        if is_constant(features):
            continue
        position_means = None if config.pooling == "full" else store.activations(layer, "mean", rows[~members])
        for kind in config.kinds:
            try:
                cav = fit_cav(
                    features, members, kind, layer=layer, pooling=config.pooling, search=config.search, seed=seed
                )
            except NoDirection:
                continue
            without = cav.mean_without if position_means is None else float((position_means @ cav.direction).mean())
            cav = replace(cav, position_without=without)
            evidence = held_out_auroc(features, members, kind, search=config.search, seed=seed)
            quality = math.nan if localization is None else localization(cav)
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
                    localization=None if math.isnan(quality) else quality,
                ),
            )


def choose(candidates: list[tuple[Cav, CavSummary]]) -> int:
    """Return the position of the CAV with the largest held-out AUROC times localization quality.

    A CAV has to tell samples apart that it was not fitted on, and its heatmaps have to point: late layers often
    separate best and point worst. Where no quality is known, the AUROC decides alone; where some are, a CAV without one
    counts as 0, since it cannot be traced back to the input. Values within 0.005 of the best are equal to it; among
    equals the first kind wins, then the first layer, which localizes most sharply.

    Raises:
        DataError: there is no candidate.
    """
    if not candidates:
        raise DataError(
            "reveal.cav: no layer tells the samples of the finding from the rest of its class, so there is no CAV. "
            "Add layers to precompute.layers or kinds to reveal.cav.kinds, or judge the finding 'valid'."
        )
    summaries = [summary for _, summary in candidates]
    qualities = [summary.localization for summary in summaries]
    known = any(quality is not None for quality in qualities)
    values = [
        summary.auroc * (quality or 0.0) if known else summary.auroc
        for summary, quality in zip(summaries, qualities, strict=True)
    ]
    kinds = list(dict.fromkeys(summary.kind for summary in summaries))
    eligible = [i for i, value in enumerate(values) if value >= max(values) - TIE]
    return min(eligible, key=lambda i: (kinds.index(summaries[i].kind), i))


def make_bias(
    finding: Finding,
    verdict: Verdict | None,
    chosen: CavSummary,
    candidates: list[CavSummary],
    *,
    labels: LabelCounts | None = None,
    earlier: str | None = None,
) -> Bias:
    """Return the record of an accepted finding; its id stays the same through masks, corrections and metrics.

    It is reviewed where a person gave a verdict or labelled samples.

    Args:
        finding: what was accepted.
        verdict: a person's last word on it.
        chosen: the CAV that localizes it.
        candidates: all that were tried.
        labels: what people labelled for it.
        earlier: directory of the run that it was carried over from.
    """
    return Bias(
        id=finding.id,
        finding=finding.id,
        class_id=finding.class_id,
        class_name=finding.class_name,
        status="unreviewed" if verdict is None and labels is None else "reviewed",
        verdict=verdict,
        sample_ids=finding.sample_ids,
        cav=chosen,
        candidates=candidates,
        labels=labels,
        earlier=earlier,
    )
