"""The stages and what their results depend on; nothing here imports a stage."""

from __future__ import annotations

from pipeline.errors import ConfigError, nearest
from pipeline.workspace.stage import StageSpec

STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="train",
        summary="fit or load the classifier under audit",
        sections=("seed", "data", "model"),
        needs=(),
        rooms=("train", "models", "data", "statistics"),
        reads_data=True,
        keeps=("training_state.pt",),
    ),
    StageSpec(
        name="precompute",
        summary="store activations, relevances and heatmaps of every sample",
        sections=("precompute",),
        needs=("train",),
        rooms=("precompute", "attribution"),
        keeps=("chunks", "shards", "features.*"),
    ),
    StageSpec(
        name="reveal",
        summary="find suspicious groups of samples and neurons, and fit concept vectors",
        sections=("seed", "reveal"),
        needs=("train", "precompute"),
        rooms=("reveal", "attribution", "concepts", "statistics"),
    ),
    StageSpec(
        name="localize",
        summary="turn concept vectors into masks of the artifact",
        sections=("localize",),
        needs=("train", "precompute", "reveal"),
        rooms=("localize", "attribution", "concepts"),
    ),
    StageSpec(
        name="mitigate",
        summary="correct the model, in every way that the configuration lists",
        sections=("seed", "mitigate"),
        needs=("train", "reveal", "localize"),
        rooms=("mitigate", "attribution", "concepts", "models"),
        keeps=("*",),
    ),
    StageSpec(
        name="evaluate",
        summary="measure every model in the clean and the attacked world, with intervals",
        sections=("seed", "evaluate"),
        needs=("train", "precompute", "reveal", "localize", "mitigate"),
        rooms=("evaluate", "attribution", "concepts", "statistics", "data"),
    ),
    StageSpec(
        name="report",
        summary="write the audit report, and check the gate",
        sections=("name", "report"),
        needs=("train", "precompute", "reveal", "localize", "mitigate", "evaluate"),
        rooms=("report", "statistics"),
    ),
)
STAGE_NAMES = tuple(spec.name for spec in STAGES)
ALL = "run"
"""The command that runs all stages."""
ALL_SUMMARY = "all stages in order: the audit"
SHARED = ("precompute", "mitigate")
"""Stages whose work several processes share when their own command is started by torchrun."""
READ_VERDICTS = ("reveal", "report")
"""Stages whose results depend on people's verdicts in `annotations.json`."""
GATED = (ALL, "report")
"""Commands that end with exit code 3 when the gate fails."""


def required(until: str) -> tuple[StageSpec, ...]:
    """Return a stage and all that it needs, directly or through others, in running order; "run" means all.

    Raises:
        ConfigError: for an unknown name.
    """
    if until == ALL:
        return STAGES
    if until not in STAGE_NAMES:
        names = [*STAGE_NAMES, ALL]
        raise ConfigError(f"unknown stage '{until}'.{nearest(until, names)} Stages: {', '.join(names)}.")
    wanted = {until}
    for spec in reversed(STAGES):
        if spec.name in wanted:
            wanted |= set(spec.needs)
    return tuple(spec for spec in STAGES if spec.name in wanted)


def summary_of(command: str) -> str:
    """Return the line that describes a stage, or all of them."""
    return ALL_SUMMARY if command == ALL else next(spec.summary for spec in STAGES if spec.name == command)
