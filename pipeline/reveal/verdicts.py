"""People's verdicts on findings, from the append-only journal `annotations.json`."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import StoreError
from pipeline.workspace.records import Finding, Verdict

_JOURNAL = TypeAdapter(list[Verdict])


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """Return the last verdict on each finding; a missing journal is an empty one.

    Raises:
        StoreError: the journal is not a list of verdicts.
    """
    if not path.exists():
        return {}
    try:
        entries = _JOURNAL.validate_python(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise StoreError(
            f"{path} is not a list of verdicts ({str(error).splitlines()[0]}). Each entry needs finding, verdict "
            "(spurious, valid or unsure), by, when and optionally why."
        ) from None
    return {entry.finding: entry for entry in entries}


def accepted(
    findings: list[Finding], verdicts: dict[str, Verdict], top: int, least_score: float
) -> list[tuple[Finding, Verdict | None]]:
    """Return the findings that become biases, best first.

    What a person called spurious is accepted; what a person called valid or unsure is not. Without any verdict of
    "spurious", the first `top` findings that nobody judged are accepted if they reach `least_score`; they stay unreviewed.
    """
    spurious = [(f, verdicts[f.id]) for f in findings if f.id in verdicts and verdicts[f.id].verdict == "spurious"]
    if spurious:
        return spurious
    unjudged = [finding for finding in findings if finding.id not in verdicts]
    return [(finding, None) for finding in unjudged[:top] if finding.score >= least_score and finding.score > 0]
