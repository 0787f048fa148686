"""Checks of what the baselines are asked for, with messages that they share."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def missing_input(x: torch.Tensor, baseline: float | torch.Tensor) -> torch.Tensor:
    """Return what stands for the absence of `x`, in its shape: a value, or a tensor that broadcasts to it.

    Raises:
        ValueError: the tensor does not fit.
    """
    if not isinstance(baseline, torch.Tensor):
        return torch.full_like(x, baseline)
    try:
        return baseline.detach().to(x).expand_as(x)
    except RuntimeError:
        raise ValueError(
            f"baseline has shape {tuple(baseline.shape)}; it must broadcast to that of the input, {tuple(x.shape)}."
        ) from None


def refuse(method: str, layers: Sequence[str] = (), create_graph: bool = False) -> None:
    """Say what a method cannot give.

    Raises:
        ValueError: layers are requested, or a graph.
    """
    if layers:
        raise ValueError(
            f"layers={list(layers)}: '{method}' gives relevance at the input only; "
            "use 'gradient' or 'gradient_x_input' for layers."
        )
    if create_graph:
        raise ValueError(
            f"create_graph=True: '{method}' cannot be trained through; use 'gradient' or 'gradient_x_input'."
        )


def require_at_least(lowest: int, **values: int) -> None:
    """Check whole numbers that count something.

    Raises:
        ValueError: one of them is below `lowest`.
    """
    for name, value in values.items():
        if value < lowest:
            raise ValueError(f"{name}={value} is too few; it must be at least {lowest}.")


def require_floating(x: torch.Tensor) -> None:
    """Check the type of an input.

    Raises:
        ValueError: it holds whole numbers, which have no gradients and no blends.
    """
    if not x.is_floating_point():
        raise ValueError(f"the input has type {x.dtype}; an explanation needs a floating type. Convert it first.")
