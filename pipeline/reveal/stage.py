"""Findings, best first, in `reveal/findings.json`; accepted ones as biases with CAVs in `reveal/biases.json`."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.attribution import Explainer, make_composite
from pipeline.concepts.cav import Cav
from pipeline.concepts.localization import binarize, blur, concept_heatmaps
from pipeline.config.reveal import SprayConfig
from pipeline.data.open import open_world
from pipeline.data.worlds import WorldView
from pipeline.errors import ConfigError, nearest
from pipeline.models.open import open_original
from pipeline.workspace import pictures
from pipeline.workspace.features import FEATURES, FeatureStore
from pipeline.workspace.journal import latest, read_journal
from pipeline.workspace.records import Biases, Finding, Findings
from pipeline.workspace.stage import StageContext

from .biases import choose, fit_candidates, make_bias
from .candidates import Candidate, ClassView, same_side_overlap
from .findings import distinct, to_finding
from .registry import make_detector
from .spray import Spray
from .suspicion import Settings, Suspicion, SuspicionMeter, best_cav, separation
from .verdicts import accepted

CAV_LAYERS = 6
SHORTLIST_PER_CLASS = 16
REPEATED = 0.95
REPORTED = 20
PICTURED = 6
PICTURED_SAMPLES = 12
PICTURE_BLUR = 0.02


def run(context: StageContext) -> None:
    """Detect, measure, rank, picture and accept."""
    dataset = open_world(context)
    store = FeatureStore(context.directory.root / FEATURES)
    model = open_original(context, dataset)
    composite = make_composite(context.config.precompute.composite, context.config.precompute.rules)
    explainer = Explainer(model, dataset[0].x[None].to(context.device), composite)
    settings = Settings(
        layers=cav_layers(store, context.config.reveal.cav.layers),
        pooling=context.config.reveal.cav.pooling,
        batch_size=context.config.precompute.batch_size,
        seed=context.config.seed,
    )
    candidates = _detect(context, dataset, store)
    measured = _measure(context, candidates, SuspicionMeter(explainer, model, dataset, store, settings, context.device))
    ranked = distinct(measured)[:REPORTED]
    findings = [to_finding(suspicion, rank, dataset) for rank, suspicion in enumerate(ranked, start=1)]
    findings = [
        _with_pictures(context, dataset, store, explainer, finding, suspicion) if finding.rank <= PICTURED else finding
        for finding, suspicion in zip(findings, ranked, strict=True)
    ]
    context.directory.write_record("reveal/findings.json", Findings(findings=findings))
    for finding in findings[:3]:
        context.reporter.say(
            f"    finding {finding.rank}: class {finding.class_name}, {len(finding.sample_ids)} samples, "
            f"by {finding.detector} in {finding.layer}, suspicion {finding.score:.2f}"
        )
    _accept(
        context,
        store,
        findings,
        {finding.id: suspicion for finding, suspicion in zip(findings, ranked, strict=True)},
        settings.layers,
    )


def cav_layers(store: FeatureStore, wanted: str | list[str]) -> tuple[str, ...]:
    """Return the layers in which CAVs are tried, from input to output: configured, or activations over the depth.

    Raises:
        ConfigError: a configured layer is not stored.
    """
    if wanted != "auto":
        for layer in wanted:
            if layer not in store.layers:
                raise ConfigError(
                    f"reveal.cav.layers: no layer '{layer}' is stored.{nearest(layer, list(store.layers))} "
                    f"Stored: {', '.join(store.layers)}."
                )
        return tuple(layer for layer in store.layers if layer in wanted)
    activations = [name for name in store.layers if store.kinds[name] == "activation"] or list(store.layers)
    picks = np.unique(np.linspace(0, len(activations) - 1, CAV_LAYERS).round().astype(int))
    return tuple(activations[i] for i in picks)


def _detect(context: StageContext, dataset: WorldView, store: FeatureStore) -> list[Candidate]:
    config = context.config.reveal
    usable = dataset.table["split"].to_numpy() != "test"
    labels = dataset.table["label"].to_numpy()
    activations = tuple(name for name in reversed(store.layers) if store.kinds[name] == "activation")
    found: list[Candidate] = []
    for class_id in context.reporter.track(range(len(dataset.classes)), "detectors, class by class"):
        rows = np.flatnonzero(usable & (labels == class_id))
        view = ClassView(
            store, class_id, rows, config.condition, activations or store.layers[::-1], context.config.seed
        )
        for detector in config.detectors:
            found += make_detector(detector).detect(view)
    return found


def _measure(context: StageContext, candidates: list[Candidate], meter: SuspicionMeter) -> list[Suspicion]:
    """Measure the candidates that separation and held-out evidence leave in question."""
    evident = []
    for candidate in context.reporter.track(candidates, "held-out evidence"):
        found = best_cav(candidate, meter.store, meter.settings)
        if found is not None:
            evident.append((candidate, *found))
    shortlist = context.reporter.track(_shortlist(evident), "effect of candidates")
    return [meter.measure(candidate, cav, auroc) for candidate, cav, auroc in shortlist]


def _shortlist(evident: list[tuple[Candidate, Cav, float]]) -> list[tuple[Candidate, Cav, float]]:
    """Return the most promising candidates of each class, the same group from several spaces only once."""
    chosen: list[tuple[Candidate, Cav, float]] = []
    for entry in sorted(evident, key=lambda each: -np.sqrt(separation(each[0].conductance)) * (2 * each[2] - 1)):
        rivals = [other for other, _, _ in chosen if other.class_id == entry[0].class_id]
        if len(rivals) < SHORTLIST_PER_CLASS and all(same_side_overlap(entry[0], other) < REPEATED for other in rivals):
            chosen.append(entry)
    return chosen


def _with_pictures(
    context: StageContext,
    dataset: WorldView,
    store: FeatureStore,
    explainer: Explainer,
    finding: Finding,
    suspicion: Suspicion,
) -> Finding:
    candidate = suspicion.candidate
    generator = np.random.default_rng(context.config.seed)
    inside = generator.permutation(candidate.member_rows)[:PICTURED_SAMPLES]
    outside = generator.permutation(candidate.rows[~candidate.members])[:PICTURED_SAMPLES]
    x = torch.stack([dataset[int(row)].x for row in inside]).to(context.device)
    concept = blur(concept_heatmaps(explainer, x, suspicion.cav), PICTURE_BLUR)
    relevance = store.heatmaps(context.config.reveal.condition, inside)
    nothing = np.zeros(concept.shape[1:], bool)
    masks = [binarize(each) for each in concept]
    sheets = {
        "samples of the finding; relevance for the class; where it differs from the rest of the class": pictures.sheet(
            [
                [
                    pictures.outlined(image.cpu().numpy(), nothing if mask is None else mask)
                    for image, mask in zip(x, masks, strict=True)
                ],
                [pictures.heatmap_image(each) for each in relevance],
                [pictures.heatmap_image(each) for each in concept],
            ]
        ),
        "samples of the same class outside the finding, and their relevance": pictures.sheet(
            [
                [pictures.to_image(dataset[int(row)].x.numpy()) for row in outside],
                [pictures.heatmap_image(each) for each in store.heatmaps(context.config.reveal.condition, outside)],
            ]
        ),
    }
    evidence = {}
    for name, (caption, image) in zip(("inside", "outside"), sheets.items(), strict=True):
        evidence[caption] = f"reveal/{finding.id}-{name}.png"
        pictures.save(image, context.directory.root / evidence[caption])
    plot = _embedding(context, store, finding, suspicion)
    if plot:
        evidence["samples of the class by relevance, two-dimensional embedding"] = plot
    return finding.model_copy(update={"evidence": evidence})


def _embedding(context: StageContext, store: FeatureStore, finding: Finding, suspicion: Suspicion) -> str | None:
    """Plot the spectral embedding of the class, by UMAP where the detector asks for it; only for SpRAy's findings."""
    configured = [detector for detector in context.config.reveal.detectors if isinstance(detector, SprayConfig)]
    if finding.detector != "spray" or not configured:
        return None
    candidate = suspicion.candidate
    view = ClassView(store, finding.class_id, candidate.rows, context.config.reveal.condition, (), context.config.seed)
    result = Spray(configured[0]).analyse(view, finding.layer)
    if configured[0].umap and finding.rank == 1:
        points, name = _umap(result.view.embedding, context.config.seed), "UMAP of the spectral embedding"
    else:
        # the first eigenvector tells only components of the graph apart
        first = min(1, result.view.embedding.shape[1] - 2)
        points, name = result.view.embedding[:, first : first + 2], "leading eigenvectors"
    path = f"reveal/{finding.id}-embedding.png"
    title = f"class {finding.class_name}, {finding.layer}\n{name}"
    pictures.embedding_plot(points, candidate.members, title, context.directory.root / path)
    return path


