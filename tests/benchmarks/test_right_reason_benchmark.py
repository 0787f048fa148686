from __future__ import annotations

import pytest

from benchmarks.right_reason import CACHED, PLAIN, RRR, STEPS, StepCost, make_step, table


@pytest.mark.parametrize("step", STEPS)
def test_every_kind_of_step_changes_what_it_says_it_trains(step, monkeypatch):
    import torch

    stepped = []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: stepped.append(self.param_groups[0]["params"]))
    make_step("resnet18@32", step)()
    parameters = stepped[0]
    assert all(parameter.grad is not None for parameter in parameters)
    # the fourth stage has 15 tensors, and the linear layer two
    assert len(parameters) == (62 if step in (PLAIN, RRR) else 2 if step.startswith("last") else 17)


def test_the_table_has_a_row_for_every_step_and_ratios_to_the_plain_one():
    costs = [
        StepCost("resnet18@128", PLAIN, 0.4, 1.0, 237.0),
        StepCost("resnet18@128", CACHED, 0.2, 0.5, 100.4),
    ]
    assert table(costs).splitlines() == [
        "| step | resnet18@128: time | memory, MB |",
        "|---|---|---|",
        "| plain | 1.000 (0.400 s) | 237 |",
        "| RR-ClArC, cached | 0.500 | 100 |",
    ]
