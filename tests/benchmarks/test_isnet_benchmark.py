from __future__ import annotations

import pytest

from benchmarks.isnet import VARIANTS, make_step
from benchmarks.step_costs import PLAIN
from pipeline.config.mitigate import IsnetMethod


@pytest.mark.parametrize("variant", [PLAIN, *VARIANTS])
def test_every_kind_of_step_changes_the_weights(variant, monkeypatch):
    import torch

    stepped = []
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: stepped.append(self.param_groups[0]["params"]))
    make_step("resnet18@32", variant)()
    assert all(parameter.grad is not None for parameter in stepped[0])


def test_every_variant_and_rule_of_the_configuration_is_measured():
    measured = {(options["variant"], options.get("rule", "flex")) for options in VARIANTS.values()}
    variants = IsnetMethod.model_fields["variant"].annotation.__args__
    assert {variant for variant, _ in measured} == set(variants)
