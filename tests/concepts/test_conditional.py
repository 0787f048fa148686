from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.attribution import Explainer
from pipeline.concepts.conditional import conditional_heatmaps

CHANNELS = 5


class Residual(nn.Module):
    """`hidden` has a way around it; `relu` lies on all ways."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, CHANNELS, 3, padding=1)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.hidden = nn.ReLU()
        self.back = nn.Conv2d(CHANNELS, 4, 1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        stem = self.stem(x)
        joined = self.relu(self.back(self.hidden(self.norm(self.inner(stem)))) + stem)
        return self.head(joined.mean((2, 3)))


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 2, stride=2)
        self.mix = nn.Linear(4, CHANNELS)
        self.relu = nn.ReLU()
        self.head = nn.Linear(CHANNELS, 3)

    def forward(self, x):
        return self.head(self.relu(self.mix(self.patches(x).flatten(2).transpose(1, 2))).mean(1))


def plain(convolution: type[nn.Module], norm: type[nn.Module], pool: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            first=convolution(1, 4, 3, padding=1),
            norm=norm(4),
            relu1=nn.ReLU(),
            second=convolution(4, CHANNELS, 3, padding=1),
            relu2=nn.ReLU(),
            pool=pool(1),
            flatten=nn.Flatten(),
            head=nn.Linear(CHANNELS, 3),
        )
    )


CASES = {
    "image": (lambda: plain(nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d), (1, 8, 6), "relu2"),
    "convolution": (lambda: plain(nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d), (1, 8, 6), "second"),
    "signal": (lambda: plain(nn.Conv1d, nn.BatchNorm1d, nn.AdaptiveAvgPool1d), (1, 12), "relu2"),
    "tokens": (Tokens, (1, 8, 6), "relu"),
    "vector": (lambda: plain(nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d), (1, 8, 6), "flatten"),
}


def make(build, shape) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = build().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model, torch.rand(4, *shape)


@pytest.fixture(params=CASES)
def case(request):
    build, shape, layer = CASES[request.param]
    model, x = make(build, shape)
    return Explainer(model, x, "epsilon_plus"), x, layer


def test_over_all_channels_the_heatmaps_sum_to_the_unconditional_one(case):
    explainer, x, layer = case
    target = torch.tensor([0, 2, 1, 0])
    parts = [conditional_heatmaps(explainer, x, target, layer, channel) for channel in range(CHANNELS)]
    whole = explainer.attribute(x, target).heatmap.numpy()
    assert parts[0].shape == whole.shape and parts[0].dtype == np.float32
    np.testing.assert_allclose(sum(parts), whole, atol=2e-6 * np.abs(whole).max() + 1e-8, rtol=1e-3)
    assert sum(np.abs(part).max() > 1e-3 * np.abs(whole).max() for part in parts) >= 2, "more than one channel counts"


def test_each_sample_may_have_its_own_channel(case):
    explainer, x, layer = case
    channels = [3, 0, 4, 3]
    together = conditional_heatmaps(explainer, x, 1, layer, channels)
    for sample, channel in enumerate(channels):
        alone = conditional_heatmaps(explainer, x[sample, None], 1, layer, channel)[0]
        np.testing.assert_allclose(together[sample], alone, rtol=1e-3, atol=1e-6 * (np.abs(alone).max() + 1e-6))


def test_weights_choose_sets_of_channels_and_shares_of_them(case):
    explainer, x, layer = case
    one, two = (conditional_heatmaps(explainer, x, 1, layer, channel) for channel in (1, 2))
    weights = torch.zeros(4, CHANNELS)
    weights[:, 1], weights[:2, 2] = 0.5, 1
    expected = 0.5 * one
    expected[:2] += two[:2]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        conditional_heatmaps(explainer, x, 1, layer, weights), expected, rtol=1e-3, atol=1e-6 * scale
    )
    both = conditional_heatmaps(explainer, x, 1, layer, torch.tensor([[False, True, True, False, False]]))
    np.testing.assert_allclose(both, one + two, rtol=1e-3, atol=1e-6 * scale)


def test_on_a_layer_on_all_paths_it_is_what_a_mask_on_the_way_leaves():
    model, x = make(*CASES["image"][:2])
    explainer = Explainer(model, x, "epsilon_plus")
    mask = torch.zeros(CHANNELS, 1, 1)
    mask[2] = 1
    masked = explainer.attribute(x, 0, conditions={"relu2": mask}).heatmap.numpy()
    np.testing.assert_allclose(conditional_heatmaps(explainer, x, 0, "relu2", 2), masked, rtol=1e-4, atol=1e-9)


def test_closed_form_each_pixel_keeps_what_its_channel_contributes():
    """With 1 x 1 convolutions of one input channel, relevance stays at its pixel: a_c(p) w_kc / pixels."""
    model = nn.Sequential(
        OrderedDict(
            convolution=nn.Conv2d(1, 3, 1, bias=False),
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(3, 2, bias=False),
        )
    )
    with torch.no_grad():
        model.convolution.weight.copy_(torch.tensor([1.0, 2.0, -1.0]).view(3, 1, 1, 1))
        model.head.weight.copy_(torch.tensor([[1.0, -1.0, 3.0], [0.5, 0.25, 3.0]]))
    x = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    explainer = Explainer(model, x, "epsilon_plus")
    for channel, factor in ((0, 1.0), (1, -2.0), (2, 0.0)):
        found = conditional_heatmaps(explainer, x, 0, "relu", channel)
        np.testing.assert_allclose(found, factor * x[:, 0].numpy() / 20, rtol=1e-4, atol=1e-8)


def test_what_passes_beside_the_layer_shows_in_no_neuron():
    model, x = make(Residual, (1, 8, 6))
    with torch.no_grad():
        model.inner.weight[1], model.inner.bias[1] = 0, -1
        model.norm.bias[1] = -5
    explainer = Explainer(model, x, "epsilon_plus")
    assert np.abs(conditional_heatmaps(explainer, x, 0, "hidden", 1)).max() == 0
    heatmaps = [conditional_heatmaps(explainer, x, 0, "hidden", channel) for channel in range(CHANNELS)]
    beside = explainer.attribute(x, 0, conditions={"hidden": torch.zeros(CHANNELS, 1, 1)}).heatmap.numpy()
    whole = explainer.attribute(x, 0).heatmap.numpy()
    assert np.abs(beside).max() > 0.05 * np.abs(whole).max()
    np.testing.assert_allclose(sum(heatmaps), whole - beside, atol=1e-5 * np.abs(whole).max())


def test_the_channel_axis_is_found_and_can_be_given():
    model, x = make(Tokens, (1, 8, 6))
    explainer = Explainer(model, x, "epsilon_plus")
    found = conditional_heatmaps(explainer, x, 0, "relu", 2)
    assert np.array_equal(found, conditional_heatmaps(explainer, x, 0, "relu", 2, channel_axis=-1))


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (CHANNELS, "channels 0 to 4"),
        (-1, "channels 0 to 4"),
        ([0, 1], r"one per sample \[4\]"),
        (torch.ones(2, CHANNELS), r"need \[4, 5\]"),
        (torch.ones(4, CHANNELS + 1), r"need \[4, 5\]"),
    ],
)
def test_channels_that_do_not_fit_are_refused(channels, message):
    model, x = make(*CASES["image"][:2])
    with pytest.raises(ValueError, match=message):
        conditional_heatmaps(Explainer(model, x, "epsilon_plus"), x, 0, "relu2", channels)


def test_an_unknown_layer_is_refused_with_the_nearest_one():
    model, x = make(*CASES["image"][:2])
    with pytest.raises(ValueError, match="'rellu2'.* Did you mean 'relu2'"):
        conditional_heatmaps(Explainer(model, x, "epsilon_plus"), x, 0, "rellu2", 0)
