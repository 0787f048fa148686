"""Findings, best first, in `reveal/findings.json`; accepted ones as biases with CAVs in `reveal/biases.json`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.attribution import Explainer, make_composite
from pipeline.concepts.cav import Cav
from pipeline.concepts.localization import concept_heatmaps, localization_quality
from pipeline.concepts.receptive_field import ReceptiveFields
from pipeline.data.open import open_world
from pipeline.errors import ConfigError, nearest
from pipeline.models.open import open_original
from pipeline.models.trace import ChannelAxes
from pipeline.workspace import pictures
from pipeline.workspace.arrays import write_arrays
from pipeline.workspace.features import FEATURES, FeatureStore
from pipeline.workspace.journal import Journal, latest, read_journal
from pipeline.workspace.records import Biases, Finding, Findings, Verdict
from pipeline.workspace.stage import StageContext

from .biases import choose, fit_candidates, make_bias
from .candidates import Candidate, overlap, same_side_overlap
from .earlier import DETECTOR as EARLIER
from .earlier import EarlierBias, earlier_candidates, read_earlier, why_dropped, without_direction
from .evidence import Evidence, measure_evidence, refine
from .figures import Studio
from .findings import SAME_GROUP, Merged, is_finding_id, merge, to_finding
from .labelled import LabelledBias, labelled_biases, labelled_candidates, refined, without_unsure
from .neuron_sheets import CROP_SHARE
from .registry import make_detector
from .separation import Separations
from .stability import stabilities
from .suggestions import suggest
from .suspicion import Settings, Suspicion, SuspicionMeter, combine
from .verdicts import accepted
from .view import DataView

SMALLEST = 4
"""Samples that a group, and the rest of its class, need for half of them to be held out."""
SMALLEST_REFINED = 6
REFINED_PER_CLASS = 16
SHORTLIST_PER_CLASS = 8
SHORTLIST = 40
REPEATED = 0.95
MOST_ALIKE = 3
REPORTED = 20
STABLE = 6
LOCALIZED = 24


@dataclass(frozen=True)
class Shortlisted:
    """A candidate with what the features alone say about it."""

    candidate: Candidate
    separation: float
    evidence: Evidence

    @property
    def promise(self) -> float:
        """Return the score without what only the model can tell."""
        return combine(
            {
                "separation": self.separation,
                "evidence": self.evidence.separability,
                "concentration": self.evidence.concentration,
            }
        )


def run(context: StageContext) -> None:
    """Detect, measure, merge, rank, picture and accept."""
    config = context.config
    dataset = open_world(context)
    earlier = read_earlier(config.reveal.earlier, dataset, context.directory, context.reporter)
    store = FeatureStore(context.directory.root / FEATURES)
    model = open_original(context, dataset)
    composite = make_composite(config.precompute.composite, config.precompute.rules)
    explainer = Explainer(model, dataset[0].x[None].to(context.device), composite)
    view = DataView(
        store,
        dataset,
        model,
        np.flatnonzero(dataset.table["split"].to_numpy() != "test"),
        condition=config.reveal.condition,
        seed=config.seed,
        device=context.device,
        batch_size=config.precompute.batch_size,
        reporter=context.reporter,
    )
    layers = cav_layers(view, config.reveal.cav.layers)
    settings = Settings(layers, batch_size=view.batch_size, seed=config.seed)
    journal = read_journal(context.directory.annotations_path)
    labels = labelled_biases(journal, store.ids.tolist())
    candidates, seen = _detect(context, view)
    known = [each.name for each in labels if is_finding_id(each.name)]
    candidates += labelled_candidates(view, labels, [*known, *earlier])
    tried = earlier_candidates(view, list(earlier.values()), labels)
    shortlist = _shortlist(context, view, candidates + tried, layers)
    meter = SuspicionMeter(view, explainer, settings)
    tracked = context.reporter.track(shortlist, "effect of candidates")
    measured = [_measure(meter, each) for each in tracked]
    merged = _reported(merge([each for each in measured if each is not None]))
    findings = _findings(context, view, merged)
    suspicions = {finding.id: each.suspicion for finding, each in zip(findings, merged, strict=True)}
    findings, suspicions = _corrected_by_labels(findings, suspicions, labels, view)
    fields = ReceptiveFields(model, dataset.shape, share=CROP_SHARE)
    studio = Studio(view, explainer, config.reveal, context.directory, fields)
    findings = [
        studio.portray(finding, suspicions[finding.id]) if finding.rank <= config.reveal.pictured else finding
        for finding in context.reporter.track(findings, "pictures of the findings")
    ]
    context.directory.write_record("reveal/findings.json", Findings(findings=findings, pictures=seen))
    for finding in findings[:3]:
        context.reporter.say(
            f"    finding {finding.rank}: class {finding.class_name}, {len(finding.sample_ids)} samples, "
            f"by {finding.detector} in {finding.layer}, suspicion {finding.score:.2f}"
            + ("" if finding.stability is None else f", stability {finding.stability:.2f}")
        )
    for candidate in tried:
        if candidate.name not in suspicions:
            _say_dropped(context, earlier[candidate.name], why_dropped(candidate, SMALLEST))
    _accept(context, view, explainer, findings, suspicions, layers, journal, labels, earlier)
    for bias in labels:
        line = suggest(view, bias, journal, context.directory.root / f"reveal/to_label-{bias.name}.csv")
        if line:
            context.reporter.say(f"    {line}")


def cav_layers(view: DataView, wanted: str | list[str]) -> tuple[str, ...]:
    """Return the layers in which CAVs are tried, from input to output: configured, or activations over the depth.

    Raises:
        ConfigError: a configured layer is not stored.
    """
    if wanted == "auto":
        return view.spread_layers
    known = list(view.store.layers)
    for layer in wanted:
        if layer not in known:
            raise ConfigError(
                f"reveal.cav.layers: no layer '{layer}' is stored.{nearest(layer, known)} Stored: {', '.join(known)}."
            )
    return tuple(layer for layer in known if layer in wanted)


def _detect(context: StageContext, view: DataView) -> tuple[list[Candidate], dict[str, str]]:
    """Return all candidates, and caption -> path of the detectors' own pictures; figures go to HDF5."""
    found: list[Candidate] = []
    seen: dict[str, str] = {}
    kinds: list[str] = []
    for config in context.reporter.track(context.config.reveal.detectors, "detectors"):
        detection = make_detector(config).detect(view)
        kinds.append(config.kind)
        repeated = kinds.count(config.kind)
        name = config.kind if repeated == 1 else f"{config.kind}-{repeated}"
        found += detection.candidates
        if detection.arrays:
            write_arrays(context.directory.root / f"reveal/{name}.h5", detection.arrays)
        for number, (caption, image) in enumerate(detection.pictures.items(), start=1):
            seen[caption] = f"reveal/{name}-{number}.png"
            pictures.save(image, context.directory.root / seen[caption])
    return found, seen


