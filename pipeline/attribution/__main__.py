"""`python -m pipeline.attribution --health ...`: is attribution sound on an architecture?"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pipeline.errors import ConfigError, PipelineError, nearest

if TYPE_CHECKING:
    from .architectures import Examination

DEFAULT = "epsilon_plus_flat"


def main(argv: list[str] | None = None) -> NoReturn:
    """Print a line per architecture and composite, and exit: 0 all healthy, 1 something is not, 2 usage.

    Args:
        argv: arguments; default: those of the process.
    """
    arguments = _parse(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries about their own future
            sys.exit(_examine_all(arguments))
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (OSError, KeyboardInterrupt) as error:
        print(f"error: {error}" if str(error) else "error: interrupted", file=sys.stderr)
        sys.exit(1)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.attribution",
        description="Check on images of noise whether relevance is conserved on an architecture.",
        epilog="docs/attribution.md says how to read the table. "
        "Exit codes: 0 all healthy, 1 something is unhealthy or failed to run, 2 usage.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--health",
        nargs="+",
        dest="architectures",
        metavar="ARCH",
        help="as model.arch: torchvision:NAME, timm:NAME, local:NAME or my.module:factory",
    )
    which.add_argument("--all", action="store_true", help="all architectures that are looked after; takes minutes")
    parser.add_argument(
        "--composite",
        nargs="+",
        default=[DEFAULT],
        dest="composites",
        metavar="NAME",
        help=f"as precompute.composite; default: {DEFAULT}",
    )
    parser.add_argument("--size", type=int, metavar="N", help="side of the images in pixels; default: by ARCH")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="weights of the one ARCH; without, it is untrained"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything, layer by layer, into a file")
    arguments = parser.parse_args(argv)
    if arguments.size is not None and arguments.size < 1:
        parser.error(f"--size {arguments.size}: expected a number of pixels, 1 or more")
    if arguments.checkpoint and (arguments.all or len(arguments.architectures) > 1):
        parser.error("--checkpoint: its weights belong to one architecture; name that one alone after --health")
    return arguments


def _examine_all(arguments: argparse.Namespace) -> int:
    """Print the table line by line, since it takes its time; return the exit code."""
    from .architectures import SIZES, examine, write_examinations
    from .composites import COMPOSITES

    composites = list(dict.fromkeys(arguments.composites))
    for name in composites:
        if name not in COMPOSITES:
            known = list(COMPOSITES)
            raise ConfigError(f"--composite '{name}' is unknown.{nearest(name, known)} Allowed: {', '.join(known)}.")
    architectures = list(SIZES) if arguments.all else list(dict.fromkeys(arguments.architectures))
    widths = [max(map(len, ["architecture", *architectures])), max(map(len, ["composite", *composites]))]
    print(_line(HEADER, widths), flush=True)
    found: list[Examination] = []
    for architecture in architectures:
        for examination in examine(architecture, composites, size=arguments.size, checkpoint=arguments.checkpoint):
            print(_line(_cells(examination), widths), flush=True)
            found.append(examination)
    if arguments.json is not None:
        write_examinations(arguments.json, found)
    return int(any(examination.verdict in ("unhealthy", "failed") for examination in found))


HEADER = (
    "architecture", "composite", "size", "conservation", "worst layer", "finite", "bias share", "no rule", "seconds",
    "verdict",
)  # fmt: skip
WIDTHS = (5, 13, 12, 7, 11, 8, 8)
"""Of the columns between composite and verdict."""


def _cells(examination: Examination) -> list[str]:
    health = examination.health
    seconds = f"{examination.seconds:.1f}"
    start, end = [examination.arch, examination.composite, str(examination.size)], [seconds, _verdict(examination)]
    if health is None:
        return [*start, "-", "-", "-", "-", "-", *end]
    worst = next((row.conservation for row in health.layers if row.layer == health.weakest_layer), float("nan"))
    return [
        *start, figure(health.conservation), figure(worst), "yes" if health.finite else "no", figure(health.bias_share),
        str(len(health.without_rule)), *end,
    ]  # fmt: skip


def _verdict(examination: Examination) -> str:
    reason = examination.error if examination.health is None else examination.health.warning
    return f"{examination.verdict}: {reason}" if reason else examination.verdict


def figure(value: float) -> str:
    """Return a figure as the table shows it: three decimals, or a power of ten where it is far from 1."""
    return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.1e}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    arch, composite, *middle, verdict = cells
    numbers = [cell.rjust(width) for cell, width in zip(middle, WIDTHS, strict=True)]
    return " ".join([arch.ljust(widths[0]), composite.ljust(widths[1]), *numbers, "", verdict])


if __name__ == "__main__":
    main()
