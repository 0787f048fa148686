from __future__ import annotations

import gc
import inspect
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zennit import composites as zennit_composites

from pipeline.attribution import COMPOSITES, Explainer, attribute
from pipeline.attribution.rules import RULES
from pipeline.attribution.rules.flat import Flat
from pipeline.errors import ConfigError
from pipeline.models.build import AuditModel, Normalize

EVERY = [*COMPOSITES, "lrp_flex"]
RESIDUAL_LAYERS = ["0", "1", "2", "3.conv1", "3.norm1", "3.conv2", "3", "4.conv2", "4", "5", "6", "8"]


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


@pytest.mark.parametrize("composite", EVERY)
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


def test_biases_take_their_share(residual, pixels):
    x = pixels(3, 3, 13, 13)
    found = Explainer(residual(), x, "epsilon_plus").attribute(x, 0, layers=["6"])
    ratio = found.relevances["6"].flatten(1).sum(1) / found.logits[:, 0]
    assert torch.allclose(ratio, 1 - residual()[8].bias[0] / found.logits[:, 0], rtol=1e-3)


@pytest.mark.parametrize("composite", EVERY)
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


@pytest.mark.parametrize("composite", EVERY)
def test_a_channel_can_be_explained_alone(composite, residual, pixels):
    network, x = residual(), pixels(3, 3, 13, 13)

    def relevance(channels: list[int]) -> torch.Tensor:
        mask = torch.zeros(6)
        mask[channels] = 1
        return attribute(
            network, x, composite=composite, start_layer="4", start_relevance=lambda a: a * mask[:, None, None]
        ).relevance

    together = relevance(list(range(6)))
    parts = sum(relevance([channel]) for channel in range(6))
    assert torch.allclose(parts, together, atol=1e-5 * max(1, float(together.abs().max())))
    assert not torch.allclose(relevance([0]), relevance([1]), atol=1e-3)


