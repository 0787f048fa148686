"""The preferred correction as a model of its own: is there a shortcut that it has and the audit did not correct?"""

from __future__ import annotations

from pipeline.config import Config
from pipeline.workspace.directory import RunDirectory
from pipeline.workspace.progress import Reporter
from pipeline.workspace.records import Contest, MethodRecord

AGAIN = "again"
"""The folder in the run directory, and the name, of that second run."""
LAST = "reveal"


def config_again(config: Config, directory: RunDirectory, reporter: Reporter) -> Config | None:
    """Return the configuration that searches the preferred correction, with what is known already carried over.

    None, saying so, where no correction is preferred, or where its architecture is not the one under audit.
    """
    preferred = directory.read_record("mitigate/contest.json", Contest).recommended
    if preferred is None:
        reporter.say("search again: no correction is preferred, so there is none to search")
        return None
    if directory.read_record(f"mitigate/{preferred}/method.json", MethodRecord).changes:
        reporter.say(f"search again: {preferred} has another architecture; only plain weights are searched again")
        return None
    checkpoint = directory.root / f"mitigate/{preferred}/model.pt"
    reporter.say(f"search again: {preferred}, in {directory.root / AGAIN}")
    return config.model_copy(
        update={
            "name": AGAIN,
            "output_dir": str(directory.root),
            "model": config.model.model_copy(update={"checkpoint": str(checkpoint)}),
            "reveal": config.reveal.model_copy(update={"earlier": [str(directory.root)]}),
        }
    )
