"""Corrections by name. A new one is a file of this package, its parameters in `config/mitigate/`, and a line here."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config.mitigate import AnyMethod

from .a_clarc import AugmentiveClarc
from .attention_gated import AttentionGated
from .cdep import ContextualDecompositionPenalty
from .counterfactual import Counterfactual
from .dfr import DeepFeatureReweighting
from .fine_tune import FineTune
from .gain import Gain
from .group_balance import GroupBalance
from .group_dro import GroupDro
from .in_model_explainer import InModelExplainer
from .interface import Mitigation
from .isnet import IsNet
from .jtt import JustTrainTwice
from .leace import LeastSquaresErasure
from .multi_task_unet import MultiTaskUnet
from .p_clarc import ProjectiveClarc
from .r_clarc import ReactiveClarc
from .rp_clarc import ReactiveProjectiveClarc
from .rr_clarc import RightReasonClarc
from .rrr import RightForTheRightReasons
from .unet_classifier import UnetClassifier


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
BELOW_THE_LAST = "all but the last linear layer"
NORMS_OR_LAYERS = "statistics of BatchNorm; with `layer` also all up to it"
UNLESS_ALL = "all up to the layer of the CAV, unless `train: all`, and statistics of BatchNorm"
UP_TO_THE_LAYER = "all up to the layer of the CAV, and statistics of BatchNorm"
EVERYTHING = "everything"

MITIGATIONS: dict[str, MitigationEntry] = {
    "fine_tune": MitigationEntry(FineTune, trains=True, needs="nothing", freezes=NORMS, paper="baseline"),
    "rrr": MitigationEntry(
        RightForTheRightReasons, trains=True, needs="masks", freezes=NORMS_OR_LAYERS, paper="Ross et al., IJCAI 2017"
    ),
    "cdep": MitigationEntry(
        ContextualDecompositionPenalty,
        trains=True,
        needs="masks",
        freezes=NORMS_OR_LAYERS,
        paper="Rieger et al., ICML 2020",
    ),
    "rr_clarc": MitigationEntry(
        RightReasonClarc, trains=True, needs="cav", freezes=UNLESS_ALL, paper="Dreyer et al., AAAI 2024"
    ),
    "p_clarc": MitigationEntry(
        ProjectiveClarc,
        trains=False,
        needs="cav",
        freezes=EVERYTHING,
        paper="Anders et al., Information Fusion 2022",
        plain=False,
    ),
    "a_clarc": MitigationEntry(
        AugmentiveClarc,
        trains=True,
        needs="cav",
        freezes=UP_TO_THE_LAYER,
        paper="Anders et al., Information Fusion 2022",
    ),
    "rp_clarc": MitigationEntry(
        ReactiveProjectiveClarc,
        trains=False,
        needs="cav",
        freezes=EVERYTHING,
        paper="Anders et al., Information Fusion 2022, with a gate",
        plain=False,
    ),
    "r_clarc": MitigationEntry(
        ReactiveClarc,
        trains=False,
        needs="cav",
        freezes=EVERYTHING,
        paper="Bareeva et al., CVPR workshops 2024",
        plain=False,
    ),
    "leace": MitigationEntry(
        LeastSquaresErasure,
        trains=False,
        needs="cav",
        freezes=EVERYTHING,
        paper="Belrose et al., NeurIPS 2023",
        plain=False,
    ),
    "isnet": MitigationEntry(
        IsNet,
        trains=True,
        needs="masks",
        freezes="statistics of BatchNorm, when it starts from a checkpoint",
        paper="Bassi et al., Nature Communications 2024",
    ),
    "group_balance": MitigationEntry(
        GroupBalance, trains=True, needs="cav", freezes=NORMS, paper="Idrissi et al., CLeaR 2022"
    ),
    "group_dro": MitigationEntry(GroupDro, trains=True, needs="cav", freezes=NORMS, paper="Sagawa et al., ICLR 2020"),
    "dfr": MitigationEntry(
        DeepFeatureReweighting,
        trains=True,
        needs="cav",
        freezes=BELOW_THE_LAST,
        paper="Kirichenko et al., ICLR 2023",
    ),
    "jtt": MitigationEntry(
        JustTrainTwice,
        trains=True,
        needs="nothing",
        freezes="statistics of BatchNorm, when it starts from a checkpoint",
        paper="Liu et al., ICML 2021",
    ),
    "counterfactual": MitigationEntry(
        Counterfactual, trains=True, needs="masks", freezes=NORMS, paper="Kaushik et al., ICLR 2020; on images by masks"
    ),
    "unet_classifier": MitigationEntry(
        UnetClassifier,
        trains=True,
        needs="masks",
        freezes="statistics of BatchNorm of the classifier, and the segmenter while the classifier trains",
        paper="Ronneberger et al., MICCAI 2015; as a baseline in Bassi et al. 2024",
        plain=False,
    ),
    "multi_task_unet": MitigationEntry(
        MultiTaskUnet,
        trains=True,
        needs="masks",
        freezes="nothing",
        paper="Ronneberger et al., MICCAI 2015; as a baseline in Bassi et al. 2024",
        plain=False,
    ),
    "attention_gated": MitigationEntry(
        AttentionGated,
        trains=True,
        needs="masks",
        freezes=NORMS,
        paper="Schlemper et al., Medical Image Analysis 2019",
        plain=False,
    ),
    "gain": MitigationEntry(Gain, trains=True, needs="masks", freezes=NORMS, paper="Li et al., CVPR 2018"),
    "in_model_explainer": MitigationEntry(
        InModelExplainer,
        trains=True,
        needs="nothing",
        freezes="statistics of BatchNorm of the classifier, and all of it while the explainer trains alone",
        paper="Rio-Torto et al., Pattern Recognition Letters 2020",
        plain=False,
    ),
}


def make_mitigation(config: AnyMethod) -> Mitigation:
    """Return the correction of a configuration."""
    return MITIGATIONS[config.kind].method(config)
