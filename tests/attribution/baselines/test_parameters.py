from __future__ import annotations

import pytest
import torch

from pipeline.attribution.baselines.parameters import missing_input, refuse, require_at_least


@pytest.mark.parametrize("shape", [(), (3, 1, 1), (1, 3, 1, 1), (3, 4, 5), (2, 3, 4, 5), (2, 1, 1, 1)])
def test_a_missing_input_is_a_value_or_a_tensor_that_broadcasts(shape):
    x = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    baseline = torch.rand(shape)
    found = missing_input(x, baseline)
    assert found.shape == x.shape and found.dtype == x.dtype
    assert torch.equal(found, baseline.double() + x)
    assert torch.equal(missing_input(x, 0.5), x + 0.5)
    assert not missing_input(x, baseline.requires_grad_()).requires_grad


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3, 4, 5), (3, 3, 4, 5)])
def test_a_missing_input_of_another_shape_is_explained(shape):
    with pytest.raises(ValueError, match=r"baseline has shape .*\(2, 3, 4, 5\)"):
        missing_input(torch.zeros(2, 3, 4, 5), torch.zeros(shape))


def test_what_a_method_cannot_give_is_refused_by_name():
    refuse("some_method")
    with pytest.raises(ValueError, match=r"layers=\['a'\]: 'some_method'"):
        refuse("some_method", ["a"])
    with pytest.raises(ValueError, match="create_graph=True: 'some_method'"):
        refuse("some_method", [], True)


def test_counts_have_a_lowest_value():
    require_at_least(1, steps=1, samples=7)
    with pytest.raises(ValueError, match="samples=0 is too few; it must be at least 1"):
        require_at_least(1, steps=1, samples=0)
