from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.attribution import attribute
from pipeline.concepts.projection import Projection, insert_projection, own_layer
from pipeline.concepts.reactive import ClassConditioned, ReactiveProjection, subset_solutions

RANKS = [1, 2, 1]
OWNER = np.repeat(np.arange(3), RANKS)
CLEAN = np.array([0.3, 1.0, -1.0, 0.5])


def directions() -> np.ndarray:
    """Return unit directions `[6, 4]` that are far from orthogonal."""
    drawn = np.random.default_rng(3).standard_normal((6, 4)) + 0.8
    return drawn / np.linalg.norm(drawn, axis=0)


def gates() -> tuple[np.ndarray, np.ndarray]:
    """Return detectors that fire where the first, second and third channel exceed 1."""
    return np.eye(6)[:, :3], np.full(3, -1.0)


def activation(active: list[tuple[bool, ...]], *positions: int) -> torch.Tensor:
    """Return activations `[N, 6, ...]` in which exactly the given detectors fire."""
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(len(active), 6, *positions, generator=generator)
    flat = values.flatten(2)
    for row, fires in enumerate(active):
        for channel, fired in enumerate(fires):
            if fired:
                flat[row, channel, row % flat.shape[2]] = 1.5
    return flat.view_as(values)


ALL_CASES = list(itertools.product([False, True], repeat=3))


def test_every_subset_has_its_own_joint_solution():
    found = subset_solutions(directions(), directions(), RANKS)
    assert found.shape == (8, 4, 4)
    for number, solution in enumerate(found):
        chosen = np.array([bool(number >> owner & 1) for owner in OWNER])
        gram = directions()[:, chosen].T @ directions()[:, chosen]
        assert np.allclose(solution[np.ix_(chosen, chosen)] @ gram, np.eye(chosen.sum()))
        assert not solution[~chosen].any() and not solution[:, ~chosen].any()


@pytest.mark.parametrize("mode", ["position", "pooled"])
@pytest.mark.parametrize("shape", [(5, 7), (9,)])
def test_each_sample_is_projected_along_its_own_concepts_jointly(mode, shape):
    reactive = ReactiveProjection(directions(), CLEAN, RANKS, mode, gates=gates())
    values = activation(ALL_CASES, *shape)
    found = reactive(values)
    for row, case in enumerate(ALL_CASES):
        chosen = np.array(case)[OWNER]
        if not chosen.any():
            assert torch.equal(found[row], values[row])
            continue
        expected = Projection(directions()[:, chosen], CLEAN[chosen], mode)(values[row : row + 1])
        torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-4, atol=1e-5)


def test_where_no_detector_fires_nothing_changes_to_the_bit():
    reactive = ReactiveProjection(directions(), CLEAN, RANKS, "position", gates=gates())
    values = activation([(False,) * 3] * 6, 5, 7)
    assert torch.equal(reactive(values), values)


def test_where_no_detector_fires_nothing_is_computed_that_could_overflow_into_the_sample():
    reactive = ReactiveProjection(directions(), CLEAN, RANKS, "position", gates=gates())
    values = activation([(False,) * 3, (True,) * 3], 5)
    values[0, 5, 2] = torch.inf
    assert torch.equal(reactive(values)[0], values[0])


def test_detectors_look_at_pooled_features_and_know_their_offset():
    weights, offsets = np.eye(6)[:, :1], np.array([-1.0])
    values = torch.zeros(2, 6, 2, 2)
    values[0, 0, 1, 1], values[1, 0] = 2.0, 0.9  # the largest value counts: 2 and 0.9; of means 0.5 and 0.9
    for pooling, fires in (("max", [True, False]), ("mean", [False, False])):
        gate = (weights, offsets)
        reactive = ReactiveProjection(np.eye(6)[:, 5:], np.ones(1), [1], "position", gates=gate, pooling=pooling)
        assert (reactive(values) != values).flatten(1).any(1).tolist() == fires


def test_channels_may_come_last():
    first = ReactiveProjection(directions(), CLEAN, RANKS, "pooled", gates=gates())
    last = ReactiveProjection(directions(), CLEAN, RANKS, "pooled", gates=gates(), channel_axis=-1)
    values = activation(ALL_CASES, 9)
    torch.testing.assert_close(last(values.movedim(1, -1)).movedim(-1, 1), first(values))


def test_too_many_concepts_are_refused():
    with pytest.raises(ValueError, match="at most 10 concepts"):
        ReactiveProjection(np.eye(11), np.zeros(11), [1] * 11, "position", classes=[0] * 11)
    with pytest.raises(ValueError, match="without a condition use Projection"):
        ReactiveProjection(directions(), CLEAN, RANKS, "position")


def network(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24, classes),
    ).eval()  # fmt: skip


@pytest.fixture
def plain():
    """A network, and images for which it predicts class 0, class 1 and class 2, several times each."""
    model = network()
    images = 4 * torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(2)) - 1
    with torch.no_grad():
        logits = model(images)
        model[5].bias -= logits.mean(0)
        predicted = model(images).argmax(1)
    x = torch.cat([images[predicted == each][:5] for each in range(3)])
    with torch.no_grad():
        assert model(x).argmax(1).bincount().tolist() == [5, 5, 5]
    return model, x


def conditioned(model: nn.Module, projection: ReactiveProjection) -> nn.Module:
    corrected = nn.ModuleDict({"network": ClassConditioned(copy.deepcopy(model))})
    insert_projection(corrected, "network.2", projection)
    return corrected["network"]


