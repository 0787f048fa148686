"""Whether the test split knows samples of the other splits: the same pixels, nearly the same, or the same group.

Duplicates are a property of the data before any artifact is planted: give the checks the data set that a `WorldView`
wraps, not the view.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..workspace.records import LeakageCheck
from .dataset import AuditDataset
from .images import LUMA
from .memory import Subset

EXAMPLES = 10
"""Pairs whose ids are kept."""
GRID = 24
"""Cells along each side of the image in which samples are compared: finer, recoded copies differ; coarser, strangers
look alike."""
SMALLEST_SIDE, SHORTEST_SIGNAL = 8, 32
POINTS, POINTS_OF_ALL_CHANNELS = 512, 1024
"""Points in which a signal is compared: of a channel at most, and of all channels together."""
FLAT = 1e-4
"""Root mean square of the detail, of a range of 1, below which a sample has nothing that could be compared."""
PROBED = 512
"""Test samples that tell how alike different samples are."""
EVIDENT = 0.95
"""Correlation from which a pair is no evidence of how alike different samples are."""
FEWEST_PROBED = 10
LEAST, MOST = 0.85, 0.98
"""Bounds of the correlation from which two samples are alike."""
TEST_ROWS, OTHER_ROWS = 1024, 4096
"""Samples that are compared at a time."""


@dataclass(frozen=True)
class Sketches:
    """What is needed of all samples to find copies.

    Attributes:
        digests: hash of the pixels of each sample.
        details: detail of each sample, float32 `[N, D]`, mean 0 and length 1; all 0 where there is none. None where
            samples are too small, or neither images nor signals.
        shape: of every sample.
        grid: (rows, columns) or (channels, points) that D unfolds to.
    """

    digests: list[bytes]
    details: np.ndarray | None
    shape: tuple[int, ...]
    grid: tuple[int, int]

    @property
    def images(self) -> bool:
        """Return whether the samples are images; else they are signals."""
        return len(self.shape) == 3


class Pair(NamedTuple):
    """How alike two samples are, with their positions in the data set; the test sample comes first."""

    correlation: float
    test: int
    other: int


def sketch(dataset: AuditDataset) -> Sketches:
    """Return hash and detail of every sample; one pass over the data.

    The detail of an image is its grey value, averaged over a grid of 24 x 24 cells, minus a blurred copy of itself:
    brightness, contrast and shading fall away. The detail of a signal is the same along time, of every channel.
    """
    read, shape = _reader(dataset), tuple(dataset.shape)
    digests, details, detail, grid = [], None, None, (0, 0)
    if not _unfit(shape):
        grid = _grid(shape)
        detail, details = _detail_of(shape, grid), np.zeros((len(dataset), grid[0] * grid[1]), dtype=np.float32)
    for index in range(len(dataset)):
        values = read(index)
        digests.append(blake2b(np.ascontiguousarray(values), digest_size=16).digest())
        if detail is not None:
            details[index] = _of_length_1(detail(_in_unit_range(values)))
    return Sketches(digests, details, shape, grid)


def identical_pixels(dataset: AuditDataset, sketches: Sketches | None = None) -> LeakageCheck:
    """Return the pairs of a test sample and a sample of another split whose decoded pixels are the same.

    Args:
        sketches: of the same data set, where they are known already.
    """
    name, test, other = "identical pixels", *_sides(dataset)
    if reason := _one_sided(test, other):
        return _not_run(name, reason)
    digests = (sketches or sketch(dataset)).digests
    pairs, known, examples = _sharing(digests, test, other)
    detail = f"hashes of the decoded pixels of {len(digests):,} samples"
    return _found(name, dataset, pairs, known, examples, detail)


def nearly_identical_pixels(dataset: AuditDataset, sketches: Sketches | None = None) -> LeakageCheck:
    """Return the pairs of a test sample and a sample of another split that look like copies of each other.

    Copies are found that were recoded, slightly resized, made brighter or darker, or mirrored left to right; pairs with
    the same pixels count too. Not found are copies that were cropped or shifted by more than about 1 % of the side,
    turned, or mirrored top to bottom.

    Two samples are alike when their details (see `sketch`) correlate by more than 1 - d^2 / 4, between 0.85 and 0.98.
    Here d is 1 - the correlation that different samples typically reach: the median over test samples (up to 512) of
    the correlation with the nearest sample of another split. Images with little detail, such as digits, are all alike:
    there only faint changes are found, and where the bound would exceed 0.98 nothing is compared, since copies could
    not be told from strangers.

    Time grows with test samples x others (about 10 seconds for 10,000 x 40,000 in one thread), memory with samples
    (2.3 KB each).

    Args:
        sketches: of the same data set, where they are known already.
    """
    name, test, other = "nearly identical pixels", *_sides(dataset)
    if reason := _one_sided(test, other):
        return _not_run(name, reason)
    sketches = sketches or sketch(dataset)
    if reason := _unfit(sketches.shape):
        return _not_run(name, reason)
    flat = int((~sketches.details[np.concatenate([test, other])].any(1)).sum())
    probed = test[np.linspace(0, len(test) - 1, min(PROBED, len(test))).astype(int)]
    nearest = _nearest(sketches.details, probed, other)
    typical = _typical([pair.correlation for pair in nearest])
    bound = max(LEAST, 1 - (1 - typical) ** 2 / 4)
    if bound > MOST:
        closest = sorted(nearest, reverse=True)[:EXAMPLES]
        reason = (
            f"samples of different splits are too much alike (the nearest typically correlate by {typical:.2f}): "
            "either they hold too little detail to tell copies from strangers, or most test samples have a copy; "
            "look at the examples"
        )
        return _not_run(name, reason, _ids(dataset, [(pair.test, pair.other) for pair in closest]))
    pairs, known, examples = _alike(sketches, test, other, bound)
    detail = f"{_what(sketches)}; alike from a correlation of {bound:.3f}"
    if typical:
        detail += f", while the nearest of another split typically has {typical:.2f}"
    if bound > EVIDENT:
        detail += "; with so little detail only faint changes are found"
    if flat:
        detail += f"; {flat:,} samples without any detail were left out"
    return _found(name, dataset, pairs, known, examples, detail)


def same_group(dataset: AuditDataset, columns: str | Sequence[str] | None) -> LeakageCheck:
    """Return the pairs of a test sample and a sample of another split of the same group, such as a patient or a lesion.

    Args:
        columns: group columns of the table. With several, a pair counts once that shares a value of any of them.
            Missing values (nan, None, empty text) are no group. None, or only columns that the table does not have: not
            run.
    """
    name, test, other = "same group", *_sides(dataset)
    columns = [columns] if isinstance(columns, str) else list(columns or [])
    absent = [column for column in columns if column not in dataset.table.columns]
    columns = [column for column in columns if column not in absent]
    told = (
        f"the table has no column {_listed(absent)}; data.group_columns says which columns are kept" if absent else ""
    )
    if not columns:
        return _not_run(name, told or "no group column is named (data.split.group_column), such as patient or lesion")
    if reason := _one_sided(test, other):
        return _not_run(name, reason)
    values = {column: as_text(dataset.table[column]) for column in columns}
    if not any((texts != "").any() for texts in values.values()):
        return _not_run(name, f"no sample has a value in {_listed(columns)}")
    pairs, known, examples = 0, np.zeros(len(dataset), dtype=bool), []
    # Inclusion and exclusion: pairs that share two columns would otherwise count twice.
    for size in range(1, len(columns) + 1):
        for some in combinations(columns, size):
            rows = zip(*(values[column].tolist() for column in some), strict=True)
            found, knowing, pictured = _sharing([row if all(row) else None for row in rows], test, other)
            pairs += found if size % 2 else -found
            known |= knowing
            examples += pictured
    detail = f"values of {_listed(columns)}"
    if missing := sum(int((texts[np.concatenate([test, other])] == "").sum()) for texts in values.values()):
        detail += f"; {missing:,} missing values are no group"
    detail += f"; {told}" if told else ""
    return _found(name, dataset, pairs, known, list(dict.fromkeys(examples)), detail)


def as_text(column: pd.Series) -> np.ndarray:
    """Return the values of a column as text `[N]`; "" where they are missing (nan, None, empty or blank)."""
    return column.astype(object).where(column.notna(), "").astype(str).str.strip().to_numpy(dtype=object)


def _sides(dataset: AuditDataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the test samples, and of all others."""
    is_test = dataset.table["split"].to_numpy() == "test"
    return np.flatnonzero(is_test), np.flatnonzero(~is_test)


