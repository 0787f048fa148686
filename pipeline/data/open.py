"""The data set of a run, opened once per process."""

from __future__ import annotations

from pipeline.workspace.stage import StageContext

from .load import load_dataset
from .worlds import World, WorldView


def open_world(context: StageContext, world: World = "asis") -> WorldView:
    """Return the run's data set in a world: `asis` as it was trained on, `clean`, or `attacked`.

    Samples are decoded at the first call in this process; the worlds share them.
    """
    config = context.config
    dataset = context.once("dataset", lambda: load_dataset(config.data, seed=config.seed, progress=context.reporter))
    return WorldView(dataset, config.data.attack, world, config.seed)