def test_a_concept_direction_can_be_explained(residual, pixels):
    """Relevance that starts at what a direction finds in a layer, a . h, spread over channels as a h."""
    network, x = residual(), pixels(3, 3, 13, 13)
    direction = torch.tensor([0.5, -0.5, 0.1, 0.3, -0.2, 0.6])[:, None, None]
    explainer = Explainer(network, x, "epsilon_plus", without_biases=True)
    found = explainer.attribute(x, layers=["4"], start_layer="4", start_relevance=lambda a: a * direction)
    assert torch.equal(found.relevances["4"], found.activations["4"] * direction)
    evidence = (found.activations["4"] * direction).flatten(1).sum(1)
    assert found.relevance.flatten(1).sum(1) == pytest.approx(evidence, rel=1e-3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("composite", EVERY)
def test_the_model_of_the_user_is_untouched_and_still_trains(composite, training, residual, pixels, untouched):
    network, x = residual(), pixels(2, 3, 13, 13)
    network.train(training)
    network[0].weight.requires_grad_(False)
    for module in network.modules():
        if composite == "lrp_flex" and isinstance(module, nn.BatchNorm2d):
            module.eval()
    network[2].register_forward_hook(lambda *_: None)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before_x = x.clone()
    untouched(network, lambda: attribute(network, x, 0, composite=composite, layers=["3"]))
    untouched(network, lambda: attribute(network, x, 0, composite=composite, layers=["3"], create_graph=True))
    before = network[8].weight.clone()
    network(x)[:, 0].sum().backward()
    optimizer.step()
    assert not torch.equal(network[8].weight, before)
    assert x.grad is None and not x.requires_grad and torch.equal(x, before_x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("composite", EVERY)
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
def test_wrong_requests_are_explained_and_leave_no_trace(
    composite, training, options, match, residual, pixels, untouched
):
    network, x = residual(), pixels(2, 3, 13, 13)
    network.train(training and composite != "lrp_flex")
    untouched(network, lambda: attribute(network, x, composite=composite, **options), ValueError, match)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_an_error_inside_the_model_leaves_no_trace(composite, residual, pixels, untouched):
    network, x = residual().train(), pixels(2, 3, 13, 13)
    explainer = Explainer(network, x, composite)
    untouched(network, lambda: explainer.attribute(pixels(2, 4, 13, 13), layers=["3"]), RuntimeError, "channels")
    assert torch.ones(2).add(1).tolist() == [2, 2], "nothing is followed any more"
    explainer.attribute(x, 0)


def test_composites_say_what_they_cannot_do(plain, pixels):
    network, x = plain(), pixels(2, 3, 12, 12)
    with pytest.raises(TypeError, match="'epsilon_plus' takes no parameter 'epsilon'"):
        attribute(network, x, composite="epsilon_plus", epsilon=0.1)
    with pytest.raises(
        ConfigError, match="'epsilon_pluss' is unknown. Did you mean 'epsilon_plus'.* Allowed: .*lrp_flex"
    ):
        attribute(network, x, composite="epsilon_pluss")
    for options in ({"start": "one_hot"}, {"rules": {"0": "flat"}}):
        with pytest.raises(ValueError, match="'lrp_flex' has one rule and starts at the logits' own values"):
            attribute(network, x, composite="lrp_flex", **options)
    for options in ({"create_graph": True}, {"rules": {"0": "flat"}}):
        with pytest.raises(
            ValueError, match="composite of zennit brings its own rules.* take one of epsilon_plus_flat"
        ):
            attribute(network, x, composite=zennit_composites.EpsilonPlus(), **options)
    with pytest.raises(ValueError, match="start 'softmax' is unknown; allowed are logit, one_hot, contrast"):
        attribute(network, x, start="softmax")


def test_signals_have_heatmaps_over_time(scrambled, pixels):
    network = scrambled(nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)))
    x = pixels(3, 2, 10)
    explainer = Explainer(network, x, "epsilon_plus_flat", without_biases=True)
    found = explainer.attribute(x, 1)
    assert found.heatmap.shape == (3, 10)
    assert found.heatmap.sum(1) == pytest.approx(network(x)[:, 1].detach(), rel=1e-3)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_an_explainer_gives_the_same_again_and_samples_do_not_mix(composite, residual, pixels):
    x = pixels(5, 3, 13, 13)
    explainer = Explainer(residual(), x[:2], composite)
    first = explainer.attribute(x, 1, layers=["3"])
    explainer.attribute(x.flip(3), 2)
    explainer.attribute(x[:1], 0, create_graph=True)
    again = explainer.attribute(x, 1)
    assert torch.equal(again.relevance, first.relevance) and torch.equal(again.logits, first.logits)
    for part in (slice(2, 5), slice(4, 5)):
        alone = explainer.attribute(x[part], 1, layers=["3"])
        scale = float(first.relevance.abs().max())
        assert torch.allclose(alone.relevance, first.relevance[part], atol=1e-5 * scale)
        assert torch.allclose(alone.relevances["3"], first.relevances["3"][part], atol=1e-4 * scale)
    other = attribute(residual(), x, 1, composite=composite, layers=["3"])
    assert torch.equal(other.relevance, first.relevance), "attribute() is an explainer for one batch"


@pytest.mark.parametrize("composite", COMPOSITES)
def test_layers_are_what_the_network_computes_there_in_the_order_asked_for(composite, residual, pixels):
    network, x = residual(), pixels(3, 3, 13, 13)
    recorded = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _m, _i, output, name=name: recorded.update({name: output.clone()})
        )
        for name in RESIDUAL_LAYERS
    ]  # fmt: skip
    with torch.no_grad():
        logits = network(x)
    for handle in handles:
        handle.remove()
    explainer = Explainer(network, x, composite)
    found = explainer.attribute(x, 1, layers=RESIDUAL_LAYERS)
    assert list(found.activations) == list(found.relevances) == RESIDUAL_LAYERS
    for name in RESIDUAL_LAYERS:
        assert torch.allclose(found.activations[name], recorded[name], rtol=1e-4, atol=1e-5), name
        assert found.relevances[name].shape == recorded[name].shape
    assert torch.allclose(found.logits, logits, rtol=1e-4, atol=1e-5)
    turned = explainer.attribute(x, 1, layers=RESIDUAL_LAYERS[::-1])
    alone = explainer.attribute(x, 1, layers=["3.conv2"])
    assert list(turned.relevances) == RESIDUAL_LAYERS[::-1]
    assert all(torch.equal(turned.relevances[name], found.relevances[name]) for name in RESIDUAL_LAYERS)
    assert torch.equal(alone.relevances["3.conv2"], found.relevances["3.conv2"])


