"""Which findings become biases."""

from __future__ import annotations

from pipeline.workspace.records import Finding, Verdict

from .labelled import DETECTOR as LABELLED


def accepted(
    findings: list[Finding], verdicts: dict[str, Verdict], top: int, least_score: float
) -> list[tuple[Finding, Verdict | None]]:
    """Return the findings that become biases, best first.

    What a person called spurious is accepted, and what a person described by labels; what a person called valid or
    unsure is not. Without any such word, the first `top` findings that nobody judged are accepted if they reach
    `least_score`; they stay unreviewed.
    """
    wanted = [finding for finding in findings if _wanted(finding, verdicts.get(finding.id))]
    if wanted:
        return [(finding, verdicts.get(finding.id)) for finding in wanted]
    unjudged = [finding for finding in findings if finding.id not in verdicts]
    return [(finding, None) for finding in unjudged[:top] if finding.score >= least_score and finding.score > 0]


def _wanted(finding: Finding, verdict: Verdict | None) -> bool:
    if verdict is None:
        return finding.detector == LABELLED
    return verdict.verdict == "spurious"
