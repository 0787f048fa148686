"""Corrections by name. A new one is a file of this package, its parameters in `config/mitigate/`, and a line here."""

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
    """A correction, what it needs and what it does.

    Attributes:
        method: the class; constructed with its configuration.
        trains: whether weights change.
        needs: "nothing", or of at least one bias "masks" (regions of interest may stand in for them) or "cav".
        freezes: what stays as it was while it trains.
        paper: where the method comes from.
        plain: whether the corrected model is the architecture under audit, with no cost at run time.
    """

    method: type
    trains: bool
    needs: str
    freezes: str
    paper: str
    plain: bool = True


NORMS = "statistics of BatchNorm"
UP_TO_THE_LAYER = "all up to the layer of the CAV, and statistics of BatchNorm"
EVERYTHING = "everything"

MITIGATIONS: dict[str, MitigationEntry] = {
    "fine_tune": MitigationEntry(FineTune, trains=True, needs="nothing", freezes=NORMS, paper="baseline"),
    "rrr": MitigationEntry(
        RightForTheRightReasons, trains=True, needs="masks", freezes=NORMS, paper="Ross et al., IJCAI 2017"
    ),
    "rr_clarc": MitigationEntry(
        RightReasonClarc, trains=True, needs="cav", freezes=UP_TO_THE_LAYER, paper="Dreyer et al., AAAI 2024"
    ),
    "p_clarc": MitigationEntry(
        ProjectiveClarc,
        trains=False,
        needs="cav",
        freezes=EVERYTHING,
        paper="Anders et al., Information Fusion 2022",
        plain=False,
    ),
    "isnet": MitigationEntry(
        IsNet,
        trains=True,
        needs="masks",
        freezes="statistics of BatchNorm, when it starts from a checkpoint",
        paper="Bassi et al., Nature Communications 2024",
    ),
}


def make_mitigation(config: AnyMethod) -> Mitigation:
    """Return the correction of a configuration."""
    return MITIGATIONS[config.kind].method(config)
