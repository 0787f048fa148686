"""SmoothGrad: the gradient averaged over noisy copies of the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..targets import Target
from .explained_quantity import averaged_gradient, predict
from .parameters import refuse, require_at_least

if TYPE_CHECKING:
    from ..explainer import Attribution


def smooth_grad(
    model: nn.Module,
    x: torch.Tensor,
    target: Target = None,
    *,
    layers: Sequence[str] = (),
    create_graph: bool = False,
    samples: int = 32,
    noise: float = 0.15,
    seed: int = 0,
    times_input: bool = False,
    batch_size: int = 32,
) -> Attribution:
    """Return the mean gradient at x + Gaussian noise (Smilkov et al. 2017, section 2), signed.

    Every sample of the batch meets the same draws, so its result does not depend on the others. Predicted classes are
    those of x without noise.

    Args:
        model: any module, pixels -> logits; evaluated in evaluation mode and left as it was.
        x: `[N, C, H, W]` or `[N, C, T]`.
        target: class id, ids `[N]`, logit weights `[N, K]`, or None for the predicted class.
        layers, create_graph: refused.
        samples: noisy copies of every input.
        noise: standard deviation as a share of each sample's range, its largest value minus its smallest.
        seed: of the noise.
        times_input: multiply by x; the values are then logits instead of logits per unit of the input.
        batch_size: most inputs that go through the model at once, over samples and noisy copies.

    Raises:
        ValueError: layers or a graph are requested, no samples, negative noise, or a target that does not fit.
    """
    from ..explainer import Attribution

    refuse("smooth_grad", layers, create_graph)
    require_at_least(1, samples=samples, batch_size=batch_size)
    if not noise >= 0:
        raise ValueError(f"noise={noise} must be 0 or more; it is a share of each sample's range of values.")
    x = x.detach()
    logits, weights = predict(model, x, target)
    axes = tuple(range(1, x.ndim))
    deviation = noise * (x.amax(axes, keepdim=True) - x.amin(axes, keepdim=True))
    # Drawn on the processor in one type, so that a seed means the same noise on every device.
    draws = torch.randn(samples, *x.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    shares = torch.full((samples,), 1 / samples).to(x)
    mean = averaged_gradient(model, x, deviation, draws.to(x), shares, weights, batch_size)
    return Attribution(relevance=x * mean if times_input else mean, logits=logits)
