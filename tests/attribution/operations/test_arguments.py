from __future__ import annotations

import torch
from torch.nn import functional as F

from pipeline.attribution.operations.arguments import frozen, out_of_place, unique, with_tensors


def test_functions_that_write_into_their_argument_get_a_copy():
    x = torch.ones(2)
    for function, args, kwargs in (
        (torch.relu_, (x,), {}),
        (F.relu, (x, True), {}),
        (F.elu, (x,), {"inplace": True}),
        (torch.Tensor.add_, (x, 1), {}),
    ):
        (copy, *_), _ = out_of_place(function, args, kwargs)
        assert copy is not x and torch.equal(copy, x)
    for function, args, kwargs in (
        (torch.relu, (x,), {}),
        (F.relu, (x, False), {}),
        (torch.Tensor.__add__, (x, 1), {}),
    ):
        (same, *_), _ = out_of_place(function, args, kwargs)
        assert same is x


def test_tensors_are_exchanged_by_identity_also_within_lists():
    a, b, new = torch.ones(2), torch.ones(2), torch.zeros(2)
    args, kwargs = with_tensors(([a, b], 3, a), {"weight": (b, a), "axis": 1}, [a], [new])
    assert args[0][0] is new and args[0][1] is b and args[1] == 3 and args[2] is new
    assert kwargs["weight"][0] is b and kwargs["weight"][1] is new and kwargs["axis"] == 1
    assert isinstance(kwargs["weight"], tuple) and isinstance(args[0], list)


def test_lists_are_copied():
    features = [1, 2]
    (copied, one), kwargs = frozen((features, 1), {"more": features})
    features.append(3)
    assert copied == [1, 2] and kwargs["more"] == [1, 2] and one == 1


def test_equal_tensors_are_not_the_same_tensor():
    a, b = torch.ones(2), torch.ones(2)
    found = unique([a, b, a])
    assert len(found) == 2 and found[0] is a and found[1] is b
