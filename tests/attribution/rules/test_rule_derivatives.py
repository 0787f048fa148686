from __future__ import annotations

import pytest
from central_differences import check
from torch import nn

from pipeline.attribution.rules import RULES, make_rule

LINEAR_MAPS = {
    "signed": lambda: [nn.Tanh(), nn.Conv2d(2, 4, 3, padding=1)],
    "non-negative": lambda: [nn.ReLU(), nn.Conv2d(2, 4, 3, padding="same", bias=False)],
    "depthwise": lambda: [nn.GELU(), nn.Conv2d(2, 4, 3, groups=2)],
    "normalised": lambda: [nn.Softplus(), nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4)],
    "transposed": lambda: [nn.SiLU(), nn.ConvTranspose2d(2, 4, 2, stride=2)],
    "linear": lambda: [nn.Tanh(), nn.Flatten(), nn.Linear(50, 9)],
}


@pytest.mark.parametrize("without_biases", [False, True])
@pytest.mark.parametrize("kind", LINEAR_MAPS)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule, kind, without_biases, scrambled, pixels):
    """The rule is used at the first layer and at the second."""
    first = nn.Conv2d(2, 2, 2)
    network = nn.Sequential(first, *LINEAR_MAPS[kind](), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
    x = pixels(2, 2, 6, 6) * 0.8 + 0.1
    network(x)
    rules = dict.fromkeys(("0", "[23]"), make_rule(rule))
    check(scrambled(network, 5), x, "epsilon", rules=rules, without_biases=without_biases)
