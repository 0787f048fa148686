"""Health of attribution on whole architectures: which, at what size, and how untrained ones stand for trained ones.

`python -m pipeline.attribution` shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter

import torch
from pydantic import TypeAdapter
from torch import nn

from pipeline.config.model import ModelConfig
from pipeline.errors import PipelineError
from pipeline.models.build import AuditModel, build_model
from pipeline.models.checkpoints import load_weights, read_state_dict
from pipeline.models.modes import evaluation_mode
from pipeline.workspace.atomic import atomic_path
from pipeline.workspace.records import Health, Record

from .health_check import health

SIZES: dict[str, int] = {
    "local:small_cnn": 32,
    "torchvision:alexnet": 64,
    "torchvision:vgg16": 64,
    "torchvision:vgg16_bn": 64,
    "torchvision:squeezenet1_0": 64,
    "torchvision:googlenet": 64,
    "torchvision:inception_v3": 96,
    "torchvision:resnet18": 64,
    "torchvision:resnet50": 64,
    "torchvision:resnext50_32x4d": 64,
    "torchvision:densenet121": 64,
    "torchvision:shufflenet_v2_x0_5": 64,
    "torchvision:regnet_y_400mf": 64,
    "torchvision:mnasnet0_5": 64,
    "torchvision:mobilenet_v2": 64,
    "torchvision:mobilenet_v3_small": 64,
    "torchvision:mobilenet_v3_large": 64,
    "torchvision:efficientnet_b0": 64,
    "torchvision:convnext_tiny": 64,
    "torchvision:vit_b_16": 224,
    "torchvision:swin_t": 224,
    "torchvision:swin_v2_t": 256,
    "torchvision:maxvit_t": 224,
    "timm:resnet18": 64,
    "timm:resnet50d": 64,
    "timm:densenet121": 64,
    "timm:efficientnet_b0": 64,
    "timm:efficientnet_lite0": 64,
    "timm:tf_efficientnetv2_s": 64,
    "timm:mobilenetv3_small_100": 64,
    "timm:rexnet_100": 64,
    "timm:regnety_002": 64,
    "timm:seresnet18": 64,
    "timm:resnetv2_50": 64,
    "timm:convnext_tiny": 64,
    "timm:vit_tiny_patch16_224": 224,
    "timm:deit_tiny_patch16_224": 224,
    "timm:swin_tiny_patch4_window7_224": 224,
    "timm:mixer_s32_224": 224,
}
"""Architectures that are looked after -> side of their images in pixels, small where they allow it."""
USUAL_SIZE = 224
CLASSES = 10
SAMPLES = 2
"""Images that are explained."""
STATISTICS_SAMPLES = 8
"""Images that BatchNorm statistics are set from."""
BLOCK = 8
"""Side of the blocks of noise in every other image; all images of single pixels look the same to most networks."""
ASLEEP = 1e-2
"""Weights whose largest magnitude is smaller do nothing before training."""


class Examination(Record):
    """Health of one composite on one architecture.

    Attributes:
        size: side of the images in pixels.
        seconds: of the health check; building the network is not counted.
        health: None if the check failed.
        error: why it failed.
    """

    arch: str
    composite: str
    size: int
    seconds: float
    health: Health | None = None
    error: str = ""

    @property
    def verdict(self) -> str:
        """Return "healthy", "warning" (healthy, but something is to be known), "unhealthy" or "failed"."""
        if self.health is None:
            return "failed"
        if not self.health.healthy:
            return "unhealthy"
        return "warning" if self.health.warning else "healthy"


def examine(
    arch: str,
    composites: Sequence[str],
    *,
    size: int | None = None,
    checkpoint: Path | None = None,
    seed: int = 0,
) -> Iterator[Examination]:
    """Yield the health of every composite on an architecture, on images of noise.

    What goes wrong becomes an examination that says so.

    Args:
        arch: as in `model.arch`.
        composites: keys of `COMPOSITES`.
        size: side of the images in pixels; default: that of `SIZES`, else 224.
        checkpoint: trained weights; without, the network is untrained and woken.
        seed: of weights and images.
    """
    size = size or SIZES.get(arch, USUAL_SIZE)
    images = make_images(SAMPLES, (3, size, size), torch.Generator().manual_seed(seed))
    try:
        model = make_model(arch, images, checkpoint, seed)
    except Exception as error:
        yield from (_failed(arch, composite, size, 0.0, error) for composite in composites)
        return
    for composite in composites:
        began = perf_counter()
        try:
            found = health(model, images, composite=composite, arch=arch)
        except Exception as error:
            yield _failed(arch, composite, size, perf_counter() - began, error)
        else:
            yield Examination(arch=arch, composite=composite, size=size, seconds=perf_counter() - began, health=found)


def write_examinations(path: Path, examinations: Sequence[Examination]) -> None:
    """Write examinations as a JSON list, atomically.

    Raises:
        StoreError: the disk is full or the folder cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(TypeAdapter(list[Examination]).dump_json(list(examinations), indent=1))


