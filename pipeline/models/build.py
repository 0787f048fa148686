"""From `model.arch` to a network that takes pixels in [0, 1]."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pipeline.config.model import ModelConfig
from pipeline.errors import ConfigError, nearest

LOCAL_ARCHITECTURES: dict[str, str] = {
    "small_cnn": "pipeline.models.small_cnn:small_cnn",
    "efficientnet_lite0_imagenet": "pipeline.models.efficientnet_lite:efficientnet_lite0_imagenet",
}


class Normalize(nn.Module):
    """Subtract channel means and divide by channel deviations."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise images `[N, C, H, W]`."""
        return (x - self.mean) / self.std


class AuditModel(nn.Module):
    """The classifier under audit: pixels in [0, 1] -> logits `[N, K]`.

    Attributes:
        normalize: the user's normalisation, or identity.
        network: the user's network; its state dict is what checkpoints hold.
        arch: the architecture as configured.
    """

    def __init__(self, network: nn.Module, normalize: nn.Module | None = None, arch: str = ""):
        super().__init__()
        self.normalize = normalize or nn.Identity()
        self.network = network
        self.arch = arch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `[N, K]`."""
        return self.network(self.normalize(x))


def build_model(config: ModelConfig, classes: int, channels: int, seed: int = 0) -> AuditModel:
    """Return the untrained (or, for architectures that bring weights, pre-trained) model.

    Initial weights depend on `seed` alone; the global random state is left as it was.

    Raises:
        ConfigError: unknown architecture, wrong parameters, mean and std that do not fit the channels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _build_network(config.arch, classes, channels, dict(config.params))
    forbid_in_place(network)
    return AuditModel(network, _normalization(config, channels), config.arch)


def _normalization(config: ModelConfig, channels: int) -> nn.Module | None:
    if config.mean is None and config.std is None:
        return None
    mean, std = config.mean or (0.0,), config.std or (1.0,)
    for key, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ConfigError(
                f"model.{key}: {len(values)} values for images of {channels} channels; give 1 or {channels}."
            )
    return Normalize(mean, std)


def _build_network(arch: str, classes: int, channels: int, params: dict[str, Any]) -> nn.Module:
    source, colon, name = arch.partition(":")
    if not colon:
        raise ConfigError(
            f"model.arch '{arch}': expected torchvision:NAME, timm:NAME, local:NAME or my.module:factory."
        )
    if source == "torchvision":
        return _torchvision(name, classes, channels, params)
    if source == "timm":
        return _timm(name, classes, channels, params)
    if source == "local":
        if name not in LOCAL_ARCHITECTURES:
            known = sorted(LOCAL_ARCHITECTURES)
            raise ConfigError(f"model.arch '{arch}' is unknown.{nearest(name, known)} Allowed: {', '.join(known)}.")
        return _call(resolve(LOCAL_ARCHITECTURES[name]), arch, classes, channels, params)
    network = _call(resolve(arch), arch, classes, channels, params)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model.arch '{arch}' returned {type(network).__name__}, expected a torch.nn.Module.")
    return network


def resolve(dotted: str) -> Callable[..., Any]:
    """Import `my.module:name`, also from the working directory.

    Raises:
        ConfigError: the module or the name does not exist.
    """
    import sys

    module_name, _, name = dotted.partition(":")
    if "" not in sys.path:
        sys.path.append("")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"'{dotted}' cannot be imported: {error}. It is searched in the working directory and in "
            "the installed packages."
        ) from None
    if not hasattr(module, name):
        public = [entry for entry in dir(module) if not entry.startswith("_")]
        raise ConfigError(f"'{dotted}': module {module_name} has no '{name}'.{nearest(name, public)}")
    return getattr(module, name)


def _call(factory: Callable[..., nn.Module], arch: str, classes: int, channels: int, params: dict) -> nn.Module:
    parameters = inspect.signature(factory).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [name for name in params if name not in parameters and not open_ended]
    if unknown:
        allowed = [name for name in parameters if name not in ("classes", "channels")]
        raise ConfigError(
            f"model.params: {arch} does not take '{unknown[0]}'.{nearest(unknown[0], allowed)} "
            f"Allowed: {', '.join(allowed)}."
        )
    return _create(factory, arch, {"classes": classes, "channels": channels}, params)


def _create(factory: Callable[..., nn.Module], arch: str, given: dict[str, Any], params: dict[str, Any]) -> nn.Module:
    """Call the factory; what it says about its arguments becomes an error about the configuration."""
    for name in given:
        if name in params:
            raise ConfigError(f"model.params: '{name}' of {arch} is set by the pipeline ({given[name]}); leave it out.")
    try:
        return factory(**given, **params)
    except TypeError as error:
        raise ConfigError(f"model.arch '{arch}' cannot be built with these model.params: {error}.") from error


def _torchvision(name: str, classes: int, channels: int, params: dict[str, Any]) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ConfigError(f"model.arch 'torchvision:{name}' is unknown.{nearest(name, known)}")
    given = {"name": name, "weights": None, "num_classes": classes}
    network = _create(torchvision.models.get_model, f"torchvision:{name}", given, params)
    if channels != 3:
        _replace_stem(network, channels)
    return network


def _timm(name: str, classes: int, channels: int, params: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise ConfigError(
            f"model.arch 'timm:{name}' needs timm. Install the extra: pip install 'reveal-revise[timm]'."
        ) from None
    if not timm.is_model(name):
        raise ConfigError(f"model.arch 'timm:{name}' is unknown.{nearest(name, timm.list_models())}")
    given = {"model_name": name, "num_classes": classes, "in_chans": channels}
    return _create(timm.create_model, f"timm:{name}", given, params)


def _replace_stem(network: nn.Module, channels: int) -> None:
    """Give the first convolution another number of input channels."""
    for parent in network.modules():
        for key, child in parent.named_children():
            if isinstance(child, nn.Conv2d):
                stem = nn.Conv2d(
                    channels, child.out_channels, child.kernel_size, child.stride, child.padding,
                    child.dilation, bias=child.bias is not None,
                )  # fmt: skip
                setattr(parent, key, stem)
                return


def forbid_in_place(network: nn.Module) -> None:
    """Make activations write new tensors, so that recorded activations stay what they were."""
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
