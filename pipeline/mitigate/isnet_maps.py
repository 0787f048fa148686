"""The relevance maps of every ISNet variant, from the two engines of `attribution`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.attribution.block import BlockMap, chosen_seed, class_seed, dual_maps, lrp_block, selective_seed
from pipeline.attribution.flex import flex_maps
from pipeline.attribution.flex_streaming import streamed_loss
from pipeline.config.mitigate import IsnetMethod

from .fine_tuning import MaskedBatch
from .isnet_quantities import (
    Explained,
    highest_probability,
    label_ids,
    margin,
    stabilized_log_odds,
    stochastic_ids,
)

INPUT = "input"


@dataclass(frozen=True)
class RelevanceMaps:
    """Relevance of one batch.

    Attributes:
        logits: `[N, classes]`.
        relevances: K maps `[N, K, C, H, W]` of the input, under the name "input", and of every supervised layer.
    """

    logits: torch.Tensor
    relevances: dict[str, torch.Tensor]


def relevance_maps(
    network: nn.Module,
    batch: MaskedBatch,
    config: IsnetMethod,
    layers: Sequence[str] = (),
    *,
    create_graph: bool = False,
) -> RelevanceMaps:
    """Return the maps of a variant.

    Args:
        network: pixels -> logits.
        batch: images and labels.
        config: variant, rule and their parameters.
        layers: hidden layers at whose output relevance is wanted as well.
        create_graph: keep the graph, for a loss on the maps.
    """
    if config.rule == "block":
        found = lrp_block(
            network,
            batch.x,
            _block_maps(config, batch.y),
            layers=layers,
            create_graph=create_graph,
            epsilon=config.epsilon,
            input_rule=config.input_rule,
        )
    else:
        found = flex_maps(
            network, batch.x, explained_by(config, batch.y), layers=layers, create_graph=create_graph, **_flex(config)
        )
    return RelevanceMaps(found.logits, {INPUT: found.relevance} | found.relevances)


def can_be_streamed(config: IsnetMethod, layers: Sequence[str]) -> bool:
    """Tell whether there are many maps whose losses do not depend on each other, so that one at a time will do."""
    return config.variant == "original" and config.rule == "flex" and not layers


def streamed_mean(
    network: nn.Module,
    batch: MaskedBatch,
    config: IsnetMethod,
    loss_of_map: Callable[[int, dict[str, torch.Tensor]], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of the losses of all maps, and the logits; only one map is in memory at a time.

    Args:
        network, batch, config: as in `relevance_maps`.
        loss_of_map: given the number of a map and its relevance `[N, 1, C, H, W]` under the name "input".
    """
    total, logits = streamed_loss(
        network,
        batch.x,
        explained_by(config, batch.y),
        lambda number, relevance, _: loss_of_map(number, {INPUT: relevance[:, None]}),
        **_flex(config),
    )
    return total / logits.shape[1], logits


def explained_by(config: IsnetMethod, y: torch.Tensor) -> Explained:
    """Return what a variant explains.

    Args:
        config: variant.
        y: class ids `[N]`, or which classes are present `[N, classes]`: then labels are independent of each other.
    """
    exclusive = y.ndim == 1

    def explained(logits: torch.Tensor) -> torch.Tensor:
        if config.variant == "original":
            return logits
        if config.variant == "softmax_gradient_x_input":
            return highest_probability(logits, exclusive=exclusive)
        if config.variant == "stochastic":
            ids = label_ids(y, logits) if config.explain_labels else stochastic_ids(logits)
            return logits.gather(1, ids[:, None])[:, 0]
        ids = label_ids(y, logits) if config.explain_labels else logits.argmin(1)
        if config.selective_stabilizer is None:
            return margin(logits, ids, exclusive=exclusive)
        return stabilized_log_odds(logits, ids, config.selective_stabilizer)

    return explained


def _block_maps(config: IsnetMethod, y: torch.Tensor) -> Callable[[int], Sequence[BlockMap]]:
    """Return what LRP-Block explains, given the number of classes."""
    epsilon = config.epsilon

    def maps(classes: int) -> Sequence[BlockMap]:
        if config.variant == "dual":
            return dual_maps(epsilon)
        if config.variant == "original":
            return [BlockMap("epsilon", class_seed(index, epsilon)) for index in range(classes)]
        if config.variant == "selective" and y.ndim == 1 and classes > 1:
            return [BlockMap("epsilon", selective_seed(epsilon))]
        # labels that do not exclude each other have their logits as log-odds
        chosen = stochastic_ids if config.variant == "stochastic" else lambda logits: logits.argmin(1)
        return [BlockMap("epsilon", chosen_seed(chosen, epsilon))]

    return maps


def _flex(config: IsnetMethod) -> dict:
    if config.variant == "softmax_gradient_x_input":
        # without a stabiliser the modified backward pass is the gradient itself
        return {"epsilon": 0.0, "input_rule": "gradient_x_input"}
    return {"epsilon": config.epsilon, "input_rule": config.input_rule}