def make_images(count: int, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Return noise in [0, 1], `[count, *shape]`: of single pixels, and of blocks of `BLOCK` pixels, in turns."""

    def blocks(side: int) -> torch.Tensor:
        coarse = torch.rand(1, shape[0], *(-(-length // side) for length in shape[1:]), generator=generator)
        return nn.functional.interpolate(coarse, tuple(shape[1:]))

    return torch.cat([blocks(BLOCK if index % 2 else 1) for index in range(count)])


def make_model(arch: str, example: torch.Tensor, checkpoint: Path | None = None, seed: int = 0) -> AuditModel:
    """Return a network in evaluation mode: with the weights of the checkpoint, or untrained and woken.

    Raises:
        ConfigError: unknown architecture.
        CheckpointError: weights of another architecture.
    """
    config = ModelConfig(arch=arch)
    model = build_model(config, CLASSES, example.shape[1], seed).eval()
    if checkpoint is None:
        return wake(model, example, seed)
    state = read_state_dict(checkpoint)
    classes = classes_in(state, model.network.state_dict())
    if classes != CLASSES:
        model = build_model(config, classes, example.shape[1], seed).eval()
    load_weights(model.network, checkpoint, arch)
    return model


def classes_in(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> int:
    """Return the number of classes that a checkpoint was trained with.

    Args:
        state: the checkpoint.
        own: a state dict of the same architecture, made for `CLASSES` classes.
    """
    heads = [
        len(tensor)
        for name, tensor in state.items()
        if name in own and own[name].shape[:1] == (CLASSES,) and tensor.shape[1:] == own[name].shape[1:]
    ]
    return heads[-1] if heads else CLASSES


@torch.no_grad()
def wake(model: nn.Module, example: torch.Tensor, seed: int = 0) -> nn.Module:
    """Make an untrained network compute something everywhere, as a trained one does; returns it.

    Much of a network does nothing before training: biases and class tokens are 0, factors of residual branches 0 or
    1e-6, those of norms 1. What attribution does wrong there would not show. And BatchNorm statistics of 0 and 1 let
    activations of some networks shrink to 1e-15, where the stabilizer of the rules, 1e-6, takes all relevance. So
    biases and whatever is constant or tiny are drawn at random, and statistics are those of images of noise.

    Args:
        model: changed in place; training flags are kept.
        example: a batch `[N, ...]`, for shape and type.
        seed: of weights and images.
    """
    generator = torch.Generator().manual_seed(seed)
    matrices = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and module.weight is not None
    }
    for name, parameter in model.named_parameters():
        drawn = torch.empty(parameter.shape)
        if name.endswith("bias"):
            drawn.normal_(0, 0.1, generator=generator)
        elif id(parameter) in matrices:
            if parameter.abs().max() >= ASLEEP:
                continue
            nn.init.kaiming_normal_(drawn, generator=generator)
        elif parameter.abs().max() < ASLEEP:
            drawn.normal_(0, 0.5, generator=generator)
        elif bool((parameter == parameter.flatten()[0]).all()):
            drawn.uniform_(0.5, 1.5, generator=generator).mul_(parameter.cpu())
        else:
            continue
        parameter.copy_(drawn)
    _set_statistics(model, make_images(STATISTICS_SAMPLES, example.shape[1:], generator).to(example))
    return model


def _set_statistics(model: nn.Module, images: torch.Tensor) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with evaluation_mode(model):
        for norm in norms:
            norm.train()
            norm.momentum = 1.0  # nothing remains of what was before
        model(images)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum


def _failed(arch: str, composite: str, size: int, seconds: float, error: Exception) -> Examination:
    lines = str(error).strip().splitlines() or [""]
    text = str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {lines[0]}"
    return Examination(arch=arch, composite=composite, size=size, seconds=seconds, error=text)
