"""The typed records that stages hand to each other through files; their JSON schemas stand in `docs/schemas`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FINDINGS_VERSION = 2
BIASES_VERSION = 3
AUDIT_VERSION = 5
DATA_SUMMARY_VERSION = 1


BIAS_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"
"""What a bias may be called: names become names of files."""


class Record(BaseModel):
    """An immutable record; unknown fields are errors, so that a file of another version is noticed.

    JSON has no NaN: figures that are not finite are written as the texts "NaN" and "Infinity", and read back.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Finding(Record):
    """What a detector reports: a group of samples (and neurons) that share a reason for the prediction."""

    id: str = Field(description="stable for the same content: detector, class, layer and samples")
    rank: int = Field(ge=1, description="1 = most suspicious")
    detector: str
    class_id: int
    class_name: str
    layer: str = Field(description='layer name, or "input" for heatmaps')
    score: float = Field(ge=0, le=1, description="suspicion; the weighted geometric mean of its parts")
    score_parts: dict[str, float]
    details: dict[str, float] = Field(
        {}, description="figures behind the parts, and figures without weight in the score"
    )
    sample_ids: list[str]
    neuron_ids: list[int] = []
    note: str = Field("", description="what the detector says about the group, in a sentence")
    also_seen: list[str] = Field([], description='"detector in layer" of every other candidate that is the same group')
    stability: float | None = Field(
        None,
        ge=0,
        le=1,
        description="mean best Jaccard overlap when detection is repeated on subsamples; null: not run",
    )
    evidence: dict[str, str] = Field({}, description="what it shows -> picture, relative to the run directory")


class Findings(Record):
    """The file `reveal/findings.json`."""

    schema_version: int = FINDINGS_VERSION
    findings: list[Finding] = Field(description="best first")
    pictures: dict[str, str] = Field({}, description="what detectors saw -> picture, relative to the run directory")


class Verdict(Record):
    """A person's word on a finding, one entry of the append-only journal `annotations.json`."""

    finding: str
    verdict: Literal["spurious", "valid", "unsure"]
    by: str
    when: str = Field(description="ISO 8601")
    why: str = ""


class SampleLabel(Record):
    """A person's word on a sample, one entry of the append-only journal `annotations.json`."""

    bias: str = Field(pattern=BIAS_NAME, description="id of a finding, or a name of the person's own")
    sample: str = Field(description="sample id")
    label: Literal["positive", "negative", "unsure"] = Field(description="whether the sample shows the bias")
    by: str
    when: str = Field(description="ISO 8601")
    why: str = ""


class CavSummary(Record):
    """How well a concept activation vector separates samples that it was not fitted on."""

    kind: str
    layer: str
    auroc: float = Field(description="held-out; against the labels that the finding gave, not against ground truth")
    auroc_lower: float
    auroc_upper: float
    n_positive: int
    n_negative: int
    localization: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how sharply its heatmaps point, and only on samples with the concept; null: unknown",
    )


class LabelCounts(Record):
    """What people labelled by hand for a bias; the last word on a sample counts."""

    positive: int
    negative: int
    unsure: int
    by: list[str] = Field(description="who labelled, in the order of their first label")


class Bias(Record):
    """An accepted finding. Its id follows it through CAV, masks, corrections, metrics and report."""

    id: str
    finding: str
    class_id: int
    class_name: str
    status: Literal["reviewed", "unreviewed"]
    verdict: Verdict | None = None
    sample_ids: list[str] = Field(description="samples of the training and validation split that carry it, as revealed")
    labels: LabelCounts | None = Field(None, description="samples labelled by hand; null: none")
    cav: CavSummary
    candidates: list[CavSummary] = Field(description="every estimator and layer that was tried")
    earlier: str | None = Field(
        None, description="directory of the earlier run that it was carried over from (reveal.earlier); null: none"
    )


class Biases(Record):
    """The file `reveal/biases.json`."""

    schema_version: int = BIASES_VERSION
    biases: list[Bias]


class Metric(Record):
    """One row of `evaluate/metrics.csv`."""

    model: str
    world: str
    subgroup: str
    metric: str
    value: float
    lower: float
    upper: float
    n: int


class ProjectionChange(Record):
    """A projection behind a layer; its values are in the method's `model.pt`."""

    kind: Literal["projection"] = "projection"
    layer: str
    mode: str
    channels: int = Field(description='of the layer; with pooling "full" times its positions')
    rank: int = Field(1, description="number of directions")
    pooling: str = "max"
    channel_axis: int = 1


