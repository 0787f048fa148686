"""Write the table of `docs/attribution.md`: on which architectures which composites conserve relevance.

python -m docs.make_attribution_table
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.attribution.architectures import SIZES, Examination, examine
from pipeline.attribution.composites import COMPOSITES
from pipeline.attribution.health_check import TOLERANCE

DOCUMENT = Path(__file__).parent / "attribution.md"
BEGIN, END = "<!-- table: make attribution-table writes it -->\n", "<!-- end of table -->\n"
SHOWN = "epsilon_plus_flat"
"""The default composite: its share of biases is shown, too."""
EXPLODED = 2.0
"""Figures of which the digits are rounding errors."""


def main() -> None:
    """Examine all architectures and put the table in its place; takes minutes."""
    rows = {}
    for arch in SIZES:
        print(arch, file=sys.stderr, flush=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries about their own future
            rows[arch] = {found.composite: found for found in examine(arch, list(COMPOSITES))}
    DOCUMENT.write_text(replaced(DOCUMENT.read_text(encoding="utf-8"), table(rows)), encoding="utf-8")


def replaced(text: str, table: str) -> str:
    """Return the document with another table between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table}{END}{after}"


def table(rows: Mapping[str, Mapping[str, Examination]]) -> str:
    """Return the table in Markdown, architecture -> composite -> what was found."""
    names = [SHOWN, *(name for name in COMPOSITES if name != SHOWN)]
    header = ["architecture", "pixels", *names[:1], "bias share", *names[1:]]
    lines = [header, ["---"] * len(header)]
    for arch, found in rows.items():
        conserved = [conservation(found[name]) for name in names]
        size = str(found[SHOWN].size)
        lines.append([f"`{arch}`", size, conserved[0], bias_share(found[SHOWN]), *conserved[1:]])
    return "".join(map(_line, lines))


def conservation(found: Examination) -> str:
    """Return the share of the logit that reaches the pixels, bold where that is unhealthy."""
    if found.health is None:
        return "**failed**"
    value = found.health.conservation
    text = f"{value:.3f}" if abs(value - 1) < EXPLODED else "explodes"
    return text if abs(value - 1) <= TOLERANCE else f"**{text}**"


def bias_share(found: Examination) -> str:
    """Return the share that constants absorb."""
    if found.health is None:
        return ""
    value = found.health.bias_share
    return f"{value:.2f}" if abs(value) < EXPLODED else "explodes"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    main()
