"""The command line: exit codes, messages without tracebacks, quick help, quiet libraries."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time
import types
import warnings
from pathlib import Path

import fake_stages
import pandas as pd
import pytest

from pipeline.config import load_config
from pipeline.errors import DataError
from pipeline.run import main
from pipeline.run.cli import console, explain, make_parser
from pipeline.run.runner import run_directory, status
from pipeline.run.stages import STAGE_NAMES
from pipeline.workspace.directory import RunDirectory
from pipeline.workspace.journal import read_journal

PROJECT = Path(__file__).parents[2]
COMMANDS = [*STAGE_NAMES, "run"]
HEAVY = {"torch", "sklearn", "umap", "pandas", "numpy", "scipy", "numba", "h5py", "pydantic", "yaml", "rich", "jinja2"}


@pytest.fixture
def command(fake, write_config, capsys):
    """Return a function that runs a command and returns (exit code, standard output, standard error)."""

    def run(stage: str, *arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(stage, ["--config", str(write_config()), *arguments])
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return run


def fail_with(fake, error: BaseException, stage: str = "reveal") -> None:
    def fail(context):
        raise error

    fake.within = {stage: fail}


def test_stage_ends_with_0_and_the_place_of_its_results(command, fake, tmp_path):
    code, out, err = command("reveal")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"results: {tmp_path / 'artifacts' / 'trial' / 'reveal'}"
    assert fake.take() == ["train", "precompute", "reveal"]


def test_run_ends_with_the_summary(command, tmp_path):
    code, out, err = command("run")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].split() == ["report", str(tmp_path / "artifacts" / "trial" / "report" / "index.html")]


def test_overrides_may_be_repeated_and_listed(command, make_config):
    code, _, _ = command("train", "--set", "seed=4", "model.train.epochs=3", "--force", "--set", "name=other")
    assert code == 0
    config = make_config("seed=4", "model.train.epochs=3", "name=other")
    assert status(config)[0].state == "fresh"
    recorded = run_directory(config).manifest().stages["train"].command
    assert recorded.startswith("python -m pipeline.train --config ")
    assert recorded.endswith("--set seed=4 model.train.epochs=3 --force --set name=other")


def test_force_reaches_the_runner(command, fake):
    command("precompute")
    fake.take()
    command("precompute", "--force")
    assert fake.take() == ["precompute"]


@pytest.mark.parametrize("stage", ["run", "report"])
def test_failed_gate_ends_with_3_also_when_everything_is_fresh(command, fake, stage):
    fake.verdict = "fail"
    for _ in range(2):
        code, out, err = command(stage)
        assert code == 3
        assert "FAIL, 1 of 2 rules passed" in out
        assert err.startswith("error: the gate failed, 1 of 2 rules did not pass:\n  accuracy of best >= 0.90: fail")


@pytest.mark.parametrize("stage", ["run", "report"])
def test_a_conditional_verdict_ends_with_0_and_is_said_loudly(command, fake, stage):
    fake.verdict = "conditional"
    for _ in range(2):
        code, out, err = command(stage)
        assert code == 0
        assert "CONDITIONAL, 1 of 2 rules passed, 1 warning" in out
        assert err == (
            "WARNING: the verdict is CONDITIONAL, 1 of 2 rules are not met, none of which blocks:\n"
            "  accuracy of best >= 0.90: warn, missed by 0.1000\n"
        )


@pytest.mark.parametrize("stage", ["run", "report"])
def test_the_option_for_an_earlier_audit_is_the_setting(command, fake, make_config, tmp_path, stage):
    # quotes, spaces, and letters beyond the first plane of Unicode
    file = tmp_path / "release 'one': 😀.json"
    file.write_text("first")
    assert command(stage, "--baseline", str(file))[0] == 0
    config = load_config(tmp_path / "artifacts" / "trial" / "config.yaml")
    assert config.report.baseline == str(file)
    assert {each.state for each in status(config)} == {"fresh"}
    fake.take()
    file.write_text("second")
    command(stage, "--baseline", str(file))
    assert fake.take() == ["report"]


def test_an_earlier_audit_that_is_not_there_ends_with_2(command, fake):
    code, _, err = command("run", "--baseline", "gone.json")
    assert code == 2
    assert "report.baseline: gone.json: no such file" in err
    assert fake.take() == []


@pytest.mark.parametrize("stage", [name for name in COMMANDS if name not in ("run", "report")])
def test_only_what_writes_a_report_compares_with_an_earlier_audit(stage):
    with pytest.raises(SystemExit):
        make_parser(stage).parse_args(["--config", "a.yaml", "--baseline", "b.json"])


def test_failed_gate_does_not_concern_other_stages(command, fake):
    fake.verdict = "fail"
    command("run")
    assert command("evaluate")[0] == 0


def test_failing_stage_ends_with_1_and_its_message(command, fake):
    fail_with(fake, DataError("the masks of bias-1 are empty. Lower localize.percentile."))
    code, out, err = command("run")
    assert code == 1
    assert err == "error: the masks of bias-1 are empty. Lower localize.percentile.\n"
    assert "reveal: failed after" in out


def test_unexpected_error_ends_with_1_and_one_line(command, fake):
    fail_with(fake, ValueError("shapes differ\nmore\nlines"))
    code, _, err = command("run")
    assert code == 1
    assert err == "error: ValueError: shapes differ (run again with -v for the traceback)\n"


def test_verbose_shows_the_traceback(command, fake):
    fail_with(fake, ValueError("shapes differ"))
    code, _, err = command("run", "-v")
    assert code == 1
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith("error: ValueError: shapes differ\n")


@pytest.mark.parametrize("verbose", [(), ("-v",)])
def test_interrupted_run_ends_with_1_and_says_what_is_kept(command, fake, verbose):
    fail_with(fake, KeyboardInterrupt())
    code, out, err = command("run", *verbose)
    assert code == 1
    assert err == "error: interrupted. Finished stages are kept; the same command continues.\n"
    assert "reveal: interrupted after" in out


class OutOfMemoryError(RuntimeError):
    """Named like PyTorch's."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), "the memory is full. Lower data.cache_megabytes"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "the memory is full"),
        (OutOfMemoryError("CUDA out of memory"), "the GPU's memory is full"),
        (OSError(errno.ENOSPC, "No space left on device", "a.h5"), "no space left on the disk while writing a.h5."),
        (OSError("Can't write data (error message = 'No space left on device')"), "no space left on the disk. Free"),
    ],
)
def test_full_memory_and_full_disk_are_told_with_the_next_step(error, expected):
    assert explain(error).startswith(expected)
    assert explain(error).endswith("Finished stages are kept; the same command continues.")


