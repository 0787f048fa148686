from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import spsolve

from pipeline.data.inpainting import inpaint

HEIGHT, WIDTH = 14, 17


def hole(*windows: tuple[slice, slice]) -> torch.Tensor:
    mask = torch.zeros(1, 1, HEIGHT, WIDTH)
    for window in windows:
        mask[0, 0][window] = 1
    return mask


CORNER = (slice(0, 5), slice(0, 4))
MIDDLE = (slice(4, 11), slice(5, 13))
NEXT_TO_IT = (slice(6, 14), slice(14, 16))


def test_values_that_are_the_mean_of_their_neighbors_are_restored():
    y, x = torch.meshgrid(torch.arange(HEIGHT) / HEIGHT, torch.arange(WIDTH) / HEIGHT, indexing="ij")
    images = torch.stack([x, y, (x * x - y * y) / 4 + 0.5, torch.full_like(x, 0.3)])[None]
    mask = hole(MIDDLE)
    found = inpaint(torch.where(mask.bool(), torch.tensor(0.9), images), mask)
    torch.testing.assert_close(found, images, rtol=0, atol=1e-4)


def test_a_signal_is_bridged_by_a_straight_line():
    signals = torch.tensor([[[0.2, 0.9, 0.9, 0.9, 0.6], [1.0, 0.0, 0.0, 0.0, 1.0]]])
    mask = torch.tensor([[[0, 1, 1, 1, 0]]])
    expected = torch.tensor([[[0.2, 0.3, 0.4, 0.5, 0.6], [1.0] * 5]])
    torch.testing.assert_close(inpaint(signals, mask), expected, rtol=0, atol=1e-4)


def dense(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Solve for every filled value: as often as it has neighbors, it is their sum."""
    number = {place: index for index, place in enumerate(map(tuple, np.argwhere(mask)))}
    matrix, known = sparse.lil_matrix((len(number), len(number))), np.zeros(len(number))
    for (row, column), index in number.items():
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= near[0] < image.shape[0] and 0 <= near[1] < image.shape[1]:
                matrix[index, index] += 1
                if near in number:
                    matrix[index, number[near]] -= 1
                else:
                    known[index] += image[near]
    found = image.copy()
    found[mask] = spsolve(matrix.tocsr(), known)
    return found


@pytest.mark.parametrize("windows", [[MIDDLE], [CORNER], [CORNER, MIDDLE, NEXT_TO_IT]], ids=["middle", "corner", "all"])
def test_the_fill_is_the_solution_of_the_equations(windows):
    image, mask = torch.rand(1, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)), hole(*windows)
    expected = dense(image[0, 0].double().numpy(), mask[0, 0].bool().numpy())
    np.testing.assert_allclose(inpaint(image, mask)[0, 0], expected, atol=1e-4)


def test_images_do_not_depend_on_what_else_is_in_the_batch():
    images = torch.rand(4, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
    masks = torch.cat([hole(MIDDLE), hole(CORNER), hole(), hole(NEXT_TO_IT)])
    together = inpaint(images, masks)
    alone = torch.cat([inpaint(images[row : row + 1], masks[row : row + 1]) for row in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_nothing_but_the_hole_changes_and_what_was_in_it_does_not_count():
    images, masks = torch.rand(2, 3, HEIGHT, WIDTH), torch.cat([hole(MIDDLE, CORNER), hole(NEXT_TO_IT)])
    before = images.clone()
    found = inpaint(images, masks)
    assert torch.equal(images, before), "the images given stay as they are"
    outside = ~masks.bool().expand_as(images)
    assert torch.equal(found[outside], images[outside])
    assert not torch.equal(found, images)
    other = torch.where(outside, images, torch.tensor(7.0))
    assert torch.equal(inpaint(other, masks), found)


def test_what_is_masked_everywhere_or_nowhere_stays():
    images = torch.rand(2, 1, 5, 5)
    masks = torch.stack([torch.ones(1, 5, 5), torch.zeros(1, 5, 5)])
    assert torch.equal(inpaint(images, masks), images)


def test_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"masks \[1, 5, 5\] do not fit images \[1, 3, 5, 5\]"):
        inpaint(torch.rand(1, 3, 5, 5), torch.ones(1, 5, 5))
