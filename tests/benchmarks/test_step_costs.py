from __future__ import annotations

import json
import time
from collections.abc import Callable

from benchmarks.step_costs import PLAIN, StepCost, command, table


def make_step(network: str, step: str) -> Callable[[], None]:
    """A step that keeps the processor busy, a long one for longer."""
    seconds = 0.02 if step == PLAIN else 0.1

    def run() -> None:
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    return run


def test_steps_are_measured_as_multiples_of_a_plain_one(tmp_path, capsys):
    output = tmp_path / "new/costs.json"
    arguments = ["--networks", "net@8", "--repeats", "2", "--output", str(output)]
    command(make_step, "benchmarks.some", "About.", ("other@1",), ("long",), 9, arguments)
    plain, long = json.loads(output.read_text())
    assert (plain["network"], plain["step"], plain["ratio"], long["step"]) == ("net@8", PLAIN, 1.0, "long")
    assert long["ratio"] == long["seconds"] / plain["seconds"] > 1 and plain["seconds"] > 0.015
    assert "| long |" in capsys.readouterr().out


def test_the_table_has_a_row_for_every_step_and_ratios_to_the_plain_one():
    costs = [
        StepCost("resnet18@64", PLAIN, 0.1, 1.0, 50.0),
        StepCost("resnet18@64", "selective", 0.25, 2.5, 120.4),
        StepCost("resnet18@64", "last layer", 0.0004, 0.004, 0.2),
    ]
    assert table(costs).splitlines() == [
        "| step | resnet18@64: time | memory, MB |",
        "|---|---|---|",
        "| plain | 1.00 (0.100 s) | 50 |",
        "| selective | 2.50 | 120 |",
        "| last layer | 0.004 | 0 |",
    ]