def _shortlist(
    context: StageContext, view: DataView, candidates: list[Candidate], layers: tuple[str, ...]
) -> list[Shortlisted]:
    """Return the most promising candidates, the same group from several spaces only once.

    The features alone rule out most of what detectors propose, at little cost; only the rest is tried on the model.
    What a person described is always tried, as it was described.
    """
    poolings = tuple(context.config.precompute.pooling)
    separations = Separations(view)
    separated = {}
    for candidate in context.reporter.track(candidates, "separation of candidates"):
        if SMALLEST <= candidate.members.sum() <= len(candidate.rows) - SMALLEST:
            key = candidate.name, candidate.class_id, candidate.members.tobytes()
            found = separations.measure(candidate)
            if key not in separated or found > separated[key][0]:
                separated[key] = found, candidate
    groups = [candidate for _, candidate in separated.values()]
    first = _measured(separations, groups, measure_evidence(view, groups, layers, poolings))
    described = [entry for entry in first if entry.candidate.name]
    free = _most_promising([entry for entry in first if not entry.candidate.name], REFINED_PER_CLASS)
    refined_groups, evidence = refine(
        view, [each.candidate for each in free], [each.evidence for each in free], layers, poolings, SMALLEST_REFINED
    )
    best = _most_promising(_measured(separations, refined_groups, evidence), SHORTLIST_PER_CLASS)
    return [*described, *best[:SHORTLIST]]


