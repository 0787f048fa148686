"""Small helpers of the handlers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def out_of_place(function: Callable, args: Sequence, kwargs: dict) -> tuple[tuple, dict]:
    """Return arguments with which a function that may write into its first argument writes into a copy instead."""
    name = getattr(function, "__name__", "")
    writes = name.endswith("_") and not name.endswith("__") or kwargs.get("inplace") or any(a is True for a in args[1:])
    if not writes or not args or not isinstance(args[0], torch.Tensor):
        return tuple(args), kwargs
    return (args[0].clone(), *args[1:]), kwargs


def with_tensors(args: Sequence, kwargs: dict, replaced: Sequence[torch.Tensor], new: Sequence[torch.Tensor]) -> tuple:
    """Return the arguments with some tensors, also within lists, exchanged for others."""

    def exchange(value):
        if isinstance(value, torch.Tensor):
            return next((n for r, n in zip(replaced, new, strict=True) if r is value), value)
        if isinstance(value, (list, tuple)) and any(isinstance(each, torch.Tensor) for each in value):
            return type(value)(exchange(each) for each in value)
        return value

    return tuple(exchange(value) for value in args), {name: exchange(value) for name, value in kwargs.items()}


def frozen(args: Sequence, kwargs: dict) -> tuple[tuple, dict]:
    """Return the arguments with lists copied: networks go on appending to lists that they have passed."""

    def copy(value):
        return type(value)(value) if isinstance(value, list) else value

    return tuple(copy(value) for value in args), {name: copy(value) for name, value in kwargs.items()}


def unique(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tensors, each once."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def argument(args: Sequence, kwargs: dict, position: int, name: str, default=None):
    """Return an argument, given by position or by name."""
    return args[position] if len(args) > position else kwargs.get(name, default)


def per_axis(value, axes: int) -> tuple[int, ...]:
    """Return a setting of a convolution or pooling once per axis."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * axes if len(values) == 1 else values
