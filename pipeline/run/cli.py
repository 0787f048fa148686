"""The command line that all stages share. Only the standard library is imported before the arguments are understood."""

from __future__ import annotations

import argparse
import contextlib
import errno
import getpass
import importlib
import json
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from pipeline.errors import ConfigError, PipelineError

from .stages import ALL, GATED, STAGE_NAMES, required, summary_of

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.workspace.progress import Reporter
    from pipeline.workspace.stage import StageContext

RESUME = "Finished stages are kept; the same command continues."


def main(stage: str, argv: list[str] | None = None) -> NoReturn:
    """Run the command of a stage, or of all ("run"), and exit.

    Exit codes: 0 done, 1 the run failed, 2 usage or configuration, 3 the gate failed.

    Args:
        stage: name of a stage, or "run".
        argv: arguments; default: those of the process.
    """
    given = sys.argv[1:] if argv is None else argv
    arguments = make_parser(stage).parse_args(given)
    if "" not in sys.path:
        # Data sets and networks of the user's own lie in the working directory, which `r2r` does not search by itself.
        sys.path.append("")
    with contextlib.nullcontext() if arguments.verbose else _quiet_libraries():
        sys.exit(_guarded(stage, arguments, f"python -m pipeline.{stage} {shlex.join(given)}"))


def make_parser(stage: str) -> argparse.ArgumentParser:
    """Return the parser of a stage's command."""
    before = [spec.name for spec in required(stage) if spec.name != stage]
    sections = [name for spec in required(stage) if stage in (spec.name, ALL) for name in spec.sections]
    parser = argparse.ArgumentParser(
        prog=f"python -m pipeline.{stage}",
        description=f"{summary_of(stage).capitalize()}.",
        epilog=(
            (f"Runs first, where they are missing or stale: {', '.join(before)}. " if before and stage != ALL else "")
            + f"Configuration: {', '.join(dict.fromkeys(sections))}. "
            "Exit codes: 0 done, 1 the run failed, 2 usage or configuration, 3 the gate failed."
        ),
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="YAML file, or the name of one below configs/, e.g. demo.yaml"
    )
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="override the configuration, e.g. --set model.train.epochs=3 name=trial",
    )
    forced = "every stage" if stage == ALL else "the stage"
    parser.add_argument("--force", action="store_true", help=f"run {forced} even if its results are fresh")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: as the configuration says")
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks, and warnings of libraries")
    if stage == ALL:
        parser.add_argument("--status", action="store_true", help="show what is fresh and why not; run nothing")
    if stage in GATED:
        parser.add_argument(
            "--baseline", metavar="FILE", help="audit.json of an earlier audit to compare with; sets report.baseline"
        )
    if stage == "reveal":
        _add_labelling(parser)
    if stage == "localize":
        parser.add_argument(
            "--export",
            nargs=2,
            metavar=("FORMAT", "DIR"),
            help="afterwards write the masks for another program into a folder; formats: isnet",
        )
    return parser


def _add_labelling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("labels of samples")
    group.add_argument(
        "--label",
        metavar="FILE",
        help="before, add labels to annotations.json: JSON {bias: [ids]}, or CSV with id, bias, label",
    )
    group.add_argument("--by", metavar="NAME", help="who labelled, where the file does not say it; default: the user")
    group.add_argument("--by-row", action="store_true", help="numbers that are no ids are rows, counted from 0")


def console(argv: list[str] | None = None, prog: str = "r2r") -> None:
    """Dispatch `r2r STAGE ...` to `python -m pipeline.STAGE ...`; without a stage, list them.

    Args:
        argv: arguments; default: those of the process.
        prog: how the command calls itself.
    """
    given = sys.argv[1:] if argv is None else argv
    commands = [*STAGE_NAMES, ALL]
    if not given or given[0] in ("-h", "--help"):
        print(_overview(prog, commands))
    elif given[0] in commands:
        main(given[0], given[1:])
    else:
        from pipeline.errors import nearest

        print(f"error: unknown stage '{given[0]}'.{nearest(given[0], commands)}", file=sys.stderr)
        print(f"Stages: {', '.join(commands)}.", file=sys.stderr)
        sys.exit(2)


def _overview(prog: str, commands: list[str]) -> str:
    lines = [f"  {name:<12}{summary_of(name)}" for name in commands]
    usage = f"usage: {prog} STAGE --config FILE [--set KEY=VALUE ...] [--force] [--device auto|cpu|cuda] [-v]"
    hint = f"The whole audit of the example: {prog} run --config demo.yaml. More: {prog} STAGE --help"
    return "\n".join([usage, "", "Stages:", *lines, "", hint])


def _guarded(stage: str, arguments: argparse.Namespace, command: str) -> int:
    """Run the command and turn whatever it raises into a message and an exit code."""
    try:
        _execute(stage, arguments, command)
        sys.stdout.flush()
        return 0
    except BaseException as error:
        if _reader_left(error):
            return 1
        if arguments.verbose and not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        print(f"error: {explain(error, arguments.verbose)}", file=sys.stderr)
        return error.exit_code if isinstance(error, PipelineError) else 1


