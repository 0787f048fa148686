"""The training loop that train and mitigate share: epochs, validation, best epoch, history, resume."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipeline.data.batches import Batch, Batches
from pipeline.errors import PipelineError
from pipeline.workspace.atomic import atomic_path, write_text
from pipeline.workspace.progress import Reporter, SilentReporter

from .training_group import TrainingGroup

Losses = dict[str, torch.Tensor]
APART = 15_485_863
"""Between the random numbers of two processes; far more than epochs and seeds lie apart."""
LOWER_IS_BETTER = {"loss", "total"}


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train.

    Attributes:
        select: validation metric that names the best epoch, or "last".
        patience: stop after so many epochs without a better one; None = train all epochs.
        frozen_norms: keep BatchNorm statistics as they are, as fine-tuning on few samples should.
    """

    epochs: int
    lr: float
    optimizer: str = "adam"
    weight_decay: float = 0.0
    schedule: str = "constant"
    clip_norm: float | None = None
    select: str = "accuracy"
    patience: int | None = None
    frozen_norms: bool = False


@dataclass(frozen=True)
class Epoch:
    """One line of the history: number, mean training losses by name, validation metrics."""

    number: int
    losses: dict[str, float]
    validation: dict[str, float]


def train_loop(
    model: nn.Module,
    batches: Batches,
    losses: Callable[[nn.Module, Batch, int], Losses],
    validate: Callable[[nn.Module], dict[str, float]],
    settings: LoopSettings,
    *,
    device: str = "cpu",
    seed: int = 0,
    key: str = "",
    state_path: Path | None = None,
    reporter: Reporter | None = None,
    label: str = "training",
    group: TrainingGroup | None = None,
) -> list[Epoch]:
    """Train in place and leave the weights of the best epoch in the model.

    Args:
        model: any module.
        batches: shuffled training batches.
        losses: (model, batch, epoch) -> named scalars; their sum under the name "total" is minimised.
        validate: model -> metrics; called after every epoch in evaluation mode.
        settings: see `LoopSettings`.
        key: hash of everything the training depends on; a saved state with another key is ignored.
        state_path: where the state of the last epoch is kept, so that a killed training goes on there.
        group: processes that train the same model together, `batches` being the part of this one.

    Raises:
        PipelineError: the loss, in training or in validation, is not finite.
    """
    reporter, group = reporter or SilentReporter(), group or TrainingGroup()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = _make_optimizer(settings, parameters)
    history: list[Epoch] = []
    best: tuple[float, dict[str, torch.Tensor]] | None = None
    resumed = _load_state(state_path, key)
    if resumed:
        model.load_state_dict(resumed["model"])
        optimizer.load_state_dict(resumed["optimizer"])
        history = [Epoch(**row) for row in resumed["history"]]
        best = (resumed["best_score"], resumed["best"])
        reporter.say(f"    {label}: resuming after epoch {len(history)} of {settings.epochs}")
    # also a meeting point: no process goes on, and changes the state, before all have read it
    if group.agree(len(history)) != len(history):
        raise PipelineError(f"{label}: the processes read different training states. Start the same command again.")
    steps = settings.epochs * len(batches)
    for number in range(len(history) + 1, settings.epochs + 1):
        if _gave_up(history, settings):
            reporter.say(f"    {label}: no better epoch for {settings.patience} epochs, so training ends here")
            break
        torch.manual_seed(seed * 100_003 + number + APART * group.rank.number)
        batches.epoch = number
        model.train()
        if settings.frozen_norms:
            freeze_norms(model)
        sums: dict[str, float] = {}
        for step, batch in enumerate(reporter.track(batches, f"{label}, epoch {number}/{settings.epochs}")):
            _set_rate(optimizer, settings, (number - 1) * len(batches) + step, steps)
            moved = Batch(batch.x.to(device), batch.y.to(device), batch.index)
            values = losses(model, moved, number)
            own, whole = batches.count(step)
            _backward(optimizer, parameters, values["total"], label, number)
            group.average_gradients(parameters, own, whole)
            _step(optimizer, parameters, settings.clip_norm)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * own
        group.share_buffers(model)
        model.eval()
        means = {name: value / len(batches.indices) for name, value in group.add(sums).items()}
        validation = {name: float(value) for name, value in validate(model).items()} if group.leads else {}
        epoch = Epoch(number, means, group.agree(validation))
        _require_finite("validation loss", epoch.validation.get("loss", 0.0), label, number)
        history.append(epoch)
        score = _score(epoch, settings.select)
        if best is None or score >= best[0]:
            best = (score, {name: tensor.detach().clone() for name, tensor in model.state_dict().items()})
        if group.leads:
            _save_state(state_path, key, model, optimizer, history, best)
        reporter.say(f"    {label}: {_describe(epoch, settings.epochs)}")
    if best is not None:
        model.load_state_dict(best[1])
    model.eval()
    return history


