"""Cuts of ISNet's foreground term: the range of relevance that a plain classifier carries, measured batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Cuts:
    """Bounds of the total relevance of a map, between which the foreground term costs nothing; where relevance was.

    Attributes:
        cut: lower bound of each map `[K]`, float64, above 0.
        cut2: upper bound of each map `[K]`, at least `cut`.
    """

    cut: torch.Tensor
    cut2: torch.Tensor


@dataclass(frozen=True)
class Moments:
    """Mean of values, and sum of their squared distances from it, per map `[K]`; of `count` samples."""

    count: int
    mean: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor) -> Moments:
        """Return those of values `[N, K]`, N >= 1."""
        mean = values.mean(0)
        return cls(len(values), mean, (values - mean).pow(2).sum(0))

    def joined(self, other: Moments) -> Moments:
        """Return those of all samples (Chan, Golub & LeVeque 1979, the form of Welford's update for two sets)."""
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        return Moments(count, mean, self.squares + other.squares + step.pow(2) * (self.count * other.count / count))


class CutTuner:
    """Collects the total relevance of every map of every layer, and makes cuts of it.

    Totals are sums of |R| over channels and positions, whatever the mask. Neither the order of the samples nor how they
    were divided into batches matters, up to the rounding of float64; memory holds three numbers for each map.

    Source: Bassi et al., "Faster ISNet for background bias mitigation on deep neural networks", IEEE Access 2024.
    """

    def __init__(self):
        self._moments: dict[str, Moments] = {}

    def update(self, name: str, relevance: torch.Tensor) -> None:
        """Count a batch.

        Args:
            name: of the layer; "input" or any other.
            relevance: `[B, K, C, H, W]` (signals: `[B, K, C, T]`), signed; a batch of no samples changes nothing.

        Raises:
            ValueError: another number of maps K than before.
        """
        if not len(relevance):
            return
        found = Moments.of(relevance.detach().abs().flatten(2).sum(2, dtype=torch.float64))
        before = self._moments.get(name)
        if before is not None and before.mean.shape != found.mean.shape:
            raise ValueError(
                f"layer '{name}' had {len(before.mean)} maps per sample, and now has {len(found.mean)}; "
                "explain every batch in the same way"
            )
        self._moments[name] = found if before is None else before.joined(found)

    def cuts(self) -> dict[str, Cuts]:
        """Return the cuts of every layer.

        With m and s the mean and the sample deviation of a map's totals: cut = max(m / 5, m - 3 s) and
        cut2 = min(25 cut, m + 3 s).

        Raises:
            ValueError: no layer was counted, or one has fewer than two samples, or a map of it has no relevance, or
                relevance that is not finite.
        """
        if not self._moments:
            raise ValueError("no relevance was counted, so there is nothing to make cuts of; call update first")
        return {name: _cuts(name, moments) for name, moments in self._moments.items()}


def _cuts(name: str, moments: Moments) -> Cuts:
    if moments.count < 2:
        raise ValueError(
            f"cuts of layer '{name}' need at least 2 samples to measure a deviation, got {moments.count}; "
            "count more samples, or set the cuts"
        )
    mean, deviation = moments.mean, (moments.squares / (moments.count - 1)).sqrt()
    cut = torch.maximum(mean / 5, mean - 3 * deviation)
    cut2 = torch.minimum(25 * cut, mean + 3 * deviation)
    if not (cut.isfinite() & (cut > 0)).all():
        raise ValueError(
            f"the mean total relevance of the maps of layer '{name}' is {mean.tolist()}, where it must be above 0 and "
            "finite; leave the layer out, or set its cuts"
        )
    return Cuts(cut, cut2)
