"""What a reader must not conclude from the audit: what was not measured, what stays unknown, what to watch."""

from __future__ import annotations

from collections.abc import Sequence

from ..workspace.records import Audit
from .tables import ORIGINAL, PIPELINE, WORLDS, families_of, world_order

EXPECTED = {
    "accuracy": "accuracy",
    "worst_group_accuracy": "accuracy of the worst group",
    "calibration_error": "calibration",
    "sensitivity": "sensitivity and specificity at an operating point (evaluate.operating_point)",
    "accuracy_gain": "paired tests of corrections against the original",
    "artifact_relevance": "share of relevance on the artifact",
    "tcav_quotient": "TCAV quotient",
    "flip_rate": "flip rate of predictions",
    "flip_rate_elsewhere": "interventions elsewhere in the image, as a control",
    "aopc_gap": "whether heatmaps know more than chance (evaluate.perturbation)",
    "heatmap_randomisation": "whether heatmaps depend on the weights (evaluate.sanity_samples)",
}
DECLARED = {
    "intended_use": "intended use",
    "population": "population",
    "users": "users",
    "out_of_scope": "uses out of scope",
    "data_source": "source of the data",
    "label_source": "source of the labels",
}


def not_measured(audit: Audit, models: Sequence[str], without_masks: Sequence[str]) -> list[str]:
    """Return in plain words what a reader may expect in an audit and this run did not measure.

    Args:
        audit: what is shown.
        models: whose metrics are shown.
        without_masks: ids of biases whose masks have no overview.
    """
    names = {row.metric for row in audit.metrics}
    worlds = world_order(audit.metrics)
    missing = [f"the world {world}: {text}" for world, text in WORLDS.items() if world not in worlds]
    missing += [text for name, text in EXPECTED.items() if name not in names]
    if not any(row.model == PIPELINE and row.metric != "prevalence" for row in audit.metrics):
        missing.append("findings and masks against a known truth about the artifacts")
    if not [family for family in families_of(audit.metrics) if family not in ("class", "group")]:
        missing.append("subgroups of the data such as site, device, age or sex (evaluate.subgroups)")
    missing += [f"masks of bias {name} (no overview is shown)" for name in without_masks]
    done = [check for check in audit.data.leakage if check.status != "not_run"]
    if not done:
        missing.append("leakage between the splits")
    if audit.health is None:
        missing.append("health of the attributions")
    if not set(models) - {ORIGINAL}:
        missing.append("corrected models")
    if audit.best_correction and not audit.again:
        missing.append("new shortcuts of the preferred correction (mitigate.search_again)")
    return missing


def limits(audit: Audit, seeds_vary: bool) -> list[str]:
    """Return what the audit cannot show, in plain words.

    Args:
        audit: what is shown.
        seeds_vary: whether corrections were trained with several seeds.
    """
    found = [
        "An audit can show a shortcut; it cannot show that there is none. Detectors see only the samples, classes and "
        "layers they were given, and artifacts that every sample of a class carries can stay unseen.",
        "Heatmaps decompose a prediction under the rules of the attribution method. They are no causal evidence; "
        "inserting and removing is closer to it, for what was localized and no other artifact.",
    ]
    if audit.provenance.attacked_by == "planting":
        found.append(
            "A planted artifact is simpler than one that occurs in practice. Figures on it need not carry over to "
            "devices, sites and populations that are not in the test set."
        )
    if audit.provenance.attacked_by == "pasting":
        found.append(
            "The attacked world is made of pasted regions: it is as good as the masks, and a paste that shows its "
            "border can change predictions by itself. Compare the control elsewhere and the seam."
        )
    found.append(
        "Intervals describe the sampling of the test set"
        + (
            ", and those of corrections that were trained with several seeds the choice of seeds as well."
            if seeds_vary
            else ". They do not cover the variation between training seeds (every correction was trained once)."
        )
    )
    if not audit.again:
        found.append(
            "Corrected models were not searched again for new shortcuts. Audit the chosen correction as a model of its "
            "own before it is released."
        )
    found += [
        "Whatever is marked unreviewed was accepted without a person's verdict and must be reviewed before anybody "
        "relies on it.",
        "The test split comes from the same source as the training split unless the data section says otherwise; an "
        "external test set is a test of its own.",
        "This report makes no statement on clinical safety or on conformity with any regulation or standard.",
    ]
    return found


def triggers(audit: Audit) -> list[str]:
    """Return when the audit should be made again, as a proposal for monitoring."""
    found = [
        "new weights, another threshold, another preprocessing, or an update of the software that runs the model",
        "a new site, device, acquisition protocol or population, or a shift of the shares in the data section",
    ]
    found += [
        f"predictions of class {bias.class_name} in which bias {bias.id} is present: watch their share and accuracy"
        for bias in audit.biases
    ]
    if audit.declared.population == "":
        found.append("any use, as long as the population is not declared")
    return found


def undeclared(audit: Audit) -> list[str]:
    """Return what people did not declare, by its name on the page."""
    return [text for name, text in DECLARED.items() if not getattr(audit.declared, name)]
