from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from pipeline.attribution import Explainer, make_composite
from pipeline.concepts.projection import Projection, insert_projection
from pipeline.concepts.reactive import ClassConditioned
from pipeline.evaluate.sanity import conservation, randomised, randomised_similarity, rank_correlations
from pipeline.models.build import AuditModel
from pipeline.models.gated import gated_classifier
from pipeline.models.small_cnn import small_cnn

COMPOSITE = make_composite("epsilon_plus_flat")


def network(seed: int = 0, channels: int = 1) -> AuditModel:
    torch.manual_seed(seed)
    return AuditModel(small_cnn(2, channels, width=8, blocks=2, grid=2))


def bars(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise with a bright row (class 0) or column (class 1)."""
    rng = torch.Generator().manual_seed(3)
    x, y = torch.rand(count, 1, 12, 12, generator=rng) * 0.3, torch.arange(count) % 2
    for image, label, place in zip(x, y, torch.randint(12, (count,), generator=rng), strict=True):
        image[0].movedim(int(label), 0)[place] += 0.6
    return x, y


@pytest.fixture(scope="module")
def trained() -> AuditModel:
    model, (x, y) = network(), bars(64)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    assert (model(x).argmax(1) == y).float().mean() > 0.95
    return model


class FixedAnswer(nn.Module):
    """Logits by a fixed template; what is learned adds nothing."""

    def __init__(self):
        super().__init__()
        self.register_buffer("template", torch.rand(2, 144, generator=torch.Generator().manual_seed(1)) + 0.1)
        self.learned = nn.Parameter(torch.rand(144))

    def forward(self, x):
        flat = x.flatten(1)
        return nn.functional.linear(flat, self.template) + 0 * (flat * self.learned).sum(1, keepdim=True)


def test_heatmaps_of_a_trained_network_change_with_its_weights_and_those_of_a_fixed_answer_do_not(trained):
    x, y = bars(12)
    learned = randomised_similarity(trained, x, y, COMPOSITE, seed=0)
    fixed = randomised_similarity(AuditModel(FixedAnswer()), x, y, make_composite("epsilon"), seed=0)
    assert learned.shape == (12,) and np.abs(learned).max() < 0.9
    np.testing.assert_allclose(fixed, 1, atol=1e-3)


def test_similarity_is_the_rank_correlation_of_the_magnitudes_of_both_heatmaps(trained):
    x, y = bars(3)
    found = randomised_similarity(trained, x, y, COMPOSITE, seed=5)
    maps = [
        Explainer(model, x[:1], COMPOSITE).attribute(x, y).heatmap.abs().flatten(1).numpy()
        for model in (trained, randomised(trained, 5))
    ]
    np.testing.assert_allclose(found, [spearmanr(*pair).statistic for pair in zip(*maps, strict=True)], atol=1e-12)


def test_neither_the_model_nor_the_global_random_state_changes(trained):
    x, y = bars(2)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = randomised_similarity(trained, x, y, COMPOSITE, seed=0)
    assert torch.equal(torch.get_rng_state(), state) and np.array_equal(np.random.get_state()[1], numbers)
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    np.testing.assert_array_equal(randomised_similarity(trained, x, y, COMPOSITE, seed=0), first)
    assert not np.allclose(randomised_similarity(trained, x, y, COMPOSITE, seed=1), first)


def test_every_parameter_is_shuffled_and_every_buffer_is_kept(trained):
    other = randomised(trained, 0)
    shuffled = dict(other.named_parameters())
    for name, parameter in trained.named_parameters():
        assert torch.equal(parameter.flatten().sort().values, shuffled[name].flatten().sort().values)
        assert shuffled[name].requires_grad
        if parameter.numel() > 4 and parameter.unique().numel() > 4:  # less may stay by chance
            assert not torch.equal(parameter, shuffled[name])
    for name, buffer in trained.named_buffers():
        assert torch.equal(buffer, dict(other.named_buffers())[name])


def test_corrected_networks_are_measured_too(trained):
    x, y = bars(4)
    projected, conditioned, gated = (randomised(trained, 0) for _ in range(3))
    direction = np.ones(8) / np.sqrt(8)
    insert_projection(projected, "network.relu1", Projection(direction, 0.1, "position"))
    conditioned.network = ClassConditioned(conditioned.network)
    gated.network = gated_classifier(
        gated.network, channels=1, layers=["network.relu1"], width=4, gate="sigmoid", bias=2.0
    )
    for model in (projected, conditioned, gated):
        found = randomised_similarity(model.eval(), x[:, :, :8, :8], y, COMPOSITE, seed=0)
        assert np.isfinite(found).all() and (np.abs(found) < 1).all()


def test_a_network_that_cannot_be_copied_is_not_measured(trained):
    x, y = bars(3)
    model = randomised(trained, 0)
    model.lock = threading.Lock()
    assert np.isnan(randomised_similarity(model, x, y, COMPOSITE, seed=0)).tolist() == [True] * 3


def test_rank_correlations_are_those_of_scipy_with_ties_and_undefined_for_constants():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, (5, 30)).astype(float), rng.integers(0, 9, (5, 30)).astype(float)
    expected = [spearmanr(one, two).statistic for one, two in zip(first, second, strict=True)]
    np.testing.assert_allclose(rank_correlations(first, second), expected, atol=1e-12)
    np.testing.assert_allclose(rank_correlations(first, first), 1)
    np.testing.assert_allclose(rank_correlations(first, -(first**3)), -1)
    first[0], second[1], second[2, 3] = 2.0, 0.0, np.inf
    assert np.isnan(rank_correlations(first, second)).tolist() == [True, True, True, False, False]


def test_relevance_of_a_network_without_constants_adds_up_to_the_logit(trained):
    x, y = bars(70)  # more than a batch
    with torch.no_grad():
        logits = trained(x)[torch.arange(70), y]
    ratios = conservation(trained, x, y, COMPOSITE)
    assert ratios.shape == (70,)
    clear = logits.abs() > 0.5
    assert clear.sum() > 30
    np.testing.assert_allclose(ratios[clear.numpy()], 1, atol=0.02)


def test_with_constants_the_ratio_is_that_of_the_heatmaps_that_are_shown(trained):
    x, y = bars(6)
    found = Explainer(trained, x[:1], COMPOSITE).attribute(x, y)
    expected = found.heatmap.flatten(1).sum(1) / found.logits[torch.arange(6), y]
    ratios = conservation(trained, x, y, COMPOSITE, without_biases=False)
    np.testing.assert_allclose(ratios, expected.detach(), rtol=1e-4)
    assert np.abs(ratios - 1).max() > 0.02


def test_rows_of_labels_are_compared_with_the_sum_of_their_logits():
    class Template(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3, bias=False)

        def forward(self, x):
            return self.linear(x.flatten(1))

    torch.manual_seed(0)
    x, labels = torch.rand(2, 1, 2, 2), torch.tensor([[1.0, 1, 0], [0, 0, 0]])
    ratios = conservation(AuditModel(Template()), x, labels, make_composite("epsilon"))
    assert ratios[0] == pytest.approx(1, abs=1e-3) and np.isnan(ratios[1])


def test_logits_near_zero_have_no_ratio():
    class Difference(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 1, bias=False)
            self.linear.weight.data = torch.tensor([[1.0, -1.0]])

        def forward(self, x):
            return self.linear(x.flatten(1))

    x = torch.tensor([[[[0.9, 0.1]]], [[[0.5, 0.5]]], [[[0.504, 0.5]]], [[[0.52, 0.5]]]])
    ratios = conservation(AuditModel(Difference()), x, torch.zeros(4, dtype=int), make_composite("epsilon"))
    assert np.isnan(ratios).tolist() == [False, True, True, False]  # 1 % of the largest logit is .008
