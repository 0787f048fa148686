"""Integrated gradients: the gradient averaged on the straight way from a baseline to the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ..targets import Target
from .explained_quantity import averaged_gradient, predict
from .parameters import missing_input, refuse, require_at_least

if TYPE_CHECKING:
    from ..explainer import Attribution


def integrated_gradients(
    model: nn.Module,
    x: torch.Tensor,
    target: Target = None,
    *,
    layers: Sequence[str] = (),
    create_graph: bool = False,
    steps: int = 32,
    baseline: float | torch.Tensor = 0.0,
    batch_size: int = 32,
) -> Attribution:
    """Return (x - baseline) times the mean gradient between baseline and x (Sundararajan et al. 2017, eq. 1).

    The values are logits; up to the error of the quadrature they sum to f(x) - f(baseline) (completeness, their
    proposition 1). Gauss-Legendre quadrature is exact where the gradient is a polynomial of degree below 2 * `steps`
    along the way. Predicted classes are those of x itself.

    Args:
        model: any module, pixels -> logits; evaluated in evaluation mode and left as it was.
        x: `[N, C, H, W]` or `[N, C, T]`.
        target: class id, ids `[N]`, logit weights `[N, K]`, or None for the predicted class.
        layers, create_graph: refused.
        steps: points of the quadrature.
        baseline: a value (0 is black where pixels are in [0, 1]), or a tensor that broadcasts to `x`.
        batch_size: most inputs that go through the model at once, over samples and steps.

    Raises:
        ValueError: layers or a graph are requested, no steps, a baseline or a target that does not fit.
    """
    from ..explainer import Attribution

    refuse("integrated_gradients", layers, create_graph)
    require_at_least(1, steps=steps, batch_size=batch_size)
    x = x.detach()
    logits, weights = predict(model, x, target)
    start = missing_input(x, baseline)
    points, shares = (torch.from_numpy(values).to(x) for values in unit_quadrature(steps))
    points = points.reshape(-1, *[1] * (x.ndim - 1))
    slope = averaged_gradient(model, start, x - start, points, shares, weights, batch_size)
    return Attribution(relevance=(x - start) * slope, logits=logits)


def unit_quadrature(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points in (0, 1) and their weights, which sum to 1, of Gauss-Legendre quadrature, `[steps]` each."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    return (points + 1) / 2, weights / 2
