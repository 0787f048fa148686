"""One step of training against the numbers of the original code: maps, losses, gradients."""

from __future__ import annotations

from functools import partial

import isnet_numbers
import numpy as np
import pytest
import torch

from pipeline.config.mitigate import IsnetMethod
from pipeline.mitigate import isnet_maps
from pipeline.mitigate.cuts import Cuts
from pipeline.mitigate.fine_tuning import MaskedBatch
from pipeline.mitigate.interface import Problem
from pipeline.mitigate.isnet import isnet_losses
from pipeline.mitigate.isnet_maps import INPUT, relevance_maps

VARIANTS = {
    "flex_multi": {"variant": "original"},
    "flex_selective_eps1e-2": {"variant": "selective", "selective_stabilizer": 0.01},
    "flex_stochastic": {"variant": "stochastic"},
    "block_e_multi": {"variant": "original", "rule": "block"},
    "block_selective": {"variant": "selective", "rule": "block"},
    "block_dual": {"variant": "dual", "rule": "block"},
}
CASES = [("tiny", name) for name in VARIANTS] + [("r18", name) for name in VARIANTS if name != "flex_stochastic"]


@pytest.mark.real_data
@pytest.mark.parametrize(("network", "variant"), CASES)
def test_a_training_step_agrees_with_the_reference_numbers(network, variant, monkeypatch):
    given = isnet_numbers.numbers("training_step.npz")
    repaired = network == "r18" and "block" in variant
    stored = isnet_numbers.numbers("training_step_fixedblock.npz") if repaired else given
    tag = f"tiny/{variant}" if network == "tiny" else f"r18/evalBN/{variant}"
    model = isnet_numbers.tiny_network() if network == "tiny" else isnet_numbers.residual_network()
    cut, cut2 = (0.5, 12.5) if network == "tiny" else (5.0, 500.0)
    config = IsnetMethod(kind="isnet", foreground="l2", decay=0.9, heatmap_share=0.7, **VARIANTS[variant])
    if f"{tag}/idx" in stored:
        drawn = torch.from_numpy(stored[f"{tag}/idx"])
        monkeypatch.setattr(isnet_maps, "stochastic_ids", lambda logits: drawn)
    # the published code lets no gradient reach biases through the rules; the heatmaps are the same
    monkeypatch.setattr(isnet_maps, "lrp_block", partial(isnet_maps.lrp_block, constant_biases=True))
    x, y = torch.from_numpy(given[f"{network}/x"]), torch.from_numpy(given[f"{network}/labels"]).long()
    batch = MaskedBatch(x, y, 1 - torch.from_numpy(given[f"{network}/mask"]))
    maps = relevance_maps(model, batch, config)
    heatmap = stored[f"{tag}/heatmap"]
    assert isnet_numbers.relative(maps.logits, stored[f"{tag}/logits"]) < 1e-5
    # divisions in every layer of a deep network amplify the rounding of single precision
    most = 5e-5 if repaired else 1e-5
    assert isnet_numbers.relative(maps.relevances[INPUT][: len(heatmap), : heatmap.shape[1]], heatmap) < most
    losses = isnet_losses(
        model, batch, Problem(dataset=None, biases=[]), config, {INPUT: Cuts(torch.tensor(cut), torch.tensor(cut2))}
    )
    found = torch.stack([losses[name] for name in ("classification", "heatmap", "total")])
    np.testing.assert_allclose(found.detach(), stored[f"{tag}/losses_ce_heat_total"], rtol=1e-4)
    losses["total"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    whole = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert float(whole) == pytest.approx(float(stored[f"{tag}/gtotalnorm"]), rel=1e-4)
    checked = 0
    for name, gradient in gradients.items():
        # against the whole gradient: single ones may be small differences of large numbers
        assert abs(float(gradient.norm()) - float(stored[f"{tag}/gnorm/{name}"])) < 1e-4 * float(whole), name
        if f"{tag}/grad/{name}" in stored:
            values = stored[f"{tag}/grad/{name}"].ravel()
            assert np.abs(gradient.flatten()[: len(values)].numpy() - values).max() < 1e-4 * np.abs(values).max(), name
            checked += 1
    assert checked == (8 if network == "tiny" else 0)
