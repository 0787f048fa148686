"""Corrections that segment or attend: what they start from, what they learn from masks, and how they go on."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from pipeline.attribution import attribute
from pipeline.config.mitigate import MultiTaskUnetMethod, UnetClassifierMethod
from pipeline.data.memory import split_indices
from pipeline.errors import ConfigError
from pipeline.mitigate import fine_tuning as shell
from pipeline.mitigate import make_mitigation
from pipeline.mitigate.attention_gated import background_share, gated_layers, imitate, ridge
from pipeline.mitigate.fine_tuning import MaskedBatch
from pipeline.mitigate.replaced import mean_color, replaced
from pipeline.mitigate.unet_classifier import known_foreground
from pipeline.models.build import AuditModel, Normalize
from pipeline.workspace.progress import SilentReporter
from pipeline.workspace.records import NetworkChange

KINDS = ("unet_classifier", "multi_task_unet", "attention_gated", "gain")
SMALL = {
    "unet_classifier": {"width": 4, "depth": 1, "segmenter_epochs": 2},
    "multi_task_unet": {"width": 4, "depth": 1},
    "attention_gated": {},
    "gain": {},
}


class Listener(SilentReporter):
    def __init__(self):
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def fit(audited, section):
    def run(kind: str, problem=None, **options):
        return make_mitigation(section(kind, **SMALL[kind] | options)).fit(audited[0], problem or audited[1])

    return run


@pytest.fixture
def images(audited):
    return torch.stack([audited[1].dataset[row].x for row in range(12)])


def without_masks(problem):
    return dataclasses.replace(
        problem, biases=[dataclasses.replace(known, mask=lambda name: None) for known in problem.biases]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_corrected_models_can_be_explained(fit, images, kind):
    found = attribute(fit(kind).model, images, composite="epsilon_plus_flat")
    assert found.relevance.isfinite().all() and found.relevance.any()


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_ready_for_use(fit, kind):
    model = fit(kind).model
    assert not any(module.training or module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert ("network" in dict(model.network.named_children())) == (kind in ("unet_classifier", "attention_gated"))


def test_the_segmenter_is_trained_first_and_then_left_alone(fit, audited):
    state = fit("unet_classifier").model.network.segmenter.state_dict()
    same, longer = (
        fit("unet_classifier", **options).model.network.segmenter.state_dict()
        for options in ({"epochs": 2, "lr": 0.01}, {"segmenter_epochs": 3})
    )
    assert all(torch.equal(value, same[name]) for name, value in state.items())
    assert not all(torch.equal(value, longer[name]) for name, value in state.items())


def test_the_classifier_starts_from_the_model_under_audit(fit, audited):
    model = audited[0].network.state_dict()
    corrected = fit("unet_classifier", lr=1e-12).model.network.network.state_dict()
    for name, value in model.items():
        torch.testing.assert_close(corrected[name], value, rtol=1e-6, atol=1e-6)


def test_the_segmenter_learns_the_artifact(fit, audited, images):
    model = fit("unet_classifier", width=8, segmenter_epochs=25, segmenter_lr=0.01).model
    problem = audited[1]
    known = problem.biases[0]
    rows = [row for row in split_indices(problem.dataset, "train") if known.mask(problem.dataset[row].id) is not None]
    x = torch.stack([problem.dataset[row].x for row in rows])
    inside = torch.stack([torch.from_numpy(known.mask(problem.dataset[row].id)) for row in rows])
    with torch.no_grad():
        foreground = model.network.foreground(model.normalize(x))[:, 0]
    assert foreground[inside].mean() < 0.6 < 0.8 < foreground[~inside].mean()


def test_without_masks_everything_is_foreground_and_that_is_said(fit, audited, images):
    listener = Listener()
    problem = dataclasses.replace(without_masks(audited[1]), reporter=listener)
    model = fit("unet_classifier", problem, unmasked="ignored").model
    assert any("no training sample has a mask" in text for text in listener.said)
    with torch.no_grad():
        assert model.network.foreground(model.normalize(images)).min() > 0.999
        plain = model.network.network(model.normalize(images))
        torch.testing.assert_close(model(images), plain, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("method", [UnetClassifierMethod, MultiTaskUnetMethod])
@pytest.mark.parametrize(
    ("unmasked", "background", "expected"),
    [
        ("auto", "artifact", [True, True]),
        ("auto", "roi", [True, False]),
        ("auto", "union", [True, False]),
        ("ignored", "artifact", [True, False]),
        ("foreground", "roi", [True, True]),
    ],
)
def test_who_teaches_the_foreground(method, unmasked, background, expected):
    mask = torch.zeros(2, 1, 2, 2)
    mask[0, 0, 0] = 1
    kind = method.model_fields["kind"].annotation.__args__[0]
    batch = MaskedBatch(torch.zeros(2, 1, 2, 2), torch.zeros(2), mask)
    foreground, present = known_foreground(batch, method(kind=kind, unmasked=unmasked), background)
    assert present.tolist() == expected and torch.equal(foreground, 1 - mask)


@pytest.mark.parametrize("fill", ["mean", "black"])
def test_the_fill_is_a_color_of_pixels_as_the_network_sees_it(audited, section, fill):
    model, problem = audited
    normalized = AuditModel(model.network, Normalize((0.3,), (0.5,)), model.arch).eval()
    corrected = make_mitigation(section("unet_classifier", **SMALL["unet_classifier"], fill=fill)).fit(
        normalized, problem
    )
    rows = split_indices(problem.dataset, "train")
    color = torch.stack([problem.dataset[row].x for row in rows]).mean() if fill == "mean" else torch.tensor(0.0)
    torch.testing.assert_close(corrected.model.network.fill.flatten(), (color.flatten() - 0.3) / 0.5)
    assert mean_color(model, problem).shape == (1, 1, 1)


def test_loss_of_the_multi_task_network_is_a_weighted_mean(fit):
    for share in (0.0, 0.3, 1.0):
        losses = fit("multi_task_unet", segmentation_share=share).history[0].losses
        expected = (1 - share) * losses["classification"] + share * losses["segmentation"]
        assert losses["total"] == pytest.approx(expected) and losses["segmentation"] > 0.1


def test_the_multi_task_network_learns_both_from_scratch(fit, audited):
    history = fit("multi_task_unet", epochs=20, lr=0.003, batch_size=32, dropout=0.0).history
    assert history[-1].validation["accuracy"] > 0.8
    assert history[-1].losses["segmentation"] < 0.8 * history[0].losses["segmentation"]


def test_what_is_trained_from_scratch_gathers_statistics_and_the_classifier_keeps_its_own(fit, audited):
    assert all(value.any() for name, value in fit("multi_task_unet").model.named_buffers() if "running_mean" in name)
    network = fit("unet_classifier").model.network
    assert all(value.any() for name, value in network.segmenter.named_buffers() if "running_mean" in name)
    kept = dict(audited[0].network.named_buffers())
    assert all(torch.equal(value, kept[name]) for name, value in network.network.named_buffers())


def test_its_classes_do_not_depend_on_the_model_under_audit(fit, audited, section):
    model, problem = audited
    other = AuditModel(nn.Linear(1, 1), model.normalize, model.arch)
    corrected = make_mitigation(section("multi_task_unet", **SMALL["multi_task_unet"])).fit(other, problem).model
    expected = fit("multi_task_unet").model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in corrected.state_dict().items())


def test_share_of_attention_in_the_background():
    attention = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25] * 4, [1.0, 0, 0, 0]]).view(3, 1, 2, 2)
    mask = torch.zeros(3, 1, 4, 4)
    mask[0, :, :2, :2] = 1  # the first position
    mask[1, :, 0] = 1  # half of the first two
    assert float(background_share(attention, mask)) == pytest.approx((0.1 + 0.25) / 2)
    assert background_share(attention, 0 * mask) == 0


def test_attention_leaves_the_background(fit):
    history = fit("attention_gated", epochs=8, lr=0.01, attention_weight=10.0).history
    free = fit("attention_gated", epochs=8, lr=0.01, attention_weight=0.0).history
    assert history[-1].losses["attention"] < 0.7 * history[0].losses["attention"]
    assert history[-1].losses["attention"] < 0.8 * free[-1].losses["attention"]


def test_ridge_regression_finds_the_linear_map():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 3, generator=generator, dtype=torch.float64) + 2
    weight, bias = torch.randn(2, 3, generator=generator).double(), torch.tensor([1.0, -4.0]).double()
    found = ridge(features, features @ weight.T + bias)
    torch.testing.assert_close(found[0], weight, rtol=0.01, atol=0.01)
    torch.testing.assert_close(features @ found[0].T + found[1], features @ weight.T + bias, rtol=0.02, atol=0.02)
    assert all(each.isfinite().all() for each in ridge(0 * features, 0 * features))


def test_gates_start_near_the_model_under_audit(audited, images):
    model, problem = audited
    layers = gated_layers(model, images[:1], "auto")
    assert [layer.name for layer in layers] == ["network.relu1", "network.relu2"]
    parameters = {"layers": ["relu1"], "driver": "relu2", "channels": [4, 8], "classes": 3, "inner": 4}
    gated = replaced(model, NetworkChange(name="attention_gated", parameters=parameters), 0)

    def distance() -> float:
        with torch.no_grad():
            return float((gated(images) - model(images)).pow(2).mean())

    before = distance()
    imitate(gated, model, problem)
    assert distance() < 0.5 * before


class Stages(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three, self.four = (
            nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU()) for channels in (1, 2, 4, 8)
        )
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        pool = nn.functional.max_pool2d
        return self.last(self.four(pool(self.three(pool(self.two(pool(self.one(x), 2)), 2)), 2)).mean((2, 3)))


def test_gates_look_at_the_two_sizes_before_the_deepest_or_at_what_there_is():
    model, x = AuditModel(Stages()), torch.rand(1, 1, 16, 16)
    names = [layer.name for layer in gated_layers(model, x, "auto")]
    assert names == ["network.two", "network.three", "network.four"]
    assert [layer.name for layer in gated_layers(model, x, ["network.one.0"])] == ["network.one.0", "network.four"]
    flat = AuditModel(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)))
    assert [layer.name for layer in gated_layers(flat, x, "auto")] == ["network.1", "network.1"]


def test_networks_and_names_without_maps_are_refused():
    x = torch.rand(1, 1, 16, 16)
    with pytest.raises(ConfigError, match="did you mean|Layers with maps"):
        gated_layers(AuditModel(Stages()), x, ["network.fife.1"])
    with pytest.raises(ConfigError, match="needs a network with convolutions"):
        gated_layers(AuditModel(nn.Sequential(nn.Flatten(), nn.Linear(256, 3))), x, "auto")


@pytest.mark.parametrize("stop", [1, 3])
def test_a_killed_training_goes_on_in_the_segmenter_and_after_it(fit, audited, tmp_path, monkeypatch, stop):
    expected = fit("unet_classifier", epochs=2).model.state_dict()
    problem = dataclasses.replace(audited[1], key="key", state_path=tmp_path / "state.pt")
    measure, calls = shell.validation_metrics, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == stop + 1:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(shell, "validation_metrics", killed)
    with pytest.raises(KeyboardInterrupt):
        fit("unet_classifier", problem, epochs=2)
    found = fit("unet_classifier", problem, epochs=2).model.state_dict()
    assert len(calls) == 5, "two epochs each, and the one that was killed again"
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert [path.name for path in tmp_path.iterdir() if "segmenter" in path.name] == []
