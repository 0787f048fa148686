"""The preferred correction is searched as a model of its own, where that is asked for and possible."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.run.again import config_again
from pipeline.run.runner import run_directory, run_stages
from pipeline.workspace.progress import SilentReporter
from pipeline.workspace.records import Contest, MethodRecord, NetworkChange

CHAIN = ["train", "precompute", "reveal"]


def write_contest(directory, recommended: str | None, changes=()) -> None:
    contest = Contest(rule="", original_clean=1, original_worst=0, contestants=[], recommended=recommended)
    directory.write_record("mitigate/contest.json", contest)
    record = MethodRecord(
        key="0",
        id="rrr",
        kind="rrr",
        family="rrr",
        seed=0,
        parameters={},
        trained=True,
        frozen="nothing",
        told_truth=False,
        biases=[],
        status="unreviewed",
        seconds=1.0,
        peak_megabytes=None,
        validation={},
        changes=list(changes),
    )
    directory.write_record("mitigate/rrr/method.json", record)


@pytest.fixture
def contested(fake):
    """The fake mitigate stage prefers rrr."""
    fake.within["mitigate"] = lambda context: write_contest(context.directory, "rrr")
    return fake


def test_the_preferred_correction_is_searched_before_the_report(contested, make_config):
    config = make_config("mitigate.search_again=true")
    run_stages(config, "run")
    assert contested.take() == [*CHAIN, "localize", "mitigate", "evaluate", *CHAIN, "report"]
    assert (run_directory(config).root / "again/reveal/result.json").exists()
    run_stages(config, "run")
    assert contested.take() == []


def test_it_is_not_searched_unless_that_is_asked_for(contested, make_config):
    run_stages(make_config(), "run")
    assert contested.take() == [*CHAIN, "localize", "mitigate", "evaluate", "report"]


def test_the_second_run_starts_from_the_corrected_weights_and_knows_what_was_found(contested, make_config):
    config = make_config("mitigate.search_again=true")
    directory = run_directory(config)
    write_contest(directory, "rrr")
    again = config_again(config, directory, SilentReporter())
    assert Path(again.model.checkpoint) == directory.root / "mitigate/rrr/model.pt"
    assert again.reveal.earlier == [str(directory.root)]
    assert Path(again.output_dir) / again.name == directory.root / "again"
    assert (again.data, again.precompute, again.seed) == (config.data, config.precompute, config.seed)
    assert again.model.arch == config.model.arch


@pytest.mark.parametrize(
    ("recommended", "changes", "words"),
    [(None, (), "none to search"), ("rrr", (NetworkChange(name="gated"),), "another architecture")],
)
def test_what_cannot_be_searched_is_said(make_config, recommended, changes, words):
    said = []
    reporter = SilentReporter()
    reporter.say = said.append
    directory = run_directory(make_config())
    write_contest(directory, recommended, changes)
    assert config_again(make_config(), directory, reporter) is None
    assert words in said[0]