@pytest.mark.parametrize("composite", COMPOSITES)
def test_without_the_input_the_rest_is_the_same(composite, residual, pixels):
    """Also the layers right above the lowest one asked for: rules for first layers are for the first layer."""
    x = pixels(3, 3, 13, 13)
    for layers in (["3.conv1"], ["4", "2"], ["0"], ["6"], []):
        explainer = Explainer(residual(), x, composite)
        whole = explainer.attribute(x, 1, layers=layers)
        part = explainer.attribute(x, 1, layers=layers, at_input=False)
        assert part.relevance is None and torch.equal(part.logits, whole.logits)
        with pytest.raises(ValueError, match="there is no heatmap: the attribution was made with at_input=False"):
            part.heatmap  # noqa: B018
        for name in layers:
            assert torch.equal(part.relevances[name], whole.relevances[name]), name
            assert torch.equal(part.activations[name], whole.activations[name]), name


def test_a_layer_before_the_first_one_leaves_the_first_one_first(residual, pixels):
    model = AuditModel(residual(), Normalize((0.2, 0.5, 0.4), (0.25, 0.5, 2.0)))
    x = pixels(3, 3, 13, 13)
    explainer = Explainer(model, x, "epsilon_gamma_box")
    part = explainer.attribute(x, 1, layers=["normalize"], at_input=False)
    assert torch.equal(part.relevances["normalize"], explainer.attribute(x, 1).relevance)


def test_starts(residual, pixels):
    network, x = residual().double(), pixels(3, 3, 13, 13).double()
    target = torch.tensor([0, 3, 1])
    explainer = Explainer(network, x, "epsilon_plus", without_biases=True)
    logits = network(x).requires_grad_()
    probability = logits.softmax(1)[torch.arange(3), target]
    (gradient,) = torch.autograd.grad(probability.sum(), logits)
    expected = {
        "logit": logits[torch.arange(3), target],
        "one_hot": torch.ones(3).double(),
        "contrast": gradient.sum(1),  # 0: what speaks for the class minus what speaks for the others
    }
    for start, total in expected.items():
        found = explainer.attribute(x, target, start=start, layers=["8", "6"])
        assert found.relevances["8"].sum(1).detach() == pytest.approx(total.detach(), abs=1e-12)
        assert found.relevance.flatten(1).sum(1) == pytest.approx(total.detach(), abs=1e-4)
    assert torch.allclose(found.relevances["8"], gradient, rtol=1e-12)
    one_hot = explainer.attribute(x, target, start="one_hot").relevance
    logit = explainer.attribute(x, target).relevance
    size = found.logits[torch.arange(3), target].view(3, 1, 1, 1)
    assert torch.allclose(logit, one_hot * size, rtol=1e-6, atol=1e-9)
    margin = torch.tensor([[1.0, -0.5, 0, 0]]).expand(3, 4).double()
    assert torch.equal(explainer.attribute(x, margin, start="one_hot", layers=["8"]).relevances["8"], margin)