def test_by_class_the_biases_of_the_predicted_class_are_corrected(plain):
    model, x = plain
    corrected = conditioned(model, ReactiveProjection(directions(), CLEAN, RANKS, "position", classes=[1, 2, 1]))
    with torch.no_grad():
        found, before = corrected(x), model(x)
    assert torch.equal(found[:5], before[:5]), "class 0 has no bias"
    for label, chosen in ((1, [0, 2]), (2, [1])):
        held = np.isin(OWNER, chosen)
        expected = copy.deepcopy(model)
        insert_projection(expected, "2", Projection(directions()[:, held], CLEAN[held], "position"))
        own = slice(5 * label, 5 * label + 5)
        with torch.no_grad():
            torch.testing.assert_close(found[own], expected(x[own]), rtol=1e-3, atol=1e-4)
        assert (found[own] - before[own]).abs().max() > 0.01


def test_with_both_conditions_class_and_detector_have_to_agree(plain):
    model, x = plain
    weights = np.zeros((6, 3))
    weights[0] = 1
    with torch.no_grad():
        strengths = model[:3](x).amax((2, 3))[:, 0]
    threshold = strengths[5:].median()
    gate = (weights, np.full(3, -float(threshold)))
    make = lambda gates, classes: ReactiveProjection(  # noqa: E731
        directions(), CLEAN, RANKS, "position", gates=gates, classes=classes
    )
    corrected, by_class = conditioned(model, make(gate, [1, 2, 1])), conditioned(model, make(None, [1, 2, 1]))
    fires = strengths > threshold
    with torch.no_grad():
        changed = (corrected(x) != model(x)).any(1)
        allowed = (by_class(x) != model(x)).any(1)
    assert fires[5:].any() and not fires[5:].all()
    assert torch.equal(changed, fires & allowed)


def test_both_passes_share_their_weights(plain):
    model, _ = plain
    corrected = conditioned(model, ReactiveProjection(directions(), CLEAN, RANKS, "position", classes=[1, 2, 1]))
    for each in (corrected, copy.deepcopy(corrected)):
        assert len(list(each.parameters())) == len(list(model.parameters()))
        assert each.uncorrected[0].weight is each.network[0].weight
        assert each.uncorrected[1].running_mean is each.network[1].running_mean


def test_a_projection_by_class_alone_is_refused_and_nothing_is_left_of_a_pass(plain):
    model, x = plain
    projection = ReactiveProjection(directions(), CLEAN, RANKS, "position", classes=[1, 2, 1])
    corrected = conditioned(model, projection)
    corrected(x)
    assert projection.allowed is None
    with pytest.raises(ValueError, match="ClassConditioned"):
        projection(activation([(True, False, False)], 3))
    with pytest.raises(RuntimeError):
        corrected(x[:, :, :2])
    assert projection.allowed is None


@pytest.fixture(params=["detector", "class", "both"])
def corrected(plain, request):
    model, x = plain
    with torch.no_grad():
        highest = model[:3](x).amax((2, 3))[:, :3].quantile(0.7, 0).numpy()
    projection = ReactiveProjection(
        directions(),
        CLEAN,
        RANKS,
        "pooled",
        gates=None if request.param == "class" else (np.eye(6)[:, :3], -highest),
        classes=None if request.param == "detector" else [1, 2, 1],
    )
    whole = nn.ModuleDict({"network": copy.deepcopy(model)})
    if request.param != "detector":
        whole["network"] = ClassConditioned(whole["network"])
    insert_projection(whole, "network.2", projection)
    return whole["network"]


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_a_traced_copy_reacts_to_other_inputs_as_the_network_does(corrected, plain):
    model, x = plain
    with torch.no_grad():
        # the example shows one class and one case only
        traced = torch.jit.trace(corrected, x[:2])
        assert torch.equal(traced(x), corrected(x))
        changed = (corrected(x) != model(x)).any(1)
    assert changed.any() and not changed.all()
    assert torch.equal(copy.deepcopy(corrected)(x), corrected(x))


def test_an_exported_copy_reacts_to_other_inputs_as_the_network_does(corrected, plain):
    x = plain[1]
    batch = torch.export.Dim("batch", min=2, max=64)
    with torch.no_grad():
        exported = torch.export.export(corrected, (x[:4],), dynamic_shapes=({0: batch},)).module()
        torch.testing.assert_close(exported(x), corrected(x))


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus_flat"])
def test_the_corrected_network_can_be_explained(corrected, plain, composite):
    model, x = plain
    name = own_layer(corrected, "2") or "network.2.layer"
    found = attribute(corrected, x, composite=composite, layers=[name])
    assert found.relevance.isfinite().all() and found.relevances[name].isfinite().all()
    assert (found.relevance != 0).flatten(1).any(1).all()
    with torch.no_grad():
        untouched = (corrected(x) == model(x)).all(1)
    expected = attribute(model, x, composite=composite).relevance
    torch.testing.assert_close(found.relevance[untouched], expected[untouched], rtol=1e-3, atol=1e-4)


def test_gradients_pass_and_follow_the_projection(corrected, plain):
    x = plain[1].double().requires_grad_()
    network = copy.deepcopy(corrected).double()
    assert torch.autograd.gradcheck(lambda values: network(values), (x[3:8],), eps=1e-6, atol=1e-4)
