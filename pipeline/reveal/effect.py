"""What a group's concept does to the model: taken out of its samples, and put into samples of other classes.

Every figure is a change of the class's probability beyond that of a control which differs in nothing but the concept:
the same region cut from samples of the same class without the concept, or a move of the activations of equal length.
What belongs to the class itself, and what pasting and moving do by themselves, drops out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from .candidates import Candidate
from .view import DataView


@dataclass(frozen=True)
class Effect:
    """Mean changes of the class's probability, in [-1, 1].

    Attributes:
        pasted: gain where the region of members is pasted into images of other classes.
        removed: loss where the region of members is filled from others of the class.
        inserted: gain where activations of other classes move by the concept.
        projected: loss where activations of members move back by the concept.
    """

    pasted: float
    removed: float
    inserted: float
    projected: float

    @property
    def largest(self) -> float:
        """Return the largest of the four."""
        return max(self.pasted, self.removed, self.inserted, self.projected)


def class_probability(model: nn.Module, x: torch.Tensor, class_id: int) -> np.ndarray:
    """Return the probability `[N]` of a class."""
    with torch.no_grad():
        return model(x).softmax(1)[:, class_id].cpu().numpy()


def exchange_effects(
    model: nn.Module,
    class_id: int,
    inside: torch.Tensor,
    members: torch.Tensor,
    plain: torch.Tensor,
    others_of_class: torch.Tensor,
    receivers: torch.Tensor,
) -> tuple[np.ndarray, np.ndarray]:
    """Return per image `[N]` what pasting the region gains and what removing it loses, both beyond the control.

    Args:
        inside: the region, booleans `[N, 1, H, W]`.
        members: images `[N, C, H, W]` with the concept.
        plain: images of the class without it; they fill the region.
        others_of_class: images of the class without it, in which the region is filled as well, for comparison.
        receivers: images of other classes.
    """

    def probability(region: torch.Tensor, image: torch.Tensor) -> np.ndarray:
        return class_probability(model, torch.where(inside, region, image), class_id)

    pasted = probability(members, receivers) - probability(plain, receivers)
    removed = class_probability(model, members, class_id) - probability(plain, members)
    by_itself = class_probability(model, others_of_class, class_id) - probability(plain, others_of_class)
    return pasted, removed - by_itself


def shift_effects(
    view: DataView,
    candidate: Candidate,
    layer: str,
    members: np.ndarray,
    receivers: np.ndarray,
    generator: np.random.Generator,
) -> tuple[float, float]:
    """Return what moving activations by the concept gains in other classes, and moving them back loses in members.

    The concept is the difference of mean activations between members and the rest of the class, added at every
    position; the control is the same difference between random halves of equal sizes, at the concept's length.

    Args:
        view: all samples.
        candidate: the group.
        layer: where activations move.
        members: rows that lose the concept.
        receivers: rows of other classes that get it.
        generator: for the control.
    """
    means = view.store.activations(layer, "mean", candidate.rows)
    concept = _difference(means, candidate.members)
    control = _difference(means, generator.permutation(candidate.members))
    control = control * np.linalg.norm(concept) / max(np.linalg.norm(control), 1e-12)

    def probability(rows: np.ndarray, shift: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(rows), view.batch_size):
            batch = rows[start : start + view.batch_size]
            x = view.images(batch)
            parts.append(shifted_probability(view.model, x, candidate.class_id, layer, shift))
        return np.concatenate(parts)

    inserted = probability(receivers, concept) - probability(receivers, control)
    projected = probability(members, -control) - probability(members, -concept)
    return float(inserted.mean()), float(projected.mean())


def shifted_probability(model: nn.Module, x: torch.Tensor, class_id: int, layer: str, shift: np.ndarray) -> np.ndarray:
    """Return the probability `[N]` of a class when a layer's activations move by `shift` `[C]` at every position.

    Activations that are never negative, as behind a ReLU, stay so.
    """

    def moved(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        axis = 1 if output.shape[1] == len(shift) else output.ndim - 1
        shape = [1] * output.ndim
        shape[axis] = len(shift)
        result = output + torch.as_tensor(shift, dtype=output.dtype, device=output.device).view(shape)
        return result.clamp(min=0) if bool((output >= 0).all()) else result

    handle = model.get_submodule(layer).register_forward_hook(moved)
    try:
        return class_probability(model, x, class_id)
    finally:
        handle.remove()


def _difference(means: np.ndarray, members: np.ndarray) -> np.ndarray:
    return means[members].mean(0) - means[~members].mean(0)
