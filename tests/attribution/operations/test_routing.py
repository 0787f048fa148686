from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

T = torch.Tensor
MASK = torch.linspace(-1, 1, 96).view(2, 3, 4, 4).sin() > 0
ORDER = torch.tensor([2, 0, 1])

MOVES = {
    "flatten": lambda x: x.flatten(1),
    "Flatten": nn.Flatten(),
    "reshape": lambda x: torch.reshape(x, (6, 16)),
    "view": lambda x: x.view(2, -1),
    "unflatten": lambda x: x.unflatten(1, (3, 1)),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "contiguous": lambda x: x.transpose(1, 2).contiguous(),
    "clone": lambda x: x.clone(),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "transpose": lambda x: x.transpose(1, 3),
    "mT": lambda x: x.mT,
    "swapaxes": lambda x: x.swapaxes(1, 2),
    "movedim": lambda x: torch.movedim(x, 1, -1),
    "t": lambda x: x.flatten(1).t(),
    "index": lambda x: x[:, 1, ::2, -1],
    "index by list": lambda x: x[:, [0, 0, 2]],
    "index by mask": lambda x: x[MASK],
    "select": lambda x: x.select(1, 0),
    "narrow": lambda x: x.narrow(2, 1, 2),
    "index_select": lambda x: x.index_select(1, ORDER),
    "gather": lambda x: x.gather(1, ORDER.view(1, 3, 1, 1).expand_as(x)),
    "roll": lambda x: torch.roll(x, (1, 2), (2, 3)),
    "flip": lambda x: x.flip(3),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad by reflection": lambda x: F.pad(x, (1, 2, 0, 1), mode="reflect"),
    "pad with ones": lambda x: F.pad(x, (1, 1), value=1.0),
    "ReplicationPad2d": nn.ReplicationPad2d(1),
    "crop": lambda x: F.pad(x, (-1, -1)),
    "expand": lambda x: x[:, :, :1].expand(-1, -1, 5, -1),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "ChannelShuffle": nn.ChannelShuffle(3),
    "unfold": lambda x: F.unfold(x, 2, padding=1, stride=2),
    "where": lambda x: torch.where(MASK, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(MASK, 0),
    "to": lambda x: x.to(torch.float32),
    "type_as": lambda x: x.type_as(torch.zeros(1)),
    "diagonal": lambda x: x.diagonal(0, 2, 3),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "MaxPool2d with ceiling": nn.MaxPool2d(3, 2, ceil_mode=True),
    "MaxPool2d with dilation": nn.MaxPool2d(2, 1, dilation=2),
    "max_pool2d by keyword": lambda x: F.max_pool2d(input=x, kernel_size=2),
    "max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 4),
    "max_pool3d": lambda x: F.max_pool3d(x, 2),
    "AdaptiveMaxPool2d": nn.AdaptiveMaxPool2d(2),
    "amax": lambda x: x.amax((2, 3)),
    "amin": lambda x: torch.amin(x, 1),
    "max of all": lambda x: torch.max(x),
}
SEVERAL = {
    "chunk": lambda x: x.chunk(2, 2),
    "split": lambda x: torch.split(x, (1, 2), 1),
    "tensor_split": lambda x: x.tensor_split(2, 3),
    "unbind": lambda x: x.unbind(1),
    "iteration": lambda x: list(x),
    "max": lambda x: x.max(1),
    "min": lambda x: torch.min(x, 2),
    "topk": lambda x: x.flatten(1).topk(5),
    "sort": lambda x: torch.sort(x, 1),
    "max_pool2d with indices": lambda x: F.max_pool2d(x, 2, return_indices=True),
    "MaxPool1d with indices": lambda x: nn.MaxPool1d(2, return_indices=True)(x.flatten(2)),
    "adaptive_max_pool2d with indices": lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True),
}


def carried_back(function, x: T, start: list[T]) -> T:
    """Move the numbers of the values along with them, and relevance back to where its number says."""
    with torch.no_grad():
        numbered = torch.arange(1, x.numel() + 1).to(x).view(x.shape)
        # values all different and in the order of x: whatever wins for x wins for its ranks
        ranks = x.flatten().argsort().argsort().add(1).to(x).view(x.shape)
    number_of_rank = torch.zeros(x.numel() + 1).to(x)
    number_of_rank[ranks.long().flatten()] = numbered.flatten()
    outputs = function(ranks.clone())
    outputs = [outputs] if isinstance(outputs, T) else [each for each in outputs if each.is_floating_point()]
    found = torch.zeros(x.numel() + 1).to(x)
    for each, relevance in zip(outputs, start, strict=True):
        number = number_of_rank[each.long().flatten()]
        found.index_add_(0, number.long(), relevance.to(x).flatten())
    return found[1:].view(x.shape)


