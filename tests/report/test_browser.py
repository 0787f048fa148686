"""The page in a real browser: nothing is loaded, nothing fails, axe-core is content, phones and printers show it."""

from __future__ import annotations

import os
import re
import shutil

import pytest
from parsed_page import page_of
from PIL import Image

from pipeline.workspace.records import Bias, GateResult

playwright_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
axe_api = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="the package axe-playwright-python is not installed"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
WIDTHS = (1280, 400)
LONG = "Triage of dermoscopic images of pigmented skin lesions of adults by dermatologists in clinics. " * 8


@pytest.fixture(scope="module")
def browser():
    # Without a sandbox where the tests run as root, since Chromium refuses it there.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


def many(audit):
    """Return the audit with 25 corrections, several biases, and long texts everywhere."""
    rrr = next(method for method in audit.methods if method.id == "rrr")
    contestant = next(each for each in audit.contest.contestants if each.id == "rrr")
    names = [f"correction_with_a_name_{number}" for number in range(20)]
    metrics = list(audit.metrics)
    for name in names:
        metrics += [row.model_copy(update={"model": name}) for row in audit.metrics if row.model == "rrr"]
    biases = [audit.biases[0], *(Bias(**audit.biases[1].model_dump() | {"id": f"b-{n}-corner"}) for n in range(3))]
    rule = "balanced_accuracy of rr_clarc (best correction) in world attacked, subgroup site=north, lower bound >= 0.90"
    gate = [GateResult(rule=f"{rule} {n}", status="fail", blocking=True, measured=0.5, n=10**6) for n in range(12)]
    words = [f"{number}: The model leans on bias number {number}. {LONG}" for number in range(9)]
    return audit.model_copy(
        update={
            "methods": [*audit.methods, *(rrr.model_copy(update={"id": name}) for name in names)],
            "contest": audit.contest.model_copy(
                update={
                    "contestants": [
                        *audit.contest.contestants,
                        *(contestant.model_copy(update={"id": name, "family": name}) for name in names),
                    ]
                }
            ),
            "metrics": metrics,
            "biases": biases,
            "gate": gate,
            "title": "Bias audit of the dermoscopy classifier for suspicion of melanoma, second candidate of the year",
            "summary": ["FAIL: 12 of 12 rules are not met.", *words],
            "warnings": words,
            "declared": audit.declared.model_copy(update={"intended_use": LONG, "reviewer": "B. Reviewer"}),
        }
    )


@pytest.fixture
def written(audit, run_dir):
    """Write a page and return its address; pictures are as wide as real ones."""
    for path in [audit.findings[0].evidence["Mean heatmap"], *(picture.path for picture in audit.pictures)]:
        Image.new("RGB", (1200, 300), (30, 60, 90)).save(run_dir / path)

    def write(shown) -> str:
        file = run_dir / "index.html"
        file.write_text(page_of(shown, run_dir).source, encoding="utf-8")
        return file.as_uri()

    return write


@pytest.fixture(params=["usual", "many"])
def address(request, audit, written) -> str:
    return written(many(audit) if request.param == "many" else audit)


def opened(browser, address, width, **options):
    context = browser.new_context(viewport={"width": width, "height": 900}, bypass_csp=True, **options)
    return context.new_page(), address


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_loaded_nothing_fails_and_the_page_is_no_wider_than_the_screen(browser, address, width):
    context = browser.new_context(viewport={"width": width, "height": 900})
    page, requests, messages = context.new_page(), [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert [url for url in requests if not url.startswith("data:")] == [address]
    assert messages == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(each => each.complete && each.naturalWidth > 0)")
    context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_to_complain_about(browser, address, width):
    page, address = opened(browser, address, width)
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    results = axe_api.Axe().run(page)
    found = [
        f"{violation['id']}: {violation['help']} ({violation['nodes'][0]['html'][:160]})"
        for violation in results.response["violations"]
    ]
    assert found == []
    page.context.close()


def test_a_keyboard_reaches_the_skip_link_first_and_it_leads_to_the_report(browser, address):
    page, address = opened(browser, address, 1280)
    page.goto(address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    left = page.evaluate("document.activeElement.getBoundingClientRect().left")
    assert left >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.context.close()


def printed(browser, address) -> list[str]:
    """Print to PDF and return the text of each page."""
    pdfium = pytest.importorskip("pypdfium2", reason="the package pypdfium2 is not installed")
    page, address = opened(browser, address, 1280)
    page.goto(address)
    document = pdfium.PdfDocument(page.pdf(prefer_css_page_size=True, print_background=True))
    width, height = document[0].get_size()
    assert (round(width), round(height)) == (595, 842)  # A4 in points
    texts = [document[number].get_textpage().get_text_range() for number in range(len(document))]
    page.context.close()
    return [re.sub(r"\s+", " ", text) for text in texts]


def test_the_first_page_holds_verdict_and_sign_off_and_nothing_else(browser, address):
    first, second = printed(browser, address)[:2]
    assert "FAIL" in first and "Declared gates" in first
    assert "Signature of the auditor" in first and "Signature of the reviewer" in first
    assert "1 Intended use" not in first
    assert second.lstrip().startswith("1 Intended use")


def test_folded_parts_are_open_on_paper(browser, audit, written):
    text = " ".join(printed(browser, written(audit)))
    assert audit.provenance.config_text.splitlines()[2].strip() in text  # within a folded part
    assert "digit-0000" in text
    assert "tables of further figures of every model are left out on paper" in text
    assert "Skip to the report" not in text


def test_no_row_of_a_table_is_cut_between_two_sheets_of_paper(browser, audit, written):
    def long_row(method, number):
        return method.model_copy(update={"notes": {"note": f"begin{number} {'word ' * 90} finish{number}"}})

    shown = many(audit)
    rows = [long_row(method, number) for number, method in enumerate(shown.methods)]
    texts = printed(browser, written(shown.model_copy(update={"methods": rows})))
    begins, ends = (
        {int(number): sheet for sheet, text in enumerate(texts) for number in re.findall(rf"{word}(\d+)\b", text)}
        for word in ("begin", "finish")
    )
    assert len(begins) == len(rows)
    assert begins == ends
    assert len(set(begins.values())) > 2  # the table goes over several sheets
