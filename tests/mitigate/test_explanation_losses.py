"""What a map should be, term by term."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.mitigate.explanation_losses import (
    contiguity,
    explanation_loss,
    joint_loss,
    openness_within,
    sparsity,
)

CENTER = torch.zeros(1, 1, 4, 4)
CENTER[..., 1:3, 1:3] = 1
ROI = torch.zeros(1, 1, 4, 4)
ROI[..., :2, :] = 1
RANDOM = torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASK = (torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(1)) > 0.5).double()


def test_the_published_numbers_come_out():
    assert float(sparsity(CENTER)) == 0.25
    assert float(contiguity(CENTER)) == pytest.approx(0.666667, abs=1e-6)
    # the mean of z outside the region of interest is not that of the open pixels
    assert float(openness_within(CENTER, 1 - ROI)) == pytest.approx(0.25, abs=1e-6)
    assert float(openness_within(CENTER, torch.zeros_like(ROI))) == 0


def test_every_term_is_its_formula_image_by_image():
    for z, mask, *found in zip(
        RANDOM[:, 0].numpy(),
        MASK[:, 0].numpy(),
        sparsity(RANDOM),
        contiguity(RANDOM),
        openness_within(RANDOM, MASK),
        explanation_loss(RANDOM, 0.9),
        explanation_loss(RANDOM, 0.9, MASK, 3.0),
        strict=True,
    ):
        small = np.abs(z).mean()
        smooth = np.abs(z[1:] - z[:-1]).mean() + np.abs(z[:, 1:] - z[:, :-1]).mean()
        inside = (mask * z).sum() / (mask.sum() + 1e-6)
        plain = 0.9 * small + 0.1 * smooth
        assert [float(value) for value in found] == pytest.approx([small, smooth, inside, plain, plain + 3 * inside])


def test_a_single_row_has_no_vertical_neighbors():
    z = torch.tensor([0.0, 1.0, 0.5]).view(1, 1, 1, 3)
    assert float(contiguity(z)) == 0.75
    assert float(contiguity(z.transpose(2, 3))) == 0.75
    assert float(contiguity(torch.ones(1, 1, 1, 1))) == 0


def test_gradients_are_those_of_the_formula():
    z = RANDOM.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: explanation_loss(z, 0.4, MASK, 2.0), z)


def test_an_image_without_mask_has_the_unsupervised_loss():
    mask = MASK.clone()
    mask[1] = 0
    hybrid, plain = explanation_loss(RANDOM, 0.9, mask, 10.0), explanation_loss(RANDOM, 0.9)
    assert hybrid[1] == plain[1] and (hybrid - plain)[[0, 2]].min() > 1


def test_the_joint_loss_weighs_classification_by_its_share():
    c, e = torch.tensor(2.0), torch.tensor(0.5)
    assert float(joint_loss(c, e, 0.9)) == pytest.approx(1.85)
    assert float(joint_loss(c, e, 1.0)) == 2.0 and float(joint_loss(c, e, 0.0)) == 0.5
