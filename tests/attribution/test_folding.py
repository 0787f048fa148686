from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import Explainer
from pipeline.attribution.canonize import canonized_copy
from pipeline.attribution.composites import COMPOSITES
from pipeline.attribution.folding import Norm, Plan, Weights
from pipeline.attribution.tape import Tape
from pipeline.attribution.zennit_adapter import attribute_by_zennit
from pipeline.models.modes import evaluation_mode


def folded(model: nn.Module, x: torch.Tensor) -> list[str]:
    """Names of the layers into which a BatchNorm is folded, as seen while one batch runs."""
    names = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    tape = Tape(COMPOSITES["epsilon"], Weights(), plan=Plan())
    with evaluation_mode(model), torch.no_grad(), tape:
        x = x.clone()
        tape.leaf(x)
        model(x)
    return sorted(names[key].rpartition(".")[0] for key in tape.plan.pairs(names))


def recorded_by_the_network(model: nn.Module, x: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    outputs = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, _i, y, name=name: outputs.update({name: y.clone()}))
        for name in names
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return outputs


def same_as_the_network(model: nn.Module, x: torch.Tensor, names: list[str], tolerance: float = 1e-12) -> None:
    """Logits and activations of a followed network are its own, with and without a graph."""
    expected = recorded_by_the_network(model, x, names)
    explainer = Explainer(model, x[:2], "epsilon_plus")
    for create_graph in (False, True):
        found = explainer.attribute(x, 0, layers=names, create_graph=create_graph)
        with torch.no_grad():
            assert torch.allclose(found.logits, model(x), rtol=tolerance, atol=tolerance)
        for name in names:
            assert torch.allclose(found.activations[name], expected[name], rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_of_every_kind_fold_exactly(affine, bias, scrambled, pixels):
    model = scrambled(
        nn.Sequential(
            nn.Conv1d(2, 4, 3, bias=bias), nn.BatchNorm1d(4, affine=affine), nn.ReLU(),
            nn.Unflatten(2, (2, 4)), nn.Conv2d(4, 6, 2, groups=2, bias=bias), nn.BatchNorm2d(6, affine=affine),
            nn.Unflatten(3, (3, 1)), nn.ReLU(), nn.Conv3d(6, 4, 1, bias=bias), nn.BatchNorm3d(4, affine=affine),
            nn.Flatten(), nn.Linear(12, 6, bias=bias), nn.BatchNorm1d(6, affine=affine), nn.ReLU(), nn.Linear(6, 2),
        )
    ).double()  # fmt: skip
    x = pixels(5, 2, 10).double()
    assert folded(model, x) == ["0", "11", "4", "8"]
    same_as_the_network(model, x, ["0", "1", "4", "5", "8", "9", "11", "12"])


def test_relevance_is_that_of_the_folded_network(scrambled, normalized, pixels):
    """z+ in a layer with its BatchNorm: contributions x (s w)+, with the factor's sign, and the folded bias."""
    model, x = normalized().double(), pixels(3, 3, 13, 13).double()
    model[4].weight.data[::2] *= -1  # factors of both signs
    found = Explainer(model, x, "epsilon_plus").attribute(x, 0, layers=["2", "3", "4"])
    norm = model[4]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = (model[3].weight * scale.view(-1, 1, 1, 1)).clamp(min=0)
    bias = (norm.bias + (model[3].bias - norm.running_mean) * scale).clamp(min=0)
    a = found.activations["2"]
    ratio = found.relevances["4"] / (F.conv2d(a, weight, bias, padding=1) + 1e-6)
    expected = a * F.conv_transpose2d(ratio, weight, padding=1)
    assert torch.allclose(found.relevances["2"], expected, rtol=1e-9)
    assert torch.equal(found.relevances["3"], found.relevances["4"]), "relevance passes through the BatchNorm"
    assert expected.abs().max() > 1e-3


def test_torchvision_and_timm_networks_fold_completely(scrambled, pixels):
    timm = pytest.importorskip("timm")
    for model in (torchvision.models.resnet18(num_classes=3), timm.create_model("resnet18", num_classes=3)):
        model = scrambled(model)
        norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(folded(model, pixels(1, 3, 32, 32))) == len(norms) == 20


def test_an_activation_inside_the_norm_remains(scrambled, pixels):
    layers = pytest.importorskip("timm.layers")
    model = scrambled(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), layers.BatchNormAct2d(4), nn.Conv2d(4, 4, 3, bias=False),
            layers.BatchNormAct2d(4, apply_act=False), nn.Flatten(), nn.Linear(64, 2),
        )
    ).double()  # fmt: skip
    x = pixels(3, 3, 8, 8).double()
    assert folded(model, x) == ["0", "2"]
    same_as_the_network(model, x, ["0", "1", "1.act", "2", "3"])
    assert (Explainer(model, x).attribute(x, layers=["1"]).activations["1"] >= 0).all()


