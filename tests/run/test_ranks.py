"""Several processes for one stage: rank 0 does as if it were alone, the others wait for it and do their part only."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from pipeline.errors import BusyError, ConfigError, StoreError
from pipeline.run import main
from pipeline.run import ranks as ranks_module
from pipeline.run.ranks import rank_from_environment, take_part
from pipeline.run.runner import device_of, run_directory, run_stages
from pipeline.run.stages import SHARED, STAGE_NAMES
from pipeline.workspace import waiting
from pipeline.workspace.progress import SilentReporter
from pipeline.workspace.rank import Rank

PROJECT = Path(__file__).parents[2]


class Lines(SilentReporter):
    """Remembers what was said."""

    def __init__(self):
        self.lines = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(ranks_module, "resolve_device", lambda wanted: "cpu")


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, Rank(0, 1, 0)),
        ({"WORLD_SIZE": "4"}, Rank(0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Rank(5, 8, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Rank(0, 1, 0)),
    ],
)
def test_the_environment_says_which_process_this_is(environment, rank):
    assert rank_from_environment(environment) == rank


@pytest.mark.parametrize(
    "environment",
    [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "-1", "WORLD_SIZE": "2"}, {"RANK": "", "WORLD_SIZE": "2"}],
)
def test_an_environment_that_makes_no_sense_is_refused(environment):
    with pytest.raises(ConfigError, match=f"RANK={environment['RANK']} WORLD_SIZE=2"):
        rank_from_environment(environment)


@pytest.mark.parametrize(
    ("rank", "device", "expected"),
    [(Rank(), "cuda", "cuda"), (Rank(5, 8, 1), "cuda", "cuda:1"), (Rank(5, 8, 1), "cpu", "cpu")],
)
def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch, rank, device, expected):
    cuda = types.SimpleNamespace(device_count=lambda: 2)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert device_of(rank, device) == expected
    with pytest.raises(ConfigError, match="process 2 of this machine has no GPU: there are 2.*--nproc-per-node 2"):
        device_of(Rank(2, 4, 2), "cuda")


def test_others_wait_for_the_stages_before_and_then_run_the_shared_stage_alone(fake, make_config):
    config, others, seen = make_config(), [], []
    together = threading.Barrier(2, timeout=10)

    def compute(context):
        seen.append((context.rank, context.key))
        together.wait()
        if context.rank.number > 0:
            raise SystemExit  # the fake would go on to write the same file as rank 0

    def other():
        with contextlib.suppress(SystemExit):
            take_part(config, "precompute", Rank(1, 2, 1), SilentReporter())

    def start_other(context):
        thread = threading.Thread(target=other)
        thread.start()
        others.append(thread)

    fake.within = {"train": start_other, "precompute": compute}
    run_stages(config, "precompute", rank=Rank(0, 2))
    others[0].join(10)
    assert sorted(fake.take()) == ["precompute", "precompute", "train"]
    assert sorted((rank.number, rank.of) for rank, _ in seen) == [(0, 2), (1, 2)]
    assert len({key for _, key in seen}) == 1, "both compute under the same key"
    assert run_directory(config).manifest().stages["precompute"].key == seen[0][1]


def test_others_write_neither_manifest_nor_configuration_and_do_not_need_the_lock(fake, make_config):
    config = make_config()
    directory = run_stages(config, "train").directory
    (directory.root / "config.yaml").unlink()
    before = directory.manifest_path.read_bytes()
    with directory.lock():
        take_part(config, "precompute", Rank(1, 2), SilentReporter())
        with pytest.raises(BusyError):
            run_stages(config, "precompute", rank=Rank(0, 2))
    assert directory.manifest_path.read_bytes() == before
    assert not (directory.root / "config.yaml").exists()
    assert fake.take() == ["train", "precompute"]


def test_nothing_is_computed_when_the_shared_stage_is_fresh(fake, make_config):
    run_stages(make_config(), "precompute")
    fake.take()
    reporter = Lines()
    take_part(make_config(), "precompute", Rank(1, 2), reporter)
    assert reporter.lines == ["rank 1 of 2: precompute is fresh"]
    run_stages(make_config(), "precompute", rank=Rank(0, 2))
    assert fake.take() == []


def test_others_give_up_when_rank_0_does_not_get_on(fake, make_config):
    config = make_config("precompute.patience_minutes=0.005")
    with pytest.raises(StoreError, match="no progress for 0.005 minutes while waiting for rank 0 to finish train"):
        take_part(config, "precompute", Rank(1, 2), SilentReporter())
    assert fake.take() == [] and not run_directory(config).manifest_path.exists()


def test_later_stages_compute_what_is_shared_alone(fake, make_config):
    seen = []
    fake.within = {"precompute": lambda context: seen.append(context.rank)}
    run_stages(make_config(), "reveal", rank=Rank(0, 4))
    assert seen == [Rank()]


def test_only_the_named_stage_is_shared_though_an_earlier_one_could_be(fake, make_config):
    seen = []
    fake.within = {name: lambda context: seen.append(context.rank) for name in SHARED}
    run_stages(make_config(), "mitigate", rank=Rank(0, 4))
    assert seen == [Rank(), Rank(0, 4)]


@pytest.mark.parametrize("stage", [name for name in (*STAGE_NAMES, "run") if name not in SHARED])
def test_at_other_stages_only_rank_0_has_work(fake, make_config, stage):
    reporter = Lines()
    take_part(make_config(), stage, Rank(3, 4), reporter)
    assert reporter.lines == [f"rank 3 of 4: no work here, only rank 0 runs {stage}"]
    assert fake.take() == [] and not run_directory(make_config()).root.exists()


@pytest.fixture
def command(fake, write_config, capsys, monkeypatch):
    """Return a function that runs a command as one of two processes: (exit code, standard output, standard error)."""

    def run(stage: str, rank: int, *arguments: str) -> tuple[int, str, str]:
        for name, value in {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(SystemExit) as ended:
            main(stage, ["--config", str(write_config()), *arguments])
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return run


def test_the_command_reads_the_environment(command, fake):
    assert command("reveal", 1) == (0, "rank 1 of 2: no work here, only rank 0 runs reveal\n", "")
    assert fake.take() == []
    assert command("precompute", 0)[0] == 0
    assert fake.take() == ["train", "precompute"]
    assert command("precompute", 1) == (0, "rank 1 of 2: precompute is fresh\n", "")
    code, out, _ = command("run", 1, "--status")
    assert (code, out) == (0, ""), "one table is enough"


@pytest.mark.parametrize("rank", [0, 1])
def test_several_processes_cannot_be_forced_together(command, fake, rank):
    code, _, err = command("precompute", rank, "--force")
    assert code == 2 and "--force cannot be used by 2 processes at once. Remove " in err
    assert fake.take() == []
    if rank == 0:
        assert command("train", rank, "--force")[0] == 0


def contents(path) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None
        )
    return found


@pytest.mark.slow
def test_torchrun_stores_what_one_process_does(tmp_path):
    config = {
        "data": {"kind": "digits", "limit": 10},
        "model": {"params": {"width": 4, "blocks": 2}, "train": {"epochs": 1}},
        "precompute": {"chunk_rows": 32, "patience_minutes": 2},
        "device": "cpu",
        "output_dir": str(tmp_path),
    }
    for name in ("alone", "both"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"name": name} | config))
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as torchrun sets it
    for start in (
        ["pipeline.precompute", "--config", str(tmp_path / "alone.yaml")],
        [*torchrun, "pipeline.precompute", "--config", str(tmp_path / "both.yaml")],
        [*torchrun, "pipeline.precompute", "--config", str(tmp_path / "both.yaml")],
        [*torchrun, "pipeline.train", "--config", str(tmp_path / "both.yaml")],
    ):
        ended = subprocess.run(
            [sys.executable, "-m", *start], cwd=PROJECT, env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "rank 1 of 2: no work here, only rank 0 runs train" in ended.stdout
    alone, both = (contents(tmp_path / name / "precompute/features.h5") for name in ("alone", "both"))
    assert alone.keys() == both.keys()
    for name, values in alone.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(both[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
        else:
            assert np.array_equal(both[name], values)
    assert len(list((tmp_path / "both/precompute/shards").glob("*.h5"))) == 2


@pytest.mark.slow
def test_corrections_trained_by_two_processes_are_those_of_one(tmp_path):
    import torch

    isnet = {"kind": "isnet", "variant": "selective", "background": "roi", "epochs": 2, "cut": 0.1, "cut2": 5.0}
    config = {
        "data": {"kind": "mnist5k", "limit": 12, "digit_roi": 2},
        "model": {"params": {"width": 4, "blocks": 2}, "train": {"epochs": 1}},
        "precompute": {"patience_minutes": 2},
        "reveal": {"accept_top": 0, "detectors": [{"kind": "properties"}]},
        "mitigate": {"methods": [{"kind": "fine_tune", "epochs": 2}, {"kind": "p_clarc"}, isnet]},
        "device": "cpu",
        "output_dir": str(tmp_path),
    }
    for name in ("alone", "both"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"name": name} | config))
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    for start in (
        ["pipeline.mitigate", "--config", str(tmp_path / "alone.yaml")],
        [*torchrun, "pipeline.mitigate", "--config", str(tmp_path / "both.yaml")],
        [*torchrun, "pipeline.mitigate", "--config", str(tmp_path / "both.yaml")],
    ):
        ended = subprocess.run(
            [sys.executable, "-m", *start], cwd=PROJECT, env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "rank 1 of 2: mitigate is fresh" in ended.stdout
    for method in ("fine_tune", "isnet"):
        one, two = (
            torch.load(tmp_path / name / f"mitigate/{method}/model.pt", weights_only=True) for name in ("alone", "both")
        )
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=f"{method} {name}")
