"""Additive attention gates around any network of images: two of its layers are looked at where a deeper one says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from .weighting import constant_for_relevance

LEAST_SUM = 1e-12


class AttentionGate(nn.Module):
    """Where to look in a map: weights in [0, 1] that add up to 1 over the positions of a sample.

    sigmoid(psi ReLU(W_x x + W_g g)), g enlarged to the positions of x (Oktay et al. 2018, eq. 1 and 2), divided by its
    sum (Schlemper et al. 2019). At first psi is 0, so that every position counts the same: the gated sum is the mean.

    Args:
        channels: of the map x.
        driving: channels of the deeper map g.
        inner: channels between.
    """

    def __init__(self, channels: int, driving: int, inner: int):
        super().__init__()
        self.of_map = nn.Conv2d(channels, inner, 1, bias=False)
        self.of_driver = nn.Conv2d(driving, inner, 1)
        self.psi = nn.Conv2d(inner, 1, 1)
        nn.init.zeros_(self.psi.weight)
        nn.init.zeros_(self.psi.bias)

    def forward(self, x: torch.Tensor, driver: torch.Tensor) -> torch.Tensor:
        """Return attention `[N, 1, H, W]`, given a map `[N, C, H, W]` and a coarser one `[N, G, h, w]`."""
        driven = F.interpolate(self.of_driver(driver), size=x.shape[2:], mode="bilinear", align_corners=False)
        score = self.psi(F.relu(self.of_map(x) + driven)).sigmoid()
        return score / score.sum((2, 3), keepdim=True).clamp(min=LEAST_SUM)


class AttentionGated(nn.Module):
    """Images -> logits `[N, K]` of a linear layer on the gated sums of some layers and the mean of the driving one.

    The network's own logits are not used.

    Args:
        network: a network of images; layers are named as in it.
        layers: whose maps are gated.
        driver: the deepest layer with positions, which drives the gates.
        channels: of the layers, and of the driver at the end.
        classes: K.
        inner: channels inside a gate.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[str],
        driver: str,
        channels: Sequence[int],
        classes: int,
        inner: int,
    ):
        super().__init__()
        self.network = network
        self.layers = tuple(layers)
        self.driver = driver
        self.gates = nn.ModuleList(AttentionGate(each, channels[-1], inner) for each in channels[:-1])
        self.head = nn.Linear(sum(channels), classes)

    def look(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return what the linear layer sees `[N, F]`, and the attention `[N, 1, H, W]` of every gated layer.

        For relevance, attention is a constant.
        """
        with _outputs(self.network, (*self.layers, self.driver)) as outputs:
            self.network(x)
        driver = outputs[self.driver]
        maps = [outputs[layer] for layer in self.layers]
        with constant_for_relevance():
            attention = [gate(each, driver) for gate, each in zip(self.gates, maps, strict=True)]
        looked_at = [(each * weights).sum((2, 3)) for each, weights in zip(maps, attention, strict=True)]
        return torch.cat([*looked_at, driver.mean((2, 3))], 1), attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `[N, K]`."""
        return self.head(self.look(x)[0])


@contextmanager
def _outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield a mapping that a forward pass inside the block fills; the network keeps no hook."""
    found: dict[str, torch.Tensor] = {}

    def watch(name: str):
        def hook(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            found[name] = output
            return output.clone()  # what follows may write into it

        return hook

    handles = [network.get_submodule(name).register_forward_hook(watch(name)) for name in dict.fromkeys(names)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
