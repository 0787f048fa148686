from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zennit import composites as zennit_composites
from zennit.attribution import Gradient

from pipeline.attribution import COMPOSITES, Explainer, attribute
from pipeline.errors import ConfigError


def test_flat_and_epsilon_rule_by_hand(pixels, scrambled):
    network = scrambled(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))).double()
    x = pixels(4, 3, 2, 2).double()
    found = attribute(network, x, 1, layers=["2"])
    hidden = F.relu(F.linear(x.flatten(1), network[1].weight, network[1].bias))
    logit = network(x)[:, 1]
    of_hidden = hidden * network[3].weight[1] * (logit / (logit + logit.sign() * 1e-6))[:, None]
    flat = (of_hidden.sum(1) / 12)[:, None].expand(4, 12).reshape(x.shape)
    assert torch.allclose(found.relevances["2"], of_hidden, rtol=1e-9)
    assert torch.allclose(found.relevance, flat, rtol=1e-4, atol=1e-9)  # the rule's own stabiliser of 1e-6 per 12 ones
    assert torch.allclose(found.activations["2"], hidden)
    assert torch.allclose(found.heatmap, found.relevance.sum(1)) and torch.allclose(found.logits, network(x))


def test_z_plus_rule_by_hand(pixels, scrambled):
    network = scrambled(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))).double()
    x = pixels(3, 3, 2, 2).double()
    found = attribute(network, x, 0, composite="epsilon_plus", layers=["1"])
    positive, shift = network[0].weight[:, :, 0, 0].clamp(min=0), network[0].bias.clamp(min=0)
    z = torch.einsum("nchw,jc->njhw", x, positive) + shift[:, None, None]
    expected = x * torch.einsum("njhw,jc->nchw", found.relevances["1"] / z, positive)
    assert found.relevances["1"].abs().sum() > 0
    assert torch.allclose(found.relevance, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("epsilon_plus_flat", zennit_composites.EpsilonPlusFlat()),
        ("epsilon_plus", zennit_composites.EpsilonPlus()),
        (
            "epsilon_gamma_box",
            zennit_composites.EpsilonGammaBox(low=torch.zeros(1, 3, 1, 1), high=torch.ones(1, 3, 1, 1)),
        ),
        ("epsilon_alpha2_beta1_flat", zennit_composites.EpsilonAlpha2Beta1Flat()),
    ],
)
def test_without_batchnorm_every_composite_is_zennits_own(name, reference, plain, pixels):
    x, target = pixels(4, 3, 12, 12), torch.tensor([0, 3, 1, 1])
    found = attribute(plain(), x, target, composite=name)
    seed = F.one_hot(target, 4)
    logits, expected = Gradient(plain(), reference)(x.clone(), lambda logits: logits.detach() * seed)
    assert torch.allclose(found.logits, logits)
    assert (found.relevance - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert expected.abs().max() > 0
    assert set(COMPOSITES) == {"epsilon_plus_flat", "epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat"}


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "lrp_flex"])
def test_all_ways_to_name_a_target_agree(composite, plain, pixels):
    network, x = plain(), pixels(4, 3, 12, 12)

    def relevance(target):
        return attribute(network, x, target, composite=composite).relevance

    predicted = network(x).argmax(1)
    assert torch.equal(relevance(None), relevance(predicted))
    assert torch.equal(relevance(2), relevance(torch.full((4,), 2)))
    assert torch.equal(relevance(2), relevance(F.one_hot(torch.full((4,), 2), 4).float()))
    weights = torch.tensor([[1.0, -1, 0, 0]]).expand(4, 4)
    margin = relevance(0) - relevance(1)
    assert torch.allclose(relevance(weights), margin, atol=1e-5 * float(margin.abs().max()))


def test_without_biases_every_layer_on_the_way_holds_the_whole_logit(residual, pixels):
    x, network = pixels(3, 3, 13, 13), residual()
    explainer = Explainer(network, x[:2], "epsilon_plus_flat", without_biases=True)
    layers = ["0", "2", "3", "4", "5", "6"]
    found = explainer.attribute(x, torch.tensor([0, 1, 2]), layers=layers)
    logit = found.logits[torch.arange(3), torch.arange(3)]
    assert torch.allclose(found.logits, network(x), atol=1e-5)
    for name, relevance in [("pixels", found.relevance), *found.relevances.items()]:
        assert relevance.flatten(1).sum(1) == pytest.approx(logit, rel=1e-3), name
    assert list(found.relevances) == layers


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "lrp_flex"])
def test_starting_inside_with_the_relevance_found_there_changes_nothing_below(composite, residual, pixels):
    network, x = residual(), pixels(3, 3, 13, 13)
    whole = attribute(network, x, 1, composite=composite, layers=["2", "3", "6"])
    seed = whole.relevances["3"]
    for start in (seed, lambda activation: seed * (activation == whole.activations["3"])):
        part = attribute(
            network, x, composite=composite, layers=["2", "3", "6"], start_layer="3", start_relevance=start
        )
        tolerance = 1e-5 * float(whole.relevance.abs().max())
        assert torch.allclose(part.relevance, whole.relevance, atol=tolerance)
        assert torch.allclose(part.relevances["2"], whole.relevances["2"], atol=1e-5)
        assert torch.allclose(part.relevances["3"], seed, atol=1e-6)
        assert part.relevances["6"].abs().max() == 0, "nothing flows upwards"


