"""The command line inside the test's process: what it says, and how it ends."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

from pipeline.run import main
from pipeline.workspace.hashing import digest_file

NOT_RESULTS = {".lock", "config.yaml", "manifest.json", "annotations.json"}


class Ended(NamedTuple):
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def ran(self) -> list[str]:
        """Stages that ran, also those that did not finish."""
        return [line.partition(":")[0] for line in self.out.splitlines() if line.endswith("; running")]

    @property
    def reused(self) -> list[str]:
        """Stages whose results were fresh."""
        return [line.partition(":")[0] for line in self.out.splitlines() if line.endswith(": fresh, reused")]


def run_command(stage: str, *arguments: object) -> Ended:
    """Run `python -m pipeline.<stage> <arguments>` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(stage, list(map(str, arguments)))
        except SystemExit as ended:
            return Ended(ended.code, out.getvalue(), err.getvalue())
    raise AssertionError("the command came back instead of exiting")


def results(root: Path) -> dict[str, tuple[int, str]]:
    """Return time of change and hash of every result below a run directory."""
    files = [path for path in root.rglob("*") if path.is_file() and path.name not in NOT_RESULTS]
    return {str(path.relative_to(root)): (path.stat().st_mtime_ns, digest_file(path)) for path in sorted(files)}
