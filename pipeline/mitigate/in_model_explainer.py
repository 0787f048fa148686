"""In-model explainer: a map that multiplies the classifier's features, both trained (Rio-Torto et al., 2020).

What a map proves: what it closes reaches the classifier less, through the gated layers. What it does not prove: that
the classifier used what is open, or nothing of what is closed. Features leak past the map through receptive fields
(unless the image itself is masked), later weights undo a low map, and the map can be a message to the classifier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.concepts.localization import binarize
from pipeline.config.mitigate import InModelExplainerMethod
from pipeline.config.mitigate.in_model import ExplainerPhase
from pipeline.data.batches import Batches
from pipeline.data.dataset import AuditDataset
from pipeline.data.memory import split_indices
from pipeline.models.build import AuditModel
from pipeline.models.gated import GatedClassifier, gated_layers
from pipeline.models.loop import Epoch, freeze_norms
from pipeline.models.modes import evaluation_mode
from pipeline.workspace.masks import MaskEntry, MaskSet, mask_name, save_mask
from pipeline.workspace.records import NetworkChange

from .explanation_losses import explanation_loss, joint_loss
from .fine_tuning import MaskedBatch, classification_loss, fine_tune
from .interface import Correction, Problem
from .replaced import mean_color, replaced

CLOSED, OPEN = 1e-2, 0.95
"""Mean of a map below which it lets nothing through, and above which it holds nothing back."""
BORDER, SMALLEST, LOWEST_CONTRAST = 0.03, 0.002, 0.1
"""Of candidate masks: the margin left out, as a share of the larger side, since zero padding lights it; the smallest
region, as a share of the image; the least difference between the lowest and highest value of a map."""
EVIDENCE = "evidence of use, unreviewed"


class InModelExplainer:
    """Training of a gated classifier and its explainer in phases, from the model under audit."""

    def __init__(self, config: InModelExplainerMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return the gated classifier, whose classifier starts from a copy of the model."""
        config = self.config
        example = problem.dataset[0].x[None].to(problem.device)
        change = NetworkChange(
            name="gated_classifier",
            parameters={
                "channels": problem.dataset.shape[0],
                "layers": list(gated_layers(model, example, config.gated)),
                "width": config.width,
                "gate": config.gate,
                "bias": config.bias,
            },
        )
        trained = _gated(model, change, problem)
        history: list[Epoch] = []
        collapsed: list[str] = []
        for number, (phase, epochs) in enumerate(zip(config.phases, config.epochs_of_phases(), strict=True), 1):
            if not epochs:
                continue
            outcome = self._train(trained, problem, number, epochs)
            if first := _first_closed(outcome.history):
                collapsed.append(f"closed in phase {number}")
                problem.reporter.say(
                    f"    WARNING: {_label(problem, config)}: in epoch {first} of phase {number} ({phase.trains}) the "
                    f"map closed everywhere (mean below {CLOSED:g}); what was trained before is kept. Raise "
                    "classification_share of that phase, or lower its lr or mask_weight."
                )
                outcome = self._train(trained, problem, number, first - 1) if first > 1 else Correction(trained)
            trained = outcome.model
            history += [
                dataclasses.replace(epoch, number=len(history) + n) for n, epoch in enumerate(outcome.history, 1)
            ]
        opening = mean_opening(trained, problem.dataset, split_indices(problem.dataset, "val"))
        if opening > OPEN:
            collapsed.append("open")
            problem.reporter.say(
                f"    WARNING: {_label(problem, config)}: the map stayed open everywhere (mean {opening:.3f}) and says "
                "nothing. Train longer, or lower classification_share."
            )
        if problem.group.leads and problem.state_path is not None:
            for path in problem.state_path.parent.glob(_state_name("*", "*")):
                path.unlink()
        notes = {"mean_map": opening, "collapsed": ", ".join(collapsed) or "no"}
        return Correction(trained.requires_grad_(True), history, [change], notes)

    def _train(self, gated: AuditModel, problem: Problem, number: int, epochs: int) -> Correction:
        """Return a copy that was trained by a phase; `number` counts from 1."""
        config, phase = self.config, self.config.phases[number - 1]
        gated.network.network.requires_grad_(phase.trains != "explainer")
        gated.network.explainer.requires_grad_(phase.trains != "classifier")

        def losses(network: nn.Module, batch: MaskedBatch) -> dict[str, torch.Tensor]:
            hold_still(network.network, phase)
            return gated_losses(network, batch, problem, config, phase)

        return fine_tune(
            gated,
            dataclasses.replace(
                problem,
                state_path=problem.state_path and problem.state_path.with_name(_state_name(number, epochs)),
                label=f"{_label(problem, config)}, phase {number} ({phase.trains})",
            ),
            config.model_copy(update={"epochs": epochs, "lr": phase.lr or config.lr}),
            losses,
            frozen_norms=False,  # `hold_still` keeps those of the classifier; that of the explainer is new
            background=config.background or problem.background,
            mask_source=config.masks,
            validated=_mean_map,
        )

    def export(self, model: AuditModel, problem: Problem, folder: Path) -> None:
        """Write candidate masks of the samples of all biases, or else of the validation split."""
        ids = {sample_id for known in problem.biases for sample_id in known.bias.sample_ids}
        rows = np.flatnonzero(problem.dataset.table["id"].astype(str).isin(ids))
        write_candidates(model, problem.dataset, rows if len(rows) else split_indices(problem.dataset, "val"), folder)


