"""What every correction promises, however it works."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import get_args

import pytest
import tiny
import torch
from corrections import quick_section, section_of

from pipeline.attribution import attribute
from pipeline.concepts.corrected import differs, load_corrected
from pipeline.config.mitigate import AnyMethod
from pipeline.data.open import open_world
from pipeline.mitigate import MITIGATIONS, make_mitigation, stage
from pipeline.mitigate import fine_tuning as shell
from pipeline.mitigate.interface import Correction, Problem
from pipeline.mitigate.isnet import measured_cuts
from pipeline.models.build import AuditModel
from pipeline.models.open import open_original
from pipeline.workspace.records import Biases, MethodRecord

PLAIN = [kind for kind, entry in MITIGATIONS.items() if entry.plain]
TRAINED = [kind for kind, entry in MITIGATIONS.items() if entry.trains]


@dataclass(frozen=True)
class Fit:
    """A correction of the tiny classifier, and what the classifier was before it."""

    correction: Correction
    model: AuditModel
    before: dict[str, torch.Tensor]
    modules: list[int]


@pytest.fixture(scope="module")
def known_problem(tiny_run, tiny_dataset):
    """The tiny classifier and its problem, to be shared: corrections promise to leave them as they are."""
    context = tiny.make_context(tiny_run, tiny_dataset)
    dataset = open_world(context)
    biases = context.directory.read_record("reveal/biases.json", Biases).biases
    return open_original(context, dataset), Problem(dataset, [stage._load_bias(context, bias) for bias in biases])


@pytest.fixture(scope="module")
def fitted(known_problem):
    """Return a function that corrects the tiny classifier, once for each kind."""

    @cache
    def fit(kind: str) -> Fit:
        model, problem = known_problem
        before, modules = copy.deepcopy(model.state_dict()), [id(module) for module in model.modules()]
        torch.manual_seed(0)
        return Fit(make_mitigation(quick_section(kind)).fit(model, problem), model, before, modules)

    return fit


@pytest.fixture(scope="module")
def images(known_problem):
    return torch.stack([known_problem[1].dataset[row].x for row in range(40)])


def test_every_kind_of_the_configuration_has_a_correction_and_the_other_way_round():
    kinds = [get_args(section.model_fields["kind"].annotation)[0] for section in get_args(get_args(AnyMethod)[0])]
    assert sorted(kinds) == sorted(MITIGATIONS)
    assert {entry.needs for entry in MITIGATIONS.values()} <= {"nothing", "masks", "cav"}
    assert all(entry.paper and entry.freezes for entry in MITIGATIONS.values())


@pytest.mark.parametrize("kind", MITIGATIONS)
def test_the_model_under_audit_is_left_as_it_was(fitted, kind):
    fit = fitted(kind)
    model = fit.model
    assert [id(module) for module in model.modules()] == fit.modules
    assert all(torch.equal(value, fit.before[name]) for name, value in model.state_dict().items())
    assert not model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("kind", MITIGATIONS)
def test_the_corrected_model_is_another_function(fitted, images, kind):
    fit = fitted(kind)
    assert differs(fit.correction.model, fit.model)
    with torch.no_grad():
        assert (fit.correction.model(images) - fit.model(images)).abs().max() > 1e-3
    assert not fit.correction.model.training
    assert all(parameter.requires_grad for parameter in fit.correction.model.parameters())
    assert bool(fit.correction.history) == MITIGATIONS[kind].trains


@pytest.mark.parametrize("kind", MITIGATIONS)
def test_a_corrected_model_can_be_copied_and_explained(fitted, images, kind):
    model = fitted(kind).correction.model
    found = attribute(copy.deepcopy(model), images[:8])
    assert found.relevance.shape == images[:8].shape and found.relevance.isfinite().all()
    with torch.no_grad():
        torch.testing.assert_close(found.logits, model(images[:8]), rtol=1e-4, atol=1e-4)
    assert found.relevance.abs().sum() > 0


@pytest.mark.parametrize("kind", [kind for kind in MITIGATIONS if kind not in TRAINED])
def test_without_training_no_weight_changes(fitted, kind):
    fit = fitted(kind)
    weights = list(fit.correction.model.parameters())
    assert len(weights) == len(list(fit.model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(weights, fit.model.parameters(), strict=True))


@pytest.mark.parametrize("kind", PLAIN)
def test_a_plain_correction_keeps_the_architecture(fitted, kind):
    fit = fitted(kind)
    corrected = fit.correction.model
    assert corrected.state_dict().keys() == fit.model.state_dict().keys()
    assert fit.correction.changes == []
    assert [type(module) for module in corrected.modules()] == [type(module) for module in fit.model.modules()]


@pytest.mark.parametrize("kind", MITIGATIONS)
def test_a_corrected_model_has_no_hooks(fitted, kind):
    for module in fitted(kind).correction.model.modules():
        assert not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


@pytest.mark.parametrize("kind", MITIGATIONS)
def test_the_same_seed_gives_the_same_model(known_problem, fitted, kind):
    expected = fitted(kind).correction.model.state_dict()
    torch.manual_seed(1)
    found = make_mitigation(quick_section(kind)).fit(*known_problem).model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("kind", TRAINED)
def test_another_seed_gives_another_model(known_problem, fitted, kind):
    model, problem = known_problem
    other = make_mitigation(quick_section(kind)).fit(model, dataclasses.replace(problem, seed=1)).model
    assert differs(other, fitted(kind).correction.model)


@pytest.mark.parametrize("kind", MITIGATIONS)
def test_samples_without_masks_are_no_obstacle(known_problem, kind):
    model, problem = known_problem
    nobody = [dataclasses.replace(known, mask=lambda name: None) for known in problem.biases]
    correction = make_mitigation(quick_section(kind)).fit(model, dataclasses.replace(problem, biases=nobody))
    assert all(value.isfinite().all() for value in correction.model.state_dict().values())


@pytest.mark.parametrize("kind", MITIGATIONS)
def test_two_biases_are_corrected_together(known_problem, images, kind):
    model, problem = known_problem
    known = problem.biases[0]
    twice = dataclasses.replace(problem, biases=[known, dataclasses.replace(known)])
    correction = make_mitigation(quick_section(kind)).fit(model, twice)
    with torch.no_grad():
        assert correction.model(images).isfinite().all()


@pytest.mark.parametrize("kind", [kind for kind in TRAINED if "epochs" in section_of(kind).model_fields])
def test_a_killed_training_goes_on_and_ends_with_the_same_model(known_problem, tmp_path, monkeypatch, kind):
    model, problem = known_problem
    method = make_mitigation(quick_section(kind, epochs=2))
    measure, epochs, last = shell.validation_metrics, [], None

    def measured(*arguments):
        epochs.append(1)
        if len(epochs) == last:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(shell, "validation_metrics", measured)
    expected = method.fit(model, problem).model.state_dict()
    uninterrupted = len(epochs)
    epochs.clear()
    last = uninterrupted
    problem = dataclasses.replace(problem, key="key", state_path=tmp_path / "state.pt")
    with pytest.raises(KeyboardInterrupt):
        method.fit(model, problem)
    found = method.fit(model, problem).model.state_dict()
    assert len(epochs) == uninterrupted + 1, "only the epoch in which it was killed is repeated"
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert set(tmp_path.iterdir()) <= {problem.state_path}, "what further phases kept is gone"


def test_the_stage_stores_what_each_correction_returns(tiny_context, known_problem, fitted, images):
    model, problem = known_problem
    methods = [quick_section(kind).model_dump() for kind in MITIGATIONS]
    context = tiny_context(mitigate={"methods": methods})
    stage.run(context)
    for kind in MITIGATIONS:
        record = context.directory.read_record(f"mitigate/{kind}/method.json", MethodRecord)
        loaded = load_corrected(context.directory.root, record, model)
        expected = fitted(kind).correction.model
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), expected(images), rtol=0, atol=1e-6)
        assert (record.kind, record.trained) == (kind, MITIGATIONS[kind].trains)
        assert record.biases == [known.bias.id for known in problem.biases]
        assert record.status == "unreviewed"
        assert 0 <= record.validation["pasted_accuracy"] <= 1 and record.validation["accuracy"] > 0.3
        history = context.directory.root / f"mitigate/{kind}/history.csv"
        assert history.exists() == MITIGATIONS[kind].trains


@pytest.mark.parametrize("mode", ["position", "pooled"])
def test_p_clarc_takes_the_concept_out_of_its_layer(audited, section, mode):
    model, problem = audited
    cav = problem.biases[0].correction_cav("network.relu1")
    corrected = make_mitigation(section("p_clarc", layer="network.relu1", mode=mode)).fit(model, problem).model
    x = torch.stack([problem.dataset[row].x for row in range(problem.dataset.table.shape[0])])
    with torch.no_grad():
        activation = corrected.network[:3](x)
    direction = torch.as_tensor(cav.direction, dtype=torch.float32)
    along = (
        torch.einsum("nchw,c->nhw", activation, direction)
        if mode == "position"
        else activation.amax((2, 3)) @ direction
    )
    clean = cav.position_without if mode == "position" else cav.mean_without
    torch.testing.assert_close(along, torch.full_like(along, clean), rtol=1e-4, atol=1e-4)


def test_rr_clarc_leaves_what_its_cav_was_fitted_in(audited, section):
    model, problem = audited
    corrected = make_mitigation(section("rr_clarc", layer="network.relu1")).fit(model, problem).model
    old, new = model.state_dict(), corrected.state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved and not any(name.startswith(("network.conv1", "network.norm1")) for name in moved)


WITHOUT_PENALTY = {"rrr": {"weight": 0.0}, "cdep": {"weight": 0.0}, "isnet": {"heatmap_share": 0.0}}


@pytest.mark.parametrize("kind", WITHOUT_PENALTY)
def test_without_its_penalty_a_method_is_plain_fine_tuning(audited, section, images, kind):
    model, problem = audited
    changed = make_mitigation(section(kind, **WITHOUT_PENALTY[kind])).fit(model, problem).model
    plain = make_mitigation(section("fine_tune")).fit(model, problem).model
    with torch.no_grad():
        torch.testing.assert_close(changed(images), plain(images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("variant", ["stochastic", "selective"])
def test_isnet_measures_the_same_cuts_every_time(audited, section, variant):
    found = []
    for start in (0, 1):
        torch.manual_seed(start)
        found.append(measured_cuts(*audited, section("isnet", variant=variant), ())["input"])
    assert found[0].cut == found[1].cut and found[0].cut2 == found[1].cut2 and 0 < found[0].cut <= found[0].cut2


def test_isnet_moves_relevance_out_of_the_artifact(audited, section):
    model, problem = audited
    known = problem.biases[0]
    marked = [row for row in range(len(problem.dataset)) if known.mask(problem.dataset[row].id) is not None]
    x = torch.stack([problem.dataset[row].x for row in marked])
    inside = torch.stack([torch.from_numpy(known.mask(problem.dataset[row].id)) for row in marked])[:, None]

    def share(network) -> float:
        size = attribute(network, x, composite="lrp_flex").relevance.abs()
        return float((size * inside).sum() / size.sum())

    corrected = make_mitigation(section("isnet", epochs=6, lr=0.003)).fit(model, problem).model
    assert share(corrected) < share(model) - 0.1


@pytest.mark.parametrize("kind", ["rrr", "cdep", "rr_clarc", "isnet"])
def test_training_lowers_the_penalty(audited, section, kind):
    model, problem = audited
    name = "heatmap" if kind == "isnet" else "penalty"
    history = make_mitigation(section(kind, epochs=6, lr=0.003)).fit(model, problem).history
    assert history[-1].losses[name] < 0.95 * history[0].losses[name]