def _measured(
    separations: Separations, candidates: list[Candidate], evidence: list[Evidence | None]
) -> list[Shortlisted]:
    return [
        Shortlisted(candidate, separations.measure(candidate), found)
        for candidate, found in zip(candidates, evidence, strict=True)
        if found is not None
    ]


def _most_promising(entries: list[Shortlisted], per_class: int) -> list[Shortlisted]:
    """Return the best entries of each class, best first; of groups that are much the same only the best few."""
    chosen: list[Shortlisted] = []
    for entry in sorted(entries, key=lambda each: -each.promise):
        rivals = [other.candidate for other in chosen if other.candidate.class_id == entry.candidate.class_id]
        alike = [other for other in rivals if overlap(entry.candidate, other) >= SAME_GROUP]
        repeated = any(same_side_overlap(entry.candidate, other) >= REPEATED for other in alike)
        if len(rivals) < per_class and len(alike) < MOST_ALIKE and not repeated:
            chosen.append(entry)
    return chosen


def _measure(meter: SuspicionMeter, entry: Shortlisted) -> Suspicion | None:
    """Return the measured candidate; None where no CAV finds it, unless an earlier run did: then it is kept."""
    found = meter.measure(entry.candidate, entry.separation, entry.evidence)
    if found is None and entry.candidate.detector == EARLIER:
        return without_direction(meter.view, entry.candidate, entry.separation, entry.evidence)
    return found


def _reported(merged: list[Merged]) -> list[Merged]:
    """Return the first observations, and what has a name wherever it ranks."""
    return [*merged[:REPORTED], *(each for each in merged[REPORTED:] if each.suspicion.candidate.name)]


def _findings(context: StageContext, view: DataView, merged: list[Merged]) -> list[Finding]:
    findings = [to_finding(each, rank, view.dataset) for rank, each in enumerate(merged, start=1)]
    groups = [each.suspicion.candidate for each in merged[:STABLE]]
    stable = stabilities(view, context.config.reveal.detectors, groups, context.config.reveal.stability_runs)
    return [
        finding.model_copy(update={"stability": value})
        for finding, value in zip(findings, [*stable, *[None] * (len(findings) - len(stable))], strict=True)
    ]


def _corrected_by_labels(
    findings: list[Finding], suspicions: dict[str, Suspicion], labels: list[LabelledBias], view: DataView
) -> tuple[list[Finding], dict[str, Suspicion]]:
    """Return findings whose samples people corrected; id, rank and score stay those of the detected group."""
    by_name = {each.name: each for each in labels}
    ids = view.dataset.table["id"].to_numpy().astype(str)
    corrected = []
    for finding in findings:
        suspicion = suspicions[finding.id]
        if finding.id in by_name and not suspicion.candidate.name:
            candidate = refined(suspicion.candidate, by_name[finding.id])
            suspicions = {**suspicions, finding.id: replace(suspicion, candidate=candidate)}
            finding = finding.model_copy(update={"sample_ids": ids[candidate.member_rows].tolist()})
        corrected.append(finding)
    return corrected, suspicions


