from xml.etree import ElementTree

import pytest

from pipeline.report.junit import junit_xml
from pipeline.workspace.records import GateResult

# The parts of the format on which the readers of CI servers agree: element -> attributes that it must and may have,
# and its children in order.
SHAPE = {
    "testsuites": ({"name", "tests", "failures", "errors", "skipped", "time"}, set(), ["testsuite"]),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time"},
        {"timestamp"},
        ["properties", "testcase"],
    ),
    "properties": (set(), set(), ["property"]),
    "property": ({"name", "value"}, set(), []),
    "testcase": ({"name", "classname", "time"}, set(), ["skipped", "error", "failure", "system-out"]),
    "skipped": ({"message"}, set(), []),
    "error": ({"type", "message"}, set(), []),
    "failure": ({"type", "message"}, set(), []),
    "system-out": (set(), set(), []),
}
OUTCOMES = [
    # status, blocking, child of the testcase
    ("pass", False, None),
    ("warn", False, None),
    ("fail", True, "failure"),
    ("error", True, "error"),
    ("error", False, "skipped"),
    ("not_run", True, "failure"),
    ("not_run", False, "skipped"),
]


def result(status: str = "fail", blocking: bool = True, **changes) -> GateResult:
    values = {"rule": f"a rule that ended as {status}", "measured": 0.09, "n": 256, "detail": "missed by 0.0400"}
    return GateResult(status=status, blocking=blocking, **values | changes)


@pytest.fixture
def suite(build_audit) -> ElementTree.Element:
    gate = [result(status, blocking) for status, blocking, _ in OUTCOMES]
    return ElementTree.fromstring(junit_xml(build_audit(gate=gate))).find("testsuite")


def check_shape(element: ElementTree.Element) -> None:
    required, optional, children = SHAPE[element.tag]
    assert required <= set(element.attrib) <= required | optional, element.tag
    places = [children.index(child.tag) for child in element]
    assert places == sorted(places), f"children of {element.tag}"
    for child in element:
        check_shape(child)


def test_the_file_has_the_shape_that_readers_expect(build_audit, suite):
    gate = [result(status, blocking) for status, blocking, _ in OUTCOMES]
    for audit in (build_audit(), build_audit(gate=gate), build_audit(gate=[], verdict="no_gate")):
        check_shape(ElementTree.fromstring(junit_xml(audit)))


def test_every_rule_is_a_testcase_with_its_outcome(suite):
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [f"a rule that ended as {status}" for status, _, _ in OUTCOMES]
    children = [[child.tag for child in case if child.tag != "system-out"] for case in cases]
    assert children == [[] if tag is None else [tag] for _, _, tag in OUTCOMES]
    types = [child.get("type") for case in cases for child in case if child.tag in ("failure", "error")]
    assert types == ["fail", "error", "not_run"]


def test_counts_are_those_of_the_testcases(suite):
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": 7, "failures": 2, "errors": 1, "skipped": 2}
    for tag, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert len(suite.findall(f"testcase/{tag}")) == counts[name]


def test_a_warning_passes_but_is_said_and_counted(suite):
    texts = [case.findtext("system-out") for case in suite.findall("testcase")]
    assert [bool(text and text.startswith("WARN: ")) for text in texts] == [
        status == "warn" for status, _, _ in OUTCOMES
    ]
    properties = {each.get("name"): each.get("value") for each in suite.find("properties")}
    assert properties == {"verdict": "fail", "warnings": "1"}


@pytest.mark.parametrize(("status", "tag"), [("fail", "failure"), ("error", "error"), ("not_run", "failure")])
def test_the_message_has_rule_figure_samples_and_reason(build_audit, status, tag):
    root = ElementTree.fromstring(junit_xml(build_audit(gate=[result(status)])))
    found = root.find(f".//{tag}")
    message = f"a rule that ended as {status}: measured 0.0900, n = 256; missed by 0.0400"
    assert found.get("message") == message
    assert found.text == f"{status.replace('_', ' ').upper()}: {message}"


def test_a_figure_that_is_missing_is_called_not_measured(build_audit):
    audit = build_audit(gate=[result("not_run", measured=None, n=None, detail="no metric")])
    message = ElementTree.fromstring(junit_xml(audit)).find(".//failure").get("message")
    assert message == "a rule that ended as not_run: not measured; no metric"


@pytest.mark.parametrize(
    ("created", "timestamp"),
    [("2026-02-03T12:00:00+02:00", "2026-02-03T10:00:00"), ("2026-02-03T12:00:00Z", "2026-02-03T12:00:00"), ("", None)],
)
def test_the_time_is_that_of_the_audit_in_utc_without_an_offset(audit, created, timestamp):
    provenance = audit.provenance.model_copy(update={"created": created})
    root = ElementTree.fromstring(junit_xml(audit.model_copy(update={"provenance": provenance})))
    assert root.find("testsuite").get("timestamp") == timestamp


def test_markup_and_control_characters_stay_well_formed(build_audit):
    rule = 'accuracy of <b>&"\x00\x1b in world ärger'
    audit = build_audit(name="a<b\x07", gate=[result(rule=rule, detail="<&\x07]]>")])
    root = ElementTree.fromstring(junit_xml(audit))
    assert root.find(".//testcase").get("name") == 'accuracy of <b>&"\ufffd\ufffd in world ärger'
    assert root.find(".//testcase").get("classname") == "a<b\ufffd.gate"
    assert root.find(".//failure").text.endswith("; <&\ufffd]]>")


def test_no_gate_gives_an_empty_suite(build_audit):
    root = ElementTree.fromstring(junit_xml(build_audit(gate=[], verdict="no_gate")))
    assert root.find("testsuite").get("tests") == "0"
    assert root.findall(".//testcase") == []