def _one_sided(test: np.ndarray, other: np.ndarray) -> str:
    """Return why there are no pairs, or an empty text."""
    if not len(test):
        return "the test split is empty"
    return "" if len(other) else "there are no samples but those of the test split"


def _reader(dataset: AuditDataset) -> Callable[[int], np.ndarray]:
    """Return a function from position to pixels: uint8 where the data set stores them so, else what it gives out."""
    if isinstance(dataset, Subset):
        read, rows = _reader(dataset.dataset), dataset.indices.tolist()
        return lambda index: read(rows[index])
    if hasattr(dataset, "pixels_at"):
        return dataset.pixels_at
    return lambda index: dataset[index].x.numpy() + np.float32(0)  # -0 becomes 0, which is another pattern of bits


def _in_unit_range(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) / 255 if values.dtype == np.uint8 else values.astype(np.float32)


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) == 2:
        return shape[0], min(shape[1], POINTS, max(SHORTEST_SIGNAL, POINTS_OF_ALL_CHANNELS // shape[0]))
    return min(GRID, shape[-2]), min(GRID, shape[-1])


def _unfit(shape: tuple[int, ...]) -> str:
    """Return why samples of a shape have no detail that could be compared, or an empty text."""
    if len(shape) == 3:
        small = min(shape[1:]) < SMALLEST_SIDE
        needed = f"at least {SMALLEST_SIDE} x {SMALLEST_SIDE} are needed"
        return f"images of {shape[1]} x {shape[2]} pixels are too small; {needed}" if small else ""
    if len(shape) == 2:
        short = shape[1] < SHORTEST_SIGNAL
        return f"signals of {shape[1]} points are too short; at least {SHORTEST_SIGNAL} are needed" if short else ""
    return f"samples of shape {list(shape)} are neither images [C, H, W] nor signals [C, T]"


def _detail_of(shape: tuple[int, ...], grid: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from a sample, in a range of 1, to its detail on the grid."""
    columns = _averages(shape[-1], grid[1]).T

    def of_signal(values: np.ndarray) -> np.ndarray:
        cells = values @ columns
        return cells - _blurred(cells)

    if len(shape) == 2:
        return of_signal
    rows = _averages(shape[1], grid[0])
    weights = LUMA.astype(np.float32) if shape[0] == 3 else np.full(shape[0], 1 / shape[0], dtype=np.float32)

    def of_image(values: np.ndarray) -> np.ndarray:
        cells = rows @ np.tensordot(weights, values, axes=1) @ columns
        return cells - _blurred(_blurred(cells).T).T

    return of_image


def _averages(size: int, cells: int) -> np.ndarray:
    """Return the matrix `[cells, size]` that averages values over equally wide cells."""
    edges = np.linspace(0, size, cells + 1)
    covered = np.minimum(edges[1:, None], np.arange(1, size + 1)) - np.maximum(edges[:-1, None], np.arange(size))
    return (np.clip(covered, 0, None) * cells / size).astype(np.float32)


def _blurred(values: np.ndarray) -> np.ndarray:
    """Return rows `[R, S]` blurred along S with the weights 1, 2, 1."""
    wide = np.pad(values, ((0, 0), (1, 1)), mode="edge")
    return (wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]) / 4


def _of_length_1(detail: np.ndarray) -> np.ndarray:
    """Return the values `[D]` with mean 0 and length 1; all 0 where they hardly differ."""
    values = detail.ravel() - detail.mean()
    length = float(np.sqrt((values**2).sum()))
    return values / length if length > FLAT * len(values) ** 0.5 else np.zeros_like(values)


def _nearest(details: np.ndarray, rows: np.ndarray, other: np.ndarray) -> list[Pair]:
    """Return for each row the sample of another split whose detail correlates most."""
    best, place = np.full(len(rows), -np.inf, dtype=np.float32), np.zeros(len(rows), dtype=np.int64)
    for start, block in _blocks(other, OTHER_ROWS):
        correlations = details[rows] @ details[block].T
        highest = correlations.argmax(1)
        values = correlations[np.arange(len(rows)), highest]
        place = np.where(values > best, start + highest, place)
        best = np.maximum(best, values)
    return [
        Pair(round(float(best[i]), 6), int(rows[i]), int(other[place[i]]))
        for i in range(len(rows))
        if details[rows[i]].any()
    ]


def _typical(correlations: list[float]) -> float:
    """Return the median of those that are no evident copies; 0 where they are too few to tell."""
    unlike = [value for value in correlations if value < EVIDENT]
    return max(0.0, float(np.median(unlike))) if len(unlike) >= FEWEST_PROBED else 0.0


def _alike(
    sketches: Sketches, test: np.ndarray, other: np.ndarray, bound: float
) -> tuple[int, np.ndarray, list[tuple[int, int]]]:
    """Return the number of pairs above the bound, the test samples in them as flags `[N]`, and the closest pairs."""
    details = sketches.details
    pairs, known, closest = 0, np.zeros(len(details), dtype=bool), []
    for _, rows in _blocks(test, TEST_ROWS):
        here = details[rows]
        mirrored = here.reshape(-1, *sketches.grid)[:, :, ::-1].reshape(len(here), -1) if sketches.images else None
        for _, block in _blocks(other, OTHER_ROWS):
            there = details[block].T
            correlations = here @ there
            if mirrored is not None:
                np.maximum(correlations, mirrored @ there, out=correlations)
            found, partner = np.nonzero(correlations > bound)
            pairs += len(found)
            known[rows[found]] = True
            values = correlations[found, partner]
            first = np.argsort(-values, kind="stable")[:EXAMPLES]
            closest += [
                Pair(round(float(values[i]), 6), int(rows[found[i]]), int(block[partner[i]])) for i in first.tolist()
            ]
            closest = sorted(closest, key=lambda pair: (-pair.correlation, pair.test, pair.other))[:EXAMPLES]
    return pairs, known, [(pair.test, pair.other) for pair in closest]


def _blocks(rows: np.ndarray, size: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(rows), size):
        yield start, rows[start : start + size]


def _sharing(
    keys: Sequence[Hashable | None], test: np.ndarray, other: np.ndarray
) -> tuple[int, np.ndarray, list[tuple[int, int]]]:
    """Return the number of pairs with equal keys, the test samples in them as flags `[N]`, and some of the pairs.

    Args:
        keys: `[N]`; None equals nothing.
    """
    holders: dict[Hashable, int] = {}
    first: dict[Hashable, int] = {}
    for row in other.tolist():
        if keys[row] is not None:
            holders[keys[row]] = holders.get(keys[row], 0) + 1
            first.setdefault(keys[row], row)
    knowing = [row for row in test.tolist() if keys[row] in holders]
    known = np.zeros(len(keys), dtype=bool)
    known[knowing] = True
    return sum(holders[keys[row]] for row in knowing), known, [(row, first[keys[row]]) for row in knowing[:EXAMPLES]]


def _what(sketches: Sketches) -> str:
    first, second = sketches.grid
    if sketches.images:
        return f"detail of grey values on a grid of {first} x {second}, also mirrored left to right"
    return f"detail of {first} channels at {second} points"


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(f"'{column}'" for column in columns)


def _ids(dataset: AuditDataset, pairs: list[tuple[int, int]]) -> list[tuple[str, str]]:
    ids = dataset.table["id"].astype(str).tolist()
    return [(ids[test], ids[other]) for test, other in pairs[:EXAMPLES]]


def _found(
    name: str, dataset: AuditDataset, pairs: int, known: np.ndarray, examples: list[tuple[int, int]], detail: str
) -> LeakageCheck:
    return LeakageCheck(
        check=name,
        status="leak" if pairs else "clean",
        pairs=pairs,
        test_samples=int(known.sum()),
        detail=detail,
        examples=_ids(dataset, examples),
    )


def _not_run(name: str, reason: str, examples: Sequence[tuple[str, str]] = ()) -> LeakageCheck:
    return LeakageCheck(check=name, status="not_run", pairs=0, test_samples=0, detail=reason, examples=list(examples))
