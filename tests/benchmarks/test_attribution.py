from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

# By path, because the folder is no installed package.
SOURCE = Path(__file__).parents[2] / "benchmarks/attribution.py"
SPEC = importlib.util.spec_from_file_location("benchmarks.attribution", SOURCE)
benchmark = sys.modules["benchmarks.attribution"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)

SETTINGS = benchmark.Settings(batch=2, size=64, repeats=2, threads=1, device="cpu", clock="processor")


@pytest.fixture(scope="module")
def problem():
    return benchmark.make_problem("resnet18", SETTINGS)


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "---" not in line]


def test_pooling_is_over_positions_only():
    values = torch.tensor([[[[1.0, 2.0], [3.0, -10.0]], [[0.0, 0.0], [0.0, 8.0]]]])
    pooled = benchmark.pool(values)
    assert pooled.sum.tolist() == [[-4.0, 8.0]]
    assert pooled.largest.tolist() == [[3.0, 8.0]]
    assert pooled.mean.tolist() == [[-1.0, 2.0]]


def test_relevance_starts_at_the_value_of_the_target_logit():
    logits = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, 6.0]])
    assert benchmark.at_targets(logits, torch.tensor([1, 2])).tolist() == [[0.0, -2.0, 0.0], [0.0, 0.0, 6.0]]


def test_every_repeat_runs_all_methods_in_an_order_of_its_own():
    names = ["a", "b", "c", "d"]
    orders = benchmark.shuffled_orders(names, 20)
    assert all(sorted(order) == names for order in orders)
    assert {order[0] for order in orders} == set(names)
    assert orders == benchmark.shuffled_orders(names, 20)


def test_backward_pass_returns_the_gradient_of_the_target_logits():
    model = nn.Linear(3, 4)
    gradient = benchmark.gradient_of(model, torch.randn(2, 3), torch.tensor([3, 0]))
    torch.testing.assert_close(gradient, model.weight[[3, 0]].detach())


def test_correlation_ignores_shift_and_scale_and_sees_sign():
    values = torch.tensor([[1.0, 2.0], [4.0, 3.0]])
    assert benchmark.correlation(values, 3 * values - 7) == pytest.approx(1)
    assert benchmark.correlation(values, -values) == pytest.approx(-1)
    assert benchmark.correlation(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([1.0, -2.0, 1.0])) == pytest.approx(0)


def test_network_is_the_same_at_every_call_and_has_no_trivial_values(problem):
    again = benchmark.make_problem("resnet18", SETTINGS)
    assert torch.equal(problem.images, again.images) and torch.equal(problem.targets, again.targets)
    for name, value in problem.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    for norm in (module for module in problem.model.modules() if isinstance(module, nn.BatchNorm2d)):
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert len(values.unique()) > 1
    assert problem.model.fc.bias.std() > 0
    assert not problem.model.training and not any(p.requires_grad for p in problem.model.parameters())
    logits = problem.model(problem.images)
    assert 1e-2 < logits.abs().mean() < 1e2


def test_activations_keep_their_size_behind_batch_norm_whatever_the_weights():
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64))
    nn.init.constant_(model[0].weight, 100.0)
    nn.init.zeros_(model[0].bias)
    images = torch.randn(4, 3, 16, 16)
    benchmark.randomize(model, images)
    assert 0.5 < model.eval()(images).std() < 2
    assert model[0].bias.std() > 0.01


def test_recording_methods_record_all_convolutions_and_find_what_zennit_finds(problem):
    pytest.importorskip("zennit")
    convolutions = {name for name, module in problem.model.named_modules() if isinstance(module, nn.Conv2d)}
    assert len(convolutions) == 20
    for name in benchmark.RECORDERS:
        found = benchmark.METHODS[name].prepare(problem)(problem.images, problem.targets)
        assert set(found.activations) == set(found.relevances) == convolutions, name
    agreements = benchmark.compare(problem, ["ours", "zennit", "peer", "forward"])
    assert [each.method for each in agreements] == ["peer", "ours"]
    for each in agreements:
        assert min(each.heatmap, each.relevance) > 0.99, each
        assert each.scale == pytest.approx(1, abs=0.02)


