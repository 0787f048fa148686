"""Two-dimensional embeddings of samples for people, and the figure that shows a group in them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from pipeline.errors import DataError

FITTED = 5_000
"""More samples are placed beside those on which the embedding is fitted."""
UMAP_NEIGHBORS = 15
PERPLEXITY = 30
LEAST = 5
THUMBNAIL = 0.42
"""Inches."""
GROUP_COLOR, REST_COLOR = "#d55e00", "#56a0c8"
"""Told apart by people with any of the common color vision deficiencies; the shapes of the markers differ, too."""


def umap_points(embedding: np.ndarray, seed: int, *, fitted: int = FITTED) -> np.ndarray:
    """Return samples in a plane `[N, 2]` by UMAP (McInnes et al. 2018).

    Args:
        embedding: `[N, k]`, the spectral embedding; N at least 5.
        seed: the same gives the same points.
        fitted: of more samples a random part is fitted, and UMAP places the others among them.

    Raises:
        DataError: fewer than 5 samples.
    """
    from umap import UMAP

    _check_size(embedding)
    rows = _sample(len(embedding), fitted, seed)
    neighbors = min(UMAP_NEIGHBORS, len(rows) - 1)
    init = "spectral" if len(rows) > neighbors + 1 else "random"  # tiny graphs have too few eigenvectors
    umap = UMAP(n_neighbors=neighbors, init=init, random_state=seed, n_jobs=1)
    points = np.empty((len(embedding), 2), dtype=np.float32)
    points[rows] = umap.fit_transform(embedding[rows].astype(np.float32))
    others = np.setdiff1d(np.arange(len(embedding)), rows)
    if len(others):
        points[others] = umap.transform(embedding[others].astype(np.float32))
    return points


def tsne_points(embedding: np.ndarray, seed: int, *, fitted: int = FITTED) -> np.ndarray:
    """Return samples in a plane `[N, 2]` by t-SNE (van der Maaten and Hinton 2008).

    Args:
        embedding: `[N, k]`, the spectral embedding; N at least 5.
        seed: the same gives the same points.
        fitted: of more samples a random part is fitted. t-SNE has no map for the others: each stands at the fitted
            sample that is nearest in the spectral embedding.

    Raises:
        DataError: fewer than 5 samples.
    """
    from sklearn.manifold import TSNE
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    _check_size(embedding)
    rows = _sample(len(embedding), fitted, seed)
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    with threadpool_limits(1):  # after UMAP its threads only wait for one another
        points = tsne.fit_transform(embedding[rows].astype(np.float32))
    if len(rows) == len(embedding):
        return points
    nearest = NearestNeighbors(n_neighbors=1).fit(embedding[rows]).kneighbors(embedding, return_distance=False)[:, 0]
    nearest[rows] = np.arange(len(rows))
    return points[nearest]


def spread_rows(points: np.ndarray, members: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` rows far from one another `[n]`, members and others in turns: the samples to be shown.

    Each next row is the one farthest from all chosen, so that their pictures cover the plane and not each other.

    Args:
        points: `[N, 2]`.
        members: booleans `[N]`.
        count: rows wanted.
    """
    chosen: list[int] = []
    distances = np.linalg.norm(points - points.mean(0), axis=1)
    for number in range(min(count, len(points))):
        side = members if number % 2 == 0 else ~members
        open_rows = np.setdiff1d(np.flatnonzero(side), chosen)
        if not len(open_rows):
            open_rows = np.setdiff1d(np.arange(len(points)), chosen)
        chosen.append(int(open_rows[distances[open_rows].argmax()]))
        away = np.linalg.norm(points - points[chosen[-1]], axis=1)
        distances = away if number == 0 else np.minimum(distances, away)
    return np.array(chosen, dtype=np.int64)


def embedding_figure(
    points: np.ndarray, members: np.ndarray, thumbnails: Mapping[int, np.ndarray], title: str
) -> Image.Image:
    """Return a scatter plot of samples, a group in colour, some samples as small pictures at their points.

    Args:
        points: `[N, 2]`.
        members: booleans `[N]`: the group.
        thumbnails: row of `points` -> image `[h, w, 3]`, uint8 or floats in [0, 1]; may be empty. See `spread_rows`.
        title: above the plot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    figure = Figure(figsize=(6.4, 5.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    size = float(np.clip(9000 / max(len(points), 1), 3, 18))
    for inside, color, marker, name in (
        (False, REST_COLOR, "o", f"others ({(~members).sum()})"),
        (True, GROUP_COLOR, "^", f"group ({members.sum()})"),
    ):
        shown = points[members == inside]
        axes.scatter(*shown.T, s=size, c=color, marker=marker, label=name, linewidths=0, rasterized=True)
    for row, image in thumbnails.items():
        zoom = THUMBNAIL * 72 / max(image.shape[:2])
        frame = {"edgecolor": GROUP_COLOR if members[row] else REST_COLOR, "linewidth": 1.6, "boxstyle": "square"}
        axes.add_artist(
            AnnotationBbox(OffsetImage(image, zoom=zoom), points[row], pad=0.08, frameon=True, bboxprops=frame)
        )
    axes.set(xticks=[], yticks=[])
    axes.margins(0.08)
    axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _check_size(embedding: np.ndarray) -> None:
    if len(embedding) < LEAST:
        raise DataError(f"An embedding needs at least {LEAST} samples, there are {len(embedding)}. Use a larger group.")


def _sample(count: int, most: int, seed: int) -> np.ndarray:
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
