from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.attribution import architectures
from pipeline.attribution.__main__ import HEADER, figure, main
from pipeline.models.checkpoints import save_weights
from pipeline.models.small_cnn import small_cnn

PROJECT = Path(__file__).parents[2]
FACTORIES = """
import torch
from torch import nn


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def make(function, classes, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3), Function(function), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, classes)
    )


def sound(classes, channels):
    return make(torch.relu, classes, channels)


def lossy(classes, channels):
    return make(lambda x: torch.special.i0e(x) + 1, classes, channels)


def unknown(classes, channels):
    return make(lambda x: torch.cummax(x, 1).values, classes, channels)


def broken(classes, channels):
    raise RuntimeError("no such luck")
"""


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Return a function that runs the command in a folder with a module of factories; gives code, output, errors."""
    (tmp_path / "factories_of_test_main.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, ""])

    def run_command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    yield run_command
    sys.modules.pop("factories_of_test_main", None)


def rows(out: str) -> list[list[str]]:
    """Return the cells of every line below the header, the verdict's words as one."""
    return [line.split(None, len(HEADER) - 1) for line in out.splitlines()[1:]]


def test_healthy_architectures_end_with_0(run):
    code, out, err = run("--health", "local:small_cnn", "factories_of_test_main:sound", "--size", "16")
    assert (code, err) == (0, "")
    assert [row[0] for row in rows(out)] == ["local:small_cnn", "factories_of_test_main:sound"]
    for row in rows(out):
        cells = dict(zip(HEADER, row, strict=True))
        assert cells["composite"] == "epsilon_plus_flat" and cells["size"] == "16"
        assert cells["conservation"] == "1.000" and cells["worst layer"] == "1.000"
        assert (cells["finite"], cells["no rule"], cells["verdict"]) == ("yes", "0", "healthy")
        assert float(cells["seconds"]) >= 0


def test_columns_stand_below_each_other(run):
    _, out, _ = run("--health", "factories_of_test_main:sound", "local:small_cnn", "--size", "16")
    assert len({line.index("  healthy") for line in out.splitlines()[1:]} | {out.index("  verdict")}) == 1


def test_an_unhealthy_one_ends_with_1_and_says_why(run):
    code, out, _ = run("--health", "factories_of_test_main:lossy", "local:small_cnn", "--size", "16")
    assert code == 1
    lossy, sound = rows(out)
    assert lossy[-1].startswith("unhealthy: Relevance by epsilon_plus_flat is not conserved") and "i0e" in lossy[-1]
    assert lossy[HEADER.index("no rule")] == "1"
    assert sound[-1] == "healthy"


def test_a_function_without_rule_is_a_warning(run):
    code, out, _ = run("--health", "factories_of_test_main:unknown", "--size", "16")
    assert code == 0
    assert rows(out)[0][-1].startswith("warning: No rule for") and "cummax" in out


def test_one_that_fails_ends_with_1_and_the_others_run(run):
    code, out, _ = run("--health", "factories_of_test_main:broken", "local:nothing", "local:small_cnn", "--size", "16")
    assert code == 1
    broken, unknown, sound = rows(out)
    assert broken[-1] == "failed: RuntimeError: no such luck"
    assert "failed: model.arch 'local:nothing' is unknown" in unknown[-1]
    assert sound[-1] == "healthy"


def test_every_composite_has_its_line(run):
    code, out, _ = run("--health", "local:small_cnn", "--composite", "epsilon", "epsilon_plus", "epsilon")
    assert code == 0
    assert [row[1] for row in rows(out)] == ["epsilon", "epsilon_plus"]
    assert {row[2] for row in rows(out)} == {"32"}


def test_all_runs_the_list(run, monkeypatch):
    monkeypatch.setattr(architectures, "SIZES", {"local:small_cnn": 16, "factories_of_test_main:sound": 12})
    code, out, _ = run("--all")
    assert code == 0
    assert [(row[0], row[2]) for row in rows(out)] == [
        ("local:small_cnn", "16"),
        ("factories_of_test_main:sound", "12"),
    ]


def test_everything_is_also_written_as_json(run, tmp_path):
    code, _, _ = run(
        "--health", "local:small_cnn", "local:nothing", "--size", "16", "--json", tmp_path / "a" / "b.json"
    )
    assert code == 1
    small, nothing = json.loads((tmp_path / "a" / "b.json").read_text())
    assert small["health"]["healthy"] and small["health"]["layers"]
    assert nothing["health"] is None and "local:nothing" in nothing["error"]


def test_json_that_cannot_be_written_is_an_error(run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("--health", "local:small_cnn", "--size", "16", "--json", tmp_path / "file" / "b.json")
    assert code == 1
    assert err.startswith("error: ") and "file" in err


def test_a_checkpoint_is_explained_instead_of_noise(run, tmp_path):
    trained = small_cnn(3, 3)
    torch.nn.init.constant_(trained.linear.weight, torch.nan)
    save_weights(trained, tmp_path / "trained.pt")
    code, out, _ = run("--health", "local:small_cnn", "--size", "16", "--checkpoint", tmp_path / "trained.pt")
    assert code == 1 and "not finite" in out
    code, out, _ = run("--health", "local:small_cnn", "--checkpoint", tmp_path / "missing.pt")
    assert code == 1 and "failed: checkpoint" in out and "missing.pt" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--health --all is required"),
        (("--health",), "expected at least one argument"),
        (("--all", "--health", "local:small_cnn"), "not allowed with"),
        (("--all", "--checkpoint", "x.pt"), "--checkpoint"),
        (("--health", "a:b", "c:d", "--checkpoint", "x.pt"), "--checkpoint"),
        (("--health", "local:small_cnn", "--size", "0"), "--size 0"),
        (("--health", "local:small_cnn", "--composite", "epsilon_plu"), "Did you mean 'epsilon_plus'?"),
        (("--health", "local:small_cnn", "--composite", "gradient"), "Allowed: epsilon_plus_flat"),
    ],
)
def test_wrong_usage_ends_with_2(run, arguments, told):
    code, out, err = run(*arguments)
    assert code == 2 and out == ""
    assert told in err and "error: " in err


def test_arguments_are_understood_before_anything_heavy_is_imported():
    code = (
        "import runpy, sys\nsys.argv = ['attribution', '--help']\n"
        "try: runpy.run_module('pipeline.attribution', run_name='__main__')\n"
        "finally: print('HEAVY', *({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert ended.returncode == 0 and "usage: python -m pipeline.attribution" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "HEAVY"


def test_figures_far_from_1_stay_readable():
    assert [figure(value) for value in (1.00004, -0.25, 9999, -123456.0, float("nan"))] == [
        "1.000", "-0.250", "9999.000", "-1.2e+05", "nan",
    ]  # fmt: skip
