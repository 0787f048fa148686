"""Every configured correction, in `mitigate/<method id>/` with a key of its own, so that finished ones are kept."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch

from pipeline.concepts.cav import Cav
from pipeline.concepts.corrected import method_weights
from pipeline.concepts.localization import dilate
from pipeline.concepts.pasting import pasted_world
from pipeline.config.mitigate import AnyMethod, IsnetMethod, MaskedBackground
from pipeline.data.dataset import AuditDataset
from pipeline.data.memory import split_indices
from pipeline.data.open import open_world
from pipeline.data.pasted import PastedView
from pipeline.data.worlds import WorldView
from pipeline.models.build import AuditModel, build_model
from pipeline.models.checkpoints import save_weights
from pipeline.models.classification import class_weights, validation_metrics
from pipeline.models.loop import write_history
from pipeline.models.open import open_original
from pipeline.models.training_group import TrainingGroup, training_group
from pipeline.workspace.hashing import digest_json
from pipeline.workspace.masks import MaskSet
from pipeline.workspace.progress import SilentReporter
from pipeline.workspace.records import Bias, Biases, MethodRecord
from pipeline.workspace.stage import StageContext

from .interface import KnownBias, Problem
from .registry import MITIGATIONS, make_mitigation

STATE = "training_state.pt"
RESULTS = ("method.json", "model.pt", "history.csv")


def run(context: StageContext) -> None:
    """Fit what is not there yet, and remove what is no longer configured; several processes train together."""
    with training_group(context.rank, context.device) as group:
        _run(context, group)


def _run(context: StageContext, group: TrainingGroup) -> None:
    methods = context.config.mitigate.methods
    biases = context.directory.read_record("reveal/biases.json", Biases).biases
    dataset = open_world(context)
    original = open_original(context, dataset)
    known = [_load_bias(context, bias) for bias in biases]
    pasted = pasted_world(context.directory.root, dataset, biases, context.config.localize.dilate, context.config.seed)
    missing = {
        method.method_id: what_is_missing(method, known, dataset, context.config.localize.background)
        for method in methods
    }
    if group.leads:
        _remove_others(context, [method_id for method_id, lack in missing.items() if not lack])
    for method in methods:
        if lack := missing[method.method_id]:
            context.reporter.say(f"    {method.method_id}: skipped, {lack}")
            continue
        key = digest_json([context.unit_key, method.model_dump(mode="json")])
        if group.agree(_is_done(context, method, key)):
            context.reporter.say(f"    {method.method_id}: kept from an earlier run")
        elif group.leads or MITIGATIONS[method.kind].trains:
            _correct(context, method, key, original, dataset, pasted, known, group)


def what_is_missing(
    method: AnyMethod, known: list[KnownBias], dataset: AuditDataset, background: MaskedBackground
) -> str:
    """Return why a correction cannot be made from the biases and the data set, or an empty text.

    Args:
        background: of `localize`, which counts for ISNet unless it has its own.
    """
    needs = MITIGATIONS[method.kind].needs
    background = (method.background or background) if isinstance(method, IsnetMethod) else "artifact"
    if needs == "masks" and background != "artifact":
        rows = split_indices(dataset, "train")
        if any(dataset.roi_mask(int(row)) is not None for row in rows):
            return ""
        if background == "roi":
            return "since the data set has no regions of interest"
    if needs != "nothing" and not known:
        return "since no bias was accepted that it could correct"
    if needs == "masks" and not any(each.mask(name) is not None for each in known for name in each.bias.sample_ids):
        return "since no sample of the biases has a mask"
    return ""


def _correct(
    context: StageContext,
    method: AnyMethod,
    key: str,
    original: AuditModel,
    dataset: WorldView,
    pasted: PastedView | None,
    known: list[KnownBias],
    group: TrainingGroup,
) -> None:
    folder = context.directory.folder("mitigate") / method.method_id
    train = context.config.model.train
    labels = dataset.table["label"].to_numpy()[split_indices(dataset, "train")]
    problem = Problem(
        dataset=dataset,
        biases=known,
        device=context.device,
        seed=context.config.seed,
        augment=train.augment,
        background=context.config.localize.background,
        fresh=lambda: _first_weights(context, dataset),
        class_weights=class_weights(labels, len(dataset.classes)) if train.class_weights else None,
        reporter=context.reporter if group.leads else SilentReporter(),
        key=key,
        state_path=folder / STATE,
        label=method.method_id,
        group=group,
    )
    started = time.perf_counter()
    correction = make_mitigation(method).fit(original, problem)
    seconds = time.perf_counter() - started
    if not group.leads:
        return
    validation = _validate(context, correction.model, dataset, pasted)
    for name in RESULTS:  # so that the record never stands beside the weights of another correction
        (folder / name).unlink(missing_ok=True)
    save_weights(correction.model.network, folder / "model.pt")
    if correction.history:
        write_history(folder / "history.csv", correction.history)
    status = "reviewed" if known and all(each.bias.status == "reviewed" for each in known) else "unreviewed"
    record = MethodRecord(
        key=key,
        id=method.method_id,
        kind=method.kind,
        parameters=method.model_dump(mode="json", exclude={"kind", "id"}),
        trained=MITIGATIONS[method.kind].trains,
        biases=[each.bias.id for each in known],
        status=status,
        seconds=seconds,
        validation=validation,
        notes=correction.notes,
        changes=correction.changes,
    )
    (folder / STATE).unlink(missing_ok=True)
    context.directory.write_record(f"mitigate/{method.method_id}/method.json", record)
    shown = ", ".join(f"{name} {value:.3f}" for name, value in validation.items())
    context.reporter.say(f"    {method.method_id}: {seconds:.0f} s; validation {shown}")


def _first_weights(context: StageContext, dataset: WorldView) -> AuditModel:
    config = context.config
    return build_model(config.model, len(dataset.classes), dataset.shape[0], config.seed).to(context.device)


def _validate(
    context: StageContext, model: AuditModel, dataset: WorldView, pasted: PastedView | None
) -> dict[str, float]:
    """Return metrics on the validation split, as it is and with the localized artifact pasted into every sample."""
    rows = split_indices(dataset, "val")
    plain = validation_metrics(model, dataset, rows, context.device)
    metrics = {name: plain[name] for name in ("accuracy", "balanced_accuracy", "auroc")}
    if pasted is not None:
        found = validation_metrics(model, pasted, rows, context.device)
        metrics |= {"pasted_accuracy": found["accuracy"], "pasted_balanced_accuracy": found["balanced_accuracy"]}
    return metrics


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
        if entry.name not in wanted:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
