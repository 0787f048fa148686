"""What can be checked of accessibility without a browser; test_browser.py asks a browser and axe-core."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from parsed_page import Page, page_of

from pipeline.report import html as report_html
from pipeline.report import svg
from pipeline.workspace.records import Contest

CSS = (Path(report_html.__file__).parent / "templates" / "report.css").read_text()
COLORS = dict(re.findall(r"--([\w-]+): (#[0-9a-fA-F]{6})", CSS))
ENOUGH = 4.5  # WCAG 2.2, 1.4.3, for text
TEXT_ON = [
    *((ink, ground) for ink in ("ink", "muted", "accent") for ground in ("page", "soft", "chosen")),
    *((kind, f"{kind}-soft") for kind in ("good", "bad", "care", "plain")),
    *((kind, "page") for kind in ("good", "bad", "care", "plain")),
    *((ink, "care-soft") for ink in ("ink", "muted", "accent")),
]


def luminance(color: str) -> float:
    """Return the relative luminance of WCAG."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.fixture
def pages(audit, build_audit, run_dir) -> list[Page]:
    """Return a full page, and one of an audit that has almost nothing."""
    contest = Contest(rule="", original_clean=1, original_worst=1, contestants=[], recommended=None)
    nothing = dict.fromkeys(["findings", "biases", "methods", "metrics", "gate", "summary", "pictures"], [])
    bare = build_audit(**nothing, contest=contest, health=None, best_correction=None, verdict="no_gate")
    return [page_of(audit, run_dir), page_of(bare, run_dir)]


def test_the_formula_of_contrast_agrees_with_known_values():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(("ink", "ground"), TEXT_ON)
def test_text_stands_out_from_its_ground(ink, ground):
    assert contrast(COLORS[ink], COLORS[ground]) >= ENOUGH


def test_every_colour_of_text_is_checked():
    used = set(re.findall(r"(?<![\w-])color: var\(--([\w-]+)\)", CSS))
    assert used == {ink for ink, _ in TEXT_ON}
    literal = re.findall(r"(?<![\w-])color: (?!var\(|inherit|currentColor)([^;]+);", CSS)
    assert literal == []
    grounds = set(re.findall(r"background: var\(--([\w-]+)\)", CSS))
    assert grounds == {ground for _, ground in TEXT_ON}


@pytest.mark.parametrize("color", [svg.INK, svg.MUTED])
def test_text_in_drawings_stands_out_too(color):
    assert contrast(color, "#ffffff") >= ENOUGH and contrast(color, svg.BAND) >= ENOUGH


def test_marks_in_drawings_stand_out_from_the_page():
    for style in svg.WORLD_STYLES.values():
        assert contrast(style.color, svg.BAND) >= 3  # WCAG 2.2, 1.4.11, for graphics


def test_text_in_drawings_has_no_other_colour(pages):
    (page, _) = pages
    fills = {text.attributes["fill"] for text in page.all("text")}
    assert fills == {svg.INK, svg.MUTED}


def test_the_page_names_its_language_and_has_one_main_and_one_heading_of_the_first_level(pages):
    for page in pages:
        assert page.all("html")[0].attributes["lang"] == "en"
        assert [len(page.all(tag)) for tag in ("h1", "main", "nav", "header", "footer")] == [1] * 5
        (title,) = [element for element in page.all("title") if element.inside("head")]
        assert title.text


def test_headings_skip_no_level(pages):
    for page in pages:
        levels = [int(heading.tag[1]) for heading in page.all("h1", "h2", "h3", "h4", "h5", "h6")]
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
        assert all(heading.text for heading in page.all("h1", "h2", "h3", "h4"))


def test_ids_are_unique_and_references_resolve(pages):
    for page in pages:
        ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
        assert len(ids) == len(set(ids))
        labelled = [
            element.attributes[name] for element in page.elements for name in LABELS & element.attributes.keys()
        ]
        assert labelled and set(labelled) <= set(ids)


LABELS = {"aria-labelledby", "aria-describedby"}