def _umap(embedding: np.ndarray, seed: int) -> np.ndarray:
    from umap import UMAP

    return UMAP(n_neighbors=min(15, len(embedding) - 1), random_state=seed, n_jobs=1).fit_transform(embedding)


def _accept(
    context: StageContext,
    store: FeatureStore,
    findings: list[Finding],
    measured: dict[str, Suspicion],
    layers: tuple[str, ...],
) -> None:
    config = context.config.reveal
    verdicts = latest(read_journal(context.directory.annotations_path))
    for unknown in sorted(set(verdicts) - set(measured)):
        context.reporter.say(f"    WARNING: annotations.json judges '{unknown}', which is not among the findings")
    biases = []
    for finding, verdict in accepted(findings, verdicts, config.accept_top, config.accept_score):
        candidate = measured[finding.id].candidate
        fitted = list(fit_candidates(config.cav, store, candidate.rows, candidate.members, layers, context.config.seed))
        cav, summary = fitted[choose(fitted)]
        cav.save(context.directory.root / f"reveal/cavs/{finding.id}.npz")
        for other, _ in fitted:
            other.save(context.directory.root / f"reveal/cavs/{finding.id}/{other.layer}--{other.kind}.npz")
        biases.append(make_bias(finding, verdict, summary, [each for _, each in fitted]))
        context.reporter.say(
            f"    bias {finding.id} ({biases[-1].status}): {summary.kind} CAV in {summary.layer}, held-out AUROC "
            f"{summary.auroc:.3f} [{summary.auroc_lower:.3f}, {summary.auroc_upper:.3f}]"
        )
    if not biases:
        context.reporter.say("    nothing was accepted as a bias")
    context.directory.write_record("reveal/biases.json", Biases(biases=biases))
