"""Which findings become biases."""

from __future__ import annotations

from pipeline.workspace.records import Finding, Verdict


def accepted(
    findings: list[Finding], verdicts: dict[str, Verdict], top: int, least_score: float
) -> list[tuple[Finding, Verdict | None]]:
    """Return the findings that become biases, best first.

    What a person called spurious is accepted; what a person called valid or unsure is not. Without any verdict of
    "spurious", the first `top` findings that nobody judged are accepted if they reach `least_score`; they stay
    unreviewed.
    """
    spurious = [(f, verdicts[f.id]) for f in findings if f.id in verdicts and verdicts[f.id].verdict == "spurious"]
    if spurious:
        return spurious
    unjudged = [finding for finding in findings if finding.id not in verdicts]
    return [(finding, None) for finding in unjudged[:top] if finding.score >= least_score and finding.score > 0]