class ReactiveProjectionChange(Record):
    """A projection behind a layer that acts on some samples; its values are in the method's `model.pt`."""

    kind: Literal["reactive_projection"] = "reactive_projection"
    layer: str
    mode: str
    channels: int = Field(description='of the layer; with pooling "full" times its positions')
    ranks: list[int] = Field(description="number of directions of each bias")
    gated: bool = Field(description="whether a detector of the bias has to fire")
    conditioned: bool = Field(description="whether the predicted class has to be that of the bias")
    pooling: str = "max"
    channel_axis: int = 1


class ClassConditionChange(Record):
    """The network runs a second time with the projections that its prediction asks for."""

    kind: Literal["class_condition"] = "class_condition"


class NetworkChange(Record):
    """Another network around, or instead of, the one under audit; its weights are in the method's `model.pt`."""

    kind: Literal["network"] = "network"
    name: str = Field(description="key of pipeline.models.replacement.REPLACEMENTS")
    parameters: dict[str, int | float | str | list[int] | list[str]] = {}


Change = Annotated[
    ProjectionChange | ReactiveProjectionChange | ClassConditionChange | NetworkChange, Field(discriminator="kind")
]
"""What is done to the architecture under audit before a corrected model's weights are loaded into it."""


class MethodRecord(Record):
    """The file `mitigate/<method id>/method.json`."""

    key: str = Field(description="hash of all that the correction was made from")
    id: str
    kind: str
    family: str = Field(description="id of the entry of mitigate.methods that it belongs to, alone or as one of a grid")
    seed: int
    parameters: dict
    trained: bool = Field(description="False for corrections that only add a projection")
    frozen: str = Field(description="what stayed as it was while it trained")
    told_truth: bool = Field(description="True where it was given true masks or groups, for comparison only")
    biases: list[str]
    status: Literal["reviewed", "unreviewed"]
    seconds: float
    peak_megabytes: float | None = Field(description="memory that fitting took on top; None where it is not known")
    validation: dict[str, float] = Field(description="validation metrics, which select the best correction")
    notes: dict[str, str | float] = Field({}, description="what the correction says of itself")
    changes: list[Change] = Field([], description="of the architecture, in this order; empty for the plain one")


class Contestant(Record):
    """A correction in the contest, with what the choice looks at."""

    id: str
    family: str
    seed: int
    clean: float = Field(description="balanced accuracy on the validation split with the localized artifact filled in")
    worst: float = Field(description="accuracy of the worst group of the validation split")
    on_front: bool = Field(description="no other correction of the same seed is as good in both and better in one")
    chosen: bool = Field(description="stands for its family in the evaluation")


class Contest(Record):
    """The file `mitigate/contest.json`: who took part, and who is preferred on the validation split."""

    rule: str
    original_clean: float
    original_worst: float
    contestants: list[Contestant]
    recommended: str | None = Field(
        description="family that knew of the bias, was not told the truth, and is preferred"
    )
    warnings: list[str] = []

    def chosen(self) -> list[Contestant]:
        """Return those that are evaluated: of every family the preferred member, once for each seed."""
        return [each for each in self.contestants if each.chosen]


class ClassCount(Record):
    """How many samples of a class a split has."""

    split: str
    class_name: str
    n: int


class SubgroupCount(Record):
    """How many samples of a class have a value of a group column, in one split."""

    column: str
    value: str = Field(description='as text; "" where it is missing')
    split: str
    class_name: str
    n: int


class LeakageCheck(Record):
    """Whether the test split knows samples of the other splits."""

    check: Literal["identical pixels", "nearly identical pixels", "same group"]
    status: Literal["clean", "leak", "not_run"]
    pairs: int = Field(description="pairs of a test sample and a sample of another split")
    test_samples: int = Field(description="test samples that are in one of those pairs")
    detail: str = Field(description="what was compared, or why nothing was")
    examples: list[tuple[str, str]] = Field([], description="ids of some pairs, the test sample first")


class DataSummary(Record):
    """The file `evaluate/data.json`: what the model was trained and tested on."""

    schema_version: int = DATA_SUMMARY_VERSION
    classes: list[ClassCount]
    subgroups: list[SubgroupCount] = []
    missing: dict[str, int] = Field({}, description="group column -> samples without a value")
    leakage: list[LeakageCheck] = []


class EvaluationPicture(Record):
    """A picture that the evaluation drew."""

    kind: Literal["heatmaps", "inserted", "removed"]
    bias: str | None = Field(description="id of the bias that it is about; null: none")
    path: str = Field(description="relative to the run directory")
    caption: str
    samples: list[str] = Field(description="ids of the samples that it shows")


class EvaluationPictures(Record):
    """The file `evaluate/pictures.json`."""

    pictures: list[EvaluationPicture]