def test_a_rule_for_single_layers_changes_exactly_those(residual, pixels):
    network, x = residual(), pixels(3, 3, 13, 13)
    layers = ["0", "3.conv1", "3.conv2", "4.conv1", "4.conv2", "8"]
    usual = Explainer(network, x, "epsilon_plus").attribute(x, 1, layers=[*layers, "3", "4"])
    every = Explainer(network, x, "epsilon_plus", rules={"*": "z_plus", "8": "epsilon"}).attribute(x, 1)
    assert torch.equal(every.relevance, usual.relevance), "the rules that the composite has anyway"
    changed = Explainer(network, x, "epsilon_plus", rules={"3.conv*": "gamma(gamma=0.5)"})
    found = changed.attribute(x, 1, layers=[*layers, "3", "4"])
    for name in ("8", "4", "4.conv2", "4.conv1", "3", "3.conv2"):
        assert torch.equal(found.relevances[name], usual.relevances[name]), "above, nothing changes"
    # below the output of conv2, its rule is another one
    assert not torch.allclose(found.relevances["3.conv1"], usual.relevances["3.conv1"], rtol=0.01)
    by_object = Explainer(network, x, "epsilon_plus", rules={"3.conv*": RULES["gamma"](0.5)}).attribute(x, 1)
    assert torch.equal(by_object.relevance, found.relevance)
    by_composite = replace(COMPOSITES["epsilon_plus"], overrides={"3.conv*": RULES["gamma"](0.5)})
    assert torch.equal(attribute(network, x, 1, composite=by_composite).relevance, found.relevance)
    first = attribute(network, x, 1, composite="epsilon_plus", rules={"0": "flat"})
    assert torch.equal(first.relevance, attribute(network, x, 1, composite="epsilon_plus_flat").relevance)


def test_rules_that_would_do_nothing_are_refused(residual, pixels, untouched):
    network, x = residual(), pixels(2, 3, 13, 13)
    for rules, match in (
        (
            {"3.conv": "flat"},
            r"rules: no layer with weights matches '3.conv'. Did you mean '3.conv.'\? Layers: 0, 1, 3",
        ),
        ({"*.relu": "flat"}, r"no layer with weights matches '\*.relu'"),
        ({"3.*": "flad"}, "rules: 3.*: rule 'flad' is unknown. Did you mean 'flat'"),
    ):
        untouched(network, lambda rules=rules: Explainer(network, x, rules=rules), ConfigError, match)


def test_a_composite_may_be_made_by_hand(residual, pixels):
    x = pixels(2, 3, 13, 13)
    mine = replace(COMPOSITES["epsilon_plus"], first=Flat())
    expected = attribute(residual(), x, 1, composite="epsilon_plus_flat").relevance
    assert torch.equal(attribute(residual(), x, 1, composite=mine).relevance, expected)


