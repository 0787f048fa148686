"""Several processes that train one model, each on its part of every batch, as torchrun starts them.

Gradients are averaged after the one backward pass of a step, whatever happened inside the loss, so no wrapper such as
`DistributedDataParallel` is needed, and the model stays the module that methods look into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from pipeline.workspace.rank import Rank

T = TypeVar("T")


class TrainingGroup:
    """The processes of a training; alone, all of it is free.

    Args:
        rank: this process.
    """

    def __init__(self, rank: Rank = Rank()):
        self.rank = rank

    @property
    def leads(self) -> bool:
        """Whether this process validates, saves and reports."""
        return self.rank.number == 0

    def agree(self, value: T) -> T:
        """Return the value of the leading process, in all of them."""
        if self.rank.of == 1:
            return value
        held = [value]
        torch.distributed.broadcast_object_list(held, src=0)
        return held[0]

    def add(self, sums: dict[str, float]) -> dict[str, float]:
        """Return the sums over all processes, name by name; a name may be missing in some."""
        if self.rank.of == 1:
            return sums
        held = [None] * self.rank.of
        torch.distributed.all_gather_object(held, sums)
        names = dict.fromkeys(name for each in held for name in each)
        return {name: sum(each.get(name, 0.0) for each in held) for name in names}

    def average_gradients(self, parameters: Sequence[nn.Parameter], own: int, all_of_them: int) -> None:
        """Replace gradients by their mean over the samples of all processes.

        Args:
            parameters: the same in every process; one without gradient counts as 0.
            own: samples that this process's mean is over; it may be 0.
            all_of_them: samples of the whole batch.
        """
        if self.rank.of == 1:
            return
        flat = torch.cat(
            [
                (torch.zeros_like(each) if each.grad is None or not own else each.grad * (own / all_of_them)).flatten()
                for each in parameters
            ]
        )
        torch.distributed.all_reduce(flat)
        for each, gradient in zip(parameters, flat.split([each.numel() for each in parameters]), strict=True):
            each.grad = gradient.view_as(each)

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the statistics of the leading one."""
        if self.rank.of > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, src=0)


@contextmanager
def training_group(rank: Rank, device: str) -> Iterator[TrainingGroup]:
    """Join the other processes for a while; alone, nothing is started."""
    if rank.of == 1:
        yield TrainingGroup()
        return
    torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield TrainingGroup(rank)
    finally:
        torch.distributed.destroy_process_group()
