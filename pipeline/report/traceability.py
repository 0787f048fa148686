"""Which section of the report touches which topic of common guidance; a map for readers, never a claim.

Topics are named in plain words and not by clause, because numbers and wording change between versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..workspace.records import Audit

Coverage = Literal["shown", "in part", "not provided", "not measured", "manufacturer to supply"]
SOURCES = {
    "fda": "FDA draft guidance on AI-enabled device software functions, January 2025: model card of Appendix E",
    "gmlp": "IMDRF N88, Good machine learning practice: guiding principles, 2025",
    "ai_act": "EU AI Act: Annex IV, technical documentation, and articles 10, 13 and 15",
    "claim": "CLAIM, Checklist for Artificial Intelligence in Medical Imaging",
}
"""Field of a topic -> the document, as it is called in the head of the table."""
DISCLAIMER = (
    "This table helps to find things. It is no claim of compliance with any of these documents, and it is not "
    "complete. Topics are paraphrased: verify the wording in the source, in the version that applies to you."
)


@dataclass(frozen=True)
class Topic:
    """A topic of guidance, and where this report touches it.

    Attributes:
        name: of the topic.
        section: id of the section of the report; "" where the report has none.
        fda, gmlp, ai_act, claim: the topic's name there, in plain words; "" where there is none.
        coverage: how far the report touches it.
    """

    name: str
    section: str
    fda: str
    gmlp: str
    ai_act: str
    claim: str
    coverage: Coverage


def traceability(audit: Audit) -> list[Topic]:
    """Return the table for an audit; what was not declared or not measured in it says so."""
    return [*_declared(audit), *_shown(audit), *_beyond()]


def _declared(audit: Audit) -> list[Topic]:
    declared = audit.declared
    return [
        Topic(
            "Intended use",
            "intended-use",
            "intended use, indications",
            "intended use is well understood",
            "Annex IV: general description, intended purpose",
            "scientific and clinical background, intended use",
            _given(declared.intended_use),
        ),
        Topic(
            "Population and users",
            "intended-use",
            "patient population, intended users",
            "data represent the intended patients; users are informed",
            "Annex IV: general description; Art. 13: information for deployers",
            "eligibility criteria, setting",
            _given(declared.population, declared.users),
        ),
        Topic(
            "Uses out of scope, limitations",
            "limits",
            "limitations, uses out of scope",
            "users get clear, essential information",
            "Annex IV: capabilities and limitations; Art. 13",
            "limitations",
            "shown" if declared.out_of_scope else "in part",
        ),
        Topic(
            "Source of data and labels",
            "data",
            "data: collection, reference standard",
            "reference standards are fit for purpose",
            "Annex IV: data requirements, provenance; Art. 10: data governance",
            "data sources, ground truth, annotators",
            _given(declared.data_source, declared.label_source),
        ),
        Topic(
            "Identification of the model",
            "reproducibility",
            "model name, version, architecture",
            "good software engineering",
            "Annex IV: version, relation to earlier versions",
            "model description",
            "shown" if declared.model_version else "in part",
        ),
    ]


def _shown(audit: Audit) -> list[Topic]:
    ran = {check.status for check in audit.data.leakage} - {"not_run"}
    names = {row.metric for row in audit.metrics}
    causal = {row.world for row in audit.metrics} & {"inserted", "removed"}
    return [
        Topic(
            "Composition of the data, missing values",
            "data",
            "data: size, demographics, subgroups",
            "data represent the intended patients",
            "Art. 10: relevant, representative data, gaps",
            "data elements, missing data",
            "shown" if audit.data.subgroups else "in part",
        ),
        Topic(
            "Independence of training and test data",
            "data",
            "independence of development and test data",
            "training sets are independent of test sets",
            "Art. 10: training, validation and testing data",
            "partitions, level at which they are disjoint",
            "shown" if ran else "not measured",
        ),
        Topic(
            "Performance with uncertainty",
            "baseline-performance",
            "performance, metrics with confidence intervals",
            "testing under clinically relevant conditions",
            "Annex IV: metrics for accuracy; Art. 15: accuracy",
            "metrics of performance, statistical uncertainty",
            "in part" if "accuracy" in names else "not measured",
        ),
        Topic(
            "Performance of subgroups",
            "baseline-performance",
            "performance across subgroups",
            "data represent the intended patients",
            "Annex IV: accuracy for specific persons or groups; Art. 10: possible biases",
            "performance of subgroups, bias",
            "shown" if audit.data.subgroups else "in part",
        ),
        Topic(
            "Revealed biases and who judged them",
            "biases",
            "known biases, failure modes",
            "model design fits data and intended use, risks are mitigated",
            "Art. 10: detection of biases; Annex IV: foreseeable risks",
            "failure analysis, explainability",
            "shown" if audit.biases else "in part",
        ),
        Topic(
            "Whether the explanations hold",
            "causal",
            "explainability, transparency",
            "users get clear, essential information",
            "Art. 13: interpretable output",
            "methods for explainability, their validation",
            "shown" if "heatmap_randomisation" in names and audit.health else "in part",
        ),
        Topic(
            "Robustness against the artifact",
            "causal",
            "robustness, generalisability",
            "testing under clinically relevant conditions",
            "Art. 15: robustness",
            "robustness or sensitivity analysis",
            "in part" if causal or "flip_rate" in names else "not measured",
        ),
        Topic(
            "Mitigation, its effect and its cost",
            "contest",
            "bias mitigation",
            "risks of re-training are managed",
            "Art. 10: measures against biases; Annex IV: design choices",
            "training approach, selection of the final model",
            "shown" if audit.methods else "not measured",
        ),
        Topic(
            "Changes against an earlier version",
            "regressions",
            "updates, comparison with the earlier version",
            "deployed models are monitored",
            "Annex IV: changes through the life cycle",
            "",
            "shown" if audit.baseline else "not provided",
        ),
        Topic(
            "Residual risks, monitoring triggers",
            "limits",
            "risks, limitations, monitoring plan",
            "deployed models are monitored",
            "Annex IV: risk management, monitoring",
            "limitations, generalisability",
            "in part",
        ),
        Topic(
            "Reproducibility, records of tests",
            "reproducibility",
            "development and validation records",
            "good software engineering and security practices",
            "Annex IV: test logs and reports, dated and signed",
            "software, code, protocol",
            "in part",
        ),
    ]


def _beyond() -> list[Topic]:
    supply: Coverage = "manufacturer to supply"
    return [
        Topic(
            "Regulatory status, manufacturer, contact",
            "",
            "device information, regulatory status",
            "",
            "Annex IV: provider, conformity documents",
            "registration, funding",
            supply,
        ),
        Topic(
            "Clinical benefit, workflow, human and AI together",
            "",
            "clinical workflow, human oversight",
            "performance of the human-AI team",
            "Annex IV: human oversight",
            "comparison with readers",
            supply,
        ),
        Topic(
            "Cybersecurity",
            "",
            "cybersecurity",
            "good software engineering and security practices",
            "Art. 15: cybersecurity",
            "",
            supply,
        ),
        Topic(
            "Surveillance after release",
            "",
            "monitoring of performance in use",
            "deployed models are monitored, re-training risks are managed",
            "Annex IV: post-market monitoring",
            "",
            supply,
        ),
    ]


def _given(*texts: str) -> Coverage:
    given = [bool(text) for text in texts]
    return "shown" if all(given) else "in part" if any(given) else "not provided"
