from xml.etree import ElementTree

from pipeline.report.junit import junit_xml
from pipeline.workspace.records import GateResult


def test_one_testcase_per_rule_and_only_passed_rules_have_no_failure(audit):
    suite = ElementTree.fromstring(junit_xml(audit)).find("testsuite")
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [result.rule for result in audit.gate]
    types = [None if case.find("failure") is None else case.find("failure").get("type") for case in cases]
    assert types == [None, "fail", "not_run"]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "2", "0")


def test_the_failure_says_why(audit):
    failure = ElementTree.fromstring(junit_xml(audit)).findall(".//failure")[0]
    assert failure.get("message") == audit.gate[1].detail
    assert "0.09" in failure.text


def test_markup_and_control_characters_stay_well_formed(build_audit):
    rule = 'accuracy of <b>&"\x00\x1b in world ärger'
    audit = build_audit(name="a<b", gate=[GateResult(rule=rule, status="fail", detail="<&\x07")])
    root = ElementTree.fromstring(junit_xml(audit))
    assert root.find(".//testcase").get("name") == 'accuracy of <b>&"\ufffd\ufffd in world ärger'


def test_no_gate_gives_an_empty_suite(build_audit):
    root = ElementTree.fromstring(junit_xml(build_audit(gate=[], verdict="no_gate")))
    assert root.find("testsuite").get("tests") == "0"
    assert root.findall(".//testcase") == []