def _accept(
    context: StageContext,
    view: DataView,
    explainer: Explainer,
    findings: list[Finding],
    suspicions: dict[str, Suspicion],
    layers: tuple[str, ...],
    journal: Journal,
    labels: list[LabelledBias],
    earlier: dict[str, EarlierBias],
) -> None:
    by_name = {each.name: each for each in labels}
    counts = {name: each.record.labels for name, each in earlier.items()}
    counts |= {name: each.counts() for name, each in by_name.items()}
    config = context.config.reveal
    verdicts = latest(journal)
    judged = set(verdicts) | set(by_name)
    for unknown in sorted(judged - set(suspicions)):
        context.reporter.say(f"    WARNING: annotations.json speaks of '{unknown}', which is not among the findings")
    biases = []
    new = [each for each in findings if each.id not in earlier]
    found = accepted(new, verdicts, config.accept_top, config.accept_score)
    found += _carried_over(context, findings, earlier, verdicts)
    for finding, verdict in sorted(found, key=lambda pair: pair[0].rank):
        candidate = suspicions[finding.id].candidate
        if finding.id in by_name:
            candidate = without_unsure(candidate, by_name[finding.id])
        quality = Sharpness(view, explainer, candidate)
        fitted = list(
            fit_candidates(
                config.cav, view.store, candidate.rows, candidate.members, layers, view.seed, localization=quality
            )
        )
        if finding.id in earlier and not fitted:
            _say_dropped(context, earlier[finding.id], "no estimator of reveal.cav finds a direction in any layer")
            continue
        cav, summary = fitted[choose(fitted)]
        cav.save(context.directory.root / f"reveal/cavs/{finding.id}.npz")
        for other, _ in fitted:
            other.save(context.directory.root / f"reveal/cavs/{finding.id}/{other.layer}--{other.kind}.npz")
        origin = earlier[finding.id].run if finding.id in earlier else None
        tried = [each for _, each in fitted]
        bias = make_bias(finding, verdict, summary, tried, labels=counts.get(finding.id), earlier=origin)
        biases.append(bias)
        known = bias.status if origin is None else f"{bias.status}, carried over from {origin}"
        context.reporter.say(
            f"    bias {finding.id} ({known}): {summary.kind} CAV in {summary.layer}, held-out AUROC "
            f"{summary.auroc:.3f} [{summary.auroc_lower:.3f}, {summary.auroc_upper:.3f}]"
        )
    if not biases:
        top = f"; the most suspicious finding reaches {findings[0].score:.2f}" if findings else ""
        context.reporter.say(f"    nothing was accepted as a bias (reveal.accept_score {config.accept_score:g}){top}")
    context.directory.write_record("reveal/biases.json", Biases(biases=biases))


def _carried_over(
    context: StageContext, findings: list[Finding], earlier: dict[str, EarlierBias], verdicts: dict[str, Verdict]
) -> list[tuple[Finding, Verdict | None]]:
    """Return the biases of earlier runs with their verdicts, unless this run's journal says something else of them."""
    kept = []
    for finding in findings:
        if finding.id not in earlier:
            continue
        word = verdicts.get(finding.id, earlier[finding.id].record.verdict)
        if word is None or word.verdict == "spurious":
            kept.append((finding, word))
        else:
            context.reporter.say(f"    bias {finding.id} is not carried over: {word.by} called it {word.verdict}")
    return kept


def _say_dropped(context: StageContext, bias: EarlierBias, why: str) -> None:
    context.reporter.say(
        f"    WARNING: bias {bias.id} of {bias.run} is not carried over: this model has no CAV of it, since {why}"
    )


class Sharpness:
    """How well the heatmaps of a CAV point at the concept, on a few samples of a group and of the rest of its class."""

    def __init__(self, view: DataView, explainer: Explainer, candidate: Candidate):
        generator = np.random.default_rng(view.seed)
        self.explainer, self.axes = explainer, ChannelAxes(view.model)
        self.with_concept = view.images(generator.permutation(candidate.member_rows)[:LOCALIZED])
        self.without = view.images(generator.permutation(candidate.rows[~candidate.members])[:LOCALIZED])

    def __call__(self, cav: Cav) -> float:
        """Return the localization quality of a CAV in [0, 1]."""
        axis = self.axes.of(cav.layer, self.with_concept)
        return localization_quality(
            *(concept_heatmaps(self.explainer, x, cav, axis=axis) for x in (self.with_concept, self.without))
        )
