"""Runs the stages of a run directory that are not fresh, and records what each was made from."""

from __future__ import annotations

import contextlib
import importlib
import json
import platform
import time
from collections.abc import Callable
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Config, load_config
from pipeline.config.load import dump_config
from pipeline.errors import ConfigError, GateFailed, StoreError
from pipeline.workspace.atomic import write_text
from pipeline.workspace.directory import RunDirectory
from pipeline.workspace.manifest import StageEntry
from pipeline.workspace.progress import Reporter, SilentReporter
from pipeline.workspace.rank import Rank
from pipeline.workspace.records import Audit, GateResult
from pipeline.workspace.stage import StageContext, StageSpec

from .again import LAST, config_again
from .fingerprint import dataset_entry
from .freshness import Facts, Freshness, assess, assess_all, read_facts
from .stages import ALL, GATED, SHARED, STAGES, required

if TYPE_CHECKING:
    from pipeline.workspace.manifest import Manifest

AUDIT = "report/audit.json"
REPORT = "report"
RECORDED = ("reveal-revise", "torch", "torchvision", "timm", "numpy", "scikit-learn", "umap-learn", "h5py")
"""Packages whose versions are recorded with every stage."""


def run_stages(
    config: Config,
    until: str,
    *,
    force: bool = False,
    reporter: Reporter | None = None,
    device: str | None = None,
    command: str = "",
    rank: Rank | None = None,
    prepare: Callable[[StageContext], None] | None = None,
) -> StageContext:
    """Run a stage, and before it all that it needs and lacks; with "run", run all.

    Args:
        config: the configuration.
        until: name of the stage, or "run".
        force: run the named stage (with "run" every stage) even if it is fresh, and without what it kept.
        reporter: where progress is shown.
        device: auto, cpu or cuda; default: what the configuration says.
        command: recorded in the manifest.
        rank: this process, number 0, and how many share the named stage, if it can be shared; see `pipeline.run.ranks`.
        prepare: called once the run directory is held and before anything is judged, such as to extend the journal.

    Raises:
        BusyError: another process works in the run directory.
        ConfigError: a report is asked for, and the earlier audit that it shall compare with is not there.
        PipelineError: what a stage raises. It is recorded; results of earlier stages stay.
    """
    chain = required(until)
    context = StageContext(config, run_directory(config), device="", reporter=reporter or SilentReporter())
    directory = context.directory
    if until in GATED:
        check_baseline(config, directory)
    with directory.lock():
        write_text(directory.root / "config.yaml", dump_config(config))
        if prepare is not None:
            prepare(context)
        manifest = directory.manifest()
        fingerprint = read_fingerprint(context, manifest)
        judged: dict[str, Freshness] = {}
        for spec in chain:
            freshness = assess(spec, read_facts(config, directory, fingerprint), manifest, directory, judged)
            forced = force and until in (ALL, spec.name)
            if freshness.state == "fresh" and not forced:
                context.reporter.say(f"{spec.name}: fresh, reused")
            else:
                context.reporter.say(f"{spec.name}: {_reason(freshness, forced)}; running")
                # Earlier stages are run by this process alone.
                context.rank = rank if rank and until in SHARED and until == spec.name else Rank()
                # Only now, because it imports torch.
                context.device = context.device or device_of(rank or Rank(), resolve_device(device or config.device))
                if spec.name == REPORT and config.mitigate.search_again:
                    _search_again(context, command)
                _run_stage(spec, freshness, context, manifest, forced, command)
            judged[spec.name] = Freshness(spec.name, "fresh", "", freshness.parts)
    return context


def _search_again(context: StageContext, command: str) -> None:
    """Run reveal on the preferred correction, in a run directory within this one."""
    config = config_again(context.config, context.directory, context.reporter)
    if config is not None:
        run_stages(config, LAST, reporter=context.reporter, device=context.device, command=command)


