"""From which probability a sample counts as positive, chosen for every model on the validation split."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from pipeline.config.evaluate import OperatingPointConfig
from pipeline.errors import ConfigError, nearest
from pipeline.statistics import choose_threshold

from .performance import OperatingPoint


def positive_class(config: OperatingPointConfig, classes: tuple[str, ...]) -> int | None:
    """Return the class that is looked for; None where there are more than two and none is named.

    Raises:
        ConfigError: the named class is not there.
    """
    if config.positive is None:
        return 1 if len(classes) == 2 else None
    if config.positive not in classes:
        raise ConfigError(
            f"evaluate.operating_point.positive is '{config.positive}', which is no class of the data set."
            f"{nearest(config.positive, list(classes))} Classes: {', '.join(classes)}."
        )
    return classes.index(config.positive)


def operating_point(
    config: OperatingPointConfig, class_id: int | None, logits: np.ndarray, labels: np.ndarray
) -> OperatingPoint | None:
    """Return a model's operating point; None without a positive class, or where validation does not define it.

    Args:
        config: the rule.
        class_id: the positive class, or None.
        logits: of the validation split `[N, K]`.
        labels: class ids `[N]`.
    """
    if class_id is None:
        return None
    positive = labels == class_id
    if config.rule != "one_half" and (positive.all() or not positive.any()):
        return None
    scores = softmax(logits.astype(np.float64), axis=1)[:, class_id]
    return OperatingPoint(class_id, choose_threshold(scores, positive, config.rule, config.at))
