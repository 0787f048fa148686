from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zennit import composites
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm

from pipeline.attribution import COMPOSITES, Explainer, attribute
from pipeline.attribution.zennit_adapter import attribute_by_zennit, is_zennit_composite


def test_composites_of_zennit_are_recognised():
    class Own(composites.EpsilonPlus):
        pass

    for composite in (composites.EpsilonPlus(), Own(), composites.LayerMapComposite([])):
        assert is_zennit_composite(composite)
    for other in ("epsilon_plus", COMPOSITES["epsilon_plus"], None, nn.ReLU(), 3):
        assert not is_zennit_composite(other)


@pytest.mark.parametrize("make", [composites.EpsilonPlusFlat, composites.EpsilonAlpha2Beta1, composites.EpsilonPlus])
def test_without_batchnorm_it_is_zennit_itself(make, plain, pixels):
    x, target = pixels(4, 3, 12, 12), torch.tensor([0, 3, 1, 1])
    found = attribute(plain(), x, target, composite=make())
    seed = F.one_hot(target, 4)
    logits, expected = Gradient(plain(), make())(x.clone(), lambda logits: logits.detach() * seed)
    assert torch.allclose(found.logits, logits) and torch.equal(found.relevance, expected)
    assert expected.abs().max() > 0 and not found.relevance.requires_grad


def test_composites_of_other_families_are_themselves_where_nothing_is_summed(scrambled, pixels):
    def make() -> nn.Module:
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)]
        return scrambled(nn.Sequential(*layers))

    x = pixels(2, 3, 8, 8)
    for composite in (composites.GuidedBackprop(), composites.ExcitationBackprop()):
        found = attribute(make(), x, 1, composite=composite, start="one_hot")
        _, expected = Gradient(make(), composite)(x.clone(), torch.tensor([[0.0, 1, 0]]).expand(2, 3))
        assert torch.equal(found.relevance, expected) and expected.abs().max() > 0


def test_with_batchnorm_it_is_zennit_with_its_canonizer(normalized, pixels):
    x, network = pixels(3, 3, 13, 13).double(), normalized().double()
    found = attribute(network, x, 2, composite=composites.EpsilonPlus())
    canonizing = composites.EpsilonPlus(canonizers=[SequentialMergeBatchNorm()])
    seed = F.one_hot(torch.full((3,), 2), 4)
    _, expected = Gradient(normalized().double(), canonizing)(x.clone(), lambda logits: logits.detach() * seed)
    # zennit leaves a factor of (1 + eps) ** -0.5 per BatchNorm
    assert (found.relevance - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_residual_sums_share_in_proportion(residual, pixels):
    x = pixels(3, 3, 13, 13).double()
    found = attribute(residual().double(), x, 2, composite=composites.EpsilonPlus())
    expected = Explainer(residual().double(), x, "epsilon_plus").attribute(x, 2)
    assert torch.allclose(found.relevance, expected.relevance, rtol=1e-9)


def test_layers_targets_and_starts_are_those_of_every_attribution(residual, pixels):
    network, x, composite = residual(), pixels(3, 3, 13, 13), composites.EpsilonPlus()
    whole = attribute(network, x, 1, composite=composite, layers=["6", "3", "2"])
    assert list(whole.relevances) == list(whole.activations) == ["6", "3", "2"]
    assert torch.allclose(whole.logits, network(x), atol=1e-5)
    seed = whole.relevances["3"]
    for start in (seed, lambda activation: seed * (activation == whole.activations["3"])):
        part = attribute(network, x, composite=composite, layers=["2", "6"], start_layer="3", start_relevance=start)
        assert torch.allclose(part.relevance, whole.relevance, rtol=1e-4, atol=1e-6)
        assert torch.allclose(part.relevances["2"], whole.relevances["2"], rtol=1e-4, atol=1e-6)
        assert part.relevances["6"].abs().max() == 0
    for start in ("one_hot", "contrast"):
        ours = Explainer(network, x, "epsilon_plus").attribute(x, 1, start=start)
        found = attribute_by_zennit(network, x, 1, composite, start=start)
        assert torch.allclose(found.relevance, ours.relevance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_untouched_also_by_an_error(training, residual, pixels, untouched):
    network, x = residual(), pixels(2, 3, 13, 13)
    network.train(training)
    untouched(network, lambda: attribute(network, x, 0, composite=composites.EpsilonPlusFlat(), layers=["3"]))
    for options, match in (
        ({"layers": ["3.rely"]}, "layer '3.rely' is no module"),
        ({"layers": ["3.relu"]}, "layer '3.relu' runs more than once"),
        ({"start_layer": "3"}, "start_layer needs start_relevance"),
        ({"target": 4}, "class ids outside 0 to 3"),
    ):
        untouched(
            network,
            lambda options=options: attribute(network, x, composite=composites.EpsilonPlus(), **options),
            ValueError,
            match,
        )
    assert not x.requires_grad


def test_zennit_is_not_needed_where_it_is_not_used():
    import subprocess
    import sys

    program = (
        "import sys, torch; from torch import nn; from pipeline.attribution import attribute; "
        "attribute(nn.Linear(3, 2), torch.rand(2, 3)); print('zennit' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