@pytest.mark.parametrize("verbose", [(), ("-v",)])
def test_wrong_configuration_ends_with_2(command, verbose):
    code, out, err = command("train", "--set", "model.train.epoch=3", *verbose)
    assert (code, out) == (2, "")
    assert "model.train.epoch: unknown key 'epoch'. Did you mean 'epochs'?" in err


@pytest.mark.parametrize(
    "arguments",
    [[], ["--config"], ["--config", "a.yaml", "--unknown"], ["--config", "a.yaml", "--device", "tpu"]],
)
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main("train", arguments)
    assert ended.value.code == 2
    assert "usage: python -m pipeline.train" in capsys.readouterr().err


def test_missing_configuration_ends_with_2(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main("train", ["--config", "gone.yaml"])
    assert ended.value.code == 2
    assert "error: --config gone.yaml: no such file" in capsys.readouterr().err


def test_second_run_in_the_same_directory_ends_with_1(command, tmp_path):
    with RunDirectory(tmp_path / "artifacts" / "trial").lock():
        code, _, err = command("run")
    assert code == 1
    assert f"is in use by process {os.getpid()}. Wait for it to end, or give this run another name" in err


# Labels of samples, and masks for other programs


@pytest.fixture
def labels(fake, monkeypatch, tmp_path) -> Path:
    """A file that labels one sample, and one that is not in the data set of three."""
    monkeypatch.setattr(
        fake_stages.FakeDataset, "table", pd.DataFrame({"id": ["a/0.png", "a/1.png", "7"]}), raising=False
    )
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"ruler": ["1.png", "gone"]}))
    return path


