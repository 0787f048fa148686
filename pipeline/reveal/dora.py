"""Neurons whose signals excite the other neurons of their layer unlike any other neuron's signals do (DORA)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.reveal import DoraConfig

from .candidates import Candidate, Detection
from .neuron_groups import MIN_GROUP, neuron_members, outlier_scores
from .references import TopSamples
from .spaces import BLOCK, normalize_rows, space_features
from .view import ClassView, DataView

if TYPE_CHECKING:
    from PIL import Image

    from .synthetic_signals import Maximizer

QUANTITY = "activation_max"
FEWEST_CHANNELS = 3


@dataclass(frozen=True)
class LayerProfile:
    """What is known of the channels of a layer after one pass over the samples.

    Attributes:
        mean: of each channel `[C]` over the samples.
        deviation: standard deviation `[C]`; 0 where a channel is constant.
        signals: rows of the store `[C, k]` on which each channel is most active, the strongest first; of equally
            strong ones the lower row.
    """

    mean: np.ndarray
    deviation: np.ndarray
    signals: np.ndarray

    @property
    def varying(self) -> np.ndarray:
        """Channels that are not constant over the samples, ascending."""
        return np.flatnonzero(self.deviation > 0)


class Dora:
    """The detector `dora`: the samples on which an outlier neuron carries relevance form a candidate.

    The signals of a neuron are the samples that excite it most, of all classes, or images made by activation
    maximisation. Responses are max-pooled activations in units of the channel's standard deviation over the samples,
    so that no channel counts more than another; the distance of two neurons compares all that their signals excite.

    Source: Bykov, Deb, Grinwald, Muller, Hohne, "DORA: Exploring Outlier Representations in Deep Neural Networks",
    TMLR 2023.
    """

    def __init__(self, config: DoraConfig):
        self.config = config

    def detect(self, view: DataView) -> Detection:
        """Return a group for each of the most unusual neurons of each layer.

        Arrays, under the layer's name: `channels` `[c]` that were compared, their extreme-activation `distances`
        `[c, c]` and outlier `scores` `[c]`. Pictures show the signals of the reported neurons.
        """
        found = Detection([])
        for layer in view.layers(self.config.layers, "dora"):
            if len(view.rows) >= 2 * MIN_GROUP:
                self._detect_in(view, layer, found)
        return found

    def _detect_in(self, view: DataView, layer: str, found: Detection) -> None:
        config = self.config
        profile = layer_profile(view, layer, config.per_neuron)
        channels = profile.varying
        if len(channels) < FEWEST_CHANNELS:
            return
        distances = extreme_activation_distances(self._responses(view, layer, profile))
        scores = outlier_scores(distances, config.neighbors, config.score)
        found.arrays[f"{layer}/channels"], found.arrays[f"{layer}/scores"] = channels, scores
        found.arrays[f"{layer}/distances"] = distances.astype(np.float32)
        order = np.argsort(-scores, kind="stable")[: config.per_layer]
        neurons = channels[order]
        classes = list(view.classes())
        shares = np.stack([relevance_shares(each, layer, neurons) for each in classes])
        for neuron, score, strongest in zip(neurons.tolist(), scores[order], shares.argmax(0), strict=True):
            group = classes[strongest]
            members = neuron_members(group, layer, neuron) if len(group.rows) >= 2 * MIN_GROUP else None
            if members is not None:
                note = (
                    f"What excites neuron {neuron} most excites the other neurons of the layer in a way of its own: "
                    f"outlier score {score:.2f}, median of the layer {np.median(scores):.2f}."
                )
                found.candidates.append(Candidate("dora", group.class_id, layer, group.rows, members, (neuron,), note))
        if len(view.dataset.shape) == 3:
            caption = f"Signals of the most unusual neurons of {layer}, a row each: {', '.join(map(str, neurons))}"
            found.pictures[caption] = self._picture(view, layer, profile, neurons)

    def _responses(self, view: DataView, layer: str, profile: LayerProfile) -> np.ndarray:
        if self.config.signals == "natural":
            return natural_responses(view, layer, profile)
        from .synthetic_signals import signal_responses

        channels = profile.varying
        found = signal_responses(
            self._maximizer(view, layer), channels, self.config.per_neuron,
            batch_size=view.batch_size, reporter=view.reporter,
        )  # fmt: skip
        return (found - profile.mean[channels]) / profile.deviation[channels]

    def _maximizer(self, view: DataView, layer: str) -> Maximizer:
        from .synthetic_signals import Maximizer

        return Maximizer(
            view.model, layer, view.dataset.shape, iterations=self.config.iterations, seed=view.seed, device=view.device
        )

    def _picture(self, view: DataView, layer: str, profile: LayerProfile, neurons: np.ndarray) -> Image.Image:
        from pipeline.workspace.pictures import sheet, to_image

        if self.config.signals == "natural":
            rows = [[view.dataset[int(row)].x.numpy() for row in profile.signals[neuron]] for neuron in neurons]
        else:
            maximizer, numbers = self._maximizer(view, layer), np.arange(self.config.per_neuron)
            rows = [maximizer.images(np.full(len(numbers), each), numbers).cpu().numpy() for each in neurons]
        return sheet([[to_image(image) for image in row] for row in rows])


def extreme_activation_distances(responses: np.ndarray, *, pairwise: bool = False) -> np.ndarray:
    """Return the extreme-activation distances `[C, C]` of neurons: sqrt((1 - cos(r_i, r_j)) / 2).

    Args:
        responses: `[C, C]`; entry (i, j) is the mean response of neuron j to the signals of neuron i, row i is r_i.
        pairwise: compare r_i and r_j in the coordinates i and j alone, as in the paper; otherwise in all.

    Returns:
        In [0, 1]: 0 for proportional rows, 1 for opposite ones; symmetric with a zero diagonal. A row of zeros has the
        cosine 0 to every other.

    Source: Bykov et al., TMLR 2023.
    """
    responses = np.asarray(responses, dtype=np.float64)
    if pairwise:
        own = np.diag(responses)
        products = own[:, None] * responses.T + responses * own[None]
        # |(R_ii, R_ij)| in row i, column j; its transpose is |(R_jj, R_ji)|
        lengths = np.hypot(own[:, None], responses)
        lengths = lengths * lengths.T
    else:
        products = responses @ responses.T
        lengths = np.linalg.norm(responses, axis=1)
        lengths = lengths[:, None] * lengths[None]
    cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    distances = np.sqrt((1 - np.clip((cosines + cosines.T) / 2, -1, 1)) / 2)
    np.fill_diagonal(distances, 0)
    return distances


def layer_profile(view: DataView, layer: str, count: int) -> LayerProfile:
    """Return mean, deviation and the `count` strongest rows of each channel, in one pass that holds one block of rows.

    There is at least one sample; with fewer than `count` all of them are signals.
    """
    seen, mean, squares = 0, np.float64(0), np.float64(0)
    strongest: TopSamples | None = None
    for rows, values in _blocks(view, view.rows, layer):
        # Chan et al. 1983: means and sums of squared deviations of two parts give those of the whole
        seen += len(rows)
        inside = values.mean(0, dtype=np.float64)
        step = inside - mean
        mean = mean + step * len(rows) / seen
        squares = squares + ((values - inside) ** 2).sum(0) + step**2 * len(rows) * (seen - len(rows)) / seen
        strongest = strongest or TopSamples(values.shape[1], count)
        strongest.update(rows, values)
    # sums of float32 values in float64 are exact: a constant channel has a deviation of exactly 0
    return LayerProfile(mean, np.sqrt(squares / seen), strongest.result().rows)


def natural_responses(view: DataView, layer: str, profile: LayerProfile) -> np.ndarray:
    """Return the mean response of each varying channel to the signals of each other `[c, c]`, in standard deviations.

    Only samples on which a channel exceeds its mean are its signals: a channel that fires on two samples has two.
    """
    from scipy import sparse

    channels = profile.varying
    signals = profile.signals[channels]
    owners = np.repeat(np.arange(len(channels)), signals.shape[1])
    total = np.zeros((len(channels), len(channels)))
    counts = np.zeros(len(channels))
    for rows, values in _blocks(view, np.unique(signals), layer):
        standardized = (values[:, channels] - profile.mean[channels]) / profile.deviation[channels]
        place = np.searchsorted(rows, signals.ravel()).clip(max=len(rows) - 1)
        here = rows[place] == signals.ravel()
        here[here] = standardized[place[here], owners[here]] > 0
        picks = sparse.csr_array(
            (np.ones(here.sum()), (owners[here], place[here])), shape=(len(channels), len(rows))
        )  # fmt: skip
        total += picks @ standardized
        counts += picks.sum(1)
    return total / np.maximum(counts, 1)[:, None]


def relevance_shares(view: ClassView, layer: str, neurons: np.ndarray) -> np.ndarray:
    """Return the mean share of positive relevance `[len(neurons)]` that neurons carry in a class; 0 without samples."""
    total = np.zeros(len(neurons))
    for start in range(0, len(view.rows), BLOCK):
        rows = view.rows[start : start + BLOCK]
        total += normalize_rows(space_features(view.data, rows, layer))[:, neurons].clip(min=0).sum(0)
    return total / max(len(view.rows), 1)


def _blocks(view: DataView, rows: np.ndarray, layer: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows of the store and their max-pooled activations `[B, C]`."""
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        yield block, space_features(view, block, layer, quantity=QUANTITY)
