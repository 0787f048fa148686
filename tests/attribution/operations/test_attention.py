from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

T = torch.Tensor


def ratio(relevance: T, z: T, epsilon: float = 1e-6) -> T:
    return relevance / torch.where(z >= 0, z + epsilon, z - epsilon)


MATRIX = torch.linspace(-1, 2, 20, dtype=torch.float64).view(4, 5).cos()
PRODUCTS_WITH_CONSTANTS = {
    "x @ matrix": (lambda x: x @ MATRIX, "nti,ij->ntj"),
    "torch.matmul": (lambda x: torch.matmul(x, MATRIX), "nti,ij->ntj"),
    "einsum": (lambda x: torch.einsum("nti,ij->ntj", x, MATRIX), "nti,ij->ntj"),
    "einsum over positions": (lambda x: torch.einsum("nti,ij->nj", x, MATRIX), "nti,ij->nj"),
    "matrix @ x": (lambda x: MATRIX.T @ x.mT, "nti,ij->njt"),
}


@pytest.mark.parametrize("name", PRODUCTS_WITH_CONSTANTS)
def test_a_product_with_a_constant_follows_the_epsilon_rule(name, passed, signed):
    function, letters = PRODUCTS_WITH_CONSTANTS[name]
    x = signed(2, 3, 4)
    found = passed(function, x)
    assert torch.equal(found.output, function(x))
    inputs, output = letters.split("->")
    back = f"{output},{inputs.split(',')[1]}->{inputs.split(',')[0]}"
    ratios = ratio(found.start[0], found.output)
    expected = x * (
        torch.einsum(back, ratios, MATRIX) if output != "nj" else torch.einsum("nj,ij->ni", ratios, MATRIX)[:, None]
    )
    assert torch.allclose(found.relevance, expected, rtol=1e-9)
    assert found.node.depth == 2 and not found.node.nonnegative, "a linear map more on the way from the pixels"


@pytest.mark.parametrize(
    "product", [torch.matmul, torch.bmm, lambda a, b: a @ b, lambda a, b: torch.einsum("nij,njk->nik", a, b)]
)
def test_equal_factors_of_a_product_share_equally(product, passed, signed):
    a, b = signed(2, 3, 4), signed(2, 4, 5, seed=1)
    found = passed(product, a, b)
    half = ratio(found.start[0], a @ b) / 2
    assert torch.allclose(found.relevances[0], a * (half @ b.mT), rtol=1e-9)
    assert torch.allclose(found.relevances[1], b * (a.mT @ half), rtol=1e-9)
    assert found.total()[1] == pytest.approx(found.total()[0], rel=1e-3)
    assert found.node.depth == 1, "no linear map"


@pytest.mark.parametrize("keeps_biases", [True, False])
def test_a_tensor_that_is_both_factors_gets_no_more_than_there_is(keeps_biases, passed, signed):
    for function in (
        lambda x: torch.einsum("ni,nj->nij", x, x), lambda x: x.T @ x, lambda x: torch.bmm(x[:, :, None], x[:, None]),
    ):  # fmt: skip
        found = passed(function, signed(3, 4), keeps_biases=keeps_biases)
        assert found.total()[1] == pytest.approx(found.total()[0], rel=1e-3)


def test_the_sign_of_a_product_is_known_where_all_factors_are(passed, signed):
    a, b = signed(2, 3, 4).abs(), signed(2, 4, 5).abs()
    assert passed(torch.matmul, a, b, nonnegative=True).node.nonnegative
    assert not passed(torch.matmul, a, b).node.nonnegative
    assert not passed(lambda x: x @ MATRIX, a, nonnegative=True).node.nonnegative


@pytest.mark.parametrize(
    "gate", [lambda s: s.softmax(-1), torch.sigmoid, lambda s: F.dropout(F.softmax(s, -1), 0.5, False)]
)
def test_attention_weights_are_constants_or_get_half(gate, passed, signed):
    scores, values = signed(2, 3, 4), signed(2, 4, 5, seed=1)
    weights = gate(scores)
    found = passed(lambda s, v: gate(s) @ v, scores, values)
    ratios = ratio(found.start[0], weights @ values)
    assert torch.allclose(found.relevances[1], values * (weights.mT @ ratios), rtol=1e-9)
    assert found.relevances[0] is None
    found = passed(lambda s, v: gate(s) @ v, scores, values, attention="shared")
    assert torch.allclose(found.relevances[1], values * (weights.mT @ ratios) / 2, rtol=1e-9)
    assert found.relevances[0].abs().sum() > 0


SOFTMAXES = {
    "F.softmax": (lambda x: F.softmax(x, dim=1), 1),
    "torch.softmax": (lambda x: torch.softmax(x, -1), -1),
    "softmax": (lambda x: x.softmax(dim=2), 2),
    "Softmax2d": (nn.Softmax(dim=-3), 1),
    "by keyword": (lambda x: torch.softmax(input=x, dim=1), 1),
}


