"""Receptive fields: the part of the image that a position of a layer can see.

Found by the gradient of the position's activations with respect to the image, for images of random pixels: it is
exactly 0 outside the receptive field, whatever the network is made of, and inside it can vanish on one image (a ReLU at
rest, a maximum elsewhere) but hardly on several and in all channels. Fast convolutions (Winograd, Fourier) leave
rounding errors where zeros should be; they are switched off for the purpose.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from pipeline.models.modes import evaluation_mode
from pipeline.models.trace import ChannelAxes

IMAGES = 4


class Box(NamedTuple):
    """A part of an image, in pixels: rows `top` to `bottom` and columns `left` to `right`, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    def crop(self, x: torch.Tensor) -> torch.Tensor:
        """Return this part of an image `[..., H, W]`."""
        return x[..., self.top : self.bottom, self.left : self.right]


class ReceptiveFields:
    """Receptive fields of the layers of one model, each computed once.

    The box is the whole image where a layer looks at everything, as behind attention or squeeze-and-excitation, and
    where the position is silent on all random images.

    Args:
        model: pixels in [0, 1] -> logits; it is left as it was.
        x_shape: shape of one input, `[C, H, W]`, or `[C, T]` for signals, which count as images of one row.
        share: 1 for all that the position can see; below, the middle part of each side that holds this share of the
            gradient's magnitude (effective receptive field, Luo et al. 2016), which is far smaller in deep layers.
        images: random images that are looked at together.
        seed: of the images.

    Raises:
        ValueError: share is not in (0, 1].
    """

    def __init__(
        self, model: nn.Module, x_shape: Sequence[int], *, share: float = 1.0, images: int = IMAGES, seed: int = 0
    ):
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it must be above 0 and at most 1.")
        self.model, self.share = model, share
        place = next((tensor for tensor in (*model.parameters(), *model.buffers())), torch.empty(0))
        generator = torch.Generator().manual_seed(seed)
        self._x = torch.rand(images, *x_shape, generator=generator).to(place.device)
        self._axes = ChannelAxes(model)
        self._boxes: dict[tuple[str, tuple[int, ...]], Box] = {}

    def boxes(self, layer: str, positions: Sequence[Sequence[int]]) -> list[Box]:
        """Return the box of each position, given as indices into the axes of positions of the layer's output.

        Raises:
            ValueError: the layer is unknown, or a position lies outside its output.
        """
        wanted = [tuple(int(index) for index in position) for position in positions]
        missing = [each for each in dict.fromkeys(wanted) if (layer, each) not in self._boxes]
        if missing:
            for position, box in zip(missing, self._find(layer, missing), strict=True):
                self._boxes[layer, position] = box
        return [self._boxes[layer, position] for position in wanted]

    def _find(self, layer: str, positions: list[tuple[int, ...]]) -> list[Box]:
        axis = self._axes.of(layer, self._x)
        with torch.inference_mode(False), torch.enable_grad(), evaluation_mode(self.model), exact_convolutions():
            x = self._x.clone().requires_grad_()
            output = output_until(self.model, layer, x).movedim(axis, 1)
            return [self._box(x, output, position) for position in positions]

    def _box(self, x: torch.Tensor, output: torch.Tensor, position: tuple[int, ...]) -> Box:
        shape = tuple(output.shape[2:])
        if len(position) != len(shape) or not all(0 <= i < n for i, n in zip(position, shape, strict=True)):
            raise ValueError(f"position {position} lies outside the layer's positions {shape}.")
        # channels that mirror one another would cancel in a plain sum
        weights = torch.linspace(1, 2, output.shape[1], device=output.device)
        seen = (output[(slice(None), slice(None), *position)] * weights).sum()
        (gradient,) = torch.autograd.grad(seen, x, retain_graph=True)
        magnitude = gradient.abs().sum((0, 1)).double()
        magnitude = magnitude if magnitude.ndim == 2 else magnitude[None]
        top, bottom = _middle(magnitude.sum(1), self.share)
        left, right = _middle(magnitude.sum(0), self.share)
        return Box(top, left, bottom, right)


def _middle(profile: torch.Tensor, share: float) -> tuple[int, int]:
    """Return from where to where (excluded) a profile `[n]` holds its middle share; everything where it is empty."""
    total = float(profile.sum())
    if not total > 0:
        return 0, len(profile)
    if share == 1:
        found = profile.nonzero().flatten()
        return int(found[0]), int(found[-1]) + 1
    summed = profile.cumsum(0) / total
    margin = (1 - share) / 2
    return int((summed <= margin).sum()), min(int((summed < 1 - margin).sum()) + 1, len(profile))


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Compute convolutions as sums of products alone, so that what is multiplied by 0 adds exactly 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of settings that the same switch also touches, about other hardware
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield


class _Reached(Exception):
    """Ends a forward pass at the layer that was wanted."""


def output_until(model: nn.Module, layer: str, x: torch.Tensor) -> torch.Tensor:
    """Return the output of a layer; the model runs no further than there."""
    kept: list[torch.Tensor] = []

    def stop(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        kept.append(output)
        raise _Reached

    handle = model.get_submodule(layer).register_forward_hook(stop)
    try:
        model(x)
    except _Reached:
        pass
    finally:
        handle.remove()
    return kept[0]
