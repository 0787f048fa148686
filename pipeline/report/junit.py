"""The gate as JUnit XML, which every continuous-integration server can show."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from ..workspace.records import Audit, GateResult

# XML 1.0, section 2.2: these characters may not occur in a document, not even escaped.
FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(audit: Audit) -> str:
    """Return the gate as JUnit XML: one testcase per rule, in order.

    A rule that failed is a failure of type `fail`; one that could not be run is a failure of type `not_run`, so that
    a metric that was not measured never looks like success.
    """
    failures = sum(result.status != "pass" for result in audit.gate)
    counts = {"tests": str(len(audit.gate)), "failures": str(failures), "errors": "0", "skipped": "0"}
    root = ElementTree.Element("testsuites", name=_clean(audit.title), **counts)
    suite = ElementTree.SubElement(root, "testsuite", name=_clean(audit.name), **counts)
    if created := audit.provenance.get("created"):
        suite.set("timestamp", _clean(created))
    for result in audit.gate:
        _add_testcase(suite, audit.name, result)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True).decode("utf-8") + "\n"


def _add_testcase(suite: ElementTree.Element, name: str, result: GateResult) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=f"{_clean(name)}.gate", name=_clean(result.rule))
    figures = f"measured: {result.measured}\nn: {result.n}\n{result.detail}"
    if result.status == "pass":
        ElementTree.SubElement(case, "system-out").text = _clean(figures)
    else:
        failure = ElementTree.SubElement(case, "failure", type=result.status, message=_clean(result.detail))
        failure.text = _clean(figures)


def _clean(text: str) -> str:
    return FORBIDDEN.sub("\ufffd", str(text))