@pytest.mark.parametrize("name", SOFTMAXES)
def test_a_softmax_gives_the_first_order_term(name, passed, signed):
    function, axis = SOFTMAXES[name]
    x = signed(2, 3, 4, 5)
    found = passed(function, x)
    s, r = function(x), found.start[0]
    assert torch.equal(found.output, s)
    jacobian_times_x = x * (r / s * s - s * (r / s * s).sum(axis, keepdim=True))
    assert torch.allclose(found.relevance, jacobian_times_x, rtol=1e-9)
    assert found.node.gate and found.node.nonnegative


def test_masked_scores_get_nothing(passed, signed):
    mask = torch.tensor([[0.0, float("-inf"), 0.0], [0.0, 0.0, 0.0]]).double()
    for keeps_biases in (True, False):
        found = passed(lambda x: (x + mask).softmax(-1), signed(2, 3), keeps_biases=keeps_biases)
        assert found.relevance.isfinite().all()
        assert abs(float(found.relevance[0, 1])) < 1e-6 and found.relevance.abs().sum() > 0.01


def attention_by_hand(q: T, k: T, v: T, mask: T | None = None, scale: float | None = None) -> T:
    scores = (q * (scale or 1 / math.sqrt(q.shape[-1]))) @ k.mT
    return torch.softmax(scores if mask is None else scores + mask, -1) @ v


ALLOWED = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]]).bool()
ADDED = torch.linspace(-2, 2, 12, dtype=torch.float64).view(3, 4)
ATTENTIONS = {
    "plain": ({}, None, None),
    "scale": ({"scale": 0.3}, None, 0.3),
    "allowed": ({"attn_mask": ALLOWED}, torch.zeros(3, 4).double().masked_fill(~ALLOWED, float("-inf")), None),
    "added": ({"attn_mask": ADDED}, ADDED, None),
    "causal": (
        {"is_causal": True},
        torch.zeros(3, 4).double().masked_fill(~torch.ones(3, 4).bool().tril(), float("-inf")),
        None,
    ),
}


@pytest.mark.parametrize("attention", ["values", "shared"])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_scaled_dot_product_attention_is_its_parts(name, attention, passed, signed):
    options, mask, scale = ATTENTIONS[name]
    q, k, v = signed(2, 2, 3, 4), signed(2, 2, 4, 4, seed=1), signed(2, 2, 4, 5, seed=2)
    found = passed(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options), q, k, v, attention=attention)
    parts = passed(lambda q, k, v: attention_by_hand(q, k, v, mask, scale), q, k, v, attention=attention)
    assert torch.allclose(found.output, F.scaled_dot_product_attention(q, k, v, **options), rtol=1e-9)
    for got, expected in zip(found.relevances, parts.relevances, strict=True):
        if expected is None:
            assert got is None
        else:
            assert torch.allclose(got, expected, rtol=1e-9, atol=1e-12) and got.isfinite().all()
    if attention == "values":
        assert found.relevances[0] is found.relevances[1] is None
        assert found.total()[1] == pytest.approx(found.total()[0], rel=1e-3)
    else:
        assert all(each.abs().sum() > 0 for each in found.relevances)
    assert not found.tape.without_rule


def test_attention_by_position_and_with_grouped_queries(passed, signed):
    q, k, v = signed(2, 4, 3, 4), signed(2, 2, 5, 4, seed=1), signed(2, 2, 5, 4, seed=2)
    found = passed(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), q, k, v)
    assert torch.allclose(found.output, F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    assert found.total()[1] == pytest.approx(found.total()[0], rel=1e-3)
    positional = passed(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, ADDED, 0.0, False), q[:, :2], k[:, :, :4], v[:, :, :4]
    )
    expected = attention_by_hand(q[:, :2], k[:, :, :4], v[:, :, :4], ADDED)
    assert torch.allclose(positional.output, expected)


def test_attention_of_constants_to_explained_values_and_the_reverse(passed, signed):
    q, k, v = signed(1, 3, 4), signed(1, 5, 4, seed=1), signed(1, 5, 4, seed=2)
    found = passed(lambda v: F.scaled_dot_product_attention(q, k, v), v)
    assert found.total()[1] == pytest.approx(found.total()[0], rel=1e-3)
    found = passed(lambda x: x + F.scaled_dot_product_attention(q, k, v[:, :, :4]), signed(1, 3, 4), keeps_biases=False)
    total = found.start[0].sum()
    assert torch.allclose(found.relevance.sum(), total, rtol=1e-5), "attention among constants is a constant"


def heads(batch_first: bool = True, bias: bool = True, **options) -> nn.MultiheadAttention:
    module = nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=batch_first, bias=bias, **options).double().eval()
    generator = torch.Generator().manual_seed(7)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.6, generator=generator)
    return module


