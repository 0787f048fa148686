"""Nearest neighbours of many samples by Euclidean distance: exact by blocks, approximate only beyond a size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.errors import DataError

EXACT_UP_TO = 50_000
TILE = 2048
"""Rows and columns of the distances that are held at once."""
GROUP = 8
"""Columns that are looked at only where the least of them is among the least of all groups."""
SLACK = 4
"""Candidates kept beyond the wanted ones, so that rounding in the search cannot displace a true neighbour."""
ROUNDING = 4.0
"""Assumed error of a squared distance: this times eps sqrt(D) times both squared lengths; seen: less than 1."""
DIFFERENCES = 2**19
"""Numbers held at once where distances of candidates are computed again."""
SAMPLED_ROWS = 500


@dataclass(frozen=True)
class Neighbors:
    """The nearest other samples of each of N samples.

    Attributes:
        indices: `[N, k]`, nearest first; a sample is never its own neighbour, also where others are identical to it.
        distances: `[N, k]`, Euclidean, float32.
        recall: share of the true neighbours that were found, in [0, 1]; 1 for the exact search, estimated otherwise.
    """

    indices: np.ndarray
    distances: np.ndarray
    recall: float = 1.0


def nearest_neighbors(
    features: np.ndarray, neighbors: int, *, exact_up_to: int = EXACT_UP_TO, seed: int = 0
) -> Neighbors:
    """Return the nearest neighbours of every row; exact up to a number of rows, by NN-descent beyond it.

    Args:
        features: `[N, D]`, N at least 2, finite.
        neighbors: neighbours of each row; lowered to N - 1.
        exact_up_to: more rows get the approximate search (Dong et al. 2011), whose recall is then estimated.
        seed: of the approximate search and of the rows on which its recall is estimated.

    Raises:
        DataError: fewer than two rows, or values that are not finite.
    """
    features = np.asarray(features, dtype=np.float32).reshape(len(features), -1)
    if len(features) < 2:
        raise DataError(f"Neighbours need at least 2 samples, there are {len(features)}. Use a larger class.")
    if not np.isfinite(features).all():
        bad = np.flatnonzero(~np.isfinite(features).all(1))
        raise DataError(
            f"Features of {len(bad)} samples are not finite, the first in row {bad[0]}. "
            "Look at the health of the attribution, and start precompute again."
        )
    neighbors = min(neighbors, len(features) - 1)
    if len(features) <= exact_up_to:
        return exact_neighbors(features, neighbors)
    return approximate_neighbors(features, neighbors, seed)


def exact_neighbors(features: np.ndarray, neighbors: int) -> Neighbors:
    """Return the nearest neighbours by comparing all pairs, tile by tile; each pair is multiplied once.

    |x|^2 - 2xy + |y|^2 loses the distances of nearly identical rows to rounding. Therefore the data are centred, more
    candidates are kept than wanted, their distances are computed again from differences, and rows in which rounding
    may still have displaced a neighbour are searched again in double precision. Memory: the data once more, a tile,
    and the candidates.

    Args:
        features: `[N, D]`, float32, finite.
        neighbors: at least 1, at most N - 1.
    """
    import torch

    count = len(features)
    kept = min(neighbors + SLACK, count - 1)
    given = torch.from_numpy(features)
    center = _center(given)
    filled = -(-count // GROUP) * GROUP
    halves = torch.full((filled,), torch.inf)  # rows that only fill up the last tile are nobody's neighbours
    for rows in _slices(count, TILE):
        halves[rows] = _part(given, center, rows).square().sum(1) / 2
    values = torch.full((filled, kept), torch.inf)
    indices = torch.zeros((filled, kept), dtype=torch.int64)
    for rows, columns in _tiles(filled):
        here, there = _part(given, center, rows), _part(given, center, columns)
        tile = torch.addmm(halves[columns], here, there.T, alpha=-1).add_(halves[rows, None])
        if rows == columns:
            tile.fill_diagonal_(torch.inf)
        else:
            _merge(values, indices, columns, tile.T.contiguous(), rows.start)
        _merge(values, indices, rows, tile, columns.start)
    distances, indices = _measured(given, torch.arange(count), indices[:count].sort(1).values)
    if kept < count - 1:
        # What was left out seemed at least as far as the farthest candidate. If it is truly nearer than the last
        # neighbour, its length is at most that of the row plus that distance, which bounds how wrong it can seem.
        rounding = ROUNDING * torch.finfo(torch.float32).eps * features.shape[1] ** 0.5
        lengths, last = (2 * halves[:count]).sqrt(), distances[:, neighbors - 1]
        wrong = rounding * (lengths.square() + (lengths + last).square())
        unsure = torch.nonzero(last.square() + wrong > 2 * values[:count].amax(1))[:, 0]
        distances[unsure], indices[unsure] = _search_again(given, unsure, kept)
    return Neighbors(indices[:, :neighbors].numpy(), distances[:, :neighbors].numpy())


def approximate_neighbors(features: np.ndarray, neighbors: int, seed: int = 0) -> Neighbors:
    """Return neighbours by NN-descent (Dong et al. 2011), and the share of true ones among them.

    The share is estimated on random rows, of which all true neighbours are searched. A neighbour counts as true where
    it is no farther than the last true one, so that equal distances count as found.

    Args:
        features: `[N, D]`, float32, finite.
        neighbors: at least 1, at most N - 1.
        seed: of the search and of the random rows.
    """
    import torch

    found = _nn_descent(features, neighbors + 1, seed)
    itself = found == np.arange(len(found))[:, None]
    itself[~itself.any(1), -1] = True  # a row that does not name itself gives up its farthest neighbour
    indices = torch.from_numpy(found[~itself].reshape(len(found), neighbors))
    given = torch.from_numpy(features)
    incomplete = torch.nonzero((indices < 0).any(1))[:, 0]
    indices[incomplete] = _search_again(given, incomplete, neighbors)[1]
    distances, indices = _measured(given, torch.arange(len(found)), indices)
    sampled = np.random.default_rng(seed).choice(len(found), min(SAMPLED_ROWS, len(found)), replace=False)
    rows = torch.from_numpy(np.sort(sampled))
    farthest = _search_again(given, rows, neighbors)[0][:, -1:]
    recall = float((distances[rows] <= farthest * (1 + 1e-6)).double().mean())
    return Neighbors(indices.numpy(), distances.numpy(), recall)


def _nn_descent(features: np.ndarray, neighbors: int, seed: int) -> np.ndarray:
    """Return indices `[N, neighbors]`, most rows' own among them, -1 where none was found."""
    import numba
    from pynndescent import NNDescent

    threads = numba.get_num_threads()
    numba.set_num_threads(1)  # what is found depends on the number of threads, in a first call despite n_jobs
    try:
        search = NNDescent(features, n_neighbors=neighbors, random_state=seed, low_memory=True, n_jobs=1)
        return np.array(search.neighbor_graph[0], dtype=np.int64)
    finally:
        numba.set_num_threads(threads)


