"""Attribution methods to compare LRP with. A new one is a file of this package and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .grad_cam import grad_cam
from .gradient import gradient
from .gradient_x_input import gradient_x_input
from .guided import guided
from .integrated_gradients import integrated_gradients
from .shap_superpixels import shap_superpixels
from .smooth_grad import smooth_grad

if TYPE_CHECKING:
    from ..explainer import Attribution


@dataclass(frozen=True)
class Baseline:
    """A method and what it can do.

    Attributes:
        explain: `(model, x, target=None, *, layers=(), create_graph=False, **own parameters) -> Attribution`.
        description: what its relevance means, in one line.
        source: the paper.
        differentiable: whether `create_graph` is possible.
        gives_layers: whether `layers` are possible.
    """

    explain: Callable[..., Attribution]
    description: str
    source: str
    differentiable: bool = False
    gives_layers: bool = False


BASELINES: dict[str, Baseline] = {
    "gradient": Baseline(
        gradient,
        "change of the logit per unit of each pixel",
        "Simonyan et al. 2014, Deep inside convolutional networks",
        differentiable=True,
        gives_layers=True,
    ),
    "gradient_x_input": Baseline(
        gradient_x_input,
        "gradient times pixel, the first-order share in the logit",
        "Shrikumar et al. 2016, Not just a black box",
        differentiable=True,
        gives_layers=True,
    ),
    "guided": Baseline(
        guided,
        "gradient without what speaks against the logit, at every rectifier",
        "Springenberg et al. 2015, Striving for simplicity",
        gives_layers=True,
    ),
    "integrated_gradients": Baseline(
        integrated_gradients,
        "gradient averaged from a baseline to the input, times the way; sums to the difference of the logits",
        "Sundararajan et al. 2017, Axiomatic attribution for deep networks",
    ),
    "smooth_grad": Baseline(
        smooth_grad,
        "gradient averaged over noisy copies of the input",
        "Smilkov et al. 2017, SmoothGrad: removing noise by adding noise",
    ),
    "grad_cam": Baseline(
        grad_cam,
        "where channels of a late layer that raise the logit are active; coarse, at least 0",
        "Selvaraju et al. 2017, Grad-CAM",
    ),
    "shap_superpixels": Baseline(
        shap_superpixels,
        "Shapley values of regions replaced by a baseline; slow reference",
        "Lundberg and Lee 2017, A unified approach to interpreting model predictions",
    ),
}

__all__ = ["BASELINES", "Baseline", *BASELINES]