def masks(kind: str, queries: int, keys: int) -> dict:
    if kind == "boolean":
        return {"attn_mask": torch.ones(queries, keys).bool().triu(1)}
    if kind == "added":
        return {"attn_mask": torch.linspace(-1, 1, queries * keys, dtype=torch.float64).view(queries, keys)}
    if kind == "per head":
        return {"attn_mask": torch.linspace(-1, 1, 4 * queries * keys, dtype=torch.float64).view(4, queries, keys)}
    if kind == "padding":
        return {"key_padding_mask": torch.arange(keys).expand(2, -1) >= torch.tensor([[keys - 1], [keys]])}
    if kind == "both":
        return masks("boolean", queries, keys) | masks("padding", queries, keys)
    return {}


@pytest.mark.parametrize("kind", ["none", "boolean", "added", "per head", "padding", "both"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multi_head_attention_is_its_parts(kind, batch_first, passed, signed):
    module = heads(batch_first)
    x, given = signed(2, 4, 6) if batch_first else signed(4, 2, 6), masks(kind, 4, 4)

    def by_hand(x: T) -> T:
        tokens = x if batch_first else x.transpose(0, 1)
        q, k, v = F.linear(tokens, module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
        q, k, v = (each.unflatten(-1, (2, 3)).transpose(1, 2) for each in (q, k, v))
        added = torch.zeros(2, 2, 4, 4).double()
        for name, mask in given.items():
            if mask.dtype == torch.bool:
                mask = torch.zeros(mask.shape).double().masked_fill(mask, float("-inf"))
            shape = (2, 1, 1, 4) if name == "key_padding_mask" else (2, 2, 4, 4) if mask.ndim == 3 else (4, 4)
            added = added + mask.view(shape)
        together = attention_by_hand(q, k, v, added).transpose(1, 2).flatten(2)
        output = F.linear(together, module.out_proj.weight, module.out_proj.bias)
        return output if batch_first else output.transpose(0, 1)

    found = passed(lambda x: module(x, x, x, need_weights=False, **given)[0], x)
    plain = module(x, x, x, need_weights=False, **given)[0]
    assert torch.allclose(found.output, plain, rtol=1e-9, atol=1e-12)
    assert torch.allclose(found.relevance, passed(by_hand, x).relevance, rtol=1e-8, atol=1e-10)
    assert not found.tape.without_rule
    conserved = passed(lambda x: module(x, x, x, need_weights=False, **given)[0], x, keeps_biases=False)
    assert conserved.total()[1] == pytest.approx(conserved.total()[0], rel=1e-3)


@pytest.mark.parametrize("bias", [True, False])
def test_attention_between_different_tokens(bias, passed, signed):
    module = heads(bias=bias)
    q, k, v = signed(2, 3, 6), signed(2, 4, 6, seed=1), signed(2, 4, 6, seed=2)
    found = passed(lambda q, k, v: module(q, k, v)[0], q, k, v, keeps_biases=False)
    assert torch.allclose(found.output, module(q, k, v)[0], rtol=1e-9)
    assert found.relevances[0] is found.relevances[1] is None
    assert found.total()[1] == pytest.approx(found.total()[0], rel=1e-3)
    shared = passed(lambda q, k, v: module(q, k, v)[0], q, k, v, attention="shared")
    assert all(each.abs().sum() > 0 for each in shared.relevances)
    memory = passed(lambda q, k: module(q, k, k)[0], q, k)
    assert torch.allclose(memory.output, module(q, k, k)[0], rtol=1e-9)


@pytest.mark.parametrize("averaged", [True, False])
def test_the_weights_that_are_returned_are_those_of_the_module(averaged, passed, signed):
    module, x = heads(), signed(2, 4, 6)
    found = passed(lambda x: module(x, x, x, average_attn_weights=averaged), x)
    expected = module(x, x, x, average_attn_weights=averaged)
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(found.outputs, expected, strict=True))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"add_bias_kv": True}, "bias_k, bias_v"),
        ({"add_zero_attn": True}, "add_zero_attn"),
        ({"kdim": 4, "vdim": 4}, "q_proj_weight, k_proj_weight, v_proj_weight"),
    ],
)
def test_rare_kinds_of_attention_are_refused_by_name(options, names, passed, signed):
    module = heads(**options)
    k = signed(2, 4, 4 if "kdim" in options else 6, seed=1)
    with pytest.raises(ValueError, match=f"no rule for nn.MultiheadAttention with {names}"):
        passed(lambda q, k: module(q, k, k)[0], signed(2, 3, 6), k)


def test_transformer_layers_of_pytorch_do_not_take_their_short_cut(passed, signed):
    layer = nn.TransformerEncoderLayer(6, 2, 8, activation="gelu", batch_first=True, norm_first=True).double().eval()
    x = signed(2, 4, 6)
    found = passed(layer, x)
    assert torch.allclose(found.output, layer(x), rtol=1e-9) and found.relevance.abs().sum() > 0
    assert not found.tape.without_rule
