"""All corrections side by side on the validation split: one member of every family goes on, one family is preferred."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.config.mitigate import AnyMethod
from pipeline.models.classification import classification_metrics
from pipeline.statistics import worst_group
from pipeline.workspace.records import Contest, Contestant, MethodRecord

from .selection import SMALLEST_GROUP, Standing, choose, mean_standing, pareto_front, rule_text

BALANCED, WORST = "balanced_accuracy", "worst_group_accuracy"
CLEANED, PASTED = "cleaned", "pasted"


def with_seeds(method: AnyMethod, seeds: int) -> list[AnyMethod]:
    """Return the method under its own name, and once more for every further seed."""
    further = [
        method.model_copy(update={"id": f"{method.method_id}_seed-{number}", "family": method.family_id})
        for number in range(1, seeds)
    ]
    return [method, *further]


@dataclass(frozen=True)
class ValidationLogits:
    """What a model says of the validation samples in the worlds that need no ground truth, each `[N, K]`.

    Attributes:
        asis: as they are.
        cleaned: with the localized artifact filled in; None where nothing was localized.
        pasted: with the localized region of another sample pasted in; None where nothing was localized.
    """

    asis: np.ndarray
    cleaned: np.ndarray | None = None
    pasted: np.ndarray | None = None


def validation_figures(logits: ValidationLogits, labels: np.ndarray, carriers: np.ndarray) -> dict[str, float]:
    """Return what the choice between corrections looks at.

    Where the artifact goes with a class, the samples as they are reward the shortcut. Those without it do not.

    Args:
        logits: of the validation samples.
        labels: class ids `[N]`.
        carriers: which samples belong to a bias, booleans `[N]`.
    """
    plain = classification_metrics(logits.asis, labels)
    figures = {name: plain[name] for name in ("accuracy", BALANCED, "auroc")}
    y, predicted = [labels], [logits.asis.argmax(1)]
    groups = [f"{label}, {carries}" for label, carries in zip(labels, carriers, strict=True)]
    for world, values in ((CLEANED, logits.cleaned), (PASTED, logits.pasted)):
        if values is None:
            continue
        found = classification_metrics(values, labels)
        figures |= {f"{world}_accuracy": found["accuracy"], f"{world}_{BALANCED}": found[BALANCED]}
        y, predicted = [*y, labels], [*predicted, values.argmax(1)]
        groups += [f"{label}, {world}" for label in labels]
    worst = worst_group(np.concatenate(y), np.concatenate(predicted), groups, min_n=SMALLEST_GROUP)[1]
    return figures | {WORST: worst.value}


def standing(validation: dict[str, float]) -> Standing:
    """Return where a correction stands by its validation figures."""
    clean = validation.get(f"{CLEANED}_{BALANCED}", validation[BALANCED])
    # without a group that is large enough the classes together are the only one
    return Standing(clean, clean if np.isnan(validation[WORST]) else validation[WORST])


def family_winners(
    methods: list[AnyMethod], records: list[MethodRecord], original: Standing, most_clean_loss: float
) -> list[AnyMethod]:
    """Return the preferred method of every family, in the order of the families.

    Args:
        methods: of one seed.
        records: theirs, in the same order.
        original: of the model under audit.
        most_clean_loss: see `choose`.
    """
    winners = []
    for family in dict.fromkeys(method.family_id for method in methods):
        places = [place for place, method in enumerate(methods) if method.family_id == family]
        best = choose([standing(records[place].validation) for place in places], original, most_clean_loss)
        winners.append(methods[places[best]])
    return winners


def hold_contest(
    records: list[MethodRecord],
    winners: list[AnyMethod],
    original: Standing,
    most_clean_loss: float,
    warnings: list[str] | None = None,
) -> Contest:
    """Return the record of the contest.

    Args:
        records: of all corrections, those of the first seed before those of further seeds.
        winners: see `family_winners`; their further seeds are evaluated too.
        original: of the model under audit.
        most_clean_loss: see `choose`.
        warnings: about the data.
    """
    standings = [standing(record.validation) for record in records]
    winning = {method.method_id for method in winners}
    members = {
        method.family_id: [
            place
            for place, record in enumerate(records)
            if record.family == method.family_id and (record.id in winning or record.seed != records[0].seed)
        ]
        for method in winners
    }
    chosen = {place for places in members.values() for place in places}
    front = _front_of_each_seed(records, standings)
    candidates = [method for method in winners if not method.for_comparison]
    recommended = None
    if candidates:
        means = [mean_standing([standings[place] for place in members[each.family_id]]) for each in candidates]
        recommended = candidates[choose(means, original, most_clean_loss)].method_id
    return Contest(
        rule=rule_text(most_clean_loss),
        original_clean=original.clean,
        original_worst=original.worst,
        contestants=[
            Contestant(
                id=record.id,
                family=record.family,
                seed=record.seed,
                clean=standings[place].clean,
                worst=standings[place].worst,
                on_front=front[place],
                chosen=place in chosen,
            )
            for place, record in enumerate(records)
        ],
        recommended=recommended,
        warnings=warnings or [],
    )


def _front_of_each_seed(records: list[MethodRecord], standings: list[Standing]) -> list[bool]:
    front = [False] * len(records)
    for seed in {record.seed for record in records}:
        places = [place for place, record in enumerate(records) if record.seed == seed]
        for place, on_front in zip(places, pareto_front([standings[place] for place in places]), strict=True):
            front[place] = on_front
    return front
