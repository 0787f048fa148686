"""How the scores of a concept are distributed over the samples of a finding and over the rest, with examples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from pipeline.errors import DataError

QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95, 1.0)
BINS = 40
MEMBER_COLOR, REST_COLOR = "#b2182b", "#9aa5b1"


def score_figure(
    scores: np.ndarray,
    members: np.ndarray,
    picture: Callable[[int], Image.Image],
    *,
    quantiles: tuple[float, ...] = QUANTILES,
    names: tuple[str, str] = ("finding", "rest"),
) -> Image.Image:
    """Return the histograms of two groups' scores over one row of examples for each, at quantiles of its scores.

    Low members may be none, and high samples of the rest may have been missed: these are worth a look.

    Args:
        scores: `[N]`, larger = more of the concept. Best held out: scores of fitted samples flatter.
        members: `[N]`, who belongs to the finding; both groups must occur.
        picture: position in `scores` -> picture of that sample, all of one size.
        quantiles: in [0, 1]; 1 is the top.
        names: of members and rest.

    Raises:
        DataError: a score is not finite, or one of the groups is empty.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scores, members = np.asarray(scores, dtype=np.float64), np.asarray(members, dtype=bool)
    if not np.isfinite(scores).all():
        raise DataError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} scores are not finite. Check the features.")
    if members.all() or not members.any():
        raise DataError(f"{members.sum()} of {len(members)} samples are members: a figure of scores needs both groups.")
    figure = Figure(figsize=(1.25 * len(quantiles) + 0.5, 5.4), layout="constrained")
    grid = figure.add_gridspec(3, len(quantiles), height_ratios=(1.5, 1, 1))
    axes = figure.add_subplot(grid[0, :])
    bins = np.histogram_bin_edges(scores, BINS)
    groups = ((names[0], MEMBER_COLOR, np.flatnonzero(members)), (names[1], REST_COLOR, np.flatnonzero(~members)))
    # the rest first, since it is the larger group and would hide the members
    for name, color, positions in reversed(groups):
        axes.hist(scores[positions], bins, density=True, color=color, alpha=0.7, label=f"{name} ({len(positions)})")
    axes.set(yticks=[], xlabel="score", ylabel="share of the group")
    axes.legend(fontsize=8, frameon=False)
    for line, (name, color, positions) in enumerate(groups, start=1):
        for column, (quantile, nearest) in enumerate(
            zip(quantiles, positions[nearest_to_quantiles(scores[positions], quantiles)], strict=True)
        ):
            tile = figure.add_subplot(grid[line, column], xticks=[], yticks=[])
            tile.imshow(np.asarray(picture(int(nearest)).convert("RGB")))
            tile.set_title(f"{caption(quantile)}: {scores[nearest]:.2f}", fontsize=7, pad=2)
            tile.spines[:].set(color=color, linewidth=2)
            if column == 0:
                tile.set_ylabel(name, fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def nearest_to_quantiles(scores: np.ndarray, quantiles: tuple[float, ...]) -> np.ndarray:
    """Return the positions `[len(quantiles)]` whose ranks among `scores` `[N]` are nearest to the quantiles."""
    order = np.argsort(scores, kind="stable")
    return order[np.rint(np.asarray(quantiles) * (len(scores) - 1)).astype(int)]


def caption(quantile: float) -> str:
    """Return how a quantile is called: "top", or its percentage."""
    return "top" if quantile == 1 else f"{quantile:.0%}"
