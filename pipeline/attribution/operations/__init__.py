"""How relevance goes back through each function of PyTorch. One family of functions per file.

A handler runs the function and records the way back: `(tape, function, args, kwargs) -> result`.
"""

from __future__ import annotations

from collections.abc import Callable

from . import activations, attention, averages, linear, normalization, products, routing, sums
from .linearized import linearized

HANDLERS: dict[Callable, Callable] = {
    function: handler
    for family in (routing, activations, averages, sums, products, normalization, attention, linear)
    for handler, functions in family.HANDLED.items()
    for function in functions
}

__all__ = ["HANDLERS", "linearized"]
