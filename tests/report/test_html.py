import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from pipeline.report import html as report_html
from pipeline.report.html import change, embed_picture, figure, plain, render, sample_size, standing_warnings
from pipeline.workspace.records import Contest, Health

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Page(HTMLParser):
    """Collects elements and text, and complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.stack == []
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.stack and self.stack.pop() == tag, f"</{tag}> closes nothing, at {self.getpos()}"

    def handle_data(self, data):
        if "style" not in self.stack:
            self.texts.append(data)


def page_of(audit, run_dir, samples_per_finding=12) -> Page:
    return Page(render(audit, run_dir, samples_per_finding=samples_per_finding))


def test_the_page_is_well_formed_and_has_its_sections_in_order(audit, run_dir):
    page = page_of(audit, run_dir)
    headings = [attributes["id"] for tag, attributes in page.elements if tag == "h2"]
    assert headings == [
        *("gate", "findings", "biases", "comparison", "detection", "classes", "methods"),
        *("health", "limits", "provenance", "sign-off"),
    ]


def test_the_page_is_self_contained(audit, run_dir):
    text = render(audit, run_dir, samples_per_finding=12)
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "iframe", "object"}
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")
        assert "srcset" not in attributes
    assert "http://" not in text and "https://" not in text
    assert "url(" not in text and "@import" not in text


def test_links_inside_the_page_lead_somewhere(audit, run_dir):
    page = page_of(audit, run_dir)
    targets = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    links = {attributes["href"][1:] for tag, attributes in page.elements if tag == "a"}
    assert links and links <= targets


def test_ids_are_unique_and_pictures_have_a_description(audit, run_dir):
    page = page_of(audit, run_dir)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(attributes.get("alt") for tag, attributes in page.elements if tag == "img")


def test_pictures_are_embedded_byte_by_byte(audit, run_dir):
    page = page_of(audit, run_dir)
    sources = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert len(sources) == 2 * len(audit.findings) + 1
    original = (run_dir / audit.findings[0].evidence["Mean heatmap"]).read_bytes()
    assert base64.b64decode(sources[1].removeprefix("data:image/png;base64,")) == original


@pytest.mark.parametrize(("suffix", "kind"), [("png", "png"), ("jpg", "jpeg"), ("webp", "webp")])
def test_the_type_of_a_picture_is_read_from_its_bytes(tmp_path, suffix, kind):
    Image.new("RGB", (20, 10)).save(tmp_path / f"picture.{suffix}")
    (tmp_path / f"picture.{suffix}").rename(tmp_path / "picture.dat")
    picture = embed_picture(tmp_path, "picture.dat", "c")
    assert picture.source.startswith(f"data:image/{kind};base64,")
    assert (picture.width, picture.height) == (20, 10)


def test_a_missing_or_broken_picture_leaves_a_visible_note(audit, run_dir):
    mean, heatmaps = (
        audit.findings[0].evidence[key] for key in ("Mean heatmap", "Heatmaps of the samples nearest to the centre")
    )
    (run_dir / mean).unlink()
    (run_dir / heatmaps).write_bytes(b"<svg onload='alert(1)'/>")
    page = page_of(audit, run_dir)
    assert f"Picture not shown: {mean} is missing or cannot be read" in page.text
    assert f"Picture not shown: {heatmaps} is not a PNG, JPEG or WebP picture" in page.text


def test_a_picture_outside_the_run_directory_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (tmp_path / "run").mkdir()
    for path in ("../secret.png", str(tmp_path / "secret.png")):
        picture = embed_picture(tmp_path / "run", path, "c")
        assert picture.source == "" and "outside the run directory" in picture.problem


def test_names_are_shown_literally(build_audit, build_finding, build_metric, tmp_path):
    evil = '<script>alert("1")</script>'
    finding = build_finding(1, class_name=evil, layer=evil, sample_ids=[evil], evidence={evil: evil})
    metrics = [build_metric("original", value=0.5), build_metric(evil, value=0.6)]
    metrics += [build_metric(evil, name="class_accuracy", subgroup=f"class={evil}")]
    provenance = {"intended_use": evil, "config_text": evil, "versions": {evil: evil}, "dataset": {"classes": [evil]}}
    audit = build_audit(
        name=evil,
        title=evil,
        summary=[evil],
        warnings=[evil],
        findings=[finding],
        metrics=metrics,
        provenance=provenance,
    )
    page = page_of(audit, tmp_path)
    assert not any(tag == "script" for tag, _ in page.elements)
    assert page.text.count(evil) > 10


def test_an_audit_without_findings_is_a_proper_page(build_audit, tmp_path):
    audit = build_audit(
        findings=[],
        biases=[],
        verdicts=[],
        methods=[],
        contest=Contest(rule="", original_clean=1, original_worst=1, contestants=[], recommended=None),
        metrics=[],
        gate=[],
        health=None,
        best_correction=None,
        verdict="no_gate",
    )
    page = page_of(audit, tmp_path)
    assert "Nothing suspicious was found." in page.text
    assert "NO GATE" in page.text
    assert "No gate was declared" in page.text
    assert "No model was evaluated." in page.text


def test_an_audit_with_an_empty_provenance_is_a_proper_page(build_audit, run_dir):
    page = page_of(build_audit(provenance={}), run_dir)
    assert "not recorded" in page.text
    assert "NOT PROVIDED" in page.text


@pytest.mark.parametrize(("verdict", "text"), [("pass", "PASS"), ("fail", "FAIL"), ("no_gate", "NO GATE")])
def test_the_badge_shows_the_verdict(build_audit, run_dir, verdict, text):
    page = page_of(build_audit(verdict=verdict), run_dir)
    assert text in [part.strip() for part in page.texts]
    assert ("header", {"class": verdict}) in page.elements


def test_the_same_audit_gives_the_same_page(audit, build_audit, run_dir):
    assert render(audit, run_dir, samples_per_finding=12) == render(build_audit(), run_dir, samples_per_finding=12)


def test_three_findings_are_open_and_the_rest_folded_by_rank(build_audit, run_dir, audit):
    page = page_of(build_audit(findings=audit.findings[::-1]), run_dir)
    cards = [
        (tag, attributes["id"]) for tag, attributes in page.elements if attributes.get("id", "").startswith("finding-")
    ]
    assert [tag for tag, _ in cards] == ["article"] * 3 + ["details"] * 2
    assert [name for _, name in cards] == [f"finding-{finding.id}" for finding in audit.findings]


def test_the_last_verdict_on_a_finding_counts(audit, run_dir):
    page = page_of(audit, run_dir)
    assert "by B. Reviewer" in page.text and "a slanted stroke" in page.text
    assert not re.search(r"unsure", page.text)


def test_the_number_of_pictures_and_samples_is_limited_and_the_rest_is_counted(audit, run_dir):
    page = page_of(audit, run_dir, samples_per_finding=1)
    assert sum(tag == "img" for tag, _ in page.elements) == len(audit.findings) + 1
    assert "1 more pictures lie in the run directory" in page.text
    assert "digit-0000 and 39 more" in page.text
    assert "digit-0001" not in page.text


def test_the_chosen_concept_vector_is_marked_even_when_its_interval_is_nan(build_audit, audit, run_dir):
    bias = audit.biases[0]
    lost = bias.cav.model_copy(update={"auroc_lower": float("nan")})
    other = bias.cav.model_copy(update={"auroc_lower": float("nan")})
    changed = bias.model_copy(update={"cav": lost, "candidates": [bias.candidates[0], other]})
    text = render(build_audit(biases=[changed]), run_dir, samples_per_finding=1)
    table = text.split("Concept activation vectors that were tried")[1].split("</table>")[0]
    assert table.count("<tr") == 3  # the head and two candidates: the chosen one is not listed twice
    assert [row.count("chosen") > 0 for row in table.split("<tr")[2:]] == [False, True]


def test_a_bias_that_was_carried_over_says_from_where(build_audit, audit, run_dir):
    carried = audit.biases[0].model_copy(update={"earlier": "artifacts/<before>"})
    text = page_of(build_audit(biases=[carried, audit.biases[1]]), run_dir).text
    assert text.count("Carried over") == 1 and "artifacts/<before>" in text
    assert "Carried over" not in page_of(audit, run_dir).text


def test_warnings_name_what_the_reader_must_not_overlook(build_audit, audit):
    sick = Health(
        composite="epsilon_plus_flat",
        arch="a",
        conservation=256,
        bias_share=0,
        finite=True,
        healthy=False,
        layers=[],
        warning="R = 256",
    )
    texts = standing_warnings(build_audit(health=sick))
    assert any("NOT HEALTHY" in text and "R = 256" in text for text in texts)
    doubtful = sick.model_copy(update={"healthy": True, "conservation": 1.0, "warning": "No rule for torch.sin"})
    texts_of_doubtful = standing_warnings(build_audit(health=doubtful))
    assert any("No rule for torch.sin" in text and "NOT HEALTHY" not in text for text in texts_of_doubtful)
    assert any("b-1-corner" in text and "unreviewed" in text and "b-8-glyph" not in text for text in texts)
    assert any("NOT PROVIDED" in text for text in texts)
    assert audit.warnings[0] in texts
    provided = build_audit(provenance={"intended_use": "triage"}, biases=audit.biases[:1], warnings=[])
    assert standing_warnings(provided) == []


def test_what_was_not_measured_is_listed(build_audit, build_metric, run_dir):
    page = page_of(build_audit(metrics=[build_metric("original", "clean", value=0.9)]), run_dir)
    listed = page.text.split("Not measured in this run")[1].split("Provenance")[0]
    for words in ("the world attacked", "TCAV quotient", "known truth", "masks of bias b-1-corner", "corrected models"):
        assert words in listed
    assert "the world clean" not in listed and "masks of bias b-8-glyph" not in listed


def test_a_large_page_says_so(audit, run_dir, monkeypatch):
    assert "MB large" not in render(audit, run_dir, samples_per_finding=1)
    monkeypatch.setattr(report_html, "LARGE", 1000)
    assert "MB large" in render(audit, run_dir, samples_per_finding=1)


def test_before_and_after_of_the_best_correction_stand_at_the_top(audit, run_dir):
    top = page_of(audit, run_dir).text.split("Warnings")[0]
    assert "0.412 → 0.951" in top
    assert "0.972 → 0.970" in top


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.500"),
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (-0.25, "−0.250"),
        (0.0, "0.000"),
        (2.7e20, "2.7e+20"),
    ],
)
def test_figures_are_written_alike_everywhere(value, text):
    assert figure(value) == text


def test_changes_carry_their_sign():
    assert [change(value) for value in (0.1, -0.1, 0.0001)] == ["▲0.100", "▼0.100", "±0"]


def test_the_number_of_samples_is_a_range_where_models_differ(build_metric):
    assert sample_size([build_metric(n=5), None, build_metric(n=5)]) == "5"
    assert sample_size([build_metric(n=7), build_metric(n=5), build_metric(n=6)]) == "5 to 7"
    assert sample_size([None]) == "–"


def test_values_of_the_provenance_read_as_text():
    assert plain({"train": 3, "classes": ["a", "b"], "none": None}) == "train: 3, classes: a, b, none: not recorded"
    assert plain([]) == plain({}) == "none"
    assert (plain(0), plain(0.001), plain(False)) == ("0", "0.001", "False")


def test_templates_travel_with_the_package():
    names = {path.name for path in (Path(report_html.__file__).parent / "templates").iterdir()}
    assert {"report.html.j2", "macros.html.j2", "report.css"} <= names
