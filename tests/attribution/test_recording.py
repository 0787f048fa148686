from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.attribution.recording import record_outputs


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_outputs_are_caught_by_name(pixels):
    network, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2))), pixels(5, 4)
    with record_outputs(network, ["2.0", "1", "1"]) as outputs:
        result = network(x)
    assert set(outputs) == {"1", "2.0"} and outputs["2.0"] is result
    assert torch.equal(outputs["1"], network[:2](x)) and hooks(network) == 0


def test_a_visitor_sees_outputs_at_once_and_none_are_held(pixels):
    network, seen = nn.Sequential(nn.Linear(4, 3), nn.ReLU()), []
    with record_outputs(network, ["0", "1"], lambda name, output: seen.append((name, output.shape))) as outputs:
        network(pixels(5, 4))
    assert seen == [("0", (5, 3)), ("1", (5, 3))] and outputs == {"0": None, "1": None}


class Tuple(nn.Module):
    def forward(self, x):
        return x, x


class Idle(nn.Module):
    """Has a layer that it does not use, one that it uses twice, and one that returns two tensors."""

    def __init__(self):
        super().__init__()
        self.unused, self.twice, self.pair = nn.ReLU(), nn.ReLU(), Tuple()

    def forward(self, x):
        return self.pair(self.twice(self.twice(x)))[0]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("unused", "layer 'unused' does not run"),
        ("twice", "layer 'twice' runs more than once.* Name the block"),
        ("pair", "output of layer 'pair' is of type tuple, not one tensor"),
        ("twise", r"layer 'twise' is no module of the model. Did you mean 'twice'\?"),
    ],
)
def test_layers_without_one_output_are_refused(name, match, pixels):
    network = Idle()
    for visit in (None, lambda _name, _output: None):
        with pytest.raises(ValueError, match=match), record_outputs(network, [name], visit):
            network(pixels(2, 3))
        assert hooks(network) == 0


def test_an_error_inside_takes_the_hooks_away_as_well():
    network = nn.Sequential(nn.ReLU())
    with pytest.raises(KeyError), record_outputs(network, ["0"]):
        raise KeyError
    assert hooks(network) == 0