@pytest.mark.parametrize("at_input", [True, False])
def test_a_layer_that_does_not_depend_on_the_input_has_no_relevance(at_input, scrambled, pixels):
    class Positions(nn.Module):
        """Position embeddings by a network of their own, as in Swin v2."""

        def __init__(self):
            super().__init__()
            self.first, self.of_positions, self.head = nn.Linear(6, 4), nn.Linear(2, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head((self.first(x) + self.of_positions(torch.ones(1, 2).to(x))).relu())

    network, x = scrambled(Positions()), pixels(3, 6)
    explainer = Explainer(network, x, "epsilon")
    found = explainer.attribute(x, 1, layers=["of_positions", "first"], at_input=at_input)
    assert found.relevances["of_positions"].abs().max() == 0
    assert torch.allclose(found.activations["of_positions"], network.of_positions(torch.ones(1, 2)))
    alone = explainer.attribute(x, 1, layers=["first"])
    assert torch.equal(found.relevances["first"], alone.relevances["first"])
    assert not at_input or torch.equal(found.relevance, alone.relevance)


@pytest.mark.parametrize("at_input", [True, False])
def test_conditions_let_a_part_of_relevance_through(at_input, residual, pixels):
    network, x = residual(), pixels(3, 3, 13, 13)
    explainer = Explainer(network, x, "epsilon_plus")
    mask = torch.tensor([1.0, 0, 0, 1, 0, 0])[:, None, None]
    usual = explainer.attribute(x, 1, layers=["4", "3", "2"])
    for condition in (mask, lambda relevance: relevance * mask):
        found = explainer.attribute(x, 1, layers=["4", "3", "2"], conditions={"3": condition}, at_input=at_input)
        assert torch.equal(found.relevances["4"], usual.relevances["4"])
        assert torch.equal(found.relevances["3"], usual.relevances["3"] * mask)
        below = explainer.attribute(x, layers=["2"], start_layer="3", start_relevance=usual.relevances["3"] * mask)
        assert torch.allclose(found.relevances["2"], below.relevances["2"], rtol=1e-5, atol=1e-7)
    lowest = explainer.attribute(x, 1, layers=["3"], conditions={"3": mask}, at_input=at_input)
    assert torch.equal(lowest.relevances["3"], usual.relevances["3"] * mask), "also where the way ends"


def test_of_layers_only_what_is_asked_for_is_kept(residual, pixels):
    network, x = residual(), pixels(3, 3, 13, 13)
    explainer = Explainer(network, x, "epsilon_plus")
    whole = explainer.attribute(x, 1, layers=["3", "4", "6"])
    seen = []

    def largest(name: str, values: torch.Tensor) -> torch.Tensor:
        seen.append(name)
        return values.flatten(2).amax(2) if values.ndim > 2 else values

    pooled = explainer.attribute(x, 1, layers=["3", "4", "6"], keep_activation=largest, keep_relevance=largest)
    assert seen == ["3", "4", "6", "6", "4", "3"], "as soon as they are there"
    for name in ("3", "4"):
        assert torch.equal(pooled.activations[name], whole.activations[name].flatten(2).amax(2))
        assert torch.equal(pooled.relevances[name], whole.relevances[name].flatten(2).amax(2))
    above = explainer.attribute(
        x, layers=["3", "6"], start_layer="3", start_relevance=torch.abs, keep_relevance=lambda name, r: r.sum()
    )
    assert above.relevances["6"] == 0 and above.relevances["3"] > 0


@pytest.mark.parametrize("create_graph", [False, True])
def test_pixels_in_any_memory_layout_and_of_any_kind_of_tensor(create_graph, residual, pixels):
    network, x = residual(), pixels(3, 3, 13, 13)
    explainer = Explainer(network, x, "epsilon_plus_flat")
    expected = explainer.attribute(x, 1, create_graph=create_graph).relevance
    for same in (x.contiguous(memory_format=torch.channels_last), x.clone().requires_grad_(), pixels(3, 13, 13, 3)):
        same = same if same.shape == x.shape else same.copy_(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        found = explainer.attribute(same, 1, create_graph=create_graph).relevance
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert explainer.attribute(pixels(2, 3, 17, 15), 1).heatmap.shape == (2, 17, 15), "images of another size"


def test_inference_mode_changes_nothing(residual, pixels):
    network, x = residual(), pixels(3, 3, 13, 13)
    expected = attribute(network, x, 1)
    with torch.inference_mode():
        found = attribute(network, x, 1)
        of_inference = attribute(network, x * 1, 1)
        graph = attribute(network, x * 1, 1, create_graph=True)
    assert graph.relevance.requires_grad
    assert torch.equal(found.relevance, expected.relevance) and expected.relevance.abs().sum() > 0
    assert torch.equal(of_inference.relevance, expected.relevance)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_memory_layouts_agree(composite, normalized, pixels):
    x = pixels(3, 3, 13, 13)
    last, first = (
        Explainer(normalized(), x, composite, channels_last=layout).attribute(x, 1, layers=["0", "7"])
        for layout in (True, False)
    )
    for a, b in ((last.relevance, first.relevance), *((last.relevances[n], first.relevances[n]) for n in ("0", "7"))):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_networks_of_torchscript_are_refused(residual, pixels, untouched):
    network, x = residual(), pixels(2, 3, 13, 13)
    with pytest.warns(FutureWarning):
        whole = torch.jit.trace(network, x)
        part = nn.Sequential(network[:3], torch.jit.script(nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU())))
    with pytest.raises(ValueError, match="the model is TorchScript, which hides.* ordinary Python modules"):
        Explainer(whole, x)
    untouched(part, lambda: Explainer(part, x), ValueError, "module '1' is TorchScript")


class Odd(nn.Module):
    """Does something between two layers."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second, self.between = nn.Linear(6, 6), nn.Linear(6, 3), between

    def forward(self, x):
        return self.second(self.between(self.first(x)))


def written_behind_its_back(x):
    view = x[:, :3]
    view.mul_(2)
    return x


def forgotten(x):
    x.add_(1)
    return x


class Doubled(torch.autograd.Function):
    """A function with a derivative of its own."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


@pytest.mark.parametrize(
    ("between", "match"),
    [
        (written_behind_its_back, "computes something else while attribution follows it: it writes in place"),
        (forgotten, "computes something else.* Write y = f"),
        (lambda x: x + torch.rand(6), "is random in evaluation mode"),
        (lambda x: torch.from_numpy(x.detach().numpy()), "cannot see how the logits come from the input"),
        (lambda x: x.round().long().float(), "cannot see how the logits come from the input"),
        (lambda x: x.index_put_((torch.tensor([0]),), torch.ones(())) * 1, None),
    ],
)
def test_what_cannot_be_followed_is_refused(between, match, pixels, untouched):
    network, x = Odd(between), pixels(2, 6)
    if match is None:
        assert torch.allclose(attribute(network, x, 0).logits, network(x))
    else:
        untouched(network, lambda: Explainer(network, x), ValueError, match)


def test_functions_with_derivatives_of_their_own_are_followed_through_what_they_compute(scrambled, pixels):
    own, usual = (scrambled(Odd(between)) for between in (Doubled.apply, lambda x: x * 2))
    x = pixels(3, 6)
    for create_graph in (False, True):
        found, expected = (attribute(n, x, 0, create_graph=create_graph).relevance for n in (own, usual))
        assert torch.allclose(found, expected) and expected.abs().sum() > 0


def test_networks_that_return_several_tensors_are_refused(functional, pixels):
    with pytest.raises(ValueError, match="return one tensor of logits"):
        Explainer(nn.Sequential(nn.Linear(6, 6), functional(lambda x: (x, x))), pixels(2, 6))


def test_functions_without_a_rule_are_named(functional, pixels):
    network = nn.Sequential(nn.Linear(6, 6), functional(F.glu), functional(lambda x: x.cumprod(1)), nn.Linear(3, 2))
    explainer = Explainer(network, pixels(2, 6))
    assert explainer.without_rule == {"torch.nn.functional.glu", "torch.Tensor.cumprod"}
    assert Explainer(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), pixels(2, 6)).without_rule == frozenset()


