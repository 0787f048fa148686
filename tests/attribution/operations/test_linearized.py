from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F


def test_a_function_without_a_rule_is_taken_for_linear_and_named(passed, signed):
    x = signed(3, 6)
    found = passed(F.glu, x)
    assert torch.equal(found.output, F.glu(x)) and found.tape.without_rule == {"torch.nn.functional.glu"}
    values, gate = x.chunk(2, 1)
    scaled = found.start[0] / (found.output + found.output.sign() * 1e-6)
    of_values = values * gate.sigmoid() * scaled
    of_gate = gate * values * gate.sigmoid() * (1 - gate.sigmoid()) * scaled
    assert torch.allclose(found.relevance, torch.cat([of_values, of_gate], 1), rtol=1e-9)


def test_what_is_homogeneous_keeps_all_relevance(passed, signed):
    found = passed(lambda x: x.norm(dim=1), signed(3, 6))
    assert found.total()[1] == pytest.approx(found.total()[0], rel=1e-3)
    assert found.tape.without_rule == {"torch.Tensor.norm"}


def test_complex_numbers_are_named_and_take_no_relevance(passed, signed):
    found = passed(lambda x: x * 2 + torch.fft.ifft(torch.fft.fft(x)).real * 0, signed(3, 4), keeps_biases=False)
    assert found.tape.without_rule == {"torch.fft.fft"} and torch.allclose(found.relevance, found.start[0], rtol=1e-5)


def test_several_results_of_which_some_are_indices(passed, signed):
    x = signed(3, 5)
    found = passed(lambda x: torch.cummax(x, 1), x)
    values, indices = found.outputs
    assert found.nodes[1] is None and torch.equal(values, torch.cummax(x, 1).values)
    expected = torch.zeros_like(x).scatter_add_(1, indices, found.start[0])
    assert torch.allclose(found.relevance, expected, rtol=1e-4, atol=1e-4)
    assert found.tape.without_rule == {"torch.cummax"}


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.shape, lambda x: x.mean().shape, lambda x: x.dtype, lambda x: x.device, lambda x: x.numel(),
        lambda x: x > 0, lambda x: x.argmax(1), lambda x: torch.isnan(x), lambda x: float(x.sum()), lambda x: x.ndim,
        lambda x: x.size(1), lambda x: x.long(), lambda x: len(x), lambda x: x.is_floating_point(),
        lambda x: x.stride(),
    ],
)  # fmt: skip
def test_questions_about_a_tensor_are_no_functions_of_it(ask, passed, signed):
    found = passed(lambda x: (ask(x), x * 2)[1], signed(3, 5))
    assert not found.tape.without_rule
    assert torch.equal(found.relevance, found.start[0])


def test_a_function_in_place_leaves_its_input_as_it_was(passed, signed):
    x, places = signed(3, 5), []
    found = passed(lambda place: places.append(place) or place.erf_(), x)
    assert torch.equal(places[0], x) and torch.equal(found.output, x.erf())


def test_lists_that_grow_later_are_remembered_as_they_were(passed, signed):
    def dense(a, b):
        features = [a, b]
        together = torch.block_diag(*features)
        features.append(a)
        return together

    a, b = signed(2, 3), signed(3, 2, seed=1)
    found = passed(dense, a, b)
    assert found.tape.without_rule == {"torch.functional.block_diag"}
    of_blocks = found.start[0][:2, :3], found.start[0][2:, 3:]
    assert all(torch.allclose(got, r, rtol=1e-3) for got, r in zip(found.relevances, of_blocks, strict=True))
