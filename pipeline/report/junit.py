"""The gate as JUnit XML, which every continuous-integration server can show."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal
from xml.etree import ElementTree

from ..workspace.records import Audit, GateResult

# XML 1.0, section 2.2: these characters may not occur in a document, not even escaped.
FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Outcome = Literal["passed", "failure", "error", "skipped"]


def junit_xml(audit: Audit) -> str:
    """Return the gate as JUnit XML: one testcase per rule, in order.

    A blocking rule that was missed or not run is a `failure` (type `fail` or `not_run`), one whose figure is no number
    an `error`: a metric that was not measured never looks like success. Without blocking, those two are `skipped`.
    JUnit knows no warning: a rule that is missed but declared a warning passes, says WARN in its `system-out`, and is
    counted by the property `warnings` of the suite. Times are 0, since the gate only compares.
    """
    outcomes = [_outcome(result) for result in audit.gate]
    counts = {
        "tests": str(len(audit.gate)),
        "failures": str(outcomes.count("failure")),
        "errors": str(outcomes.count("error")),
        "skipped": str(outcomes.count("skipped")),
        "time": "0",
    }
    root = ElementTree.Element("testsuites", name=_clean(audit.title), **counts)
    suite = ElementTree.SubElement(root, "testsuite", name=_clean(audit.name), **counts)
    if timestamp := _timestamp(audit.provenance.created):
        suite.set("timestamp", timestamp)
    properties = ElementTree.SubElement(suite, "properties")
    warnings = sum(result.status == "warn" for result in audit.gate)
    for name, value in {"verdict": audit.verdict, "warnings": str(warnings)}.items():
        ElementTree.SubElement(properties, "property", name=name, value=value)
    for result, outcome in zip(audit.gate, outcomes, strict=True):
        _add_testcase(suite, audit.name, result, outcome)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True).decode("utf-8") + "\n"


def _outcome(result: GateResult) -> Outcome:
    if result.status in ("pass", "warn"):
        return "passed"
    if not result.blocking:
        return "skipped"
    return "error" if result.status == "error" else "failure"


def _add_testcase(suite: ElementTree.Element, name: str, result: GateResult, outcome: Outcome) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=f"{name}.gate", name=result.rule, time="0")
    measured = "not measured" if result.measured is None else f"measured {result.measured:.4f}"
    samples = "" if result.n is None else f", n = {result.n}"
    message = f"{result.rule}: {measured}{samples}; {result.detail}"
    if outcome == "passed":
        prefix = "WARN: " if result.status == "warn" else ""
        ElementTree.SubElement(case, "system-out").text = f"{prefix}{message}"
    elif outcome == "skipped":
        ElementTree.SubElement(case, "skipped", message=f"{_word(result)}: {message}")
    else:
        ElementTree.SubElement(case, outcome, type=result.status, message=message).text = f"{_word(result)}: {message}"
    for element in case.iter():
        element.text = None if element.text is None else _clean(element.text)
        element.attrib.update({key: _clean(value) for key, value in element.attrib.items()})


def _word(result: GateResult) -> str:
    return result.status.replace("_", " ").upper()


def _timestamp(created: str) -> str | None:
    """Return the time in the form that the format asks for: UTC, without an offset; None where it is none."""
    try:
        when = datetime.fromisoformat(created)
    except ValueError:
        return None
    return (when.astimezone(UTC) if when.tzinfo else when).strftime("%Y-%m-%dT%H:%M:%S")


def _clean(text: str) -> str:
    return FORBIDDEN.sub("\ufffd", str(text))