def run_audit(
    config: Config | Path | str,
    *,
    overrides: tuple[str, ...] = (),
    force: bool = False,
    device: str | None = None,
    reporter: Reporter | None = None,
) -> Audit:
    """Run all stages that are not fresh, and return the audit; see `pipeline.run.run_audit`."""
    if not isinstance(config, Config):
        config = load_config(config, overrides)
    elif overrides:
        raise ConfigError("overrides go with a configuration file; change a Config by model_copy(update=...).")
    return read_audit(run_stages(config, ALL, force=force, reporter=reporter, device=device).directory)


def status(config: Config, reporter: Reporter | None = None) -> list[Freshness]:
    """Judge all stages without running any. The data set is read only if its files have changed since it was."""
    context = StageContext(config, run_directory(config), device="", reporter=reporter or SilentReporter())
    manifest = context.directory.manifest()
    # Before the first training there is nothing to compare the data with.
    fingerprint = read_fingerprint(context, manifest, save=False) if "train" in manifest.stages else ""
    facts: Facts = read_facts(config, context.directory, fingerprint)
    return assess_all(STAGES, facts, manifest, context.directory)


def run_directory(config: Config) -> RunDirectory:
    """Return the directory of a configured run."""
    return RunDirectory(Path(config.output_dir) / config.name)


def read_audit(directory: RunDirectory) -> Audit:
    """Return what the report stage wrote."""
    return directory.read_record(AUDIT, Audit)


def check_baseline(config: Config, directory: RunDirectory) -> None:
    """Raise ConfigError when `report.baseline` names no file, or the audit that this run itself writes.

    The report reads and checks it; this costs nothing and comes before hours of work.
    """
    baseline = config.report.baseline
    if baseline is None:
        return
    file = Path(baseline).expanduser()
    if not file.is_file():
        raise ConfigError(f"report.baseline: {baseline}: no such file. Name the report/audit.json of an earlier audit.")
    if file.resolve() == (directory.root / AUDIT).resolve():
        raise ConfigError(
            f"report.baseline: {baseline} is what this run writes. Compare with a copy of it, or give this run another "
            "name: --set name=..."
        )


def check_gate(audit: Audit) -> None:
    """Raise GateFailed, with every rule that is not met, those that block first, when the verdict is "fail"."""
    if audit.verdict != "fail":
        return
    blocking = [result for result in audit.gate if result.blocking]
    lines = [f"the gate failed, {len(blocking)} of {len(audit.gate)} rules did not pass:", *_rule_lines(blocking)]
    if others := _open_rules(audit):
        lines += ["not met either, without failing the gate:", *_rule_lines(others)]
    raise GateFailed("\n".join(lines))


def conditions(audit: Audit) -> list[str]:
    """Return what has to be decided by a person, line by line; nothing where the verdict is not "conditional"."""
    if audit.verdict != "conditional":
        return []
    found = _open_rules(audit)
    head = f"the verdict is CONDITIONAL, {len(found)} of {len(audit.gate)} rules are not met, none of which blocks:"
    return [head, *_rule_lines(found)]


def _open_rules(audit: Audit) -> list[GateResult]:
    return [result for result in audit.gate if result.status != "pass" and not result.blocking]


def _rule_lines(results: list[GateResult]) -> list[str]:
    return [f"  {result.rule}: {result.status.replace('_', ' ')}, {result.detail}" for result in results]


def resolve_device(wanted: str) -> str:
    """Return cpu or cuda; "auto" takes cuda where there is one.

    Raises:
        ConfigError: cuda is asked for, and PyTorch finds none.
    """
    if wanted == "cpu":
        return wanted
    import torch

    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ConfigError("device is cuda, but PyTorch finds no CUDA device here. Use --device auto or --device cpu.")
    return "cuda" if available else "cpu"


