from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.concepts.projection import Projection, insert_projection
from pipeline.errors import CheckpointError
from pipeline.models import load_weights, save_weights
from pipeline.models.checkpoints import read_state_dict


def network(seed: int = 0, classes: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, classes))


def equal(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"state_dict": {f"model.module.{name}": value for name, value in state.items()}},
    ],
    ids=["plain", "state_dict", "model_state_dict", "nested", "module.", "model.module."],
)
def test_weights_are_found_inside_common_training_checkpoints(tmp_path, wrap):
    torch.save(wrap(network(1).state_dict()), tmp_path / "c.pt")
    loaded = network(2)
    load_weights(loaded, tmp_path / "c.pt")
    assert equal(loaded, network(1))


def test_a_prefix_that_belongs_to_the_architecture_stays(tmp_path):
    wrapper = nn.Sequential()
    wrapper.add_module("model", network(1))
    save_weights(wrapper, tmp_path / "c.pt")
    loaded = nn.Sequential()
    loaded.add_module("model", network(2))
    load_weights(loaded, tmp_path / "c.pt")
    assert equal(loaded, wrapper)


def test_saved_weights_are_read_back_without_trust(tmp_path):
    save_weights(network(1), tmp_path / "deep" / "c.pt")
    assert torch.load(tmp_path / "deep" / "c.pt", weights_only=True).keys() == network().state_dict().keys()
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["c.pt"]


def test_every_mismatch_is_explained_and_nothing_is_loaded(tmp_path):
    state = network(1, classes=5).state_dict()
    del state["0.weight"]
    torch.save(state | {"head.weight": torch.ones(1)}, tmp_path / "c.pt")
    model = network(2)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, tmp_path / "c.pt", "local:small_cnn")
    message = str(caught.value)
    assert "does not fit model.arch local:small_cnn" in message
    assert "missing 1: 0.weight" in message and "unexpected 1: head.weight" in message
    assert "3.weight (5, 12) instead of (2, 12)" in message and "3.bias (5,) instead of (2,)" in message
    assert equal(model, network(2))


def test_another_architecture_is_told_in_few_words(tmp_path):
    import torchvision

    save_weights(torchvision.models.squeezenet1_1(num_classes=2), tmp_path / "c.pt")
    with pytest.raises(
        CheckpointError, match=r"missing 9: .* \.\.\.; unexpected 52: .* \.\.\.\. Set model.arch"
    ) as caught:
        load_weights(network(), tmp_path / "c.pt")
    assert len(str(caught.value)) < 700


class Pickled:
    """Executed on reading if pickle were allowed."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code of the checkpoint ran')",))


@pytest.mark.parametrize("content", ["truncated", "text", "object", "module", "list", "no tensors"])
def test_unreadable_files_are_refused(tmp_path, content):
    path = tmp_path / "c.pt"
    save_weights(network(), path)
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:700])
    elif content == "text":
        path.write_text("weights")
    else:
        values = {
            "object": {"state_dict": Pickled()},
            "module": network(),
            "list": [torch.ones(1)],
            "no tensors": {"a": 1},
        }
        torch.save(values[content], path)
    with pytest.raises(CheckpointError, match=r"c.pt .*(weights_only=True|holds no state dict).* model.state_dict\(\)"):
        read_state_dict(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere.pt does not exist. Check model.checkpoint"):
        load_weights(network(), tmp_path / "nowhere.pt")


def test_a_corrected_model_with_projections_is_called_that(tmp_path):
    projected = network(1)
    insert_projection(projected, "1", Projection(torch.ones(3), 0.5, "position"))
    save_weights(projected, tmp_path / "model.pt")
    message = r"model\.pt is a corrected model with projections \(in 1\).*my_arch.*lists no changes, such as rrr"
    with pytest.raises(CheckpointError, match=message):
        load_weights(network(2), tmp_path / "model.pt", "my_arch")
    again = network(2)
    insert_projection(again, "1", Projection(torch.zeros(3), 0.0, "position"))
    load_weights(again, tmp_path / "model.pt")
    assert equal(again, projected), "a network that carries the projections takes the weights"
