"""The worlds in which test samples are seen, over one data set that decodes each of them once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.concepts.pasting import pasted_world
from pipeline.data.dataset import AuditDataset
from pipeline.data.remembered import Remembered
from pipeline.data.worlds import WorldView
from pipeline.workspace.records import Bias
from pipeline.workspace.stage import StageContext

PlantedMask = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class TestWorlds:
    """What the models are shown.

    Attributes:
        asis: the data as the model was trained on.
        views: world -> data set; "asis" is among them.
        planted: row -> where the artifact is in the attacked world `[H, W]`; None where there is no attacked world.
        attacked_by: what made the attacked world.
        untouched: the world that the attacked one is compared with.
    """

    __test__ = False  # not a test, whatever pytest thinks of its name

    asis: WorldView
    views: dict[str, AuditDataset]
    planted: PlantedMask | None
    attacked_by: str
    untouched: str

    def groups(self, world: str, rows: np.ndarray) -> np.ndarray:
        """Return class x artifact of each row, such as "melanoma, with": planted, or listed in the table."""
        labels = self.asis.table["label"].to_numpy()[rows]
        if world == "asis":
            carrying = self.asis.attacked_flags()[rows]
            for artifact in self.asis.artifact_names():
                carrying = carrying | self.asis.artifact_flags(artifact)[rows]
        else:
            carrying = np.full(len(rows), world == "attacked")
        names = [
            f"{self.asis.classes[label]}, {'with' if flag else 'without'}"
            for label, flag in zip(labels, carrying, strict=True)
        ]
        return np.array(names, dtype=object)


def open_worlds(context: StageContext, dataset: WorldView, biases: list[Bias]) -> TestWorlds:
    """Return the test worlds.

    With a controlled artifact: as it is, clean, attacked. Without: as it is, and attacked by pasting what was localized
    of the first bias into every sample.

    Args:
        context: configuration and run directory.
        dataset: the world as it is.
        biases: accepted ones, the most suspicious first.
    """
    config = context.config
    once = Remembered(dataset.dataset, config.evaluate.batch_size)
    asis = WorldView(once, config.data.attack, "asis", config.seed)
    if config.data.attack is not None:
        clean, attacked = (WorldView(once, config.data.attack, world, config.seed) for world in ("clean", "attacked"))
        views = {"asis": asis, "clean": clean, "attacked": attacked}
        return TestWorlds(asis, views, attacked.truth_mask, "planting", "clean")
    pasted = pasted_world(context.directory.root, asis, biases, config.localize.dilate, config.seed)
    if pasted is None:
        context.reporter.say("    no artifact was localized, so there is no attacked world")
        return TestWorlds(asis, {"asis": asis}, None, "nothing", "asis")
    return TestWorlds(asis, {"asis": asis, "attacked": pasted}, pasted.planted_mask, "pasting", "asis")
