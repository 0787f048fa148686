"""Group DRO: distributionally robust optimisation over groups of class and artifact (Sagawa et al., ICLR 2020)."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.config.mitigate import GroupDroMethod
from pipeline.models.build import AuditModel
from pipeline.models.training_group import TrainingGroup

from .fine_tuning import MaskedBatch, fine_tune
from .groups import Groups, balanced_rows, find_groups
from .interface import Correction, Problem


def raised_weights(weights: torch.Tensor, losses: torch.Tensor, step_size: float) -> torch.Tensor:
    """Return q'_g = q_g exp(eta l_g) / sum over groups, [G]; a group that was not seen has loss 0 (Algorithm 1)."""
    raised = weights * torch.exp(step_size * losses)
    return raised / raised.sum()


def group_means(
    losses: torch.Tensor, ids: torch.Tensor, count: int, group: TrainingGroup
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean loss and the number of samples of each group, both `[G]` float64, 0 where there is none.

    Args:
        losses: of the samples of this process `[B]`.
        ids: their groups `[B]`.
        count: G.
        group: processes that train together; the figures are those of the whole batch.
    """
    own = torch.stack(
        [torch.bincount(ids, weights, count) for weights in (losses.double(), torch.ones_like(losses).double())]
    )
    flat = own.flatten().tolist()
    summed = group.add({str(place): value for place, value in enumerate(flat)})
    sums, sizes = torch.tensor([summed[str(place)] for place in range(len(flat))], dtype=torch.float64).view(2, count)
    return sums / sizes.clamp(min=1), sizes


class WithGroupWeights(nn.Module):
    """The model with the weights of the groups as a buffer.

    The weights are part of the training's state, as momentum is: saved, resumed, shared by processes and taken back to
    the best epoch with the model's own buffers.
    """

    def __init__(self, model: AuditModel, groups: int):
        super().__init__()
        self.model = model
        device = next(model.parameters()).device
        self.register_buffer("weights", torch.full((groups,), 1 / groups, dtype=torch.float64, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `[N, K]`."""
        return self.model(x)


class GroupDro:
    """Fine-tuning on sum over groups of q_g times the mean loss of the group; q follows the losses.

    Batches are drawn with every group equally often, as the algorithm draws the group first. Class weights of the
    original training are left out.
    """

    def __init__(self, config: GroupDroMethod):
        self.config = config

    def fit(self, model: AuditModel, problem: Problem) -> Correction:
        """Return a fine-tuned copy of the model; the notes say how much each group weighed in the end.

        Raises:
            NoCounterExamples: no class is divided by the artifact.
        """
        config = self.config
        groups = find_groups(model, problem, config.groups, config.min_group)
        margins = config.adjustment / torch.from_numpy(groups.sizes).double().sqrt()

        def losses(network: WithGroupWeights, batch: MaskedBatch) -> dict[str, torch.Tensor]:
            return dro_losses(network, batch, groups, margins, config.step_size, problem.group)

        correction = fine_tune(
            WithGroupWeights(model, len(groups.names)),
            problem,
            config,
            losses,
            order=partial(balanced_rows, groups, problem.seed),
        )
        weights = correction.model.weights.tolist()
        notes = {f"weight of {name}": weight for name, weight in zip(groups.names, weights, strict=True)}
        return dataclasses.replace(correction, model=correction.model.model, notes=notes)


def dro_losses(
    network: WithGroupWeights,
    batch: MaskedBatch,
    groups: Groups,
    margins: torch.Tensor,
    step_size: float,
    group: TrainingGroup,
) -> dict[str, torch.Tensor]:
    """Move the weights of the groups in place, and return the losses of a batch.

    "total" is sum over groups of q_g l_g with the moved q, l_g the mean cross-entropy of the group's samples in the
    batch; "classification" the mean over samples. Groups that are not in the batch add nothing.

    Args:
        margins: what is added to a group's loss before its weight moves, C / sqrt(n_g), `[G]`.
        step_size: eta.
        group: processes that train together, each with its part of the batch.
    """
    each = F.cross_entropy(network(batch.x), batch.y, reduction="none")
    ids = torch.from_numpy(groups.of(batch.rows)).to(each.device)
    means, sizes = group_means(each.detach(), ids, len(groups.names), group)
    means, sizes = means.to(each.device), sizes.to(each.device)
    present = sizes > 0
    raised = raised_weights(network.weights, (means + margins.to(each.device)) * present, step_size)
    network.weights.copy_(raised)
    # the training averages over processes by their numbers of samples, which this undoes
    share = (raised / sizes.clamp(min=1))[ids] * sizes.sum()
    return {"total": (share.to(each) * each).mean(), "classification": each.mean()}