@pytest.mark.parametrize("composite", COMPOSITES)
def test_weights_that_change_in_place_are_seen(composite, normalized, pixels):
    network, x = normalized(), pixels(3, 3, 13, 13)
    explainer = Explainer(network, x, composite)
    before = explainer.attribute(x, 1).relevance

    def agrees() -> bool:
        found, fresh = explainer.attribute(x, 1), Explainer(network, x, composite).attribute(x, 1)
        nonlocal before
        changed = not torch.allclose(found.relevance, before, rtol=1e-3)
        before = found.relevance
        return changed and torch.equal(found.relevance, fresh.relevance) and torch.equal(found.logits, fresh.logits)

    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    network(x)[:, 0].sum().backward()
    optimizer.step()
    assert agrees(), "a step of the optimizer"
    network.load_state_dict(normalized(seed=3).state_dict())
    assert agrees(), "a checkpoint"
    network.train()
    with torch.no_grad():
        network(x * 3)
    network.eval()
    assert agrees(), "statistics of BatchNorm"
    with torch.no_grad():
        network[1].bias.add_(1)
    assert agrees(), "one parameter"


def test_tensors_that_are_exchanged_are_seen(normalized, pixels):
    network, x = normalized(), pixels(3, 3, 13, 13)
    explainer = Explainer(network, x, "epsilon_plus", rules={"7": "gamma"})

    def agrees(x: torch.Tensor) -> bool:
        fresh = Explainer(network, x, "epsilon_plus", rules={"7": "gamma"})
        return torch.equal(explainer.attribute(x, 1).relevance, fresh.attribute(x, 1).relevance)

    network.double()
    assert agrees(x.double()), "another type"
    network.float()
    assert agrees(x)
    network.load_state_dict(normalized(seed=3).state_dict(), assign=True)
    assert agrees(x), "other parameters and buffers"
    network[0] = nn.Conv2d(3, 8, 5, padding=2)
    assert agrees(x), "another layer"
    network[4].weight.data = torch.randn(network[4].weight.shape)
    assert agrees(x), "another memory"


