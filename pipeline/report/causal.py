"""What inserting and removing each bias does to predictions of the original and of the corrected models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..workspace.records import Audit, Bias, Metric
from .tables import CAUSAL, INTERVENTIONS, ORIGINAL, Comparison, MetricIndex, comparison

REACTIONS = ("tcav_quotient", "tcav_p", "tcav_sensitivity")
WHAT = {"inserted": "Pasting it into samples without it", "removed": "Filling it in on samples that show it"}


@dataclass(frozen=True)
class Causal:
    """Causal evidence for one bias.

    Attributes:
        sentences: what the flip rates of the original say beside their control.
        main: the original and the preferred correction.
        everyone: all models; None where these are the same.
        reactions: how the two react to the concept, beside random directions.
    """

    sentences: list[str]
    main: Comparison
    everyone: Comparison | None
    reactions: Comparison

    @property
    def measured(self) -> bool:
        """Say whether there is anything to show."""
        return bool(self.main.blocks or self.everyone or self.reactions.blocks)


def causal_evidence(audit: Audit, index: MetricIndex, models: Sequence[str], bias: Bias) -> Causal:
    """Arrange the causal evidence for a bias."""
    pair = [model for model in (ORIGINAL, audit.best_correction) if model in models]
    everyone = comparison(index, models, CAUSAL, INTERVENTIONS, bias.id)
    sentences = [_sentence(index, world, bias) for world in INTERVENTIONS]
    return Causal(
        sentences=[sentence for sentence in sentences if sentence],
        main=comparison(index, pair, CAUSAL, INTERVENTIONS, bias.id),
        everyone=everyone if everyone.blocks and len(models) > len(pair) else None,
        reactions=comparison(index, pair, REACTIONS, ("attacked",), bias.id),
    )


def _sentence(index: MetricIndex, world: str, bias: Bias) -> str:
    flips = index.find(ORIGINAL, world, bias.id, "flip_rate")
    control = index.find(ORIGINAL, world, bias.id, "flip_rate_elsewhere")
    if flips is None:
        return ""
    text = f"{WHAT[world]} changes {_share(flips)} of the original's predictions (n = {flips.n})"
    if control is None:
        return f"{text}; there is no control."
    beyond = flips.lower > control.upper
    relation = "more than" if beyond else "not clearly more than"
    return f"{text}, {relation} the same done elsewhere in the image ({_share(control)})."


def _share(row: Metric) -> str:
    return f"{100 * row.value:.1f} % [{100 * row.lower:.1f}, {100 * row.upper:.1f}]"