def test_a_channel_can_be_explained_alone(residual, pixels):
    network, x = residual(), pixels(3, 3, 13, 13)

    def relevance(channels: list[int]) -> torch.Tensor:
        mask = torch.zeros(6)
        mask[channels] = 1
        return attribute(network, x, start_layer="4", start_relevance=lambda a: a * mask[:, None, None]).relevance

    parts = sum(relevance([channel]) for channel in range(6))
    assert torch.allclose(parts, relevance(list(range(6))), atol=1e-5)
    assert not torch.allclose(relevance([0]), relevance([1]), atol=1e-3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("composite", [*COMPOSITES, "lrp_flex"])
def test_the_model_of_the_user_is_untouched_and_still_trains(composite, training, residual, pixels, untouched):
    network, x = residual(), pixels(2, 3, 13, 13)
    network.train(training)
    network[0].weight.requires_grad_(False)
    for module in network.modules():
        if composite == "lrp_flex" and isinstance(module, nn.BatchNorm2d):
            module.eval()
    network[2].register_forward_hook(lambda *_: None)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    untouched(network, lambda: attribute(network, x, 0, composite=composite, layers=["3"]))
    before = network[8].weight.clone()
    network(x)[:, 0].sum().backward()
    optimizer.step()
    assert not torch.equal(network[8].weight, before)
    assert x.grad is None and not x.requires_grad


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "lrp_flex"])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"layers": ["3.rely"]}, r"layer '3.rely' is no module of the model. Did you mean '3.relu'\?"),
        ({"layers": ["3.relu"]}, "layer '3.relu' runs more than once"),
        ({"start_layer": "3"}, "start_layer needs start_relevance"),
        ({"start_layer": "3", "start_relevance": torch.ones(2, 6)}, r"shape \(2, 6\).*start_layer has \(2, 6, 6, 6\)"),
        ({"target": 4}, "class ids outside 0 to 3"),
    ],
)
def test_wrong_requests_are_explained_and_leave_no_trace(composite, options, match, residual, pixels, untouched):
    network, x = residual(), pixels(2, 3, 13, 13)
    untouched(network, lambda: attribute(network, x, composite=composite, **options), ValueError, match)


def test_composites_say_what_they_cannot_do(plain, pixels):
    network, x = plain(), pixels(2, 3, 12, 12)
    with pytest.raises(ValueError, match="'epsilon_plus' cannot be trained through; use composite='lrp_flex'"):
        attribute(network, x, composite="epsilon_plus", create_graph=True)
    with pytest.raises(TypeError, match="'epsilon_plus' takes no parameter 'epsilon'"):
        attribute(network, x, composite="epsilon_plus", epsilon=0.1)
    with pytest.raises(
        ConfigError, match="'epsilon_pluss' is unknown. Did you mean 'epsilon_plus'.* Allowed: .*lrp_flex"
    ):
        attribute(network, x, composite="epsilon_pluss")


def test_signals_have_heatmaps_over_time(scrambled, pixels):
    network = scrambled(nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)))
    x = pixels(3, 2, 10)
    explainer = Explainer(network, x, "epsilon_plus_flat", without_biases=True)
    found = explainer.attribute(x, 1)
    assert found.heatmap.shape == (3, 10)
    assert found.heatmap.sum(1) == pytest.approx(network(x)[:, 1].detach(), rel=1e-3)


def test_an_explainer_gives_the_same_again(residual, pixels):
    x = pixels(4, 3, 13, 13)
    explainer = Explainer(residual(), x[:2], "epsilon_plus_flat")
    first = explainer.attribute(x, 1, layers=["3"]).relevance
    explainer.attribute(x.flip(3), 2)
    assert torch.equal(explainer.attribute(x, 1).relevance, first)
    assert torch.allclose(explainer.attribute(x[2:], 1).relevance, first[2:], atol=1e-6), "samples do not mix"