@pytest.mark.parametrize("name", [*MOVES, *SEVERAL])
def test_relevance_moves_back_with_the_values(name, passed, signed):
    function = (MOVES | SEVERAL)[name]
    x = signed(2, 3, 4, 4)
    found = passed(function, x)
    expected = function(x)
    expected = [expected] if isinstance(expected, T) else list(expected)
    assert all(torch.equal(a, b) for a, b in zip(found.outputs, expected, strict=True))
    assert found.relevance.shape == x.shape
    if name != "pad with ones":  # the number 1 is one of the values
        assert torch.allclose(found.relevance, carried_back(function, x, found.start), rtol=1e-6)
    assert not found.tape.without_rule


@pytest.mark.parametrize("name", [*MOVES, *SEVERAL])
def test_what_is_said_about_signs_is_true_and_gates_remain_gates(name, passed, signed):
    function = (MOVES | SEVERAL)[name]
    x = signed(2, 3, 4, 4).abs()
    known = [node for node in passed(function, x, nonnegative=True).nodes if node is not None]
    assert known and all(node.nonnegative and not node.gate for node in known), "0 or more stays so"
    unknown = [node for node in passed(function, x).nodes if node is not None]
    assert not any(node.nonnegative for node in unknown)
    gates = [node for node in passed(lambda x: function(x.sigmoid()), x).nodes if node is not None]
    assert all(node.gate for node in gates)


FILLED = {
    "pad": lambda x: F.pad(x, (1, 1), value=-1),
    "pad by keyword": lambda x: F.pad(x, (1, 1), "constant", -0.5),
    "masked_fill": lambda x: x.masked_fill(MASK, float("-inf")),
    "where": lambda x: torch.where(MASK, x, -1.0),
    "where first": lambda x: torch.where(MASK, torch.full_like(x, -2), x),
    "cat": lambda x: torch.cat([x, -torch.ones_like(x)], 1),
    "stack": lambda x: torch.stack([-torch.ones_like(x), x]),
    "minimum": lambda x: torch.minimum(x, -torch.ones_like(x)),
}


@pytest.mark.parametrize("name", FILLED)
def test_negative_constants_among_non_negative_values_are_noticed(name, passed, signed):
    found = passed(FILLED[name], signed(2, 3, 4, 4).abs(), nonnegative=True)
    assert (found.output < 0).any() and not found.node.nonnegative


JOINED = {
    "cat": lambda a, b: torch.cat([a, b], 1),
    "cat by keyword": lambda a, b: torch.cat(tensors=(a, b), dim=1),
    "concat": lambda a, b: torch.concat([a, b], -2),
    "stack": lambda a, b: torch.stack([a, b], 1),
    "hstack": lambda a, b: torch.hstack([a, b]),
    "vstack": lambda a, b: torch.vstack([a, b]),
}


@pytest.mark.parametrize("keeps_biases", [True, False])
@pytest.mark.parametrize("name", JOINED)
def test_joined_tensors_get_their_own_back(name, keeps_biases, passed, signed):
    a, b = signed(2, 3, 4), signed(2, 3, 4, seed=1)
    found = passed(JOINED[name], a, b, keeps_biases=keeps_biases)
    assert torch.equal(found.output, JOINED[name](a, b))
    for index, got in enumerate(found.relevances):
        only = [torch.full_like(a, float(place == index)) for place in (0, 1)]
        assert torch.equal(got, found.start[0][JOINED[name](*only) == 1].view(a.shape)), "of this one alone"
    assert not found.tape.without_rule


def test_a_tensor_that_is_joined_to_itself_gets_both(passed, signed):
    found = passed(lambda x: torch.cat([x, x], 1), signed(2, 3))
    assert torch.allclose(found.relevance, found.start[0][:, :3] + found.start[0][:, 3:])


@pytest.mark.parametrize("keeps_biases", [True, False])
def test_dense_blocks_may_go_on_appending_to_the_list_that_they_joined(keeps_biases, passed, signed):
    def block(x):
        features = [x]
        for _ in range(2):
            features.append(torch.cat(features, 1) * 2)
        return torch.cat(features, 1)

    x = signed(2, 3)
    found = passed(block, x, keeps_biases=keeps_biases)
    assert torch.equal(found.output, torch.cat([x, 2 * x, 2 * x, 4 * x], 1))
    assert torch.allclose(found.relevance, found.start[0].unflatten(1, (4, 3)).sum(1))