class GateResult(Record):
    """One rule of the gate, as it came out."""

    rule: str
    status: Literal["pass", "warn", "fail", "error", "not_run"] = Field(
        description="warn: missed, but declared a warning; error: its figure is ambiguous or no number"
    )
    blocking: bool = Field(description="whether this outcome makes the verdict fail")
    measured: float | None = None
    n: int | None = None
    detail: str = ""


class BaselineRow(Record):
    """One metric in the earlier audit and in this one."""

    model: str
    world: str
    subgroup: str
    metric: str
    before: float
    after: float
    lower: float = Field(description="bound of the change, from both intervals as if the samples were independent")
    upper: float
    status: Literal["regressed", "improved", "unclear"] = Field(
        description="unclear: the interval of the change holds 0, or no direction is the better one"
    )


class BaselineComparison(Record):
    """This audit beside an earlier one (`report.baseline`)."""

    name: str
    digest: str = Field(description="SHA-256 of the earlier audit.json")
    weights_sha256: str
    verdict: str
    same_data: bool = Field(description="whether both audits saw the same samples")
    rows: list[BaselineRow]
    only_before: int = Field(description="figures that only the earlier audit has")
    only_now: int


class Declared(Record):
    """What people declare about the model and its use; the pipeline cannot know it. Empty texts were not provided."""

    intended_use: str = ""
    population: str = ""
    users: str = ""
    out_of_scope: str = ""
    data_source: str = ""
    label_source: str = ""
    model_version: str = ""
    auditor: str = ""
    reviewer: str = ""
    harm: dict[str, Literal["low", "medium", "high"]] = Field(
        {}, description="bias id -> how much harm a wrong prediction does where the bias decides"
    )


class StageTime(Record):
    """What a stage was made from, and how long it took."""

    name: str
    status: str
    key: str
    seconds: float


class DatasetNote(Record):
    """The data set as it was read."""

    fingerprint: str
    skipped: int
    classes: list[str]
    splits: dict[str, int]


class Provenance(Record):
    """What the audit was made from, and how to make it again."""

    config_text: str = Field(description="resolved configuration as YAML")
    arch: str
    weights_sha256: str
    dataset: DatasetNote
    seed: int
    device: str
    machine: str
    versions: dict[str, str]
    stages: list[StageTime]
    commands: list[str]
    worlds: list[str]
    attacked_by: Literal["planting", "pasting", "nothing"]
    created: str = Field(description="when the last stage before the report ended, ISO 8601")


class LayerHealth(Record):
    """Health of the attribution at one layer."""

    layer: str
    conservation: float = Field(description="sum of relevance / explained logit, without bias terms; ideal 1")
    finite: bool
    on_all_paths: bool = Field(True, description="whether all relevance passes it; if not, the ideal is no figure")


class Health(Record):
    """Health of an attribution method on one model."""

    composite: str
    arch: str
    conservation: float = Field(description="at the input, median over samples; ideal 1")
    worst_sample: float | None = Field(None, description="conservation of the sample farthest from 1; null: none")
    skipped: int = Field(0, description="samples left out because their explained logit is near 0")
    bias_share: float = Field(description="share of the explained logit that biases absorb when they are not left out")
    finite: bool
    healthy: bool
    layers: list[LayerHealth]
    weakest_layer: str = Field("", description="of the layers on all paths the one farthest from 1")
    without_rule: list[str] = Field([], description="functions of the model that are explained as if linear")
    warning: str = ""


class SearchedAgain(Record):
    """What the detectors found in the preferred correction."""

    model: str
    findings: list[Finding]
    accepted: list[str] = Field(description="ids of biases that were accepted there and are not known from this run")


class Audit(Record):
    """The file `report/audit.json`: everything that the HTML report shows."""

    schema_version: int = AUDIT_VERSION
    name: str
    title: str
    verdict: Literal["pass", "conditional", "fail", "no_gate"]
    summary: list[str] = Field(description="the verdict in plain words, line by line")
    warnings: list[str]
    declared: Declared
    data: DataSummary
    deidentified: bool = Field(description="without file names, pictures and paths; samples have made-up names")
    best_correction: str | None
    findings: list[Finding]
    detector_pictures: dict[str, str] = Field({}, description="what detectors saw -> picture, relative to the run")
    accept_score: float = Field(0.0, description="suspicion from which a finding is accepted without a person's word")
    biases: list[Bias]
    verdicts: list[Verdict] = Field([], description="the journal in order; the last word on a finding counts")
    methods: list[MethodRecord]
    contest: Contest
    again: SearchedAgain | None = Field(None, description="the preferred correction, searched for new shortcuts")
    health: Health | None
    metrics: list[Metric]
    min_n: int = Field(description="metrics on fewer samples are not given")
    confidence: float
    pictures: list[EvaluationPicture] = []
    gate: list[GateResult]
    baseline: BaselineComparison | None = None
    provenance: Provenance
