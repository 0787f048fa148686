"""Outputs of named modules, caught during a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.errors import nearest


@contextmanager
def record_outputs(
    model: nn.Module, names: Sequence[str], visit: Callable[[str, torch.Tensor], object] | None = None
) -> Iterator[dict[str, torch.Tensor | None]]:
    """Yield a mapping that the forward pass inside the block fills: layer name -> output.

    Args:
        model: hooks are added for the time of the block.
        names: modules.
        visit: called with name and output as soon as it is there; the mapping then holds nothing but the names, so that
            outputs can be let go.

    Raises:
        ValueError: a name is no module of the model, or the module does not run exactly once or gives no tensor.
    """
    modules = dict(model.named_modules())
    outputs: dict[str, torch.Tensor | None] = {}

    def watch(name: str):
        def hook(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if name in outputs:
                raise ValueError(
                    f"layer '{name}' runs more than once in a forward pass, so its output is not one tensor. "
                    "Name the block that ends in it instead."
                )
            if not isinstance(output, torch.Tensor):
                raise ValueError(
                    f"the output of layer '{name}' is of type {type(output).__name__}, not one tensor. "
                    "Name a module inside it, or the block around it."
                )
            if visit is None:
                outputs[name] = output
            else:
                outputs[name] = None
                visit(name, output)

        return hook

    for name in names:
        if name not in modules:
            raise ValueError(f"layer '{name}' is no module of the model.{nearest(name, list(modules))}")
    handles = [modules[name].register_forward_hook(watch(name)) for name in dict.fromkeys(names)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
    for name in names:
        if name not in outputs:
            raise ValueError(f"layer '{name}' does not run in a forward pass of the model.")
