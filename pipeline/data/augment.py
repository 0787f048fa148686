"""Random changes of training images, their masks moved along, the same for the same seed, sample and epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from ..config.model import AugmentConfig
from .randomness import generator

PURPOSE = "augment"


class Augmenter:
    """Flips, rotates, shifts and brightens each image of a batch by its own draw, and moves its mask along.

    The draws depend on (seed, epoch, sample id) only, not on a global generator or on the place in the batch. Images
    are interpolated bilinearly, masks take the nearest value; what comes in from outside is 0 in both. Shifts are
    whole pixels.

    Args:
        config: section `model.train.augment`.
        seed: the run's seed.
    """

    def __init__(self, config: AugmentConfig, seed: int):
        self.config = config
        self.seed = seed
        self.enabled = config != AugmentConfig()

    def __call__(
        self, images: torch.Tensor, masks: torch.Tensor | None, ids: Sequence[str], epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the changed images and masks; the very same tensors when nothing is enabled.

        Args:
            images: `[N, C, H, W]`, values in [0, 1].
            masks: `[N, 1, H, W]`, any type, or None.
            ids: sample ids, N of them.
            epoch: number of the epoch.

        Raises:
            ValueError: for anything but images.
        """
        if not self.enabled:
            return images, masks
        if images.ndim != 4:
            raise ValueError(f"augmentation needs images [N, C, H, W], got {list(images.shape)}")
        changed = [
            self._one(image, None if masks is None else masks[row], each, epoch)
            for row, (image, each) in enumerate(zip(images, ids, strict=True))
        ]
        moved = torch.stack([mask for _, mask in changed]) if masks is not None else None
        return torch.stack([image for image, _ in changed]), moved

    def _one(self, image: torch.Tensor, mask: torch.Tensor | None, sample_id: str, epoch: int):
        config = self.config
        # Always the same number of draws: enabling one change leaves the draws of the others as they were.
        turn, right, down, light, flip_x, flip_y = generator(self.seed, PURPOSE, str(epoch), sample_id).uniform(
            -1, 1, 6
        )
        height, width = image.shape[-2:]
        shift = [float(round(right * config.translate * width)), float(round(down * config.translate * height))]

        def move(item: torch.Tensor) -> torch.Tensor:
            if config.horizontal_flip and flip_x < 0:
                item = transforms.horizontal_flip(item)
            if config.vertical_flip and flip_y < 0:
                item = transforms.vertical_flip(item)
            if config.rotation or any(shift):
                # torchvision interpolates a tv_tensors.Mask by its nearest value, whatever is asked for here. Without
                # `fill` zeros come in from outside; with it, the border would be faded twice.
                item = transforms.affine(
                    item, turn * config.rotation, shift, 1.0, [0.0, 0.0], InterpolationMode.BILINEAR
                )
            return item

        image = move(tv_tensors.Image(image))
        if config.brightness:
            image = transforms.adjust_brightness(image, 1 + light * config.brightness)
        moved = None if mask is None else move(tv_tensors.Mask(mask)).as_subclass(torch.Tensor)
        return image.as_subclass(torch.Tensor), moved