def test_a_norm_before_its_convolution_is_left_alone(scrambled, pixels):
    model = torchvision.models.DenseNet(
        growth_rate=4, block_config=(2, 2), num_init_features=8, bn_size=2, num_classes=3
    )
    model, x = scrambled(model).double(), pixels(3, 3, 32, 32).double()
    # norm0 follows conv0, and norm2 follows conv1 inside each dense layer
    expected = ["features.conv0", *(f"features.denseblock{b}.denselayer{n}.conv1" for b in (1, 2) for n in (1, 2))]
    assert folded(model, x) == expected
    same_as_the_network(model, x, ["features.conv0", "features.denseblock2.denselayer1.conv1", "features.norm5"])


class PreActivation(nn.Module):
    """The output of `stem` feeds a BatchNorm and, as it is, a residual sum."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv, self.after = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(144, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.after(self.conv(self.norm(x).relu()))).flatten(1))


def test_a_convolution_whose_output_is_used_twice_keeps_its_weights(scrambled, pixels):
    model, x = scrambled(PreActivation()).double(), pixels(3, 3, 8, 8).double()
    assert folded(model, x) == ["conv"], "folding would change the shortcut"
    same_as_the_network(model, x, ["stem", "norm", "conv", "after"])


class TwoNorms(nn.Module):
    """Two BatchNorms take the same output; or one BatchNorm takes two."""

    def __init__(self, shared: bool):
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(144, 2)
        self.norm = nn.BatchNorm2d(4)
        self.other = self.norm if shared else nn.BatchNorm2d(4)
        self.shared = shared

    def forward(self, x):
        left = self.left(x)
        right = self.right(x) if self.shared else left
        return self.head((self.norm(left).relu() + self.other(right).relu()).flatten(1))


@pytest.mark.parametrize("shared", [True, False])
def test_a_norm_of_two_layers_and_a_layer_of_two_norms_stay_apart(shared, scrambled, pixels):
    model, x = scrambled(TwoNorms(shared)).double(), pixels(3, 3, 8, 8).double()
    assert folded(model, x) == []
    same_as_the_network(model, x, ["left"])


def test_layers_that_run_twice_and_norms_over_positions_are_left_alone(scrambled, pixels):
    shared, norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
    twice = nn.Sequential(nn.Conv2d(3, 4, 3), shared, norm, nn.ReLU(), shared, nn.Flatten(), nn.Linear(144, 2))
    assert folded(scrambled(twice), pixels(3, 3, 8, 8)) == []
    same_as_the_network(twice.double(), pixels(3, 3, 8, 8).double(), ["0", "2"])
    for positions, width in ((4, 4), (4, 7), (7, 4)):
        tokens = nn.Sequential(
            nn.Linear(5, width), nn.BatchNorm1d(positions), nn.ReLU(), nn.Flatten(), nn.Linear(positions * width, 2)
        )
        x = pixels(3, positions, 5)
        assert folded(scrambled(tokens), x) == []
        same_as_the_network(tokens.double(), x.double(), ["0", "1"])


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 3), (3, 5), (5, 3)])
def test_transposed_convolutions_are_left_alone(inputs, outputs, scrambled, pixels):
    model = nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 2, 2), nn.BatchNorm2d(outputs), nn.Flatten(), nn.Linear(outputs * 36, 2)
    )
    x = pixels(2, inputs, 3, 3).double()
    assert folded(scrambled(model).double(), x) == []
    same_as_the_network(model, x, ["0", "1"])


def test_statistics_of_the_batch_are_not_folded(functional, scrambled, pixels):
    without = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(144, 2)
    )
    assert folded(scrambled(without), pixels(2, 3, 8, 8)) == []
    made_anew = functional(lambda x: F.batch_norm(x, torch.full((4,), 0.2).to(x), torch.full((4,), 2.0).to(x)))
    model = scrambled(nn.Sequential(nn.Conv2d(3, 4, 3), made_anew, nn.Flatten(), nn.Linear(144, 2)))
    assert folded(model, pixels(2, 3, 8, 8)) == []
    same_as_the_network(model.double(), pixels(2, 3, 8, 8).double(), ["0", "1"])


def test_weights_that_are_computed_anew_are_not_folded(scrambled, pixels):
    model = scrambled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2)))
    nn.utils.parametrizations.weight_norm(model[0])
    same_as_the_network(model.double(), pixels(3, 3, 8, 8).double(), ["0", "1"])


@pytest.mark.parametrize("factor", [0.0, 1e-7, 1e-4, 1e-3, -0.3])
def test_a_convolutions_activation_is_its_own_for_any_factor_of_its_norm(factor, scrambled, pixels):
    model = scrambled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)))
    model[1].weight.data[1] = factor
    x = pixels(3, 3, 8, 8)
    assert folded(model, x) == ["0"]
    same_as_the_network(model, x, ["0"], tolerance=1e-5 if abs(factor) < 1e-3 or abs(factor) > 0.1 else 2e-4)
    same_as_the_network(model.double(), x.double(), ["0"], tolerance=1e-8)


CALLS = {
    "torch.batch_norm": lambda x, n: torch.batch_norm(
        x, n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, n.eps, False
    ),
    "F.batch_norm by position": lambda x, n: F.batch_norm(
        x, n.running_mean, n.running_var, n.weight, n.bias, False, 0.1, n.eps
    ),
    "F.batch_norm by keyword": lambda x, n: F.batch_norm(
        running_var=n.running_var, running_mean=n.running_mean, input=x, bias=n.bias, weight=n.weight, eps=n.eps
    ),
}


class Called(nn.Module):
    """A BatchNorm whose function is called."""

    def __init__(self, call):
        super().__init__()
        self.norm, self.call = nn.BatchNorm2d(4, eps=0.3), call

    def forward(self, x):
        return self.call(x, self.norm)


@pytest.mark.parametrize("name", CALLS)
def test_functions_fold_like_modules(name, scrambled, pixels):
    def make(called: nn.Module) -> nn.Module:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), called, nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        return scrambled(network).double()

    called, x = Called(CALLS[name]), pixels(2, 3, 8, 8).double()
    assert folded(make(called), x) == ["0"]
    same_as_the_network(make(called), x, ["0", "1"])
    as_module = Explainer(make(called.norm), x, "epsilon_plus").attribute(x, 1)
    assert torch.allclose(Explainer(make(called), x, "epsilon_plus").attribute(x, 1).relevance, as_module.relevance)


def test_statistics_that_are_being_made_are_not_folded(scrambled, pixels):
    training = Called(lambda x, n: F.batch_norm(x, n.running_mean, n.running_var, training=True))
    assert folded(scrambled(nn.Sequential(nn.Conv2d(3, 4, 3), training, nn.Flatten())), pixels(2, 3, 8, 8)) == []


class ByBrightness(nn.Module):
    """Takes one of two BatchNorms, or none."""

    def __init__(self):
        super().__init__()
        self.conv, self.bright, self.dark = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.head = nn.Linear(144, 2)

    def forward(self, x):
        mean, x = float(x.mean()), self.conv(x)
        x = self.bright(x) if mean > 0.6 else self.dark(x) if mean < 0.4 else x
        return self.head(x.relu().flatten(1))


def test_a_way_through_the_network_that_depends_on_the_data_is_noticed(scrambled, pixels):
    model, x = scrambled(ByBrightness()), pixels(2, 3, 8, 8)
    explainer = Explainer(model, x / 2)
    assert torch.allclose(explainer.attribute(x / 3).logits, model(x / 3), atol=1e-5)
    for other in (x, x / 2 + 0.5):
        with pytest.raises(ValueError, match="not followed by the BatchNorm that followed it in the example"):
            explainer.attribute(other)


class Chain(nn.Module):
    """Hundreds of short-lived outputs of one shape, of which only some go to a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(4, 4) for _ in range(40))
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(20))

    def forward(self, x):
        for index, linear in enumerate(self.linears):
            x = linear(x)
            x = x + 0.1  # takes the memory, and perhaps the identity, of something that is gone
            if index % 2:
                x = self.norms[index // 2](x)
        return x


def test_tensors_that_are_gone_are_not_taken_for_others(scrambled, pixels):
    model, x = scrambled(Chain()).double(), pixels(3, 4).double()
    assert folded(model, x) == []
    same_as_the_network(model, x, ["linears.0", "norms.3", "linears.39"])


def test_a_plan_keeps_what_it_noticed():
    """Identities of tensors that are gone are given again, and would pair what never met."""
    plan, weights, uses = Plan(), [torch.ones(1) for _ in range(50)], type("Uses", (), {"uses": 1})
    norm = Norm(torch.zeros(1), torch.ones(1), None, None, 1e-5)
    for weight in weights:
        plan.notice_layer(torch.zeros(1), weight, uses)
    for _ in range(50):
        plan.notice_norm(torch.zeros(1), Norm(torch.zeros(1), torch.ones(1), None, None, 1e-5))
    plan.notice_norm(torch.zeros(1), norm)
    assert plan.pairs({id(norm.mean): "mean"}) == {}


def test_the_plan_agrees_with_the_copy_that_zennit_gets(residual, pixels):
    """Two independent ways to find and fold BatchNorm give the same, also where little is left of a channel."""
    from zennit.composites import EpsilonPlus

    model, x = residual().double(), pixels(3, 3, 13, 13).double()
    model[1].weight.data[0], model[3].norm1.weight.data[2] = 1e-6, 0
    assert not [m for m in canonized_copy(model, x).modules() if isinstance(m, nn.BatchNorm2d)]
    found = Explainer(model, x, "epsilon_plus").attribute(x, 1, layers=["2", "3"])
    expected = attribute_by_zennit(model, x, 1, EpsilonPlus(), layers=["2", "3"])
    assert (found.relevance - expected.relevance).abs().max() <= 1e-12 * expected.relevance.abs().max()


def test_weights_are_kept_while_they_stay_and_made_anew_when_trained_through(scrambled):
    layer, norm = scrambled(nn.Conv2d(3, 4, 3)), scrambled(nn.BatchNorm2d(4))
    pair = layer.weight, Norm(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    names = {id(layer.weight): "conv.weight"}
    kept, trained = (Weights({id(layer.weight): pair}, names, keep=keep) for keep in (True, False))
    first = kept.get(layer.weight, layer.bias)
    assert kept.get(layer.weight, layer.bias) is first and first.path == "conv" and first.norm is pair[1]
    assert first.weight.get("positive") is first.weight.get("positive")
    anew = trained.get(layer.weight, layer.bias)
    assert trained.get(layer.weight, layer.bias) is not anew and anew.weight.tensor.requires_grad
    assert anew.weight.get("positive") is not anew.weight.get("positive")
    for change in (layer.weight, layer.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        before = kept.get(layer.weight, layer.bias)
        with torch.no_grad():
            change.add_(0.5)
        after = kept.get(layer.weight, layer.bias)
        assert after is not before and not torch.equal(
            after.bias.tensor.detach() + after.weight.tensor.detach().sum(),
            before.bias.tensor.detach() + before.weight.tensor.detach().sum(),
        )
    constant = torch.ones(4, 3, 3, 3)
    assert kept.get(constant, None) is not kept.get(constant, None), "what has no name may be another tomorrow"
    assert kept.get(constant, None).path == "" and kept.get(constant, None).bias is None


def test_a_folded_layer_is_the_norm_of_the_layer(scrambled, pixels):
    layer, norm = scrambled(nn.Conv2d(3, 4, 3)).double(), scrambled(nn.BatchNorm2d(4)).double()
    x = pixels(2, 3, 5, 5).double()
    pair = layer.weight, Norm(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    made = Weights({id(layer.weight): pair}).get(layer.weight, layer.bias)
    assert torch.allclose(F.conv2d(x, made.weight.tensor, made.bias.tensor), norm(layer(x)), rtol=1e-12)
