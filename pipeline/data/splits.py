"""Dividing samples into train, val and test, and taking a part of them for a quick trial."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..config.data import SplitConfig
from ..errors import ConfigError
from .dataset import SPLITS
from .randomness import uniform

PURPOSE = "split"


def assign_splits(
    ids: Sequence[str], labels: np.ndarray, groups: Sequence[str] | None, config: SplitConfig
) -> np.ndarray:
    """Return the split of every row, text `[N]`, each of train, val and test; it does not depend on the order of rows.

    Without groups the division is stratified: in each class the counts are within 1 of the shares (a class with three
    rows or more gets at least one in each split, even if its share were less than half a row).

    With groups, no group is divided. Each split's count is within the size of the largest group of its share, and each
    group goes to the split that still lacks most of the group's classes, so that classes are spread as groups allow.

    Args:
        ids: unique sample ids.
        labels: class ids `[N]`.
        groups: name of the group (patient, lesion) of every row; an empty name is a group of its own.
        config: shares and seed.

    Raises:
        ConfigError: when the shares leave nothing for the training split.
    """
    shares = np.array([1 - config.val - config.test, config.val, config.test])
    if shares[0] < 1e-6:
        raise ConfigError(
            f"data.split: val {config.val:g} + test {config.test:g} leave nothing to train on; "
            "their sum must be below 1."
        )
    labels = np.asarray(labels)
    if groups is None:
        places = _stratified(uniform(config.seed, ids, PURPOSE), labels, shares)
    else:
        # Prefixes keep a row without a group apart from a group that happens to bear the row's name.
        names = [f"group {group}" if group else f"row {each}" for each, group in zip(ids, groups, strict=True)]
        places = _grouped(names, labels, shares, config.seed)
    return np.array(SPLITS, dtype=object)[places]


def first_rows(labels: np.ndarray, splits: np.ndarray, limit: int) -> np.ndarray:
    """Return the positions of the first `limit` rows of each split and class, ascending."""
    seen: dict[tuple, int] = {}
    chosen = []
    for index, key in enumerate(zip(splits.tolist(), labels.tolist(), strict=True)):
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= limit:
            chosen.append(index)
    return np.array(chosen, dtype=np.int64)


def refuse_group_column(config: SplitConfig, kind: str) -> None:
    """Raise a ConfigError when groups are asked for, but the data have no table with such a column."""
    if config.group_column is not None:
        raise ConfigError(
            f"data.split.group_column is '{config.group_column}', but data of kind '{kind}' have no such column. "
            "Next step: remove the key, or list the images in a CSV file and use data.kind: table"
        )


def _stratified(draws: np.ndarray, labels: np.ndarray, shares: np.ndarray) -> np.ndarray:
    places = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        rows = rows[np.argsort(draws[rows], kind="stable")]
        places[rows] = np.repeat(np.arange(len(shares)), _apportion(len(rows), shares))
    return places


def _apportion(n: int, shares: np.ndarray) -> np.ndarray:
    """Return whole counts that sum to n, by the method of largest remainders, at least 1 each where n allows."""
    exact = n * shares
    counts = np.floor(exact + 1e-9).astype(int)
    remainder = exact - counts
    counts[np.argsort(-remainder, kind="stable")[: n - counts.sum()]] += 1
    while n >= len(shares) and counts.min() == 0:
        counts[counts.argmin()] += 1
        counts[counts.argmax()] -= 1
    return counts


def _grouped(names: list[str], labels: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    unique_names, member_of = np.unique(names, return_inverse=True)
    unique_labels, class_of = np.unique(labels, return_inverse=True)
    content = np.zeros((len(unique_names), len(unique_labels)))
    np.add.at(content, (member_of, class_of), 1)
    sizes, class_sizes = content.sum(1), content.sum(0)
    wanted = shares[:, None] * class_sizes
    filled = np.zeros_like(wanted)
    room = shares * len(names)
    place = np.empty(len(unique_names), dtype=np.int64)
    # Largest groups first: the small ones then even out what these leave. Among equals, chance decides.
    for group in np.lexsort((uniform(seed, unique_names.tolist(), PURPOSE), -sizes)):
        lack = ((1 - filled / wanted) * content[group] / class_sizes).sum(1)
        # Only where no split has room for the whole group does one overflow, by less than the group's size.
        fits = room >= sizes[group] - 1e-9
        chosen = int(np.argmax(np.where(fits, lack, -np.inf)) if fits.any() else np.argmax(room))
        place[group] = chosen
        filled[chosen] += content[group]
        room[chosen] -= sizes[group]
    return place[member_of]
