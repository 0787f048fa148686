"""Rules for linear maps: how an output's relevance is shared among its inputs. One rule per file."""

from __future__ import annotations

import inspect
import re
from typing import ClassVar, Protocol

import torch

from pipeline.errors import ConfigError, nearest

from .absolute_share import AbsoluteShare
from .alpha_beta import AlphaBeta
from .epsilon import Epsilon
from .flat import Flat
from .gamma import Gamma
from .linear_operation import LinearOperation
from .w_square import WSquare
from .z_plus import ZPlus
from .zb import Zb


class Rule(Protocol):
    """Shares the relevance of a linear map's output among its inputs.

    Attributes:
        reads_output: whether it needs the values of the output, which are then kept until relevance comes back.
            A function that does not say is taken to read them.
    """

    reads_output: ClassVar[bool]

    def __call__(self, operation: LinearOperation, relevance: torch.Tensor) -> torch.Tensor:
        """Return relevance of the input, given that of the output."""
        ...


RULES: dict[str, type] = {
    "epsilon": Epsilon,
    "z_plus": ZPlus,
    "gamma": Gamma,
    "alpha_beta": AlphaBeta,
    "flat": Flat,
    "w_square": WSquare,
    "zb": Zb,
    "absolute_share": AbsoluteShare,
}

_CALL = re.compile(r"^\s*(\w+)\s*(?:\(([^()]*)\))?\s*$")


def make_rule(text: str, key: str = "rules") -> Rule:
    """Return the rule meant by a text such as "z_plus" or "gamma(gamma=0.1)".

    Args:
        text: a key of `RULES`, its parameters in parentheses.
        key: where the text comes from, for the message.

    Raises:
        ConfigError: an unknown rule or parameter, or a value that is no number.
    """
    match = _CALL.match(text)
    name = match.group(1) if match else text
    if name not in RULES:
        raise ConfigError(f"{key}: rule '{name}' is unknown.{nearest(name, list(RULES))} Allowed: {', '.join(RULES)}.")
    known = list(inspect.signature(RULES[name]).parameters)
    parameters = {}
    for part in filter(None, map(str.strip, (match.group(2) or "").split(","))):
        parameter, _, value = (piece.strip() for piece in part.partition("="))
        if parameter not in known:
            raise ConfigError(
                f"{key}: rule '{name}' has no parameter '{parameter}'.{nearest(parameter, known)} "
                f"Allowed: {', '.join(known)}, written {name}({known[0]}=0.1)."
            )
        try:
            parameters[parameter] = float(value)
        except ValueError:
            raise ConfigError(f"{key}: {parameter} of rule '{name}' is '{value}', expected a number.") from None
    try:
        return RULES[name](**parameters)
    except ValueError as error:
        raise ConfigError(f"{key}: rule '{text}': {error}") from None
