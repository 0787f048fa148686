from __future__ import annotations

import pytest

from benchmarks.right_reason import RRR, STEPS, make_step
from benchmarks.step_costs import PLAIN


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
