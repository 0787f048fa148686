"""A method with a grid of values, as one method for each combination of them."""

from __future__ import annotations

import itertools
import re
from typing import Any

GRID = "grid"
LARGEST = 64


def expand_grid(method: Any) -> list[Any]:
    """Return one mapping for each combination of the values below `grid`, or the method itself where it has none.

    `{kind: rrr, grid: {weight: [10, 30]}}` becomes rrr_weight-10 and rrr_weight-30 of the family rrr.

    Args:
        method: an entry of `mitigate.methods` as it stands in the YAML file.

    Raises:
        ValueError: the grid is no mapping of keys to lists, sets a key that is given beside it, or is too large.
    """
    if not isinstance(method, dict) or GRID not in method:
        return [method]
    fixed = {key: value for key, value in method.items() if key != GRID}
    grid, family = method[GRID], str(fixed.get("id") or fixed.get("kind"))
    if not isinstance(grid, dict) or not grid or not all(isinstance(each, list) and each for each in grid.values()):
        raise ValueError(f"the grid of '{family}' must name lists of values, such as grid: {{weight: [10, 30]}}")
    if twice := [key for key in grid if key in fixed or key in ("kind", "id", "family")]:
        raise ValueError(f"'{twice[0]}' of '{family}' stands beside its grid and cannot vary in it; leave out one")
    combinations = list(itertools.product(*grid.values()))
    if len(combinations) > LARGEST:
        raise ValueError(f"the grid of '{family}' has {len(combinations)} combinations; at most {LARGEST} are fitted")
    members = [dict(zip(grid, values, strict=True)) for values in combinations]
    return [fixed | member | {"id": _name(family, member), "family": family} for member in members]


def _name(family: str, member: dict[str, Any]) -> str:
    parts = [f"{key}-{re.sub(r'[^A-Za-z0-9.]+', '-', str(value)).strip('-')}" for key, value in member.items()]
    return "_".join([family, *parts])
