"""An explainable copy of a model: BatchNorm folded into the layer before it, found by tracing the data flow."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from pipeline.models.build import forbid_in_place

FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
TOLERANCE = 1e-3
"""Largest change of a logit by folding, as a share of the largest logit; rounding stays far below, mistakes above."""


def canonized_copy(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """Return a deep copy in evaluation mode that computes the same function with BatchNorm folded away.

    A BatchNorm is folded when its input is, tensor for tensor, the output of a convolution or linear layer, both run
    once, and folding leaves the logits as they are; it does not where the output is used elsewhere too, as in
    pre-activation networks. The model itself is not touched: neither values, nor identities, nor hooks.

    Args:
        model: any module.
        example: one small batch, used to watch which output feeds which BatchNorm.
    """
    duplicate = copy.deepcopy(model).eval()
    forbid_in_place(duplicate)
    for parameter in duplicate.parameters():
        parameter.requires_grad_(False)
    logits, pairs = _fold_pairs(duplicate, example)
    undo = [_fold(duplicate, producer, norm) for producer, norm in pairs]
    if _same_logits(duplicate, example, logits):
        return duplicate
    for restore in reversed(undo):
        restore()
    for producer, norm in pairs:
        restore = _fold(duplicate, producer, norm)
        if not _same_logits(duplicate, example, logits):
            restore()
    return duplicate


def _fold_pairs(model: nn.Module, example: torch.Tensor) -> tuple[torch.Tensor, list[tuple[nn.Module, nn.Module]]]:
    produced: dict[int, nn.Module] = {}
    kept_alive: list[torch.Tensor] = []
    pairs: list[tuple[nn.Module, nn.Module]] = []
    calls: dict[nn.Module, int] = {}

    def watch(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, NORMS) and id(inputs[0]) in produced and module.running_mean is not None:
            pairs.append((produced[id(inputs[0])], module))
        elif isinstance(module, FOLDABLE) and (output.ndim == 2 or not isinstance(module, nn.Linear)):
            kept_alive.append(output)
            produced[id(output)] = module

    handles = [m.register_forward_hook(watch) for m in model.modules() if isinstance(m, FOLDABLE + NORMS)]
    try:
        with torch.no_grad():
            logits = model(example)
    finally:
        for handle in handles:
            handle.remove()
    return logits, [(producer, norm) for producer, norm in pairs if calls[producer] == calls[norm] == 1]


def _same_logits(model: nn.Module, example: torch.Tensor, logits: torch.Tensor) -> bool:
    with torch.no_grad():
        difference = (model(example) - logits).abs().max()
    return bool(difference <= TOLERANCE * logits.abs().max())


def _fold(model: nn.Module, producer: nn.Module, norm: nn.Module) -> Callable[[], None]:
    """Move the normalisation into the producer; return the function that takes it back."""
    weight, bias, remainder = producer.weight, producer.bias, _what_remains(norm)
    producer.weight, producer.bias = _fused(producer, norm)
    _replace(model, norm, remainder)

    def restore() -> None:
        producer.weight, producer.bias = weight, bias
        _replace(model, remainder, norm)

    return restore


def _fused(producer: nn.Module, norm: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    scale = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight
    shift = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
    fuse = fuse_linear_bn_weights if isinstance(producer, nn.Linear) else fuse_conv_bn_weights
    weight, bias = fuse(producer.weight, producer.bias, norm.running_mean, norm.running_var, norm.eps, scale, shift)
    return nn.Parameter(weight.detach(), requires_grad=False), nn.Parameter(bias.detach(), requires_grad=False)


def _what_remains(norm: nn.Module) -> nn.Module:
    """Return what the normalisation layer did besides normalising: some bring their activation with them.

    The activation keeps its name below the layer's, so that it is found where the model has it.
    """
    has_activation = isinstance(getattr(norm, "act", None), nn.Module)
    return nn.Sequential(OrderedDict(act=norm.act)) if has_activation else nn.Identity()


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)
