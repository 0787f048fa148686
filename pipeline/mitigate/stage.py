"""Every configured correction, in `mitigate/<method id>/` with a key of its own, so that finished ones are kept."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.concepts.cav import Cav
from pipeline.concepts.corrected import method_weights
from pipeline.concepts.localization import dilate
from pipeline.concepts.pasting import pasted_world
from pipeline.config.mitigate import AnyMethod, MaskedBackground
from pipeline.data.cleaned import CleanedView
from pipeline.data.dataset import AuditDataset
from pipeline.data.memory import split_indices
from pipeline.data.open import open_world
from pipeline.data.pasted import PastedView
from pipeline.data.worlds import WorldView
from pipeline.models.build import AuditModel, build_model
from pipeline.models.checkpoints import save_weights
from pipeline.models.classification import class_weights
from pipeline.models.loop import write_history
from pipeline.models.open import open_original
from pipeline.models.predict import predict_logits
from pipeline.models.training_group import TrainingGroup, training_group
from pipeline.workspace.hashing import digest_json
from pipeline.workspace.masks import MaskSet
from pipeline.workspace.peak_memory import PeakMemory
from pipeline.workspace.progress import SilentReporter
from pipeline.workspace.records import Bias, Biases, MethodRecord
from pipeline.workspace.stage import StageContext

from .contest import ValidationLogits, family_winners, hold_contest, standing, validation_figures, with_seeds
from .groups import NoCounterExamples, counter_example_warnings
from .interface import Exporting, KnownBias, Problem
from .registry import MITIGATIONS, make_mitigation

CONTEST = "contest.json"
MAPS = "maps"
STATE = "training_state.pt"
RESULTS = ("method.json", "model.pt", "history.csv")


@dataclass(frozen=True)
class Fitting:
    """What all corrections of a run have in common.

    Attributes:
        original: the model under audit.
        dataset: the training world.
        cleaned: the same with localized regions filled in; None where nothing was localized.
        pasted: the same with a localized region in every sample; None where nothing was localized.
        known: accepted biases.
        group: processes that train together.
    """

    context: StageContext
    original: AuditModel
    dataset: WorldView
    cleaned: CleanedView | None
    pasted: PastedView | None
    known: list[KnownBias]
    group: TrainingGroup


def run(context: StageContext) -> None:
    """Fit what is not there yet, and remove what is no longer configured; several processes train together."""
    with training_group(context.rank, context.device) as group:
        _run(context, group)


def _run(context: StageContext, group: TrainingGroup) -> None:
    config = context.config.mitigate
    fitting = _prepare(context, group)
    background = context.config.localize.background
    missing = {
        method.method_id: what_is_missing(method, fitting.known, fitting.dataset, background)
        for method in config.methods
    }
    possible = [method for method in config.methods if not missing[method.method_id]]
    if group.leads:
        _remove_others(context, [each.method_id for method in possible for each in with_seeds(method, config.seeds)])
    warnings = _warnings(fitting) if fitting.known else []
    for warning in warnings:
        context.reporter.say(f"    {warning}")
    entrants = []
    for method in config.methods:
        lack = missing[method.method_id] or _correct(fitting, method, 0)
        if lack:
            context.reporter.say(f"    {method.method_id}: skipped, {lack}")
        else:
            entrants.append(method)
    group.agree(True)  # what follows reads what the leading process wrote
    original = standing(_validate(fitting, fitting.original))
    winners = family_winners(entrants, _records(context, entrants), original, config.most_clean_loss)
    repeated = []
    for method in (each for each in winners if MITIGATIONS[each.kind].trains):
        for number, again in enumerate(with_seeds(method, config.seeds)):
            if number and not _correct(fitting, again, number):
                repeated.append(again)
    if group.leads:
        records = _records(context, [*entrants, *repeated])
        contest = hold_contest(records, winners, original, config.most_clean_loss, warnings)
        context.directory.write_record(f"mitigate/{CONTEST}", contest)
        if contest.recommended:
            context.reporter.say(f"    preferred on the validation split: {contest.recommended}")


def _prepare(context: StageContext, group: TrainingGroup) -> Fitting:
    biases = context.directory.read_record("reveal/biases.json", Biases).biases
    dataset, grow = open_world(context), context.config.localize.dilate
    known = [_load_bias(context, bias) for bias in biases]
    pasted = pasted_world(context.directory.root, dataset, biases, grow, context.config.seed)
    return Fitting(
        context=context,
        original=open_original(context, dataset),
        dataset=dataset,
        cleaned=None if pasted is None else _cleaned(dataset, known),
        pasted=pasted,
        known=known,
        group=group,
    )


def _records(context: StageContext, methods: list[AnyMethod]) -> list[MethodRecord]:
    paths = [f"mitigate/{method.method_id}/method.json" for method in methods]
    return [context.directory.read_record(path, MethodRecord) for path in paths]


def what_is_missing(
    method: AnyMethod, known: list[KnownBias], dataset: AuditDataset, background: MaskedBackground
) -> str:
    """Return why a correction cannot be made from the biases and the data set, or an empty text.

    Args:
        background: of `localize`, which counts for methods that know regions of interest, unless they have their own.
    """
    needs = MITIGATIONS[method.kind].needs
    # only some methods can take the region of interest for a mask
    background = (method.background or background) if hasattr(method, "background") else "artifact"
    if needs == "masks" and background != "artifact":
        rows = split_indices(dataset, "train")
        if any(dataset.roi_mask(int(row)) is not None for row in rows):
            return ""
        if background == "roi":
            return "since the data set has no regions of interest"
    if method.told_truth:
        return ""
    if needs != "nothing" and not known:
        return "since no bias was accepted that it could correct"
    if needs == "masks" and not any(each.mask(name) is not None for each in known for name in each.bias.sample_ids):
        return "since no sample of the biases has a mask"
    return ""


def _warnings(fitting: Fitting) -> list[str]:
    """Return what is to be said about samples that could tell the artifact from the class."""
    problem = Problem(fitting.dataset, fitting.known, device=fitting.context.device, group=fitting.group)
    pooled = all(known.cav.pooling != "full" for known in fitting.known)
    return counter_example_warnings(fitting.original, problem, "detected" if pooled else "found")


def _correct(fitting: Fitting, method: AnyMethod, number: int) -> str:
    """Fit a correction and store it, unless it is there; `number` is added to the seed of the run.

    Returns:
        Why the data do not allow it, or an empty text.
    """
    context, group = fitting.context, fitting.group
    seed = context.config.seed + number
    key = digest_json([context.unit_key, method.model_dump(mode="json"), seed])
    if group.agree(_is_done(context, method, key)):
        context.reporter.say(f"    {method.method_id}: kept from an earlier run")
        return ""
    entry = MITIGATIONS[method.kind]
    if not (group.leads or entry.trains):
        return ""
    folder = context.directory.folder("mitigate") / method.method_id
    started = time.perf_counter()
    mitigation, problem = make_mitigation(method), _problem(fitting, method, seed, key, folder)
    try:
        with PeakMemory(context.device) as memory:
            correction = mitigation.fit(fitting.original, problem)
    except NoCounterExamples as error:
        return str(error)
    seconds = time.perf_counter() - started
    if not group.leads:
        return ""
    validation = _validate(fitting, correction.model)
    for name in RESULTS:  # so that the record never stands beside the weights of another correction
        (folder / name).unlink(missing_ok=True)
    save_weights(correction.model.network, folder / "model.pt")
    if isinstance(mitigation, Exporting):
        mitigation.export(correction.model, problem, folder / MAPS)
    if correction.history:
        write_history(folder / "history.csv", correction.history)
    known = fitting.known
    status = "reviewed" if known and all(each.bias.status == "reviewed" for each in known) else "unreviewed"
    record = MethodRecord(
        key=key,
        id=method.method_id,
        kind=method.kind,
        family=method.family_id,
        seed=seed,
        parameters=method.model_dump(mode="json", exclude={"kind", "id", "family"}),
        trained=entry.trains,
        frozen=entry.freezes,
        told_truth=method.told_truth,
        biases=[each.bias.id for each in known],
        status=status,
        seconds=seconds,
        peak_megabytes=memory.megabytes,
        validation=validation,
        notes=correction.notes,
        changes=correction.changes,
    )
    (folder / STATE).unlink(missing_ok=True)
    context.directory.write_record(f"mitigate/{method.method_id}/method.json", record)
    shown = ", ".join(f"{name} {value:.3f}" for name, value in validation.items())
    context.reporter.say(f"    {method.method_id}: {seconds:.0f} s; validation {shown}")
    return ""


def _problem(fitting: Fitting, method: AnyMethod, seed: int, key: str, folder: Path) -> Problem:
    context, dataset = fitting.context, fitting.dataset
    train = context.config.model.train
    labels = dataset.table["label"].to_numpy()[split_indices(dataset, "train")]
    return Problem(
        dataset=dataset,
        biases=fitting.known,
        device=context.device,
        seed=seed,
        augment=train.augment,
        background=context.config.localize.background,
        fresh=lambda: _first_weights(context, dataset),
        class_weights=class_weights(labels, len(dataset.classes)) if train.class_weights else None,
        reporter=context.reporter if fitting.group.leads else SilentReporter(),
        key=key,
        state_path=folder / STATE,
        label=method.method_id,
        group=fitting.group,
    )


def _first_weights(context: StageContext, dataset: WorldView) -> AuditModel:
    config = context.config
    return build_model(config.model, len(dataset.classes), dataset.shape[0], config.seed).to(context.device)


def _validate(fitting: Fitting, model: AuditModel) -> dict[str, float]:
    """Return metrics on the validation split as it is, with the localized artifact filled in, and with it pasted in."""
    rows = split_indices(fitting.dataset, "val")
    carriers = np.isin(
        fitting.dataset.table["id"].to_numpy()[rows],
        [sample_id for each in fitting.known for sample_id in each.bias.sample_ids],
    )
    logits = {
        world: predict_logits(model, view, rows, device=fitting.context.device)
        for world, view in (("asis", fitting.dataset), ("cleaned", fitting.cleaned), ("pasted", fitting.pasted))
        if view is not None
    }
    return validation_figures(ValidationLogits(**logits), fitting.dataset.table["label"].to_numpy()[rows], carriers)


def _cleaned(dataset: WorldView, known: list[KnownBias]) -> CleanedView:
    """Return the data set with the regions of all biases filled in."""

    def region(sample_id: str) -> np.ndarray | None:
        found = [mask for each in known if (mask := each.mask(sample_id)) is not None]
        return np.logical_or.reduce(found) if found else None

    return CleanedView(dataset, region)


def _load_bias(context: StageContext, bias: Bias) -> KnownBias:
    folder = context.directory.root / "reveal/cavs"
    masks = MaskSet(context.directory.root / f"localize/{bias.id}")
    available = {entry.id for entry in masks.index() if entry.shows_artifact}
    grow = context.config.localize.dilate

    def mask(sample_id: str) -> np.ndarray | None:
        # grown a little: corrections should cover all of the artifact
        return dilate(masks.read(sample_id)[None], grow)[0] if sample_id in available else None

    cavs = {
        (candidate.layer, candidate.kind): Cav.load(folder / bias.id / f"{candidate.layer}--{candidate.kind}.npz")
        for candidate in bias.candidates
    }
    return KnownBias(bias, Cav.load(folder / f"{bias.id}.npz"), cavs, mask)


def _is_done(context: StageContext, method: AnyMethod, key: str) -> bool:
    """Return whether the correction is there under its key; what cannot be read is made again."""
    folder = context.directory.folder("mitigate") / method.method_id
    try:
        stored = json.loads((folder / "method.json").read_text(encoding="utf-8"))["key"]
        torch.load(method_weights(context.directory.root, method.method_id), weights_only=True)
    except Exception:
        return False
    return stored == key


def _remove_others(context: StageContext, wanted: list[str]) -> None:
    folder: Path = context.directory.folder("mitigate")
    for entry in folder.iterdir() if folder.exists() else ():
        if entry.name not in (*wanted, CONTEST):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
