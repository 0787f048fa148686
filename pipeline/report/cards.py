"""Biases and findings as cards: what was found by whom, what a person said, and the pictures that show it."""

from __future__ import annotations

from dataclasses import dataclass

from ..workspace.records import Audit, Bias, CavSummary, EvaluationPicture, Finding, Metric, Verdict
from .figures import Album, Picture
from .formats import clipped
from .plain_words import Severity, severity
from .sheets import Sheet, detection_sheet
from .tables import PIPELINE, MetricIndex

COUNTER_EXAMPLES = "outside the finding"
EXEMPLARS = "samples of the finding"
INTERVENTION_WORDS = {"inserted": "pasted into samples without it", "removed": "filled in on samples that show it"}


@dataclass(frozen=True)
class FindingCard:
    """A finding with its review and the first of its pictures and samples.

    Attributes:
        anchor: id of its element on the page.
        finding: as recorded.
        verdict: the last word of a person; None where there is none.
        exemplars: pictures of its samples.
        counter_examples: pictures of samples of the class that do not belong to it.
        pictures: all other ones.
        pictures_left_out: how many more the run has.
        samples: ids of the first samples.
        samples_left_out: how many more there are.
    """

    anchor: str
    finding: Finding
    verdict: Verdict | None
    exemplars: list[Picture]
    counter_examples: list[Picture]
    pictures: list[Picture]
    pictures_left_out: int
    samples: list[str]
    samples_left_out: int

    @property
    def status(self) -> str:
        """The word of a person, or `unreviewed`."""
        return self.verdict.verdict if self.verdict else "unreviewed"


@dataclass(frozen=True)
class BiasCard:
    """A bias.

    Attributes:
        anchor: id of its element on the page.
        bias: as recorded.
        card: its finding; None where the audit does not hold it.
        severity: prevalence, effect and harm.
        prevalence: share of the training images of its class that show it; None where it was not measured.
        candidates: every direction that was tried, and whether it is the chosen one.
        masks: overview of its masks; None where the run has none.
        localization: scores of finding, concept vector and masks against a known truth; None where there is none.
        inserted: pictures of what pasting it into samples does.
        removed: pictures of what filling it in does.
    """

    anchor: str
    bias: Bias
    card: FindingCard | None
    severity: Severity
    prevalence: Metric | None
    candidates: list[tuple[CavSummary, bool]]
    masks: Picture | None
    localization: Sheet | None
    inserted: list[Picture]
    removed: list[Picture]


@dataclass(frozen=True)
class Cards:
    """All cards of the page, and the pictures that belong to no finding.

    Attributes:
        biases: accepted findings.
        rejected: findings that a person judged, but that became no bias.
        others: all other findings.
        heatmaps: pictures of heatmaps, original and corrected.
        detectors: what detectors saw.
        detectors_left_out: how many more the run has.
    """

    biases: list[BiasCard]
    rejected: list[FindingCard]
    others: list[FindingCard]
    heatmaps: list[Picture]
    detectors: list[Picture]
    detectors_left_out: int