def test_every_picture_says_what_is_to_be_seen(pages):
    (page, _) = pages
    alts = [image.attributes["alt"] for image in page.all("img")]
    assert len(alts) > 5 and all(len(alt) > 15 for alt in alts)
    assert not any(alt.endswith((".png", ".jpg")) for alt in alts)
    drawings = page.all("svg")
    assert drawings
    for drawing in drawings:
        assert drawing.attributes["role"] == "img" and drawing.attributes["aria-label"]


def test_tables_have_a_caption_and_headers_with_a_scope_and_none_is_empty(pages):
    for page in pages:
        for table in page.all("table"):
            inside = [element for element in page.elements if table in element.parents]
            captions = [element for element in inside if element.tag == "caption"]
            assert len(captions) == 1 and captions[0].text
            headers = [element for element in inside if element.tag == "th"]
            assert headers
            for header in headers:
                assert header.attributes["scope"] in ("col", "row", "rowgroup")
                assert header.text
            for row in (element for element in inside if element.tag == "tr"):
                assert any(row in header.parents for header in headers), "a row without a header"


def test_tables_are_as_wide_as_their_heads(pages):
    (page, _) = pages
    for table in page.all("table"):
        rows = [element for element in page.all("tr") if table in element.parents]
        widths = {
            sum(int(cell.attributes.get("colspan", 1)) for cell in page.all("td", "th") if row in cell.parents)
            for row in rows
        }
        assert len(widths) == 1, widths


def test_wide_tables_scroll_by_themselves_and_can_be_reached_by_keyboard(pages):
    for page in pages:
        regions = [element for element in page.elements if element.attributes.get("class") == "scroll"]
        names = [region.attributes["aria-label"] for region in regions]
        assert regions and all(names) and len(names) == len(set(names))
        for region in regions:
            assert region.attributes["role"] == "region" and region.attributes["tabindex"] == "0"
        narrow = {"score", "gate"}
        for table in page.all("table"):
            assert table.attributes.get("class") in narrow or set(map(id, regions)) & set(map(id, table.parents))


def test_the_first_link_skips_to_the_report(pages):
    for page in pages:
        first = page.all("a")[0]
        assert first.attributes == {"class": "skip", "href": "#main"}
        assert page.with_id("main").tag == "main"


def test_folded_parts_have_a_summary_as_their_first_child(pages):
    (page, _) = pages
    for details in page.all("details"):
        children = [element for element in page.elements if element.parents and element.parents[-1] is details]
        assert children[0].tag == "summary" and children[0].text
        assert [child.tag for child in children].count("summary") == 1


def test_state_is_never_told_by_colour_alone(pages):
    for page in pages:
        badges = [element for element in page.elements if "badge" in element.attributes.get("class", "").split()]
        assert all(re.search(r"\w", badge.text) for badge in badges)
        marked = [element for element in page.elements if "few" in element.attributes.get("class", "").split()]
        assert all("too few" in cell.text for cell in marked)
    rows = pages[0].rows("Rules of the gate, those that block first")
    assert [row[0] for row in rows[1:]] == ["✖ FAIL", "○ not run", "✔ pass"]


def test_signs_are_hidden_where_words_say_the_same(pages):
    (page, _) = pages
    signs = [element for element in page.all("span") if element.text in {"✔", "✖", "▲", "○", "→", "↑", "↓"}]
    assert signs and all(sign.attributes.get("aria-hidden") == "true" for sign in signs)


def test_lists_hold_nothing_but_items(pages):
    allowed = {"ul": {"li"}, "ol": {"li"}, "dl": {"dt", "dd", "div"}}
    for page in pages:
        for element in page.elements:
            parent = element.parents[-1].tag if element.parents else ""
            assert element.tag in allowed.get(parent, {element.tag})


def test_nothing_moves_for_those_who_asked_for_stillness():
    outside = re.sub(r"@media \(prefers-reduced-motion: no-preference\) \{[^}]*\}\s*\}", "", CSS)
    assert not re.search(r"transition|animation|scroll-behavior", outside)


def test_focus_is_visible():
    assert re.search(r":focus-visible \{ outline: 3px solid", CSS)
    removed = re.findall(r"([^{}\n]+) \{ outline: none", CSS)
    assert [selector.strip() for selector in removed] == ["main:focus"]  # it takes the focus of the skip link alone