def device_of(rank: Rank, device: str) -> str:
    """Return the device of one of several processes: on cuda, each on a machine has a GPU of its own.

    Raises:
        ConfigError: there are fewer GPUs than processes on this machine.
    """
    if device != "cuda" or rank.of == 1:
        return device
    import torch

    count = torch.cuda.device_count()
    if rank.local >= count:
        raise ConfigError(
            f"process {rank.local} of this machine has no GPU: there are {count}. Start torchrun with "
            f"--nproc-per-node {count}, or use --device cpu."
        )
    return f"cuda:{rank.local}"


def read_fingerprint(context: StageContext, manifest: Manifest, save: bool = True) -> str:
    """Return the fingerprint of the data set, which is read only if its files have changed since it was.

    Args:
        context: the run; a data set that is read is remembered in its memo.
        manifest: what is known from the last time.
        save: write what was found into the manifest.
    """
    config = context.config

    def load() -> Any:
        from pipeline.data.load import load_dataset

        # Under the name under which stages look for it, so that it is read once.
        return context.once("dataset", lambda: load_dataset(config.data, seed=config.seed, progress=context.reporter))

    entry = dataset_entry(config.data, manifest.dataset, load)
    if save and entry != manifest.dataset:
        manifest.dataset = entry
        manifest.save(context.directory.manifest_path)
        if entry.skipped:
            context.reporter.say(f"data: {len(entry.skipped)} bad samples are skipped, listed in manifest.json")
    return entry.fingerprint


def _reason(freshness: Freshness, forced: bool) -> str:
    if freshness.state == "fresh" and forced:
        return "forced"
    return f"stale, {freshness.why}" if freshness.state == "stale" else freshness.why


def _run_stage(
    spec: StageSpec,
    freshness: Freshness,
    context: StageContext,
    manifest: Manifest,
    forced: bool,
    command: str,
) -> None:
    """Run one stage. What it left earlier stays until it succeeds, and counts again if it fails without touching it."""
    directory, earlier = context.directory, manifest.stages.get(spec.name)
    context.key, context.unit_key, context.notes = freshness.key, freshness.unit_key, {}
    entry = StageEntry(
        status="started", key=freshness.key, parts=freshness.parts, versions=_versions(), command=command
    )
    _record(context, manifest, spec.name, entry)
    started = time.monotonic()
    try:
        run = importlib.import_module(f"pipeline.{spec.name}.stage").run
        if forced:
            directory.clear(spec.name)
        before = directory.written(spec.name)
        run(context)
        directory.clear_old(spec.name, before, spec.keeps)
        outputs = directory.outputs(spec.name)
    except BaseException as error:
        text = "interrupted" if isinstance(error, KeyboardInterrupt) else _first_line(error)
        failed = _ended(entry, "failed", started, context, error=text)
        # The error of the stage says more than a second one, such as again of a full disk.
        with contextlib.suppress(StoreError, OSError):
            intact = earlier is not None and earlier.status == "done" and not directory.damage(earlier.outputs)
            _record(context, manifest, spec.name, earlier if intact else failed)
        context.reporter.say(f"{spec.name}: {text if text == 'interrupted' else 'failed'} after {failed.seconds:.1f} s")
        raise
    done = _ended(entry, "done", started, context, outputs=outputs)
    _record(context, manifest, spec.name, done)
    context.reporter.say(f"{spec.name}: done in {done.seconds:.1f} s")


def _ended(entry: StageEntry, status: str, started: float, context: StageContext, **more: Any) -> StageEntry:
    notes = {"device": context.device} | context.notes
    changes = {
        "status": status,
        "seconds": round(time.monotonic() - started, 3),
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        "notes": json.loads(json.dumps(notes, default=_plain)),
    }
    return entry.model_copy(update=changes | more)


def _plain(value: Any) -> Any:
    """Return a figure of numpy or torch as a plain one, anything else as text."""
    return value.item() if getattr(value, "size", None) == 1 and hasattr(value, "item") else str(value)


def _record(context: StageContext, manifest: Manifest, stage: str, entry: StageEntry) -> None:
    manifest.stages[stage] = entry
    manifest.save(context.directory.manifest_path)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in RECORDED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