def _label(problem: Problem, config: InModelExplainerMethod) -> str:
    return problem.label or config.method_id


def _state_name(phase: int | str, epochs: int | str) -> str:
    return f"phase_{phase}_of_{epochs}_epochs_state.pt"


def _gated(model: AuditModel, change: NetworkChange, problem: Problem) -> AuditModel:
    """Return a copy of the model behind an explainer."""
    gated = replaced(model, change, problem.seed)
    if not change.parameters["layers"]:
        gated.network.fill.copy_(mean_color(gated, problem))
    return gated


def hold_still(gated: GatedClassifier, phase: ExplainerPhase) -> None:
    """Put the part that a phase does not train, and every BatchNorm of the classifier, into evaluation mode."""
    freeze_norms(gated.network)
    if phase.trains == "explainer":
        gated.network.eval()
    elif phase.trains == "classifier":
        gated.explainer.eval()


def gated_losses(
    model: AuditModel, batch: MaskedBatch, problem: Problem, config: InModelExplainerMethod, phase: ExplainerPhase
) -> dict[str, torch.Tensor]:
    """Return the losses of a batch: "total", the two that it consists of, and the mean of the maps."""
    logits, opening = model.network.forward_with_map(model.normalize(batch.x))
    classification = classification_loss(problem, logits, batch.y)
    mask = batch.mask if config.loss == "hybrid" else None
    explanation = explanation_loss(opening, config.sparsity_share, mask, config.mask_weight).mean()
    return {
        "total": joint_loss(classification, explanation, phase.classification_share),
        "classification": classification,
        "explanation": explanation,
        "mean_map": opening.detach().mean(),
    }


def _mean_map(model: nn.Module, batch: MaskedBatch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {"mean_map": model.network.explainer(model.normalize(batch.x)).mean()}


def _first_closed(history: list[Epoch]) -> int | None:
    """Return the number of the first epoch that ended with a map that lets nothing through."""
    return next((epoch.number for epoch in history if epoch.validation["mean_map"] < CLOSED), None)


def mean_opening(model: AuditModel, dataset: AuditDataset, rows: np.ndarray) -> float:
    """Return the mean of the maps of some samples."""
    return float(np.mean([soft.mean() for _, soft in _maps(model, dataset, rows)]))


def candidate_masks(model: AuditModel, dataset: AuditDataset, rows: np.ndarray) -> np.ndarray:
    """Return the maps `[N, H, W]` in [0, 1], float32, that a gated classifier draws of some samples.

    They are evidence of what may reach the classifier, never a foreground: a biased classifier lights the artifact, or
    leaves it dark and uses it all the same.
    """
    return np.stack([soft for _, soft in _maps(model, dataset, rows)])


def _maps(model: AuditModel, dataset: AuditDataset, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    device = next(model.parameters()).device
    with evaluation_mode(model), torch.no_grad():
        for batch in Batches(dataset, rows, 256):
            maps = model.network.explainer(model.normalize(batch.x.to(device)))
            yield from zip(batch.index.tolist(), maps[:, 0].float().cpu().numpy(), strict=True)


def candidate_mask(soft: np.ndarray) -> np.ndarray | None:
    """Return the brighter part of a map by Otsu's threshold, without its margin and small regions.

    Args:
        soft: `[H, W]` in [0, 1].

    Returns:
        Booleans `[H, W]`; None where the map has too little contrast, or nothing remains.
    """
    margin = max(1, round(BORDER * max(soft.shape)))
    inner = soft[margin:-margin, margin:-margin]
    if not inner.size or inner.max() - inner.min() < LOWEST_CONTRAST:
        return None
    found = binarize(inner, min_component=SMALLEST)
    return None if found is None else np.pad(found, margin)


def write_candidates(model: AuditModel, dataset: AuditDataset, rows: np.ndarray, folder: Path) -> None:
    """Write `soft/<id>.png`, `masks/<id>.png` and `index.csv`, marked so that nothing takes them for artifact masks.

    There is no `foreground/`: see `candidate_masks`. A person who has looked at them may import `masks/` in localize.
    """
    table, entries = dataset.table, []
    for row, soft in _maps(model, dataset, rows):
        sample_id, found = str(table["id"].iloc[row]), candidate_mask(soft)
        save_mask(folder / "soft" / mask_name(sample_id), np.round(soft * 255))
        if found is not None:
            save_mask(folder / "masks" / mask_name(sample_id), found * 255)
        area = 0.0 if found is None else float(found.mean())
        status = "no evidence" if found is None else EVIDENCE
        split = str(table["split"].iloc[row])
        entries.append(MaskEntry(sample_id, split, "in_model_explainer", float(soft.mean()), area, status))
    MaskSet(folder).write_index(entries)
