"""Several processes for one stage, as torchrun starts them: rank 0 runs it all, the others compute their parts of it.

Rank 0 runs the earlier stages, holds the lock and writes the manifest; the others only look at the manifest until what
the stage needs is fresh, which gives them the stage's key. What they say to each other within a stage is left to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.workspace.progress import Reporter
from pipeline.workspace.rank import Rank
from pipeline.workspace.stage import StageContext, StageSpec
from pipeline.workspace.waiting import NotYet, wait_for

from .freshness import Facts, Freshness, assess, read_facts
from .runner import device_of, read_fingerprint, resolve_device, run_directory
from .stages import SHARED, required


def rank_from_environment(environment: Mapping[str, str]) -> Rank:
    """Return which process this is, from RANK, WORLD_SIZE and LOCAL_RANK; without them it is alone.

    Raises:
        ConfigError: one of them is no number, or RANK is not below WORLD_SIZE.
    """
    if "RANK" not in environment or "WORLD_SIZE" not in environment:
        return Rank()
    texts = {name: environment.get(name, "0") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    shown = " ".join(f"{name}={text}" for name, text in texts.items())
    if not all(text.isdecimal() for text in texts.values()):
        raise ConfigError(f"{shown}: whole numbers expected, as torchrun sets them in the environment.")
    number, of, local = map(int, texts.values())
    if number >= of:
        raise ConfigError(f"{shown}: RANK must be below WORLD_SIZE.")
    return Rank(number, of, local)


def refuse_force(config: Config, stage: str, rank: Rank) -> None:
    """Raise ConfigError where a forced start would have to be agreed upon: a process cannot tell old parts from new."""
    if stage in SHARED and rank.of > 1:
        raise ConfigError(
            f"--force cannot be used by {rank.of} processes at once. Remove {run_directory(config).folder(stage)}, "
            "and start again without it."
        )


def take_part(config: Config, stage: str, rank: Rank, reporter: Reporter, device: str | None = None) -> None:
    """Do what a rank above 0 has to do: compute its part of a shared stage, or nothing.

    Args:
        config: the configuration, the same for all ranks.
        stage: name of the stage, or "run".
        rank: this process; its number is above 0.
        reporter: where progress is shown.
        device: auto, cpu or cuda; default: what the configuration says.

    Raises:
        StoreError: rank 0 does not get on with the earlier stages.
    """
    if stage not in SHARED:
        return reporter.say(f"{rank}: no work here, only rank 0 runs {stage}")
    *before, spec = required(stage)
    context = StageContext(config, run_directory(config), device="", reporter=reporter, rank=rank)
    fingerprint = read_fingerprint(context, context.directory.manifest(), save=False)
    facts = read_facts(config, context.directory, fingerprint)
    freshness = wait_for(lambda: _judge(context, before, spec, facts), config.precompute.patience_minutes, reporter)
    if freshness.state == "fresh":
        return reporter.say(f"{rank}: {stage} is fresh")
    context.device = device_of(rank, resolve_device(device or config.device))
    context.key, context.unit_key = freshness.key, freshness.unit_key
    importlib.import_module(f"pipeline.{stage}.stage").run(context)
    return reporter.say(f"{rank}: done")


def _judge(context: StageContext, before: list[StageSpec], spec: StageSpec, facts: Facts) -> Freshness | NotYet:
    """Judge the shared stage once all that it needs is fresh."""
    directory = context.directory
    manifest = directory.manifest()
    judged: dict[str, Freshness] = {}
    for each in before:
        judged[each.name] = assess(each, facts, manifest, directory, judged)
        if judged[each.name].state != "fresh":
            # Training saves each epoch, and every start and end of a stage is recorded.
            written = [tuple(directory.written(stage.name).items()) for stage in before]
            entries = [(name, entry.status, entry.finished) for name, entry in manifest.stages.items()]
            return NotYet(f"rank 0 to finish {each.name}", (*written, *entries))
    return assess(spec, facts, manifest, directory, judged)
