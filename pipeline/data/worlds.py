"""The three worlds of a data set: as trained, without the controlled artifact, and with it everywhere."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from ..config.data import AttackUnion
from ..errors import ConfigError, nearest
from ..workspace.hashing import digest_json
from .artifacts import Painted, Spoken, apply_artifact
from .dataset import AuditDataset, Sample
from .randomness import uniform

World = Literal["asis", "clean", "attacked"]
WORLDS: tuple[World, ...] = ("asis", "clean", "attacked")
PURPOSE = "attack"
WRONG_CLASS = "wrong class"


class WorldView:
    """A data set in one world, under the same protocol.

    The table is the one of the data set: it does not reveal who is attacked. A sample that is attacked in two worlds
    looks the same in both, unless the artifact tells the class: in the attacked world it then tells a wrong one.

    Args:
        dataset: where samples come from.
        attack: the controlled artifact; None makes all worlds identical to the data set.
        world: "asis" plants the artifact in the attacked classes, and elsewhere, with its probabilities, "clean" in no
            sample, "attacked" in every sample.
        seed: the run's seed.

    Raises:
        ConfigError: for an attacked class that the data set does not have.
    """

    def __init__(self, dataset: AuditDataset, attack: AttackUnion | None, world: World, seed: int):
        if world not in WORLDS:
            raise ValueError(f"unknown world '{world}'; allowed are {', '.join(WORLDS)}")
        self.dataset = dataset
        self.attack = attack
        self.world = world
        self.seed = seed
        self.table = dataset.table
        self.classes = dataset.classes
        self.shape = dataset.shape
        self.skipped = list(getattr(dataset, "skipped", ()))
        self._attacked = _attacked(dataset, attack, world, seed)
        self._is_attacked = self._attacked.tolist()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        if not self._is_attacked[index]:
            return sample
        x, _ = self._painted(sample)
        return sample._replace(x=torch.from_numpy(x))

    def attacked_flags(self) -> np.ndarray:
        """Return in which samples of this world the artifact is planted, booleans `[N]`. For scoring only."""
        return self._attacked.copy()

    def truth_mask(self, index: int) -> np.ndarray | None:
        """Return where the artifact is planted in one sample, booleans `[H, W]`, or None. For scoring only."""
        if not self._is_attacked[index]:
            return None
        return self._painted(self.dataset[index])[1]

    def _painted(self, sample: Sample) -> Painted:
        count = len(self.classes)
        label = sample.y
        if self.world == "attacked" and count > 1:
            draw = float(uniform(self.seed, [sample.id], WRONG_CLASS)[0])
            label = (label + 1 + int(draw * (count - 1))) % count
        return apply_artifact(sample.x.numpy(), self.attack, self.seed, sample.id, Spoken(label, count))

    def fingerprint(self) -> str:
        """Return a hash over the data set and, if there is an attack, its parameters, the world and the seed."""
        if self.attack is None:
            return self.dataset.fingerprint()
        return digest_json([self.dataset.fingerprint(), self.attack.model_dump(mode="json"), self.world, self.seed])

    def roi_mask(self, index: int) -> np.ndarray | None:
        """Return the region of interest `[H, W]` as booleans, or None where there is none."""
        return self.dataset.roi_mask(index)

    def artifact_names(self) -> tuple[str, ...]:
        """Return the natural artifacts that the table lists."""
        return self.dataset.artifact_names()

    def artifact_flags(self, name: str) -> np.ndarray:
        """Return who is listed as showing the natural artifact, booleans `[N]`. For scoring only."""
        return self.dataset.artifact_flags(name)

    def artifact_mask(self, name: str, index: int) -> np.ndarray | None:
        """Return the listed mask `[H, W]` of the natural artifact, or None. For scoring only."""
        return self.dataset.artifact_mask(name, index)


def attacked_classes(attack: AttackUnion, classes: tuple[str, ...]) -> list[int]:
    """Return the ids of the classes that carry the artifact; raise a ConfigError for a name or id that is not there."""
    ids = []
    for each in attack.classes:
        if isinstance(each, str) and each in classes:
            ids.append(classes.index(each))
        elif isinstance(each, int) and 0 <= each < len(classes):
            ids.append(each)
        else:
            listed = ", ".join(f"{index} = {name}" for index, name in enumerate(classes))
            raise ConfigError(
                f"data.attack.classes names {each!r}, which is no class of the data set."
                f"{nearest(str(each), list(classes))} Allowed are these ids or names: {listed}."
            )
    return sorted(set(ids))


def _attacked(dataset: AuditDataset, attack: AttackUnion | None, world: World, seed: int) -> np.ndarray:
    nobody = np.zeros(len(dataset), dtype=bool)
    if attack is None:
        return nobody
    carriers = np.isin(dataset.table["label"].to_numpy(), attacked_classes(attack, tuple(dataset.classes)))
    if world == "clean":
        return nobody
    if world == "attacked":
        return ~nobody
    share = np.where(carriers, attack.probability, attack.elsewhere)
    return uniform(seed, dataset.table["id"].tolist(), PURPOSE) < share
