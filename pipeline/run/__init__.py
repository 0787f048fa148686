"""All stages in order: what is fresh is reused, what is stale runs again. The public entry points import late."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.config import Config
    from pipeline.workspace.progress import Reporter
    from pipeline.workspace.records import Audit

__all__ = ["main", "run_audit"]


def main(stage: str, argv: list[str] | None = None) -> NoReturn:
    """Run the command line `python -m pipeline.<stage>` and exit with its code; see `pipeline.run.cli`."""
    from .cli import main as run_command

    run_command(stage, argv)


def run_audit(
    config: Config | Path | str,
    *,
    overrides: tuple[str, ...] = (),
    force: bool = False,
    device: str | None = None,
    reporter: Reporter | None = None,
) -> Audit:
    """Run all stages that are not fresh, and return the audit.

    Args:
        config: a configuration, or its file as after `--config`.
        overrides: texts `key.sub=value` as after `--set`; only for a file.
        force: run every stage, also the fresh ones.
        device: auto, cpu or cuda; default: what the configuration says.
        reporter: where progress is shown; default: nowhere.

    Raises:
        PipelineError: see `pipeline.errors`. A failed gate is no error here: it is `verdict == "fail"`.
    """
    from .runner import run_audit as run_stages_and_read

    return run_stages_and_read(config, overrides=overrides, force=force, device=device, reporter=reporter)
