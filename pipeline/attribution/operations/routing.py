"""Functions that move values without changing them: relevance moves back with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from .arguments import frozen, out_of_place, unique, with_tensors
from .constants import handed_back
from .transposed import transposed

T = torch.Tensor
_FILLING = {F.pad, torch.where, T.where, torch.masked_fill, T.masked_fill}
_LIKE = {T.to, T.type_as, T.expand_as}


def route(tape, function, args, kwargs):
    """Every output is one of the inputs, so the transposed map carries relevance; maxima take that of the winner."""
    # of what the rest of the arguments gives, type and shape are taken at most
    explained = tape.explained(args[:1] if function in _LIKE else [*args, *kwargs.values()])
    if not explained:
        return function(*args, **kwargs)
    args, kwargs = frozen(args, kwargs)
    inputs = unique(explained)
    output = function(*args, **kwargs)
    outputs = _values(output)
    if not outputs or any(output is x for x in inputs):
        return output

    def run(*places):
        new_args, new_kwargs = with_tensors(args, kwargs, inputs, places)
        return _values(function(*new_args, **new_kwargs))

    def back(*relevances):
        return transposed(run, inputs, relevances)

    nodes = [tape.node(x) for x in inputs]
    nonnegative = all(node.nonnegative for node in nodes) and not _brings_negative(tape, function, args, kwargs)
    tape.record(outputs, inputs, back, nonnegative=nonnegative, gate=all(node.gate for node in nodes))
    return output


def _values(output: T | Sequence[T]) -> list[T]:
    """Return the tensors of a result that are no indices."""
    return [each for each in ([output] if isinstance(output, T) else output) if each.is_floating_point()]


def _brings_negative(tape, function, args, kwargs) -> bool:
    """Tell whether constants, joined or filled in, may be negative: a class token, the value of a padding."""
    arguments = [*args, *kwargs.values()]
    tensors = [each for one in arguments for each in (one if isinstance(one, (list, tuple)) else [one])]
    constants = [each for each in tensors if isinstance(each, T) and tape.node(each) is None]
    if any(bool((each < 0).any()) for each in constants if each.is_floating_point()):
        return True
    return function in _FILLING and any(isinstance(each, (int, float)) and each < 0 for each in arguments)


def pad(tape, function, args, kwargs):
    """Padding. Where it is by zeros, the place of the values is remembered: rules that share evenly spare the rest."""
    output = route(tape, function, args, kwargs)
    names = ("input", "pad", "mode", "value")
    given = {"mode": "constant", "value": 0} | dict(zip(names, args, strict=False)) | kwargs
    x = given["input"]
    if tape.node(x) is not None and given["mode"] == "constant" and not given["value"] and x.ndim > 2:
        tape.padded[output] = function(torch.ones_like(x[:1, :1]), given["pad"])
    return output


def reshape(tape, function, args, kwargs):
    """Another shape, the same order of values."""
    x = args[0]
    if tape.node(x) is None:
        return function(*args, **kwargs)
    output = function(*args, **kwargs)
    if output is x:
        return output
    shape, node = x.shape, tape.node(x)
    tape.record(output, [x], lambda relevance: [relevance.reshape(shape)], nonnegative=node.nonnegative, gate=node.gate)
    return output


def join(tape, function, args, kwargs):
    """Concatenation: relevance of joined constants (a class token) is theirs, or is handed to the rest as to |x|."""
    explained = tape.explained([*args, *kwargs.values()])
    if tape.keeps_biases or not explained:
        return route(tape, function, args, kwargs)
    args, kwargs = frozen(args, kwargs)
    inputs = unique(explained)
    output = function(*args, **kwargs)
    joined = args[0] if args else kwargs["tensors"]
    if all(tape.node(each) is not None for each in joined):
        return route(tape, function, args, kwargs)

    def run(*places):
        new_args, new_kwargs = with_tensors(args, kwargs, inputs, places)
        return function(*new_args, **new_kwargs)

    def back(relevance):
        return handed_back(relevance, inputs, transposed(run, inputs, [relevance]), tape.composite.stabilizer)

    tape.record(output, inputs, back)
    return output


def refuse_writing(tape, function, args, kwargs):
    """Writing into a part of a tensor hides where values come from."""
    if tape.explained([*args, *kwargs.values()]):
        raise ValueError(
            f"the network writes values in place ({function.__name__}), so relevance cannot be followed through them. "
            "Build the tensor with torch.cat, torch.stack or torch.where instead."
        )
    return function(*args, **kwargs)


def drop_out(tape, function, args, kwargs):
    """Dropout that is off changes nothing; one that is always on is a gate of ones and zeros."""
    x = args[0] if args else kwargs["input"]
    args, kwargs = out_of_place(function, args, kwargs)
    output = function(*args, **kwargs)
    node = tape.node(x)
    if node is None or output is x:
        return output
    tape.record(output, [x], lambda relevance: [relevance], nonnegative=node.nonnegative, gate=node.gate)
    return output


def forget(tape, function, args, kwargs):
    """New tensors that take from their argument no more than shape, type or order."""
    return function(*args, **kwargs)


def max_pool(tape, function, args, kwargs):
    """Relevance goes to the largest value of each window."""
    x = args[0] if args else kwargs["input"]
    node = tape.node(x)
    # with indices wanted, or in a form of its own, this is one function among the others
    if node is None or len(args) > 6 or kwargs.get("return_indices") or x.ndim != 4:
        return route(tape, function, args, kwargs)
    names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode")
    given = (
        {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
        | dict(zip(names, args, strict=False))
        | kwargs
    )
    window = [list(_pair(given[name])) for name in names[1:5]]
    output, winners = torch.ops.aten.max_pool2d_with_indices(x, *window, given["ceil_mode"])

    # of the input only its form is needed then: memory that is reserved and never written costs nothing
    form = {"size": x.shape, "dtype": x.dtype, "device": x.device}
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format

    def back(relevance):
        like = torch.empty(**form, memory_format=layout)
        arguments = (*window, given["ceil_mode"], winners)
        return [torch.ops.aten.max_pool2d_with_indices_backward(relevance, like, *arguments)]

    tape.record(output, [x], back, nonnegative=node.nonnegative, gate=node.gate)
    return output


def _pair(value) -> tuple:
    return () if value is None else tuple(value) if isinstance(value, (tuple, list)) else (value, value)


HANDLED = {
    pad: (F.pad,),
    max_pool: (F.max_pool2d, torch.max_pool2d),
    forget: (
        T.new_zeros, T.new_ones, T.new_full, T.new_empty, T.new_tensor, torch.zeros_like, torch.ones_like,
        torch.full_like, torch.empty_like, torch.rand_like, torch.randn_like, torch.argmax, T.argmax, T.size, T.dim,
    ),
    reshape: (
        torch.flatten, T.flatten, torch.reshape, T.reshape, T.view, T.contiguous, torch.squeeze, T.squeeze,
        torch.unsqueeze, T.unsqueeze, T.unflatten, torch.unflatten, T.view_as, T.reshape_as, torch.clone, T.clone,
        T.detach, torch.detach, T.data.__get__,
    ),
    join: (torch.cat, torch.concat, torch.concatenate),
    route: (
        torch.permute, T.permute, torch.transpose, T.transpose, T.mT.__get__, T.T.__get__, torch.swapaxes, T.swapaxes,
        torch.movedim, T.movedim, torch.stack, torch.hstack, torch.vstack, torch.chunk, T.chunk, torch.split, T.split,
        torch.tensor_split, T.tensor_split, torch.unbind, T.unbind, T.__getitem__, torch.narrow, T.narrow,
        torch.select, T.select, torch.index_select, T.index_select, torch.gather, T.gather, torch.roll, T.roll,
        torch.flip, T.flip, torch.rot90, T.expand, T.expand_as, T.repeat, torch.repeat_interleave,
        T.repeat_interleave, torch.tile, T.tile, F.pixel_shuffle, F.pixel_unshuffle, F.channel_shuffle, F.unfold,
        T.unfold, torch.where, T.where, torch.masked_fill, T.masked_fill, T.to, T.float, T.double, T.type, T.type_as,
        F.max_pool1d, F.max_pool3d, torch.max_pool1d, torch.max_pool3d,
        F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d, torch.amax, T.amax, torch.max, T.max,
        torch.maximum, torch.amin, T.amin, torch.min, T.min, torch.minimum, torch.topk, T.topk, torch.sort, T.sort,
        torch.broadcast_to, T.broadcast_to, torch.atleast_2d, torch.atleast_3d, T.cpu, T.cuda, T.bfloat16, T.half,
        T.swapdims, torch.swapdims, torch.t, T.t, torch.diagonal, T.diagonal,
        F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices,
        F.adaptive_max_pool1d_with_indices, F.adaptive_max_pool2d_with_indices, F.adaptive_max_pool3d_with_indices,
    ),
    drop_out: (
        F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout,
        torch.dropout_,
    ),
    refuse_writing: (T.__setitem__, T.index_copy_, T.scatter_, T.scatter_add_, T.copy_, T.masked_fill_, T.index_add_),
}  # fmt: skip