def test_labels_reach_the_journal_before_reveal_runs(command, fake, labels, tmp_path):
    journal = tmp_path / "artifacts" / "trial" / "annotations.json"
    seen = []
    fake.within = {"reveal": lambda context: seen.append(read_journal(journal).labels)}
    code, out, err = command("reveal", "--label", str(labels), "--by", "Ann")
    assert (code, err) == (0, "")
    ((label,),) = seen
    assert (label.bias, label.sample, label.label, label.by) == ("ruler", "a/1.png", "positive", "Ann")
    assert "labels: ruler: 1 positive, 0 negative, 0 unsure\n" in out
    assert "labels: WARNING: 1 names match no sample: gone\n" in out
    assert f"labels: 1 added to {journal}, 0 were in it\n" in out
    assert fake.take() == ["train", "precompute", "reveal"]
    assert fake.loads == 1


def test_new_labels_make_reveal_stale_and_known_ones_do_not(command, fake, labels):
    command("reveal")
    fake.take()
    _, out, _ = command("reveal", "--label", str(labels), "--by", "Ann")
    assert fake.take() == ["reveal"]
    assert "annotations.json" in out
    _, out, _ = command("reveal", "--label", str(labels), "--by", "Ann")
    assert fake.take() == []
    assert "labels: 0 added to" in out
    assert "1 were in it" in out


def test_without_a_name_labels_are_those_of_the_user(command, labels, monkeypatch, tmp_path):
    monkeypatch.setattr("getpass.getuser", lambda: "someone")
    command("reveal", "--label", str(labels))
    (label,) = read_journal(tmp_path / "artifacts" / "trial" / "annotations.json").labels
    assert label.by == "someone"


def test_rows_are_taken_for_names_only_on_request(command, labels, tmp_path):
    labels.write_text(json.dumps({"ruler": [1, 2]}))
    journal = tmp_path / "artifacts" / "trial" / "annotations.json"
    for option, expected in (((), ["a/1.png"]), (("--by-row",), ["a/1.png", "7"])):
        command("reveal", "--label", str(labels), *option)
        assert [label.sample for label in read_journal(journal).labels] == expected


def test_labels_that_match_nothing_end_with_2_and_nothing_runs(command, fake, labels, tmp_path):
    labels.write_text(json.dumps({"ruler": ["gone"]}))
    code, _, err = command("reveal", "--label", str(labels))
    assert code == 2
    assert "none of its 1 names matches a sample" in err
    assert fake.take() == []
    assert not (tmp_path / "artifacts" / "trial" / "annotations.json").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--label", "gone.json"], "--label gone.json: no such file"),
        (["--by", "Ann"], "--by says how labels are read; give their file with --label FILE"),
        (["--by-row"], "--by-row says how labels are read"),
    ],
)
def test_wrong_options_of_labels_end_with_2_before_data_are_read(command, fake, arguments, expected):
    code, _, err = command("reveal", *arguments)
    assert code == 2
    assert expected in err
    assert fake.loads == 0


