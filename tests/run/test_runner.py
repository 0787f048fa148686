"""Only what is not fresh runs; whatever ends a run, finished stages stay, and the next run continues."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
from fake_stages import make_audit, read_result

from pipeline.config import load_config
from pipeline.errors import BusyError, ConfigError, DataError, GateFailed, StoreError
from pipeline.run import run_audit
from pipeline.run import runner as runner_module
from pipeline.run.runner import check_gate, conditions, read_audit, resolve_device, run_directory, run_stages, status
from pipeline.run.stages import STAGE_NAMES
from pipeline.workspace.progress import SilentReporter

ALL = list(STAGE_NAMES)


class Lines(SilentReporter):
    """Remembers what was said."""

    def __init__(self):
        self.lines = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_stage_runs_what_it_lacks_and_nothing_else(fake, make_config):
    run_stages(make_config(), "reveal")
    assert fake.take() == ["train", "precompute", "reveal"]
    run_stages(make_config(), "mitigate")
    assert fake.take() == ["localize", "mitigate"]
    run_stages(make_config(), "run")
    assert fake.take() == ["evaluate", "report"]
    run_stages(make_config(), "run")
    assert fake.take() == []


@pytest.mark.parametrize(
    ("override", "rerun"),
    [
        ("model.train.epochs=3", ALL),
        ("precompute.batch_size=7", ALL[1:]),
        ("reveal.accept_top=2", ALL[2:]),
        ("localize.blur=0.1", ALL[3:]),
        ("mitigate.methods=[{kind: rrr}]", ALL[4:]),
        ("evaluate.resamples=200", ALL[5:]),
        ("report.title=Other", ALL[6:]),
        ("output_dir=.", ALL),
    ],
)
def test_changed_section_reruns_exactly_its_stage_and_the_dependents(
    fake, make_config, override, rerun, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    run_stages(make_config(), "run")
    fake.take()
    run_stages(make_config(override), "run")
    assert fake.take() == rerun
    run_stages(make_config(override), "run")
    assert fake.take() == []


def test_going_back_to_an_earlier_configuration_runs_again(fake, make_config):
    run_stages(make_config(), "run")
    run_stages(make_config("evaluate.resamples=200"), "run")
    fake.take()
    run_stages(make_config(), "run")
    assert fake.take() == ["evaluate", "report"]


def test_stages_see_the_resolved_configuration_and_their_keys(fake, make_config):
    seen = {}
    fake.within = {
        name: lambda context, name=name: seen.update({name: (context.key, context.unit_key)}) for name in ALL
    }
    context = run_stages(make_config("seed=4"), "run", command="python -m pipeline.run --config trial.yaml")
    manifest = context.directory.manifest()
    assert {name: entry.key for name, entry in manifest.stages.items()} == {name: seen[name][0] for name in ALL}
    assert len({key for key, _ in seen.values()}) == len(ALL)
    # The section of train is called `model`, because all its results come together.
    assert [name for name, (key, unit_key) in seen.items() if key == unit_key] == ["train"]
    assert {entry.command for entry in manifest.stages.values()} == {"python -m pipeline.run --config trial.yaml"}
    assert {"python", "torch", "torchvision"} <= set(manifest.stages["train"].versions)
    assert load_config(context.directory.root / "config.yaml") == make_config("seed=4")
    assert read_result(context.directory.folder("mitigate"))["config"]["seed"] == 4


def test_status_judges_with_the_keys_that_stages_get(fake, make_config):
    context = run_stages(make_config(), "run")
    recorded = {name: entry.key for name, entry in context.directory.manifest().stages.items()}
    assert {each.stage: each.key for each in status(make_config())} == recorded


def test_skipped_samples_are_in_the_manifest(fake, make_config):
    reporter = Lines()
    context = run_stages(make_config(), "train", reporter=reporter)
    assert context.directory.manifest().dataset.skipped == [("17", "truncated")]
    assert "data: 1 bad samples are skipped, listed in manifest.json" in reporter.lines


def test_notes_of_a_stage_are_recorded_as_plain_values(fake, make_config):
    def note(context):
        context.notes.update(accuracy=np.float32(0.5), n=np.int64(3), place=Path("x"), table=np.zeros(3))

    fake.within = {"train": note}
    context = run_stages(make_config(), "precompute")
    stages = context.directory.manifest().stages
    assert stages["train"].notes == {"device": "cpu", "accuracy": 0.5, "n": 3, "place": "x", "table": "[0. 0. 0.]"}
    assert stages["precompute"].notes == {"device": "cpu"}


@pytest.mark.parametrize(
    "harm", [lambda file: file.unlink(), lambda file: os.truncate(file, 5)], ids=["deleted", "cut"]
)
def test_damaged_output_runs_its_stage_again(fake, make_config, harm):
    context = run_stages(make_config(), "run")
    fake.take()
    before = read_result(context.directory.folder("localize"))
    harm(context.directory.folder("localize") / "result.json")
    reporter = Lines()
    run_stages(make_config(), "run", reporter=reporter)
    assert fake.take() == ["localize"], "the same result came out, so that later stages are fresh"
    assert read_result(context.directory.folder("localize")) == before
    assert any(line.startswith("localize: stale, localize/result.json ") for line in reporter.lines)


def test_other_result_of_a_repeated_stage_reaches_the_dependents(fake, make_config):
    run_stages(make_config(), "run")
    fake.take()
    fake.within = {"reveal": lambda context: (context.directory.folder("reveal") / "new.txt").write_text("")}
    run_stages(make_config(), "reveal", force=True)
    assert fake.take() == ["reveal"]
    reporter = Lines()
    run_stages(make_config(), "run", reporter=reporter)
    assert fake.take() == ["localize", "mitigate", "evaluate", "report"]
    assert "localize: stale, reveal ran again; running" in reporter.lines


def test_force_runs_the_named_stage_or_all(fake, make_config):
    run_stages(make_config(), "run")
    fake.take()
    run_stages(make_config(), "mitigate", force=True)
    assert fake.take() == ["mitigate"]
    run_stages(make_config(), "run", force=True)
    assert fake.take() == ALL


def test_folder_is_cleared_but_for_what_the_stage_keeps(fake, make_config):
    folder = run_stages(make_config(), "run").directory.folder
    left = [folder("mitigate") / "rrr", folder("train") / "training_state.pt"]
    left += [folder("precompute") / name for name in ("chunks", "shards", "features.h5", "features.seal.json")]
    gone = [folder("reveal") / "old.png", folder("train") / "old.pt"]
    for path in left + gone:
        path.write_text("")
    run_stages(make_config("seed=4"), "run")
    assert [path.exists() for path in left + gone] == [True] * 6 + [False] * 2
    run_stages(make_config("seed=4"), "run", force=True)
    assert not any(path.exists() for path in left + gone)


def test_lines_say_what_is_reused_and_why_the_rest_runs(fake, make_config):
    run_stages(make_config(), "precompute")
    reporter = Lines()
    run_stages(make_config("precompute.batch_size=7"), "reveal", reporter=reporter)
    told = [line for line in reporter.lines if " done in " not in line]
    default = make_config().precompute.batch_size
    assert told == [
        "train: fresh, reused",
        f"precompute: stale, precompute.batch_size changed from {default} to 7; running",
        "reveal: never ran; running",
    ]
    assert sum("done in" in line for line in reporter.lines) == 2


@pytest.mark.parametrize(
    ("error", "recorded"),
    [
        (DataError("no masks\nin the second line"), "no masks"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (KeyboardInterrupt(), "interrupted"),
    ],
    ids=["PipelineError", "other", "KeyboardInterrupt"],
)
def test_failed_stage_is_recorded_and_earlier_ones_stay(fake, make_config, error, recorded):
    def fail(context):
        raise error

    fake.within = {"localize": fail}
    with pytest.raises(type(error)):
        run_stages(make_config(), "run")
    assert fake.take() == ["train", "precompute", "reveal", "localize"]
    directory = run_directory(make_config())
    manifest = directory.manifest()
    assert (manifest.stages["localize"].status, manifest.stages["localize"].error) == ("failed", recorded)
    for name in ("train", "precompute", "reveal"):
        assert manifest.stages[name].status == "done"
        assert directory.damage(manifest.stages[name].outputs) is None
    judged = {each.stage: each for each in status(make_config())}
    assert (judged["localize"].state, judged["localize"].why) == ("failed", f"failed the last time: {recorded}")
    fake.within = {}
    run_stages(make_config(), "run")
    assert fake.take() == ["localize", "mitigate", "evaluate", "report"]


def test_stage_that_fails_before_it_writes_costs_nothing(fake, make_config, monkeypatch):
    """A wrong value that only the stage notices: with the right one again, everything is still fresh."""
    context = run_stages(make_config(), "run")
    before, manifest = read_result(context.directory.folder("precompute")), context.directory.manifest()
    fake.take()
    with monkeypatch.context() as patch:
        module = sys.modules["pipeline.precompute.stage"]
        patch.setattr(module, "run", lambda context: (_ for _ in ()).throw(ConfigError("no such layer")))
        with pytest.raises(ConfigError, match="no such layer"):
            run_stages(make_config("precompute.layers=[x]"), "run")
    assert context.directory.manifest() == manifest
    assert read_result(context.directory.folder("precompute")) == before
    run_stages(make_config(), "run")
    assert fake.take() == []


def test_stage_that_fails_while_it_writes_has_failed(fake, make_config):
    run_stages(make_config(), "run")
    fake.take()

    def fail(context):
        raise DataError("too late")

    fake.within = {"reveal": fail}  # after its first file, which says another key
    with pytest.raises(DataError):
        run_stages(make_config("reveal.accept_top=2"), "run")
    judged = {each.stage: (each.state, each.why) for each in status(make_config())}
    assert judged["reveal"] == ("failed", "failed the last time: too late")
    fake.within = {}
    fake.take()
    run_stages(make_config(), "run")
    assert fake.take() == ["reveal"], "the same results came out"


def test_failing_again_on_a_full_disk_shows_the_first_error(fake, make_config, monkeypatch):
    def fail(context):
        monkeypatch.setattr(runner_module, "_record", full)
        raise StoreError("no space left while writing masks")

    def full(*arguments):
        raise StoreError("no space left while writing manifest")

    fake.within = {"localize": fail}
    with pytest.raises(StoreError, match="writing masks"):
        run_stages(make_config(), "run")


def test_failure_of_a_stage_does_not_remove_its_dependents_earlier_results(fake, make_config):
    context = run_stages(make_config(), "run")
    report = (context.directory.folder("report") / "audit.json").read_bytes()

    def fail(context):
        raise DataError("bad")

    fake.within = {"reveal": fail}
    with pytest.raises(DataError):
        run_stages(make_config("reveal.accept_top=2"), "run")
    assert (context.directory.folder("report") / "audit.json").read_bytes() == report


def test_data_that_cannot_be_read_leave_everything_as_it_was(fake, make_config, monkeypatch):
    context = run_stages(make_config(), "train")
    before = context.directory.manifest()

    def refuse(config, **keywords):
        raise DataError("bad samples")

    monkeypatch.setitem(sys.modules, "pipeline.data.load", types.SimpleNamespace(load_dataset=refuse))
    with pytest.raises(DataError, match="bad samples"):
        run_stages(make_config("data.limit=3"), "train")
    assert context.directory.manifest() == before


def test_data_are_read_once_per_run_and_not_at_all_when_nothing_runs(fake, make_config):
    run_stages(make_config(), "run")
    assert fake.loads == 1
    run_stages(make_config(), "run")
    status(make_config())
    assert fake.loads == 1


def test_second_run_at_the_same_time_is_refused(fake, make_config):
    def again(context):
        with pytest.raises(BusyError, match=f"in use by process {os.getpid()}"):
            run_stages(make_config(), "train")

    fake.within = {"precompute": again}
    run_stages(make_config(), "run")
    assert fake.take() == ALL


def test_status_works_while_a_run_holds_the_directory(fake, make_config):
    seen = []
    fake.within = {"precompute": lambda context: seen.extend(status(make_config()))}
    run_stages(make_config(), "precompute")
    assert [each.state for each in seen[:3]] == ["fresh", "failed", "missing"]
    assert seen[1].why == "was started and did not finish"


def test_killed_run_continues_where_it_was(fake, write_config):
    """SIGKILL in the middle of reveal: the next run reuses train and precompute, and repeats reveal."""
    config = write_config()
    code = f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import fake_stages
        from pipeline.run import fingerprint, freshness, main
        for module in (fingerprint, freshness):
            module.digest_sources = lambda rooms: f"sources of {{rooms}}"
        def hang(context):
            print("in the middle", flush=True)
            time.sleep(60)
        fake_stages.install(fake_stages.Fake(within={{"reveal": hang}}))
        main("run", ["--config", {str(config)!r}])
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert any(line == "in the middle\n" for line in process.stdout)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    directory = run_directory(load_config(config))
    assert (directory.folder("reveal") / "first.txt").exists()
    assert not (directory.folder("reveal") / "result.json").exists()
    reporter = Lines()
    run_stages(load_config(config), "run", reporter=reporter)
    assert fake.take() == ALL[2:]
    assert "reveal: was started and did not finish; running" in reporter.lines
    assert {each.state for each in status(load_config(config))} == {"fresh"}


def test_run_audit_takes_a_file_or_a_configuration_and_returns_the_audit(fake, write_config, make_config):
    fake.verdict = "fail"
    audit = run_audit(write_config(), overrides=("seed=4",))
    assert audit.verdict == "fail"
    assert fake.take() == ALL
    assert run_audit(make_config("seed=4")) == audit
    assert fake.take() == []
    run_audit(make_config("seed=4"), force=True)
    assert fake.take() == ALL
    with pytest.raises(ConfigError, match="model_copy"):
        run_audit(make_config(), overrides=("seed=4",))


def test_failed_gate_lists_the_rules_that_did_not_pass(fake, make_config):
    fake.verdict = "fail"
    audit = read_audit(run_stages(make_config(), "report").directory)
    with pytest.raises(GateFailed) as caught:
        check_gate(audit)
    assert str(caught.value).splitlines() == [
        "the gate failed, 1 of 2 rules did not pass:",
        "  accuracy of best >= 0.90: fail, missed by 0.1000",
    ]


def test_rules_that_do_not_block_are_told_after_those_that_do(fake):
    gate = make_audit("fail").gate
    extra = [
        gate[0].model_copy(update={"rule": "a", "status": "not_run", "blocking": False, "detail": "absent"}),
        gate[0].model_copy(update={"rule": "b", "status": "not_run", "detail": "too few"}),
    ]
    with pytest.raises(GateFailed) as caught:
        check_gate(make_audit("fail", gate=[*extra, *gate]))
    assert str(caught.value).splitlines() == [
        "the gate failed, 2 of 4 rules did not pass:",
        "  b: not run, too few",
        "  accuracy of best >= 0.90: fail, missed by 0.1000",
        "not met either, without failing the gate:",
        "  a: not run, absent",
    ]


@pytest.mark.parametrize("verdict", ["pass", "no_gate", "conditional"])
def test_only_the_verdict_fail_fails(fake, verdict):
    assert check_gate(make_audit(verdict)) is None
    assert bool(conditions(make_audit(verdict))) == (verdict == "conditional")


# Earlier audits


@pytest.mark.parametrize("until", ["report", "run"])
def test_an_earlier_audit_that_is_not_there_is_refused_before_anything_runs(fake, make_config, tmp_path, until):
    config = make_config(report={"baseline": str(tmp_path / "gone.json")})
    with pytest.raises(ConfigError, match="report.baseline: .*gone.json: no such file"):
        run_stages(config, until)
    assert fake.take() == []
    run_stages(config, "train")
    assert fake.take() == ["train"]


def test_a_run_is_not_compared_with_itself(fake, make_config, tmp_path):
    audit = run_stages(make_config(), "run").directory.root / "report/audit.json"
    fake.take()
    with pytest.raises(ConfigError, match="is what this run writes.*--set name="):
        run_stages(make_config(report={"baseline": str(audit)}), "report")
    copy = tmp_path / "copy.json"
    copy.write_bytes(audit.read_bytes())
    run_stages(make_config(report={"baseline": str(copy)}), "report")
    assert fake.take() == ["report"]


def test_device_is_asked_for_only_when_something_runs(fake, make_config, monkeypatch):
    asked = []
    monkeypatch.setattr(runner_module, "resolve_device", lambda wanted: asked.append(wanted) or "cpu")
    run_stages(make_config(), "reveal", device="auto")
    run_stages(make_config(), "reveal", device="auto")
    assert asked == ["auto"]


@pytest.mark.parametrize(
    ("wanted", "available", "device"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cuda", True, "cuda"), ("cpu", True, "cpu")],
)
def test_device(monkeypatch, wanted, available, device):
    cuda = types.SimpleNamespace(is_available=lambda: available)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert resolve_device(wanted) == device


def test_cuda_that_is_not_there_is_a_configuration_error(monkeypatch):
    cuda = types.SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    with pytest.raises(ConfigError, match="finds no CUDA device.*--device auto"):
        resolve_device("cuda")
