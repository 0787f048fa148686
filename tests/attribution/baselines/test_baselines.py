"""What every baseline must hold, run over the whole registry."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.attribution import Attribution
from pipeline.attribution.baselines import BASELINES

QUICK = {
    "integrated_gradients": {"steps": 3, "batch_size": 4},
    "smooth_grad": {"samples": 3, "batch_size": 4},
    "shap_superpixels": {"segments": 3, "samples": 20, "batch_size": 8},  # 2^9 coalitions: drawn
}
SEEDED = ["smooth_grad", "shap_superpixels"]
RESTRICTED = [name for name, entry in BASELINES.items() if not entry.gives_layers]
every_baseline = pytest.mark.parametrize("name", BASELINES)


def explain(name: str, model: nn.Module, x: torch.Tensor, target=None, **options) -> Attribution:
    return BASELINES[name].explain(model, x, target, **QUICK.get(name, {}) | options)


@pytest.fixture
def network(residual) -> nn.Module:
    return residual().double()


@pytest.fixture
def x(pixels) -> torch.Tensor:
    return pixels(4, 3, 13, 13).double()


@every_baseline
def test_the_registry_says_what_a_function_is(name):
    entry = BASELINES[name]
    parameters = inspect.signature(entry.explain).parameters
    assert entry.explain.__name__ == name
    assert entry.description and entry.source
    assert list(parameters)[:5] == ["model", "x", "target", "layers", "create_graph"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in list(parameters.values())[3:])


@every_baseline
def test_relevance_has_the_shape_of_the_input_and_the_heatmap_that_of_its_positions(name, network, x):
    found = explain(name, network, x, 1)
    assert found.relevance.shape == x.shape and found.relevance.dtype == x.dtype
    assert found.heatmap.shape == (4, 13, 13)
    assert found.relevance.isfinite().all() and found.relevance.abs().max() > 0
    assert torch.allclose(found.logits, network(x))
    assert not found.relevance.requires_grad and not found.logits.requires_grad


@every_baseline
def test_signals_are_explained_over_time(name, scrambled, pixels):
    network = scrambled(nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)))
    found = [explain(name, network, pixels(3, 2, 10), target) for target in (0, 1)]
    assert found[0].relevance.shape == (3, 2, 10) and found[0].heatmap.shape == (3, 10)
    assert max(of_class.relevance.abs().max() for of_class in found) > 0, "Grad-CAM may be 0 for one of them"


@pytest.mark.parametrize("training", [False, True])
@every_baseline
def test_model_input_and_random_state_are_untouched(name, training, network, x, untouched):
    network.train(training)
    network[3].norm1.eval()
    network[0].weight.requires_grad_(False)
    network[8].weight.grad = torch.ones_like(network[8].weight)
    network[2].register_forward_hook(lambda *_: None)
    x.requires_grad_()
    x.grad = torch.ones_like(x)
    values, gradients, state = x.detach().clone(), x.grad.clone(), torch.random.get_rng_state()
    with torch.no_grad():
        untouched(network, lambda: explain(name, network, x, 0))
    assert torch.equal(x.grad, gradients) and torch.equal(network[8].weight.grad, torch.ones(4, 24))
    assert torch.equal(x, values)
    assert torch.equal(torch.random.get_rng_state(), state)


@every_baseline
def test_training_mode_changes_nothing(name, network, x):
    expected = explain(name, network, x, 0)
    found = explain(name, network.train(), x, 0)
    assert torch.equal(found.relevance, expected.relevance) and torch.equal(found.logits, expected.logits)


@every_baseline
def test_a_network_that_begins_in_place_leaves_the_input_alone(name, plain, pixels):
    network, x = plain(), pixels(2, 3, 12, 12) - 0.5
    values = x.clone()
    found = explain(name, nn.Sequential(nn.ReLU(inplace=True), network), x, 1)
    assert torch.equal(x, values)
    expected = explain(name, nn.Sequential(nn.ReLU(), network), x, 1)
    assert torch.equal(found.relevance, expected.relevance)


@every_baseline
def test_a_class_ids_and_one_hot_weights_mean_the_same(name, network, x):
    ids = torch.tensor([2, 0, 3, 1])
    by_id = explain(name, network, x, ids).relevance
    assert torch.equal(explain(name, network, x, F.one_hot(ids, 4).double()).relevance, by_id)
    for row, label in enumerate(ids.tolist()):
        assert torch.allclose(explain(name, network, x, label).relevance[row], by_id[row], atol=1e-12)


@every_baseline
def test_without_target_the_class_predicted_for_the_input_itself_is_explained(name, functional, x):
    """Class 0 for bright inputs, class 1 for darker ones, as most points of a path and masked inputs are."""

    def logits(pixels: torch.Tensor) -> torch.Tensor:
        mean = pixels.square().mean((1, 2, 3))
        return torch.stack([mean, 0.3 - mean + pixels[:, 0, 0].mean(1) ** 2 / 10], 1)

    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), functional(logits)).double()
    network[0].weight.data = torch.eye(3).double()[:, :, None, None]
    network[0].bias.data.zero_()
    x[2] *= 0.5
    assert network(x).argmax(1).tolist() == [0, 0, 1, 0]
    expected = explain(name, network, x, torch.tensor([0, 0, 1, 0])).relevance
    assert torch.equal(explain(name, network, x).relevance, expected)
    assert not torch.allclose(explain(name, network, x, 1).relevance, expected)


@pytest.mark.parametrize("name", [name for name in BASELINES if name not in ("grad_cam", "guided")])
def test_relevance_of_a_margin_is_the_difference_of_relevances(name, network, x):
    weights = torch.tensor([[1.0, -1, 0, 0]]).expand(4, 4)
    found = [explain(name, network, x, target).relevance for target in (weights, 0, 1)]
    assert torch.allclose(found[0], found[1] - found[2], atol=1e-10)


@every_baseline
def test_a_sample_does_not_depend_on_its_neighbours(name, network, x):
    together = explain(name, network, x)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = explain(name, network, x[order])
    assert torch.allclose(shuffled.relevance, together.relevance[order], atol=1e-12)
    for row in range(4):
        alone = explain(name, network, x[row : row + 1])
        assert torch.allclose(alone.relevance[0], together.relevance[row], atol=1e-12)


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_decides_all_that_is_drawn(name, network, x):
    first = explain(name, network, x, 0, seed=1).relevance
    torch.manual_seed(5)
    assert torch.equal(explain(name, network, x, 0, seed=1).relevance, first)
    assert not torch.allclose(explain(name, network, x, 0, seed=2).relevance, first)


@pytest.mark.parametrize("name", ["integrated_gradients", "smooth_grad", "shap_superpixels"])
def test_the_size_of_internal_batches_changes_nothing_but_what_runs_at_once(name, network, x):
    sizes = []
    network.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    expected = explain(name, network, x, 0, batch_size=1000).relevance
    for batch_size in (1, 3, 7):
        sizes.clear()
        found = explain(name, network, x, 0, batch_size=batch_size).relevance
        assert torch.allclose(found, expected, atol=1e-12)
        assert max(sizes[1:]) <= batch_size, "the first pass is the prediction of the whole batch"
    with pytest.raises(ValueError, match="batch_size=0 is too few"):
        explain(name, network, x, 0, batch_size=0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target": 4}, "class ids outside 0 to 3"),
        ({"target": torch.zeros(3, dtype=torch.long)}, r"target has shape \(3,\); expected ids \[4\]"),
    ],
)
@every_baseline
def test_a_wrong_target_is_explained_and_leaves_no_trace(name, options, match, network, x, untouched):
    untouched(network.train(), lambda: explain(name, network, x, **options), ValueError, match)


@every_baseline
def test_whole_numbers_are_refused(name, network, x, untouched):
    whole = (255 * x).to(torch.uint8)
    untouched(network, lambda: explain(name, network, whole, 0), ValueError, "type torch.uint8.*floating")


@pytest.mark.parametrize("name", RESTRICTED)
def test_layers_and_graph_are_refused_where_a_method_has_none(name, network, x):
    assert not BASELINES[name].differentiable
    with pytest.raises(ValueError, match=f"'3'.*'{name}' gives relevance at the input only; use 'gradient'"):
        explain(name, network, x, layers=["3"])
    with pytest.raises(ValueError, match=f"'{name}' cannot be trained through; use 'gradient'"):
        explain(name, network, x, create_graph=True)


@pytest.mark.parametrize("name", [name for name, entry in BASELINES.items() if entry.gives_layers])
def test_layers_come_as_named_and_wrong_names_are_explained(name, network, x, untouched):
    found = explain(name, network, x, 1, layers=["4", "0"])
    assert list(found.relevances) == list(found.activations) == ["4", "0"]
    assert found.relevances["4"].shape == found.activations["4"].shape == (4, 6, 6, 6)
    assert not found.relevances["4"].requires_grad and not found.activations["4"].requires_grad
    for layers, match in [(["3.rely"], "no module.*Did you mean '3.relu'"), (["3.relu"], "more than once")]:
        untouched(network, lambda layers=layers: explain(name, network, x, 1, layers=layers), ValueError, match)


class Paired(nn.Module):
    """Gives two tensors."""

    def forward(self, x):
        return x, x


@pytest.mark.parametrize("name", [name for name, entry in BASELINES.items() if entry.gives_layers])
def test_a_layer_of_several_tensors_is_refused(name, functional, plain, pixels, untouched):
    network = nn.Sequential(Paired(), functional(lambda pair: pair[0]), plain())
    match = "layer '0' is of type tuple, not one tensor"
    untouched(network, lambda: explain(name, network, pixels(2, 3, 12, 12), layers=["0"]), ValueError, match)


@pytest.mark.parametrize("name", [name for name, entry in BASELINES.items() if entry.differentiable])
def test_a_loss_on_relevance_has_the_slope_of_finite_differences(name, scrambled, pixels):
    """Second order, by the weights and by the input, at the input and at a layer."""
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 3), nn.Tanh(), nn.Linear(3, 2)
    )
    network = scrambled(network).double().train()
    x = pixels(2, 2, 4, 4).double().requires_grad_()
    target = torch.tensor([0, 1])

    def loss(create_graph: bool = False) -> torch.Tensor:
        found = explain(name, network, x, target, layers=["2"], create_graph=create_graph)
        return found.relevance.square().sum() + found.relevances["2"].pow(3).sum() + found.logits.sum() / 10

    slopes = torch.autograd.grad(loss(True), [network[0].weight, network[4].weight, network[1].weight, x])
    with torch.no_grad():
        for tensor, slope in zip([network[0].weight, network[4].weight, network[1].weight, x], slopes, strict=True):
            place = int(slope.abs().argmax())
            values = tensor.view(-1)
            middle, difference = values[place].clone(), []
            for step in (1e-5, -1e-5):
                values[place] = middle + step
                difference.append(float(loss()))
            values[place] = middle
            expected = (difference[0] - difference[1]) / 2e-5
            assert abs(expected) > 1e-3
            assert float(slope.flatten()[place]) == pytest.approx(expected, rel=1e-5)
    assert x.grad is None and network[0].weight.grad is None
