"""Functions without a rule: the first-order term of their Taylor expansion, and an entry in the health check."""

from __future__ import annotations

import torch

from ..stabilize import stabilized_ratio
from .arguments import frozen, out_of_place, unique, with_tensors
from .transposed import transposed


def linearized(tape, function, args, kwargs):
    """R = x J^T (R / f(x)), as if the function were linear; what it is not linear in is lost, or too much."""
    args, kwargs = frozen(args, kwargs)
    inputs = unique(tape.explained([*args, *kwargs.values()]))
    safe_args, safe_kwargs = out_of_place(function, args, kwargs)
    output = function(*safe_args, **safe_kwargs)
    outputs = _values(output)
    if not outputs:
        if isinstance(output, torch.Tensor) and output.is_complex():
            tape.miss(function)  # no relevance goes through complex numbers
        return output
    tape.miss(function)

    def run(*places):
        new_args, new_kwargs = out_of_place(function, *with_tensors(args, kwargs, inputs, places))
        return _values(function(*new_args, **new_kwargs))

    def back(*relevances):
        scaled = [
            None if r is None else stabilized_ratio(r, o, tape.composite.stabilizer)
            for r, o in zip(relevances, outputs, strict=True)
        ]
        return [x * share for x, share in zip(inputs, transposed(run, inputs, scaled), strict=True)]

    tape.record(outputs, inputs, back)
    return output


def _values(output: object) -> list[torch.Tensor]:
    """Return the tensors of a result that relevance can come through: no shapes, indices or truth values."""
    outputs = output if isinstance(output, (list, tuple)) else [output]
    return [each for each in outputs if isinstance(each, torch.Tensor) and each.is_floating_point()]
