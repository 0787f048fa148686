"""What the program knows about a stage, and what a stage is given when it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from .progress import Reporter, SilentReporter
from .rank import Rank

if TYPE_CHECKING:
    from pipeline.config.schema import Config

    from .directory import RunDirectory

T = TypeVar("T")


@dataclass(frozen=True)
class StageSpec:
    """A stage as the runner sees it, without importing it.

    Attributes:
        name: the package `pipeline.<name>`; its `stage.py` has `run(context)`.
        summary: one line for `--help`.
        sections: configuration keys that its results depend on.
        needs: stages whose outputs it reads.
        rooms: packages whose sources its results depend on.
        reads_data: whether the data set is an input of its own (else only through earlier stages).
        keeps: entries of its folder (shell patterns) that survive a restart, because they carry keys of their own.
    """

    name: str
    summary: str
    sections: tuple[str, ...]
    needs: tuple[str, ...]
    rooms: tuple[str, ...]
    reads_data: bool = False
    keeps: tuple[str, ...] = ()


@dataclass
class StageContext:
    """Everything a stage may use: configuration, run directory, device, progress, and a memo for this process.

    Attributes:
        key: hash of everything that the running stage depends on.
        unit_key: the same without the stage's own section, for results that a stage keeps one by one.
        notes: facts that the stage leaves in the manifest.
        rank: which of the processes that share the stage this one is.
    """

    config: Config
    directory: RunDirectory
    device: str
    reporter: Reporter = field(default_factory=SilentReporter)
    key: str = ""
    unit_key: str = ""
    notes: dict[str, Any] = field(default_factory=dict)
    memo: dict[str, Any] = field(default_factory=dict)
    rank: Rank = Rank()

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return the value made earlier in this process under this name, or make it."""
        if name not in self.memo:
            self.memo[name] = make()
        return self.memo[name]
