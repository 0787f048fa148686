"""A classifier behind a segmenter."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from pipeline.attribution import attribute
from pipeline.models.segmented import REMOVED, Segmented
from pipeline.models.small_cnn import small_cnn


def classifier() -> nn.Module:
    torch.manual_seed(1)
    return small_cnn(3, 2, width=4, blocks=2).eval()


def made() -> Segmented:
    torch.manual_seed(2)
    model = Segmented(classifier(), channels=2, width=4, depth=2).eval()
    model.fill.copy_(torch.tensor([0.2, -0.3]).view(2, 1, 1))
    return model


@pytest.fixture
def x():
    return torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(4))


class Known(nn.Module):
    """A segmenter that says what it is told."""

    def __init__(self, foreground: torch.Tensor):
        super().__init__()
        self.logits = nn.Parameter(torch.logit(foreground))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1, -1, -1)


def half() -> torch.Tensor:
    foreground = torch.ones(1, 1, 16, 16)
    foreground[..., 8:] = 0
    return foreground


def test_with_foreground_everywhere_it_is_the_classifier(x):
    model = made()
    model.segmenter = Known(torch.ones(1, 1, 16, 16))
    torch.testing.assert_close(model(x), classifier()(x))


def test_foreground_between_0_and_1_blends_and_little_of_it_is_none(x):
    model, foreground = made(), torch.tensor([0.0, 0.5 * REMOVED, 0.25, 1.0]).view(1, 1, 1, 4)
    image = x[:1, :, :1, :4]
    fill = model.fill[None]
    expected = torch.cat([fill, fill, 0.25 * image[..., 2:3] + 0.75 * fill, image[..., 3:]], -1)
    torch.testing.assert_close(model.cut_out(image, foreground), expected)


def test_background_changes_nothing_and_gets_no_relevance(x):
    model = made()
    model.segmenter = Known(half())
    other = x.clone()
    other[..., 8:] += 5
    assert torch.equal(model(x), model(other))
    relevance = attribute(model, x).relevance
    assert relevance.isfinite().all() and relevance[..., :8].abs().sum() > 0
    assert not relevance[..., 8:].any()


def test_relevance_of_the_foreground_is_that_of_the_classifier_on_the_cut_out_image(x):
    model = made()
    model.segmenter = Known(half())
    expected = attribute(model.network, model.cut_out(x, half())).relevance
    torch.testing.assert_close(attribute(model, x).relevance[..., :8], expected[..., :8])


def test_relevance_takes_the_foreground_that_was_found_for_a_constant(x):
    model, known = made(), made()
    for row in range(len(x)):
        one = x[row : row + 1]
        known.segmenter = Known(model.foreground(one).detach())
        torch.testing.assert_close(attribute(model, one, 1).relevance, attribute(known, one, 1).relevance)


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "epsilon_plus", "gradient"])
def test_explanations_are_finite(x, composite):
    assert attribute(made(), x, composite=composite).relevance.isfinite().all()


def test_gradients_are_those_of_the_function_through_the_segmenter_too(x):
    model, x = made().double(), x[:1].double().requires_grad_(True)
    (slope,) = torch.autograd.grad(model(x)[0, 1], x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        change = (model(x + 1e-6 * direction) - model(x - 1e-6 * direction))[0, 1] / 2e-6
    assert float((slope * direction).sum()) == pytest.approx(float(change), rel=1e-4)
    parameters = list(model.segmenter.parameters())
    found = torch.autograd.grad(model(x).sum(), parameters)
    assert all(each.isfinite().all() for each in found) and any(each.any() for each in found)


def test_it_can_be_copied_stored_and_traced(x):
    model = made()
    other = Segmented(classifier(), channels=2, width=4, depth=2).eval()
    other.load_state_dict(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, x[:2])
    for same in (copy.deepcopy(model), other, traced):
        torch.testing.assert_close(same(x), model(x))