def _slices(count: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _tiles(count: int) -> Iterator[tuple[slice, slice]]:
    """Yield (rows, columns) of the upper triangle; sides are multiples of `GROUP`."""
    parts = _slices(count, max(GROUP, min(TILE, -(-count // (4 * GROUP)) * GROUP)))
    yield from ((rows, columns) for number, rows in enumerate(parts) for columns in parts[number:])


def _center(features):
    """Return the mean of all rows, single precision, the same for all: subtracting it shifts no row against another."""
    import torch

    sums = sum(features[rows].sum(0, dtype=torch.float64) for rows in _slices(len(features), TILE))
    return (sums / len(features)).float()


def _part(features, center, rows: slice):
    """Return some rows, centred; zeros where there are no more."""
    from torch.nn.functional import pad

    part = features[rows] - center
    return pad(part, (0, 0, 0, rows.stop - rows.start - len(part)))


def _merge(values, indices, rows: slice, tile, first_column: int) -> None:
    """Keep for each row the least values of those known and those of a tile; in place."""
    import torch

    found, where = _least(tile, values.shape[1], values[rows].amax(1))
    values[rows], chosen = torch.cat([values[rows], found], 1).topk(values.shape[1], largest=False, sorted=False)
    indices[rows] = torch.cat([indices[rows], where + first_column], 1).gather(1, chosen)


def _least(tile, wanted: int, limits):
    """Return at least the `wanted` least values of each row that lie below its limit `[R]`, and their columns.

    They lie in the groups of columns whose own least values are the least: most columns are passed only once.
    """
    groups = tile.shape[1] // GROUP
    by_group = tile.view(len(tile), GROUP, groups)
    least = by_group.amin(1)
    needed = min(wanted, int((least < limits[:, None]).sum(1).amax()))
    if groups <= 2 * needed:
        return tile.topk(min(wanted, tile.shape[1]), largest=False, sorted=False)
    near = least.topk(needed, largest=False, sorted=False).indices
    values = by_group.gather(2, near[:, None].expand(-1, GROUP, -1)).flatten(1)
    found, where = values.topk(min(wanted, values.shape[1]), largest=False, sorted=False)
    return found, where // max(needed, 1) * groups + near.gather(1, where % max(needed, 1))


def _measured(features, rows, candidates):
    """Return distances from differences `[R, c]`, ascending, and candidates in this order; equal ones keep theirs."""
    import torch

    distances = torch.empty(candidates.shape)
    step = max(1, DIFFERENCES // max(1, candidates.shape[1] * features.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        found = features.index_select(0, candidates[part].flatten()).view(-1, candidates.shape[1], features.shape[1])
        distances[part] = torch.linalg.vector_norm(found.sub_(features[rows[part], None]), dim=2)
    distances, order = distances.sort(dim=1, stable=True)
    return distances, candidates.gather(1, order)


def _search_again(features, rows, kept: int):
    """Return distances and indices of the nearest neighbours of some rows, found in double precision."""
    import torch

    center = _center(features).double()
    indices = torch.empty((len(rows), kept), dtype=torch.int64)
    for some in _slices(len(rows), max(1, TILE * TILE // len(features))):
        part = rows[some]
        wanted = features[part].double() - center
        values = torch.empty((len(part), len(features)), dtype=torch.float64)
        for columns in _slices(len(features), TILE):
            others = features[columns].double() - center
            values[:, columns] = others.square().sum(1) / 2 - wanted @ others.T
        values[torch.arange(len(part)), part] = torch.inf
        indices[some] = values.topk(kept, largest=False, sorted=False).indices
    return _measured(features, rows, indices.sort(1).values)
