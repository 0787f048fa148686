"""A U-Net that classifies as well."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from pipeline.attribution import attribute
from pipeline.models.multi_task import MultiTaskUNet, multi_task_unet


def made(**changes) -> MultiTaskUNet:
    torch.manual_seed(0)
    given = {"channels": 1, "classes": 3, "width": 4, "depth": 2, "cells": 2, "hidden": 8, "dropout": 0.5} | changes
    return multi_task_unet(nn.Identity(), **given).eval()


def test_the_logits_are_the_same_with_and_without_the_decoder():
    model, x = made(), torch.rand(2, 1, 12, 12)
    logits, foreground = model.both(x)
    assert torch.equal(logits, model(x)) and logits.shape == (2, 3) and foreground.shape == (2, 1, 12, 12)


def test_encoder_is_shared_and_the_rest_is_not():
    model, x = made(), torch.rand(2, 1, 12, 12)
    logits, foreground = model.both(x)
    parameters = dict(model.named_parameters())
    reached = {
        name: {
            key
            for key, each in zip(
                parameters,
                torch.autograd.grad(value.sum(), list(parameters.values()), retain_graph=True, allow_unused=True),
                strict=True,
            )
            if each is not None
        }
        for name, value in {"classes": logits, "foreground": foreground}.items()
    }
    encoder = {name for name in parameters if name.startswith("unet.encoder")}
    assert reached["classes"] == encoder | {name for name in parameters if name.startswith("head")}
    assert reached["foreground"] == {name for name in parameters if name.startswith("unet")}


def test_it_keeps_nothing_of_the_network_under_audit():
    kept = multi_task_unet(nn.Linear(3, 7), 1, 2, 4, 1, 1, 4, 0.0)
    assert not hasattr(kept, "network") and not any(tuple(each.shape) == (7, 3) for each in kept.parameters())


def test_explanations_are_finite_and_it_can_be_copied_and_traced():
    model, x = made(), torch.rand(2, 1, 12, 12)
    relevance = attribute(model, x).relevance
    assert relevance.isfinite().all() and relevance.any()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, x)
    for same in (copy.deepcopy(model), traced):
        torch.testing.assert_close(same(x), model(x))