def make_cards(audit: Audit, index: MetricIndex, album: Album, limit: int) -> Cards:
    """Make all cards; pictures are asked for in the order of their importance, as long as the album has room.

    That is: exemplars of biases, interventions, heatmaps, masks, other pictures of biases, findings, detectors.

    Args:
        audit: what is shown.
        index: its metrics.
        album: embeds pictures.
        limit: of the pictures and of the sample ids of each finding.
    """
    findings = {finding.id: finding for finding in sorted(audit.findings, key=_by_rank)}
    anchors = {name: f"finding-{number}" for number, name in enumerate(findings, start=1)}
    of_biases = [findings[bias.finding] for bias in audit.biases if bias.finding in findings]
    embedded: dict[tuple[str, str], Picture] = {}

    def embed(finding: Finding, about: str, wanted: tuple[str, ...]) -> None:
        for caption, path in list(finding.evidence.items())[:limit]:
            if role(caption, finding) in wanted and (finding.id, caption) not in embedded:
                what = f"{ROLE_WORDS[role(caption, finding)]} of {about}, class {finding.class_name}: {caption}"
                embedded[finding.id, caption] = album.embed(path, caption, what)

    for bias in audit.biases:
        if bias.finding in findings:
            embed(findings[bias.finding], f"bias {bias.id}", ("exemplar", "counter-example"))
    interventions = {
        (bias.id, kind): [
            _evaluated(each, album) for each in audit.pictures if (each.bias, each.kind) == (bias.id, kind)
        ]
        for bias in audit.biases
        for kind in INTERVENTION_WORDS
    }
    heatmaps = [_evaluated(each, album) for each in audit.pictures if each.kind == "heatmaps"]
    masks = {bias.id: _masks(bias, album) for bias in audit.biases}
    for finding in [*of_biases, *findings.values()]:
        embed(finding, f"finding {finding.id}", tuple(ROLE_WORDS))
    detectors = [
        album.embed(path, caption, f"What a detector saw: {caption}")
        for caption, path in list(audit.detector_pictures.items())[:limit]
    ]
    cards = {name: _finding_card(finding, audit, anchors[name], embedded, limit) for name, finding in findings.items()}
    accepted = {bias.finding for bias in audit.biases}
    rest = [card for name, card in cards.items() if name not in accepted]
    return Cards(
        biases=[
            BiasCard(
                anchor=f"bias-{number}",
                bias=bias,
                card=cards.get(bias.finding),
                severity=severity(audit, bias),
                prevalence=index.find(PIPELINE, "asis", bias.id, "prevalence"),
                candidates=_candidates(bias),
                masks=masks[bias.id],
                localization=detection_sheet(audit.metrics, index, bias.id),
                inserted=interventions[bias.id, "inserted"],
                removed=interventions[bias.id, "removed"],
            )
            for number, bias in enumerate(audit.biases, start=1)
        ],
        rejected=[card for card in rest if card.verdict],
        others=[card for card in rest if not card.verdict],
        heatmaps=heatmaps,
        detectors=detectors,
        detectors_left_out=max(0, len(audit.detector_pictures) - limit),
    )


ROLE_WORDS = {"exemplar": "Samples", "counter-example": "Counter-examples", "other": "Evidence"}


def role(caption: str, finding: Finding) -> str:
    """Return whether a picture shows samples of the finding, others of its class, or something else.

    The first picture of a finding whose captions say nothing shows its samples.
    """
    if COUNTER_EXAMPLES in caption:
        return "counter-example"
    if caption.startswith(EXEMPLARS):
        return "exemplar"
    named = any(each.startswith(EXEMPLARS) for each in finding.evidence)
    return "exemplar" if not named and caption == next(iter(finding.evidence)) else "other"


def _by_rank(finding: Finding) -> tuple[int, str]:
    return finding.rank, finding.id


def _finding_card(
    finding: Finding, audit: Audit, anchor: str, embedded: dict[tuple[str, str], Picture], limit: int
) -> FindingCard:
    # The journal is append-only: the last word on a finding counts.
    words = [verdict for verdict in audit.verdicts if verdict.finding == finding.id]
    bias = next((bias for bias in audit.biases if bias.finding == finding.id), None)
    pictures: dict[str, list[Picture]] = {name: [] for name in ROLE_WORDS}
    for caption in list(finding.evidence)[:limit]:
        pictures[role(caption, finding)].append(embedded[finding.id, caption])
    return FindingCard(
        anchor=anchor,
        finding=finding,
        verdict=words[-1] if words else bias.verdict if bias else None,
        exemplars=pictures["exemplar"],
        counter_examples=pictures["counter-example"],
        pictures=pictures["other"],
        pictures_left_out=max(0, len(finding.evidence) - limit),
        samples=finding.sample_ids[:limit],
        samples_left_out=max(0, len(finding.sample_ids) - limit),
    )


def _evaluated(picture: EvaluationPicture, album: Album) -> Picture:
    if picture.kind == "heatmaps":
        about = "Heatmaps of the original, of the corrected model, and their difference"
    else:
        about = f"Bias {picture.bias} {INTERVENTION_WORDS[picture.kind]}, before and after"
    return album.embed(picture.path, picture.caption, f"{about}: {clipped(picture.caption, 240)}")


def _masks(bias: Bias, album: Album) -> Picture | None:
    path = f"localize/{bias.id}/overview.png"
    if not album.has(path):
        return None
    caption = f"Samples of bias {bias.id}, and what was localized on them"
    return album.embed(path, caption, f"Masks of bias {bias.id}, class {bias.class_name}, on some of its samples")


def _candidates(bias: Bias) -> list[tuple[CavSummary, bool]]:
    # Not by equality of the records: an interval may be NaN, which equals nothing.
    names = [(candidate.kind, candidate.layer) for candidate in bias.candidates]
    chosen_name = (bias.cav.kind, bias.cav.layer)
    tried = bias.candidates if chosen_name in names else [bias.cav, *bias.candidates]
    chosen = names.index(chosen_name) if chosen_name in names else 0
    return [(candidate, position == chosen) for position, candidate in enumerate(tried)]
