import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.report.markdown import escape, summary_markdown
from pipeline.workspace.records import BaselineComparison, BaselineRow, GateResult

NASTY = [
    "<script>alert(1)</script>",
    "a|b",
    "`code`",
    "line\nbreak\r\n# heading",
    "**bold** _it_ ~~no~~",
    "[link](https://example.org)",
    "![x](y.png)",
    "- item",
    "1. item",
    "1) item",
    "+ item",
    "=== =",
    "heading #",
    "0.95 of 12.",
    "---",
    "&lt;b&gt; &amp;",
    "trailing backslash \\",
    "\u2028next\u202e",
    "https://example.org www.example.org",
]


def parse(text: str):
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def cells(text: str) -> list[list[str]]:
    """Return the texts of all rows of all tables."""
    rows: list[list[str]] = []
    for token, inner in zip(tokens := parse(text), tokens[1:], strict=False):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("td_open", "th_open"):
            rows[-1].append("".join(child.content for child in inner.children))
    return rows


def kinds(text: str) -> set[str]:
    return {child.type for token in parse(text) if token.children for child in token.children}


def baseline(**changes) -> BaselineComparison:
    rows = [
        BaselineRow(
            model="best", world="attacked", subgroup="all", metric="accuracy", before=0.9, after=0.8, lower=-0.14,
            upper=-0.06, status=status,
        )
        for status in ("regressed", "improved", "unclear")
    ]  # fmt: skip
    values = {
        "name": "release-1",
        "digest": "0",
        "weights_sha256": "1",
        "verdict": "pass",
        "same_data": True,
        "rows": rows,
        "only_before": 4,
        "only_now": 5,
    }
    return BaselineComparison(**values | changes)


@pytest.mark.parametrize("text", NASTY)
def test_escaped_text_is_read_as_it_is(text):
    shown = " ".join(text.replace("\u2028", " ").replace("\u202e", " ").split())
    for place in ("- {}", "# {}", "- word {}", "{}"):
        tokens = parse(place.format(escape(text)))
        (inline,) = [token for token in tokens if token.type == "inline"]
        assert {child.type for child in inline.children} <= {"text", "text_special"}
        found = "".join(child.content for child in inline.children).removeprefix("word ")
        assert " ".join(found.split()) == shown


@given(st.text(max_size=60))
def test_no_text_breaks_out_of_a_cell(text):
    row = f"| a | b |\n|---|---|\n| {escape(text)} | after |\n"
    *_, last = cells(row)
    assert len(last) == 2
    assert last[1] == "after"
    assert "html_inline" not in kinds(row)


@given(st.text(max_size=60))
def test_no_text_makes_html_links_or_lines(text):
    found = escape(text)
    assert not any(character in found for character in "<>\n\r")
    assert "://" not in found
    assert not kinds(f"- {found}") & {"html_inline", "link_open", "image", "code_inline", "strong_open", "em_open"}


def test_users_are_not_called():
    assert "@someone" not in escape("by @someone")


def test_verdict_model_and_gate_come_first(audit):
    text = summary_markdown(audit)
    lines = text.splitlines()
    assert lines[0] == "# Bias audit of the demo classifier: FAIL"
    assert lines[2] == "**Two of four rules of the gate did not pass.**"
    assert audit.provenance.weights_sha256 in text
    rows = cells(text)
    assert rows[0] == ["", "rule", "measured", "n", "detail"]
    assert [row[0] for row in rows[1:4]] == ["PASS", "FAIL", "NOT RUN"]
    assert rows[2][1:] == [audit.gate[1].rule, "0.090", "256", audit.gate[1].detail]
    assert rows[3][2:4] == ["–", "–"]
    assert text.index("## Gate") < text.index("## Findings") < text.index("## Before and after")


def test_figures_stand_beside_each_other_with_their_intervals(build_audit, build_metric):
    rows = [
        build_metric("original", "attacked", "balanced_accuracy", 0.4, 0.02),
        build_metric("rr_clarc", "attacked", "balanced_accuracy", 0.95, 0.01),
        build_metric("isnet", "attacked", "balanced_accuracy", 0.123, 0.01),
        build_metric("original", "inserted", "flip_rate", 0.5, 0.1, subgroup="b-8-glyph"),
        build_metric("rr_clarc", "inserted", "flip_rate", n=4, subgroup="b-8-glyph").model_copy(
            update={"value": math.nan}
        ),
    ]
    text = summary_markdown(build_audit(metrics=rows, gate=[]))
    assert cells(text) == [
        ["metric", "world", "subgroup", "original", "rr_clarc (best correction)"],
        ["Balanced accuracy", "attacked", "all", "0.400 [0.380, 0.420]", "0.950 [0.940, 0.960]"],
        ["Flip rate", "inserted", "b-8-glyph", "0.500 [0.400, 0.600]", "not given (n = 4)"],
    ]
    alone = summary_markdown(build_audit(metrics=rows, gate=[], best_correction=None))
    assert cells(alone)[0][-1] == "no correction"
    assert cells(alone)[1][-1] == "–"


def test_what_regressed_is_listed_and_the_rest_counted(build_audit):
    text = summary_markdown(build_audit(gate=[], metrics=[], baseline=baseline()))
    assert cells(text)[1:] == [["Accuracy", "best", "attacked", "all", "0.900", "0.800", "-0.100 [-0.140, -0.060]"]]
    assert "1 of 3 figures regressed, 1 improved; 4 only there, 5 only here" in text
    assert "the same data" in text
    assert "**other data**" in summary_markdown(build_audit(baseline=baseline(same_data=False)))
    assert "baseline" not in summary_markdown(build_audit(baseline=None)).lower()


def test_standing_warnings_and_the_place_of_the_report_are_there(build_audit):
    text = summary_markdown(build_audit(warnings=["3 images | were skipped"]))
    assert "- 3 images \\| were skipped" in text
    assert "unreviewed" in text
    assert "**NOT PROVIDED**" in text
    assert "`report/index.html`" in text.splitlines()[-1]


def test_the_same_audit_gives_the_same_text(build_audit):
    assert summary_markdown(build_audit()) == summary_markdown(build_audit())


def test_a_page_with_nothing_in_it_is_still_a_page(build_audit):
    text = summary_markdown(
        build_audit(gate=[], metrics=[], summary=[], warnings=[], biases=[], verdict="no_gate", best_correction=None)
    )
    assert text.startswith("# Bias audit of the demo classifier: no gate\n")
    assert "## Gate" not in text


def test_the_page_fits_a_step_summary_however_large_the_audit(build_audit):
    # Of all characters, this one is written the longest.
    long = "&" * 5000
    gate = [GateResult(rule=long, status="fail", blocking=True, detail=long)] * 1000
    row = baseline().rows[0].model_copy(update={"subgroup": long, "metric": long})
    audit = build_audit(
        gate=gate,
        warnings=[f"{number}{long}" for number in range(1000)],
        summary=[long] * 1000,
        baseline=baseline(rows=[row] * 1000),
    )
    text = summary_markdown(audit)
    assert len(text.encode()) < 1024 * 1024
    assert "920 more in the full report." in text