def _execute(stage: str, arguments: argparse.Namespace, command: str) -> None:
    from pipeline.config import load_config
    from pipeline.workspace.progress import PlainReporter, make_reporter

    from . import ranks, runner

    config = load_config(arguments.config, [*arguments.overrides, *_baseline_override(arguments)])
    prepare = _label_importer(arguments) if stage == "reveal" else None
    rank = ranks.rank_from_environment(os.environ)
    # One terminal shows the bars of one process only.
    reporter = make_reporter() if rank.of == 1 else PlainReporter()
    if getattr(arguments, "status", False):
        return None if rank.number else _print_status(config, reporter)
    if arguments.force:
        ranks.refuse_force(config, stage, rank)
    if rank.number > 0:
        return ranks.take_part(config, stage, rank, reporter, arguments.device)
    context = runner.run_stages(
        config,
        stage,
        force=arguments.force,
        reporter=reporter,
        device=arguments.device,
        command=command,
        rank=rank,
        prepare=prepare,
    )
    if getattr(arguments, "export", None):
        _export(context, *arguments.export)
    if stage not in GATED:
        return reporter.say(f"results: {context.directory.folder(stage)}")
    audit = runner.read_audit(context.directory)
    from .summary import summarize

    for line in summarize(audit, context.directory.root):
        reporter.say(line)
    for line in runner.conditions(audit):
        # Beside the results, as an error would be: a log that is only searched for trouble shows it, too.
        print(f"WARNING: {line}" if line[0] != " " else line, file=sys.stderr)
    return runner.check_gate(audit)


def _baseline_override(arguments: argparse.Namespace) -> list[str]:
    """Return `--baseline FILE` as `--set report.baseline=FILE`, quoted, so that the resolved configuration has it."""
    baseline = getattr(arguments, "baseline", None)
    return [] if baseline is None else [f"report.baseline={json.dumps(baseline, ensure_ascii=False)}"]


def _label_importer(arguments: argparse.Namespace) -> Callable[[StageContext], None] | None:
    """Return what imports the file of labels into the journal, or None where none is given.

    Raises:
        ConfigError: an option of the import is given without a file, or the file is missing.
    """
    if arguments.label is None:
        for option, value in (("--by", arguments.by), ("--by-row", arguments.by_row)):
            if value:
                raise ConfigError(f"{option} says how labels are read; give their file with --label FILE.")
        return None
    path = Path(arguments.label)
    if not path.is_file():
        # before any data are read
        raise ConfigError(f"--label {path}: no such file. Give a JSON, CSV or TSV file.")

    def prepare(context: StageContext) -> None:
        _import_labels(context, path, arguments.by or _user(), arguments.by_row)

    return prepare


def _import_labels(context: StageContext, path: Path, by: str, by_row: bool) -> None:
    from pipeline.data.load import load_dataset
    from pipeline.workspace.journal import append, read_journal

    labels = _part_of("reveal", "label_import")
    config, journal = context.config, context.directory.annotations_path
    # under the name under which stages look for it, so that it is read once
    dataset = context.once("dataset", lambda: load_dataset(config.data, seed=config.seed, progress=context.reporter))
    ids = [str(each) for each in dataset.table["id"]]
    when = datetime.now().astimezone().isoformat(timespec="seconds")
    imported = labels.read_labels(path, ids, by=by, when=when, rows_allowed=by_row)
    news = labels.new_labels(imported.labels, read_journal(journal).labels)
    append(journal, news)
    for line in imported.summary():
        context.reporter.say(f"labels: {line}")
    context.reporter.say(f"labels: {len(news)} added to {journal}, {len(imported.labels) - len(news)} were in it")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # a container may run under a number that has no name
        raise ConfigError("nobody knows who labelled: this user has no name. Give one with --by NAME.") from None


def _export(context: StageContext, form: str, folder: str) -> None:
    _part_of("localize", "export").export_masks(context, form, Path(folder))
    context.reporter.say(f"exported: {folder}")


def _part_of(stage: str, name: str) -> ModuleType:
    """Return a module of a stage, found by name as the stage itself is, so that starting the command imports none."""
    return importlib.import_module(f"pipeline.{stage}.{name}")


def _print_status(config: Config, reporter: Reporter) -> None:
    from . import runner

    rows = [("stage", "state", "why")]
    rows += [(each.stage, each.state, each.why) for each in runner.status(config, reporter)]
    for name, state, why in rows:
        reporter.say(f"{name:<12}{state:<9}{why}".rstrip())


def explain(error: BaseException, verbose: bool = False) -> str:
    """Return what happened and the next step, on one line where possible."""
    if isinstance(error, PipelineError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted. {RESUME}"
    if isinstance(error, OSError) and (error.errno == errno.ENOSPC or "No space left on device" in str(error)):
        place = f" while writing {error.filename}" if error.filename else ""
        return f"no space left on the disk{place}. Free some space. {RESUME}"
    # PyTorch's error for a full GPU, by name because torch may not be imported.
    if type(error).__name__ == "OutOfMemoryError":
        return f"the GPU's memory is full. Lower the batch_size of the stage, or use --device cpu. {RESUME}"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"the memory is full. Lower data.cache_megabytes, or the batch_size of the stage. {RESUME}"
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if verbose else f"{text} (run again with -v for the traceback)"


def _reader_left(error: BaseException) -> bool:
    """Tell whether the output's reader, such as `head`, has ended; then nothing more is written to it."""
    if not isinstance(error, BrokenPipeError):
        return False
    try:
        # The error may also come from another pipe, such as to a worker process.
        print(flush=True)
    except BrokenPipeError:
        # Else Python flushes once more at exit, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Drop the warnings of libraries; this package speaks through its reporter.

    Not by a filter, because libraries insert filters of their own when they are imported.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda *arguments, **keywords: None
            yield
    finally:
        logging.disable(before)