@pytest.mark.parametrize("join", [torch.cat, lambda tensors, dim: torch.cat(tensors=tensors, dim=dim)])
@pytest.mark.parametrize("keeps_biases", [True, False])
def test_a_class_token_keeps_its_relevance_unless_constants_may_not(keeps_biases, join, passed, signed):
    x, token = signed(2, 3, 4), signed(1, 1, 4, seed=1)
    found = passed(lambda x: join([token.expand(2, -1, -1), x], dim=1), x, keeps_biases=keeps_biases)
    own, of_token = found.start[0][:, 1:], found.start[0][:, :1]
    if keeps_biases:
        assert torch.equal(found.relevance, own)
    else:
        share = x.abs() / x.abs().sum((1, 2), keepdim=True)
        assert torch.allclose(found.relevance, own + share * of_token.sum((1, 2), keepdim=True), rtol=1e-5)


def test_the_larger_of_two_gets_it(passed, signed):
    a, b = signed(3, 4), signed(3, 4, seed=1)
    for function, wins in ((torch.maximum, a > b), (torch.max, a > b), (torch.minimum, a < b), (torch.min, a < b)):
        found = passed(function, a, b)
        assert torch.equal(found.relevances[0], found.start[0] * wins)
        assert torch.equal(found.relevances[1], found.start[0] * ~wins)


def test_where_chooses(passed, signed):
    a, b = signed(2, 3, 4, 4), signed(2, 3, 4, 4, seed=1)
    found = passed(lambda a, b: torch.where(a > b, a, b), a, b)
    assert torch.equal(found.relevances[0], found.start[0] * (a > b))
    assert torch.equal(found.relevances[1], found.start[0] * (a <= b))


NEW = {
    "new_zeros": lambda x: x.new_zeros(x.shape),
    "new_full": lambda x: x.new_full(x.shape, 3.0),
    "zeros_like": lambda x: torch.zeros_like(x),
    "ones_like": lambda x: torch.ones_like(x),
    "full_like": lambda x: torch.full_like(x, 2),
    "new_tensor": lambda x: x.new_tensor([1.0]),
}


@pytest.mark.parametrize("name", NEW)
def test_new_tensors_of_the_same_kind_are_constants(name, passed, signed):
    made = passed(NEW[name], signed(2, 3))
    assert made.nodes == [None] and not made.tape.without_rule
    found = passed(lambda x: x * 2 + NEW[name](x), signed(2, 3), keeps_biases=False)
    assert torch.allclose(found.relevance.sum(1), found.start[0].sum(1), rtol=1e-5), "they take no share"


WRITING = {
    "buffer[...] = x": lambda x: x.new_zeros(2, 6).__setitem__((slice(None), slice(3)), x),
    "x[...] = 0": lambda x: x.__setitem__((slice(None), 0), 0),
    "copy_": lambda x: x.new_zeros(2, 3).copy_(x),
    "masked_fill_": lambda x: x.masked_fill_(x > 0, 0),
    "index_copy_": lambda x: x.new_zeros(2, 3).index_copy_(0, torch.tensor([0, 1]), x),
    "scatter_": lambda x: x.new_zeros(2, 3).scatter_(1, torch.zeros(2, 3).long(), x),
    "index_add_": lambda x: x.new_zeros(2, 3).index_add_(0, torch.tensor([0, 1]), x),
}


@pytest.mark.parametrize("name", WRITING)
def test_writing_in_place_is_refused(name, passed, signed):
    with pytest.raises(ValueError, match=r"writes values in place \(\w+\).* Build the tensor with torch.cat"):
        passed(WRITING[name], signed(2, 3))


def test_writing_among_constants_is_allowed(passed, signed):
    def shifted(x):
        mask = torch.zeros(2, 3).to(x)
        mask[:, 0] = 1
        mask.masked_fill_(mask == 0, 2)
        return x * mask

    found = passed(shifted, signed(2, 3))
    assert torch.equal(found.relevance, found.start[0])


@pytest.mark.parametrize("mode", ["batch", "row"])
def test_stochastic_depth_is_off(mode, passed, signed):
    layers = pytest.importorskip("timm.layers")
    for drop in (StochasticDepth(0.9, mode).eval(), layers.DropPath(0.9).eval()):
        found = passed(lambda x, drop=drop: x + drop(x.relu() * 2), signed(4, 3))
        assert torch.equal(found.output, signed(4, 3) + 2 * signed(4, 3).relu())
        assert torch.allclose(found.relevance, found.start[0], rtol=1e-3) and not found.tape.without_rule


def test_the_same_tensor_back_is_no_operation(passed, signed):
    x = signed(2, 3)
    for function in (lambda x: x.contiguous(), lambda x: x.to(torch.float64), lambda x: F.dropout(x, 0.5, False)):
        found = passed(lambda x, function=function: (function(x), function(x))[0] * 1, x)
        assert torch.equal(found.relevance, found.start[0])