def test_masks_are_exported_after_localize_ran(command, fake, monkeypatch, tmp_path):
    calls = []
    module = types.ModuleType("pipeline.localize.export")
    module.export_masks = lambda context, form, folder: calls.append(
        (fake.take()[-1], context.config.name, form, folder)
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert command("localize")[0] == 0
    assert calls == []
    assert fake.take()[-1] == "localize"
    code, out, _ = command("localize", "--force", "--export", "isnet", str(tmp_path / "masks"))
    assert code == 0
    assert calls == [("localize", "trial", "isnet", tmp_path / "masks")]
    assert f"exported: {tmp_path / 'masks'}" in out


@pytest.mark.parametrize("stage", ["train", "mitigate", "run"])
def test_labels_and_exports_belong_to_their_stages(stage):
    for option in (["--label", "a.json"], ["--export", "isnet", "masks"]):
        with pytest.raises(SystemExit):
            make_parser(stage).parse_args(["--config", "a.yaml", *option])


def test_status_shows_every_stage_and_runs_nothing(command, fake, make_config):
    command("precompute")
    fake.take()
    code, out, err = command("run", "--status", "--set", "precompute.batch_size=7")
    assert (code, err) == (0, "")
    assert fake.take() == []
    default = make_config().precompute.batch_size
    assert [line.split(maxsplit=2) for line in out.splitlines()] == [
        ["stage", "state", "why"],
        ["train", "fresh"],
        ["precompute", "stale", f"precompute.batch_size changed from {default} to 7"],
        *([name, "missing", "never ran"] for name in STAGE_NAMES[2:]),
    ]


def test_status_is_for_the_whole_run_only():
    assert make_parser("run").parse_args(["--config", "a.yaml", "--status"]).status
    with pytest.raises(SystemExit):
        make_parser("reveal").parse_args(["--config", "a.yaml", "--status"])


def test_status_needs_neither_torch_nor_the_data_while_these_are_unchanged(command, make_config):
    command("train")
    config = make_config()
    modules = python(
        "from pipeline.run.runner import status; from pipeline.config import load_config\n"
        "from pipeline.run import fingerprint, freshness\n"
        "for module in (fingerprint, freshness): module.digest_sources = lambda rooms: f'sources of {rooms}'\n"
        f"judged = status(load_config({str(Path(config.output_dir) / config.name / 'config.yaml')!r}))\n"
        "assert [each.state for each in judged[:2]] == ['fresh', 'missing'], judged"
    )
    assert not modules & {"torch", "sklearn", "umap", "pandas", "zennit"}


@pytest.mark.parametrize("stage", COMMANDS)
def test_help_imports_nothing_heavy(stage):
    modules = python(
        "import runpy\nsys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('pipeline.{stage}', run_name='__main__')\n"
        "except SystemExit as ended: assert ended.code == 0"
    )
    assert not modules & HEAVY
    assert not any(
        name.startswith("pipeline.") and name.endswith(".stage") for name in modules - {"pipeline.workspace.stage"}
    )


def test_help_answers_in_less_than_half_a_second():
    seconds = []
    for _ in range(3):  # the best of three, because others use the machine
        started = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-m", "pipeline.run", "--help"], cwd=PROJECT, capture_output=True, text=True
        )
        seconds.append(time.monotonic() - started)
        assert result.returncode == 0
        assert "Exit codes: 0 done" in " ".join(result.stdout.split())
    assert min(seconds) < 0.5


def test_help_of_a_stage_names_what_runs_before():
    text = " ".join(make_parser("mitigate").format_help().split())
    assert "Runs first, where they are missing or stale: train, precompute, reveal, localize." in text


def test_package_command_lists_the_stages():
    result = subprocess.run([sys.executable, "-m", "pipeline"], cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 0
    for stage in COMMANDS:
        assert f"\n  {stage} " in result.stdout


def test_console_dispatches_to_the_stage(fake, write_config, capsys):
    with pytest.raises(SystemExit) as ended:
        console(["precompute", "--config", str(write_config())])
    assert ended.value.code == 0
    assert fake.take() == ["train", "precompute"]


def test_console_lists_without_arguments(capsys):
    console([])
    assert capsys.readouterr().out.startswith("usage: r2r STAGE --config FILE")


def test_console_names_the_nearest_stage(capsys):
    with pytest.raises(SystemExit) as ended:
        console(["localise"])
    assert ended.value.code == 2
    assert "unknown stage 'localise'. Did you mean 'localize'?" in capsys.readouterr().err


def test_warnings_of_libraries_are_dropped(command, fake):
    def warn(context):
        warnings.simplefilter("always")  # as some libraries do when they are imported
        warnings.warn("in the way", FutureWarning, stacklevel=1)
        logging.getLogger("library").warning("in the way")

    fake.within = {"train": warn}
    show = warnings.showwarning
    assert command("train")[2] == ""
    assert warnings.showwarning is show
    assert logging.getLogger("library").isEnabledFor(logging.WARNING)


def test_warnings_of_libraries_are_shown_when_verbose(command, fake):
    fake.within = {"train": lambda context: warnings.warn("in the way", FutureWarning, stacklevel=1)}
    with pytest.warns(FutureWarning, match="in the way"):
        command("train", "-v")


def test_reader_that_leaves_early_is_no_error(write_config):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import fake_stages; from pipeline.run import main\n"
        "def talk(context):\n"
        "    for _ in range(10000): context.reporter.say('line ' * 20)\n"
        "fake_stages.install(fake_stages.Fake(within={'train': talk}))\n"
        f"main('train', ['--config', {str(write_config())!r}])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), error) == (1, b"")


def python(code: str) -> set[str]:
    """Run code in a fresh interpreter and return the names of the modules that it imported."""
    code = f"import sys\n{code}\nprint('modules:', *sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.rpartition("modules:")[2].split())
