"""Weights on disk: read safely, matched with the architecture, mismatches explained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from pipeline.errors import CheckpointError
from pipeline.workspace.atomic import atomic_path

WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "weights")
PREFIXES = ("module.", "network.", "model.", "_orig_mod.")
SHOWN = 5
PROJECTION = re.compile(r"(.*)\.projections\.\d+\.(?:measured|moved|moving|clean_value|solutions|gate_\w+|classes)")
"""How tensors are named that projections bring into a layer: buffers of `Projection` and of `ReactiveProjection`."""


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the state dict atomically; it loads with `weights_only=True`."""
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    # an open file, because a path would leave its own name in the archive and equal weights would differ in bytes
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)


def read_state_dict(path: Path | str) -> dict[str, torch.Tensor]:
    """Read a state dict, unwrapped from common training checkpoints and stripped of common prefixes.

    Raises:
        CheckpointError: the file is missing, truncated, not made of tensors, or would execute code when read.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist. Check model.checkpoint.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).splitlines()[0][:160]
        raise CheckpointError(
            f"checkpoint {path} cannot be read with weights_only=True ({first}). "
            "It is damaged, or holds pickled objects: save model.state_dict() and use that file."
        ) from None
    content = _unwrap(content)
    if not isinstance(content, Mapping) or not any(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"checkpoint {path} holds no state dict; save model.state_dict() and use that file.")
    state = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    return _strip_prefixes(state)


def load_weights(network: nn.Module, path: Path | str, arch: str = "") -> None:
    """Load a checkpoint into the network, all of it or nothing.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape; the first of each are listed.
    """
    state = read_state_dict(path)
    own = network.state_dict()
    if not set(own) & set(state):
        state = _add_common_prefix(state, own)
    missing = sorted(set(own) - set(state))
    unexpected = sorted(set(state) - set(own))
    if projected := sorted({found[1] for found in map(PROJECTION.fullmatch, unexpected) if found}):
        raise CheckpointError(
            f"checkpoint {path} is a corrected model with projections (in {', '.join(projected)}), which model.arch "
            f"{arch or type(network).__name__} does not have. Only corrections of the plain architecture can be "
            "started from, those whose method.json lists no changes, such as rrr, isnet or fine_tune."
        )
    reshaped = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or unexpected or reshaped:
        parts = [
            f"{title} {len(names)}: {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"
            for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
            if names
        ]
        raise CheckpointError(
            f"checkpoint {path} does not fit model.arch {arch or type(network).__name__}: {'; '.join(parts)}. "
            "Set model.arch (and model.params, and the classes of the data) to those the checkpoint was trained with."
        )
    network.load_state_dict(state)


def _unwrap(content: object) -> object:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            return _unwrap(content[wrapper])
    return content


def _strip_prefixes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return _strip_prefixes({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def _add_common_prefix(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undo a stripped prefix that belongs to the architecture itself."""
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in own):
            return {prefix + name: value for name, value in state.items()}
    return state
