"""The transposed map of any function that is linear in the tensors of interest, by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch


def transposed(
    function: Callable[..., torch.Tensor | Sequence[torch.Tensor]],
    inputs: Sequence[torch.Tensor],
    outgoing: Sequence[torch.Tensor | None],
) -> list[torch.Tensor]:
    """Return J^T r for every input, with J the Jacobian of `function(*inputs)`; differentiable in r and the inputs.

    Args:
        function: takes the inputs, returns one or several tensors.
        inputs: where J is taken.
        outgoing: r, one per output; None counts as zero.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # with a graph to keep, copies stay connected to what the inputs were computed from
        places = [x.view_as(x) if create_graph and x.requires_grad else x.detach().requires_grad_() for x in inputs]
        outputs = function(*places)
        outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        pairs = [(o, r) for o, r in zip(outputs, outgoing, strict=True) if r is not None and o.requires_grad]
        found = torch.autograd.grad(
            [o for o, _ in pairs], places, [r for _, r in pairs], create_graph=create_graph, allow_unused=True
        )
    return [torch.zeros_like(x) if each is None else each for x, each in zip(inputs, found, strict=True)]