def test_preparing_a_method_leaves_the_network_as_it_was(problem):
    pytest.importorskip("zennit")
    logits = problem.model(problem.images)
    for name in ("peer", "zennit", "ours", "forward_backward", "forward", "fused"):
        benchmark.METHODS[name].prepare(problem)(problem.images, problem.targets)
    assert torch.equal(problem.model(problem.images), logits)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in problem.model.modules())


def test_methods_that_record_different_layers_are_not_compared():
    pooled = {"conv1": benchmark.pool(torch.randn(2, 3, 4, 4))}
    reference = benchmark.Explained(torch.randn(2, 4, 4), pooled, pooled)
    with pytest.raises(ValueError, match=r"relevances of net: \['conv2'\]"):
        benchmark.agree("net", "ours", benchmark.Explained(None, pooled, pooled | {"conv2": None}), reference)


def test_agreement_is_that_of_the_worst_layer_and_image():
    a, b = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]]), torch.tensor([[[4.0, 1.0], [2.0, 9.0]]])
    same, other = benchmark.pool(torch.randn(2, 3, 4, 4)), benchmark.pool(torch.randn(2, 3, 4, 4))
    found = benchmark.Explained(torch.cat([a, b]), {}, {"x": same, "y": other})
    reference = benchmark.Explained(torch.cat([a, -b]), {}, {"x": same, "y": same})
    agreement = benchmark.agree("net", "ours", found, reference)
    assert agreement.heatmap == pytest.approx(-1)
    assert agreement.relevance == pytest.approx(benchmark.correlation(other.sum, same.sum))
    assert agreement.scale == pytest.approx(1)


def test_times_are_compared_with_references_of_the_same_network():
    timings = [
        benchmark.Timing("resnet18", "ours", [4.0, 3.0, 8.0]),
        benchmark.Timing("resnet18", "forward_backward", [2.0, 2.5, 2.2]),
        benchmark.Timing("vgg16", "ours", [9.0]),
        benchmark.Timing("vgg16", "forward_backward", [3.0]),
    ]
    header, *rows = cells(benchmark.time_table(timings))
    assert header == ["network", "method", "least s", "median s", "times forward + backward"]
    assert [row[2:] for row in rows] == [
        ["3.000", "4.000", "1.50"],
        ["2.000", "2.200", "1.00"],
        ["9.000", "9.000", "3.00"],
        ["3.000", "3.000", "1.00"],
    ]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured on Linux")
def test_peak_of_memory_is_what_was_taken_since_the_mark_was_reset():
    here = torch.zeros(1)
    earlier = [torch.ones(40_000_000), *(torch.ones(1000) for _ in range(10_000))]  # 160 MB, and 40 MB in small pieces
    last = earlier.pop()  # keeps the allocator from giving back by itself what lies below
    del earlier
    benchmark.release_memory()
    benchmark.reset_peak(here)
    before = benchmark.bytes_now(here)
    taken = [torch.ones(20_000_000), *(torch.ones(1000) for _ in range(10_000))]  # 80 MB and 40 MB
    del taken
    assert (benchmark.peak_bytes(here) - before) / 1e6 == pytest.approx(120, abs=20)
    assert last.sum() == 1000


def test_figures_are_written_with_what_they_were_measured_on(tmp_path):
    report = benchmark.Report({"torch": "2"}, SETTINGS, {"ours": "ours, all"})
    report.timings.append(benchmark.Timing("resnet18", "ours", [1.0, 2.0]))
    report.memories.append(benchmark.Memory("resnet18", "ours", kept=5.0, peak=7.0))
    report.write(tmp_path / "new" / "figures.json")
    found = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert found["settings"]["batch"] == 2
    assert found["timings"] == [{"network": "resnet18", "method": "ours", "seconds": [1.0, 2.0]}]
    text = benchmark.text(report)
    assert "Batch 2 of 64 x 64, 1 threads" in text and "2 repeats" in text and "torch 2" in text
    assert cells(benchmark.memory_table(report.memories))[1][2:] == ["7", "5"]
