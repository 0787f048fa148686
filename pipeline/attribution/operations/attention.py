"""Matrix products, softmax and attention."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from ..stabilize import stabilized_ratio
from .arguments import frozen, unique, with_tensors
from .transposed import transposed

T = torch.Tensor


def product(tape, function, args, kwargs):
    """Epsilon rule in every factor that is explained; attention weights count as constants, equals share equally.

    For all functions that are linear in each of their tensors: matrix products, Einstein sums.
    """
    factors = tape.explained([*args, *kwargs.values()])
    if not factors:
        return function(*args, **kwargs)
    inputs = unique(factors)
    args, kwargs = frozen(args, kwargs)
    output = function(*args, **kwargs)
    nodes = [tape.node(x) for x in inputs]
    receivers = inputs
    if tape.composite.attention == "values" and any(node.gate for node in nodes):
        receivers = [x for x, node in zip(inputs, nodes, strict=True) if not node.gate] or inputs

    def run(*places):
        new_args, new_kwargs = with_tensors(args, kwargs, receivers, places)
        return function(*new_args, **new_kwargs)

    # a tensor that is two factors of one product receives for both
    shares = sum(any(x is receiver for receiver in receivers) for x in factors)

    def back(relevance):
        scaled = stabilized_ratio(relevance, output, tape.composite.stabilizer) / shares
        found = {id(x): x * share for x, share in zip(receivers, transposed(run, receivers, [scaled]), strict=True)}
        return [found.get(id(x)) for x in inputs]

    several = len(factors) > 1
    nonnegative = several and all(node.nonnegative for node in nodes)
    tape.record(output, inputs, back, deeper=not several, nonnegative=nonnegative)
    return output


def softmax(tape, function, args, kwargs):
    """R = x (R - s sum R) (Achtibat et al. 2024, proposition 3.1): the first-order term, which is not conserved."""
    x = args[0] if args else kwargs["input"]
    output = function(*args, **kwargs)
    if tape.node(x) is None:
        return output
    axis = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    axis = -1 if axis is None else axis

    def back(relevance):
        values = x.nan_to_num(neginf=0.0)  # masked positions have weight 0
        return [values * (relevance - output * relevance.sum(axis, keepdim=True))]

    tape.record(output, [x], back, nonnegative=True, attention=True)
    return output


def attention(tape, function, args, kwargs):
    """Scaled dot-product attention, taken apart into matrix products and softmax."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    given = dict(zip(names, args, strict=False)) | kwargs
    query, key, value = given["query"], given["key"], given["value"]
    if not tape.explained([query, key, value]):
        return function(*args, **kwargs)
    if given.get("enable_gqa"):
        repeat = query.shape[-3] // key.shape[-3]
        with tape:
            key, value = key.repeat_interleave(repeat, -3), value.repeat_interleave(repeat, -3)
    scale = given.get("scale") or 1 / math.sqrt(query.shape[-1])
    mask = given.get("attn_mask")
    if given.get("is_causal"):
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, float("-inf"))
    with tape:
        scores = torch.matmul(query * scale, key.transpose(-2, -1))
        if mask is not None:
            scores = scores + mask
        return torch.matmul(torch.softmax(scores, -1), value)


def multi_head_attention(tape, function, args, kwargs):
    """`nn.MultiheadAttention`, taken apart; the variants that classifiers use.

    Raises:
        ValueError: added key or value biases, static keys, or separate projection weights.
    """
    import inspect

    given = dict(zip(inspect.signature(function).parameters, args, strict=False)) | kwargs
    query, key, value = given["query"], given["key"], given["value"]
    if not tape.explained([query, key, value]):
        return function(*args, **kwargs)
    unusual = ("bias_k", "bias_v", "static_k", "static_v", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    present = [name for name in (*unusual, "add_zero_attn") if given.get(name) is not None and given[name] is not False]
    if present:
        raise ValueError(f"attribution has no rule for nn.MultiheadAttention with {', '.join(present)}.")
    heads = given["num_heads"]
    with tape:
        if query is key and key is value:
            projected = F.linear(query, given["in_proj_weight"], given["in_proj_bias"]).chunk(3, -1)
        else:
            biases = [None] * 3 if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
            weights = given["in_proj_weight"].chunk(3)
            projected = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
        # [L, N, E] -> [N, heads, L, E / heads]
        q, k, v = (each.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3) for each in projected)
        scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(-2, -1))
        mask = _merged_mask(given, scores)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        joined = torch.matmul(weights, v).permute(2, 0, 1, 3).flatten(2)
        output = F.linear(joined, given["out_proj_weight"], given["out_proj_bias"])
    shown = weights.mean(1) if given.get("average_attn_weights", True) else weights
    return output, (shown if given.get("need_weights", True) else None)


def _merged_mask(given: dict, scores: T) -> T | None:
    """Return what is added to the scores `[N, heads, L, S]`, from both kinds of masks."""
    mask, padding = given.get("attn_mask"), given.get("key_padding_mask")

    def additive(values: T) -> T:
        if values.dtype != torch.bool:
            return values
        return torch.zeros_like(values, dtype=scores.dtype).masked_fill(values, float("-inf"))

    if mask is not None:
        mask = additive(mask)
        mask = mask.view(scores.shape[0], -1, *mask.shape[1:]) if mask.ndim == 3 else mask
    if padding is not None:
        padding = additive(padding)[:, None, None]
        mask = padding if mask is None else mask + padding
    return mask


HANDLED = {
    product: (
        torch.matmul, T.matmul, T.__matmul__, T.__rmatmul__, torch.bmm, T.bmm, torch.mm, T.mm, torch.einsum,
    ),
    softmax: (F.softmax, torch.softmax, T.softmax),
    attention: (F.scaled_dot_product_attention,),
    multi_head_attention: (F.multi_head_attention_forward,),
}  # fmt: skip
