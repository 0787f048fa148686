"""Every metric by name: what it is called on a page, which direction is good, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["performance", "calibration", "paired", "reliance", "causal", "explanation", "detection"]
FAMILIES: dict[Family, str] = {
    "performance": "how well a model classifies",
    "calibration": "whether its probabilities can be believed",
    "paired": "a corrected model against the original, sample by sample",
    "reliance": "how much a model leans on the artifact or the background",
    "causal": "what inserting or removing the artifact changes, sample by sample",
    "explanation": "whether the heatmaps themselves can be believed",
    "detection": "what was found, against a known truth",
}


@dataclass(frozen=True)
class MetricEntry:
    """What a metric is.

    Attributes:
        heading: what it is called on a page.
        family: key of FAMILIES.
        better: which direction is good; "control": the nearer to its random control the better; "none": neither.
        meaning: one clause, without a full stop.
        over_seeds: how several trainings become one figure: their mean, or the largest.
        counts: what n counts.
        source: where the definition comes from, where it is not common.
    """

    heading: str
    family: Family
    better: Literal["higher", "lower", "control", "none"]
    meaning: str
    over_seeds: Literal["mean", "largest"] = "mean"
    source: str = ""
    counts: Literal["samples", "directions", "findings"] = "samples"


METRICS: dict[str, MetricEntry] = {
    "accuracy": MetricEntry("Accuracy", "performance", "higher", "share of samples that are classified correctly"),
    "balanced_accuracy": MetricEntry(
        "Balanced accuracy", "performance", "higher", "mean of the accuracies of the classes"
    ),
    "worst_group_accuracy": MetricEntry(
        "Worst group",
        "performance",
        "higher",
        "accuracy of the class, with or without artifact, that fares worst",
    ),
    "class_accuracy": MetricEntry(
        "Class accuracy", "performance", "higher", "share of the samples of a class that are recognised (recall)"
    ),
    "precision": MetricEntry(
        "Precision", "performance", "higher", "share of the predictions of a class that are right"
    ),
    "f1": MetricEntry("F1", "performance", "higher", "harmonic mean of precision and recall of a class"),
    "macro_f1": MetricEntry("Macro F1", "performance", "higher", "mean of the F1 of the classes"),
    "auroc": MetricEntry(
        "AUROC",
        "performance",
        "higher",
        "area under the receiver operating characteristic of a class against all others",
        source="interval: DeLong et al., Biometrics 1988, on the logit scale",
    ),
    "macro_auroc": MetricEntry("Macro AUROC", "performance", "higher", "mean of the AUROCs of the classes"),
    "average_precision": MetricEntry(
        "Average precision",
        "performance",
        "higher",
        "area under the precision-recall curve of a class; chance is the share of the class",
    ),
    "macro_average_precision": MetricEntry(
        "Macro average precision", "performance", "higher", "mean of the average precisions of the classes"
    ),
    "exact_match": MetricEntry(
        "Exact match", "performance", "higher", "share of samples with several labels whose labels are all right"
    ),
    "sensitivity": MetricEntry(
        "Sensitivity", "performance", "higher", "share of positives above the operating point chosen on validation"
    ),
    "specificity": MetricEntry(
        "Specificity", "performance", "higher", "share of negatives below the operating point chosen on validation"
    ),
    "operating_threshold": MetricEntry(
        "Threshold", "performance", "none", "probability from which a sample counts as positive, chosen on validation"
    ),
    "calibration_error": MetricEntry(
        "Calibration error",
        "calibration",
        "lower",
        "mean gap between confidence and accuracy, over 15 bins",
        source="Guo et al., ICML 2017",
    ),
    "brier_score": MetricEntry(
        "Brier score",
        "calibration",
        "lower",
        "mean squared distance between probabilities and truth, 0 to 2",
        source="Brier, Monthly Weather Review 1950",
    ),
    "accuracy_gain": MetricEntry(
        "Gain in accuracy", "paired", "higher", "accuracy minus that of the original on the same samples"
    ),
    "auroc_gain": MetricEntry(
        "Gain in AUROC", "paired", "higher", "AUROC minus that of the original on the same samples"
    ),
    "mcnemar_p": MetricEntry(
        "McNemar p",
        "paired",
        "none",
        "p value of 'as often right as the original'",
        "largest",
        "McNemar, Psychometrika 1947; exact",
    ),
    "mcnemar_p_adjusted": MetricEntry(
        "McNemar p, adjusted", "paired", "none", "McNemar p, adjusted for the number of models", "largest", "Holm 1979"
    ),
    "delong_p": MetricEntry(
        "DeLong p", "paired", "none", "p value of 'the same AUROC as the original'", "largest", "DeLong et al. 1988"
    ),
    "delong_p_adjusted": MetricEntry(
        "DeLong p, adjusted", "paired", "none", "DeLong p, adjusted for the number of models", "largest", "Holm 1979"
    ),
    "artifact_relevance": MetricEntry(
        "Artifact relevance", "reliance", "lower", "share of the relevance that falls on the artifact"
    ),
    "artifact_relevance_ratio": MetricEntry(
        "Artifact relevance / area",
        "reliance",
        "lower",
        "share of the relevance on the artifact over the artifact's share of the image; evenly spread relevance has 1",
    ),
    "artifact_relevance_grown": MetricEntry(
        "Artifact relevance, grown mask",
        "reliance",
        "lower",
        "share of the relevance on the artifact's mask after blurring and cutting it, which also counts its border",
    ),
    "background_relevance": MetricEntry(
        "Background relevance",
        "reliance",
        "lower",
        "share of the relevance that falls outside the region of interest",
    ),
    "background_area": MetricEntry(
        "Background area", "reliance", "none", "share of the image outside the region of interest"
    ),
    "tcav_quotient": MetricEntry(
        "TCAV quotient",
        "reliance",
        "control",
        "share of samples whose logit rises along the concept; compare it with the range of random directions",
        source="Kim et al., ICML 2018; a sample is the unit",
    ),
    "tcav_random": MetricEntry(
        "TCAV quotient, random",
        "reliance",
        "none",
        "TCAV quotient of random directions: mean and central range",
        counts="directions",
    ),
    "tcav_p": MetricEntry(
        "TCAV p", "reliance", "none", "share of random directions whose quotient is as far from 1/2", "largest"
    ),
    "tcav_sensitivity": MetricEntry(
        "TCAV sensitivity", "reliance", "control", "mean magnitude of the logit's slope along the concept"
    ),
    "tcav_sensitivity_random": MetricEntry(
        "TCAV sensitivity, random",
        "reliance",
        "none",
        "TCAV sensitivity to random directions: mean and central range",
        counts="directions",
    ),
    "flip_rate": MetricEntry(
        "Flip rate",
        "causal",
        "lower",
        "share of predictions that change when the artifact is inserted (attacked, inserted) or removed",
    ),
    "flip_to_class_rate": MetricEntry(
        "Flips to the class",
        "causal",
        "none",
        "share of other predictions that become the bias's class (inserted), or of its own that are lost (removed)",
    ),
    "logit_shift": MetricEntry("Logit shift", "causal", "none", "mean change of the logit of the bias's class"),
    "relative_logit_shift": MetricEntry(
        "Relative logit shift",
        "causal",
        "none",
        "mean change of the logit of the bias's class over its mean magnitude before",
    ),
    "probability_shift": MetricEntry(
        "Probability shift", "causal", "none", "mean change of the probability of the bias's class"
    ),
    "accuracy_change": MetricEntry(
        "Change of accuracy", "causal", "none", "accuracy with the intervention minus without, on the same samples"
    ),
    "flip_to_class_rate_elsewhere": MetricEntry(
        "Flips to the class, control",
        "causal",
        "none",
        "the flips to the class when a region of the same shape elsewhere in the image is treated alike",
    ),
    "relative_logit_shift_elsewhere": MetricEntry(
        "Relative logit shift, control",
        "causal",
        "none",
        "the relative logit shift when a region of the same shape elsewhere in the image is treated alike",
    ),
    "flip_rate_elsewhere": MetricEntry(
        "Flip rate, control",
        "causal",
        "none",
        "the flip rate when a region of the same shape elsewhere in the image is treated alike",
    ),
    "paste_seam": MetricEntry(
        "Seam",
        "causal",
        "none",
        "step of color across the border of what was pasted, over that in the donors; 1 = as in nature",
    ),
    "artifact_aopc": MetricEntry(
        "Artifact AOPC",
        "causal",
        "lower",
        "fall of the prediction's probability when the artifact is blanked, beyond that for a random region as large",
    ),
    "aopc_morf": MetricEntry(
        "AOPC, most relevant first",
        "explanation",
        "higher",
        "mean fall of the explained output while cells are blanked, the most relevant first",
        source="Samek et al., TNNLS 2017",
    ),
    "aopc_lerf": MetricEntry(
        "AOPC, least relevant first",
        "explanation",
        "lower",
        "mean fall of the explained output while cells are blanked, the least relevant first",
    ),
    "aopc_random": MetricEntry(
        "AOPC, random order",
        "explanation",
        "none",
        "mean fall of the explained output while cells are blanked in random order",
    ),
    "aopc_gap": MetricEntry(
        "AOPC beyond random",
        "explanation",
        "higher",
        "AOPC with the most relevant first minus that in random order: above 0, heatmaps know more than chance",
    ),
    "pompom": MetricEntry(
        "POMPOM",
        "explanation",
        "lower",
        "share of the pixels outside the region of interest that the heatmap calls meaningful",
        source="Rio-Torto et al., Pattern Recognition Letters 2020",
    ),
    "pompom_scaled": MetricEntry(
        "POMPOM, scaled",
        "explanation",
        "lower",
        "share of the pixels outside the region of interest above 5 % of the heatmap's largest value",
    ),
    "pointing_artifact": MetricEntry(
        "Pointing at the artifact", "reliance", "lower", "share of heatmaps whose strongest pixel lies on the artifact"
    ),
    "pointing_foreground": MetricEntry(
        "Pointing at the region of interest",
        "explanation",
        "higher",
        "share of heatmaps whose strongest pixel lies in the region of interest",
        source="Zhang et al., IJCV 2018",
    ),
    "heatmap_conservation": MetricEntry(
        "Conservation",
        "explanation",
        "none",
        "sum of a heatmap over the explained logit, median over samples; what is missing from 1 went into biases",
    ),
    "heatmap_randomisation": MetricEntry(
        "Similarity after randomising",
        "explanation",
        "lower",
        "rank correlation of heatmaps with those of the same network with random weights; near 1: they ignore it",
        source="Adebayo et al., NeurIPS 2018",
    ),
    "prevalence": MetricEntry(
        "Prevalence",
        "detection",
        "none",
        "share of the training samples that show it; of a bias among those of its class",
    ),
    "finding_precision": MetricEntry(
        "Precision of the finding",
        "detection",
        "higher",
        "share of the samples of the finding that truly carry the artifact",
    ),
    "finding_recall": MetricEntry(
        "Recall of the finding",
        "detection",
        "higher",
        "share of the samples that truly carry the artifact which the finding contains",
    ),
    "finding_rank": MetricEntry(
        "Rank of the finding",
        "detection",
        "lower",
        "place of the finding that fits the artifact best; 1 = first",
        counts="findings",
    ),
    "retrieval_auroc": MetricEntry(
        "Retrieval AUROC",
        "detection",
        "higher",
        "how well the concept score ranks samples with the artifact above those without",
    ),
    "retrieval_auroc_paired": MetricEntry(
        "Retrieval AUROC, paired",
        "detection",
        "higher",
        "how well the concept score ranks samples with the artifact above the same samples without it",
    ),
    "retrieval_average_precision": MetricEntry(
        "Retrieval average precision",
        "detection",
        "higher",
        "precision averaged over the ranking by concept score; chance is the prevalence",
    ),
    "retrieval_kendall_tau": MetricEntry(
        "Retrieval Kendall tau",
        "detection",
        "higher",
        "rank correlation of the concept score with the artifact, -1 to 1; chance is 0",
        source="Kendall, Biometrika 1945",
    ),
    "cav_alignment": MetricEntry(
        "CAV alignment",
        "detection",
        "higher",
        "mean cosine of the concept vector with the change that the artifact makes; chance is near 0",
        source="Pahde et al. 2022",
    ),
    "cav_alignment_p": MetricEntry(
        "CAV alignment p", "detection", "lower", "share of random directions that align as well", "largest"
    ),
    "mask_iou": MetricEntry(
        "Mask IoU",
        "detection",
        "higher",
        "overlap of the localized mask with the true mask: intersection over union",
    ),
    "mask_dice": MetricEntry(
        "Mask Dice",
        "detection",
        "higher",
        "overlap of the localized mask with the true mask: twice the intersection over the sum of both",
        source="Dice, Ecology 1945",
    ),
    "mask_auprc": MetricEntry(
        "Mask AUPRC",
        "detection",
        "higher",
        "area under the precision-recall curve of the soft mask; chance is the artifact's share of the image",
    ),
    "mask_pointing": MetricEntry(
        "Mask pointing",
        "detection",
        "higher",
        "share of soft masks whose strongest pixel lies on the true artifact",
        source="Zhang et al., IJCV 2018",
    ),
    "mask_relevance_share": MetricEntry(
        "Mask relevance share", "detection", "higher", "share of the concept's relevance on the true artifact"
    ),
    "mask_relevance_ratio": MetricEntry(
        "Mask relevance ratio",
        "detection",
        "higher",
        "share of the concept's relevance on the true artifact over its share of the image; chance is 1",
    ),
}
"""Metric name -> what it is; `evaluate/metrics.csv` holds no others."""