def test_what_an_explainer_watched_it_lets_go(residual, pixels):
    """Activations of the example would otherwise stay until Python looks for circles."""
    network, x, alive = residual(), pixels(2, 3, 13, 13), []
    handle = network[4].register_forward_hook(lambda _m, _i, output: alive.append(weakref.ref(output)))
    gc.collect()
    gc.disable()
    try:
        explainer = Explainer(network, x)
        assert alive and all(reference() is None for reference in alive)
        explainer.attribute(x, 1, layers=["6"])
        assert all(reference() is None for reference in alive)
    finally:
        gc.enable()
        handle.remove()


def test_activations_below_all_that_is_wanted_are_let_go_at_once(residual, pixels):
    network, x, lower, alive = residual(), pixels(2, 3, 13, 13), [], []
    explainer = Explainer(network, x)
    network[3].conv2.register_forward_hook(lambda _m, _i, output: lower.append(weakref.ref(output)))
    network[6].register_forward_hook(lambda *_: alive.append(lower[-1]() is not None))
    for at_input in (True, False):
        explainer.attribute(x, 1, layers=["5"], at_input=at_input)
    assert alive == [True, False]


def test_the_shortcut_has_the_explainers_options():
    of_explainer = inspect.signature(Explainer.attribute).parameters
    of_shortcut = inspect.signature(attribute).parameters
    shared = ("x", "target", "layers", "start", "start_layer", "start_relevance", "create_graph")
    assert all(of_explainer[name].default == of_shortcut[name].default for name in shared)


def test_a_layer_that_hands_its_input_on_keeps_what_it_keeps_under_its_own_name(scrambled, pixels):
    head = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Identity(), nn.Flatten(), nn.Linear(64, 3))
    network, x = scrambled(nn.Sequential(nn.Identity(), *head)), pixels(2, 3, 6, 6)
    layers = ["0", "2", "3"]
    found = Explainer(network, x).attribute(x, 1, layers=layers, keep_relevance=lambda name, r: (name, r.sum()))
    assert [found.relevances[name][0] for name in layers] == layers
    assert torch.allclose(found.relevances["0"][1], found.relevance.sum())
    assert found.relevances["2"][1] == found.relevances["3"][1]


class Positions(nn.Module):
    """Adds what a layer of its own makes of no input."""

    def __init__(self):
        super().__init__()
        self.first, self.made, self.last = nn.Linear(6, 5), nn.Linear(2, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.first(x).relu() + self.made(torch.ones(2)))


def test_a_layer_that_does_not_depend_on_the_input_explains_nothing(scrambled, pixels):
    network, x = scrambled(Positions()), pixels(4, 6)
    explainer = Explainer(network, x, without_biases=True)
    found = explainer.attribute(x, 1, layers=["first", "made"])
    assert found.relevances["made"].abs().max() == 0 and found.activations["made"].abs().max() > 0
    assert torch.allclose(found.relevances["first"].sum(1), found.logits[:, 1], rtol=1e-4)
    with pytest.raises(ValueError, match="start_layer 'made' does not depend on the input"):
        explainer.attribute(x, start_layer="made", start_relevance=lambda activation: activation)


def test_an_empty_batch_is_refused(plain, pixels):
    explainer = Explainer(plain(), pixels(2, 3, 12, 12))
    with pytest.raises(ValueError, match="the batch is empty"):
        explainer.attribute(pixels(0, 3, 12, 12))
