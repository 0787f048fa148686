"""Corrections by name. A new one is a file of this package, its parameters in `config/mitigate.py`, and a line here."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.mitigate import AnyMethod

from .fine_tune import FineTune
from .interface import Mitigation
from .isnet import IsNet
from .p_clarc import ProjectiveClarc
from .rr_clarc import RightReasonClarc
from .rrr import RightForTheRightReasons


@dataclass(frozen=True)
class MitigationEntry:
    """A correction and what it needs.

    Attributes:
        method: the class; constructed with its configuration.
        trains: whether weights change.
        needs: "nothing", or of at least one bias "masks" (regions of interest may stand in for them) or "cav".
    """

    method: type
    trains: bool
    needs: str


MITIGATIONS: dict[str, MitigationEntry] = {
    "fine_tune": MitigationEntry(FineTune, trains=True, needs="nothing"),
    "rrr": MitigationEntry(RightForTheRightReasons, trains=True, needs="masks"),
    "rr_clarc": MitigationEntry(RightReasonClarc, trains=True, needs="cav"),
    "p_clarc": MitigationEntry(ProjectiveClarc, trains=False, needs="cav"),
    "isnet": MitigationEntry(IsNet, trains=True, needs="masks"),
}


def make_mitigation(config: AnyMethod) -> Mitigation:
    """Return the correction of a configuration."""
    return MITIGATIONS[config.kind].method(config)