def _gave_up(history: list[Epoch], settings: LoopSettings) -> bool:
    """Tell, from the history alone, so that a resumed training stops at the same epoch."""
    if settings.patience is None or not history:
        return False
    scores = [_score(epoch, settings.select) for epoch in history]
    best = max(range(len(scores)), key=lambda place: (scores[place], place))
    return len(scores) - 1 - best >= settings.patience


def freeze_norms(model: nn.Module) -> None:
    """Put every BatchNorm into evaluation mode; scale and shift stay trainable."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def write_history(path: Path, history: list[Epoch]) -> None:
    """Write one CSV row per epoch: epoch, train_<loss>, val_<metric>."""
    rows = [
        {"epoch": epoch.number}
        | {f"train_{name}": value for name, value in epoch.losses.items()}
        | {f"val_{name}": value for name, value in epoch.validation.items()}
        for epoch in history
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["epoch"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _make_optimizer(settings: LoopSettings, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def _set_rate(optimizer: torch.optim.Optimizer, settings: LoopSettings, step: int, steps: int) -> None:
    factor = 0.5 * (1 + math.cos(math.pi * step / steps)) if settings.schedule == "cosine" else 1.0
    for group in optimizer.param_groups:
        group["lr"] = settings.lr * factor


def _backward(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], total: torch.Tensor, label: str, epoch: int
) -> None:
    _require_finite("loss", float(total.detach()), label, epoch)
    optimizer.zero_grad(set_to_none=True)
    # gradients of pixels and frozen layers, which a penalty may have asked for, are of no use here
    total.backward(inputs=parameters)


def _step(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], clip_norm: float | None) -> None:
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimizer.step()


def _require_finite(what: str, value: float, label: str, epoch: int) -> None:
    if not math.isfinite(value):
        raise PipelineError(
            f"{label}: the {what} became {value} in epoch {epoch}. "
            "Lower the learning rate or the weight of the penalty."
        )


def _score(epoch: Epoch, select: str) -> float:
    if select == "last":
        return float(epoch.number)
    value = epoch.validation[select]
    if math.isnan(value):
        return -math.inf
    return -value if select in LOWER_IS_BETTER else value


def _describe(epoch: Epoch, epochs: int) -> str:
    losses = ", ".join(f"{name} {value:.3f}" for name, value in epoch.losses.items())
    metrics = ", ".join(f"{name} {value:.3f}" for name, value in epoch.validation.items())
    return f"epoch {epoch.number}/{epochs}: {losses}; validation {metrics}"


def _save_state(path, key, model, optimizer, history, best) -> None:
    if path is None:
        return
    state = {
        "key": key,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": [vars(epoch) for epoch in history],
        "best_score": best[0],
        "best": best[1],
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def _load_state(path: Path | None, key: str) -> dict | None:
    """Return the saved state if it belongs to this very training; a damaged or foreign one only costs its epochs."""
    if path is None or not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return None
    return state if isinstance(state, dict) and state.get("key") == key else None
