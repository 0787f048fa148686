import base64
import re
from pathlib import Path

import pytest
from parsed_page import Page, page_of
from PIL import Image

from pipeline.report import html as report_html
from pipeline.report.figures import Album, embed_picture
from pipeline.report.front import standing_warnings
from pipeline.report.html import render
from pipeline.workspace.records import (
    BaselineComparison,
    BaselineRow,
    Contest,
    Declared,
    EvaluationPicture,
    Health,
)

SECTIONS = [
    *("intended-use", "data", "baseline-performance", "biases", "other-findings", "localization", "causal"),
    *("contest", "regressions", "limits", "reproducibility", "traceability"),
]
FRONT = ["front-gate", "front-findings", "front-figures", "front-use", "front-warnings", "sign-off"]
EMPTY_CONTEST = Contest(rule="", original_clean=1, original_worst=1, contestants=[], recommended=None)


def sources(page: Page) -> list[str]:
    return [image.attributes["src"] for image in page.all("img")]


def baseline(**changes) -> BaselineComparison:
    row = {"model": "original", "world": "asis", "subgroup": "all"}
    rows = [
        BaselineRow(metric="accuracy", before=0.99, after=0.95, lower=-0.06, upper=-0.02, status="regressed", **row),
        BaselineRow(metric="macro_f1", before=0.9, after=0.91, lower=-0.01, upper=0.03, status="unclear", **row),
    ]
    values = {"name": "release-1", "digest": "ab" * 32, "weights_sha256": "cd" * 32, "verdict": "pass"}
    return BaselineComparison(**values | {"same_data": True, "rows": rows, "only_before": 2, "only_now": 3} | changes)


def test_the_page_is_well_formed_and_has_its_sections_in_order(audit, run_dir):
    page = page_of(audit, run_dir)
    assert [heading.attributes["id"] for heading in page.all("h2")] == FRONT + SECTIONS
    numbers = [heading.text.split()[0] for heading in page.all("h2")[len(FRONT) :]]
    assert numbers == [str(number) for number in range(1, 13)]


def test_the_page_is_self_contained(audit, run_dir):
    page = page_of(audit, run_dir)
    for element in page.elements:
        assert element.tag not in {"script", "link", "iframe", "object", "form"}
        assert element.attributes.get("src", "data:image/").startswith("data:image/")
        assert element.attributes.get("href", "#").startswith("#")
        assert not {"srcset", "style", "onload", "onclick"} & element.attributes.keys()
    assert "http://" not in page.source and "https://" not in page.source
    assert "url(" not in page.source and "@import" not in page.source
    (policy,) = [meta for meta in page.all("meta") if meta.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy.attributes["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_links_inside_the_page_lead_somewhere(audit, run_dir):
    page = page_of(audit, run_dir)
    targets = {element.attributes["id"] for element in page.elements if "id" in element.attributes}
    links = {link.attributes["href"][1:] for link in page.all("a")}
    assert {*SECTIONS, "main", "front", "causal-1"} <= links <= targets


def test_pictures_are_embedded_byte_by_byte(audit, run_dir):
    page = page_of(audit, run_dir)
    assert len(sources(page)) == 2 * len(audit.findings) + 1 + len(audit.pictures)
    original = (run_dir / audit.findings[0].evidence["Mean heatmap"]).read_bytes()
    assert base64.b64encode(original).decode() in [source.partition(",")[2] for source in sources(page)]


@pytest.mark.parametrize(("suffix", "kind"), [("png", "png"), ("jpg", "jpeg"), ("webp", "webp")])
def test_the_type_of_a_picture_is_read_from_its_bytes(tmp_path, suffix, kind):
    Image.new("RGB", (20, 10)).save(tmp_path / f"picture.{suffix}")
    (tmp_path / f"picture.{suffix}").rename(tmp_path / "picture.dat")
    picture = embed_picture(tmp_path, "picture.dat", "c", "a")
    assert picture.source.startswith(f"data:image/{kind};base64,")
    assert (picture.width, picture.height, picture.caption, picture.alt) == (20, 10, "c", "a")


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
        picture = embed_picture(tmp_path / "run", path, "c", "a")
        assert picture.source == "" and "outside the run directory" in picture.problem


def noise(path: Path, size: int) -> int:
    """Write a picture that does not compress, and return how many bytes it takes in the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((size, size), 90).save(path)
    return len("data:image/png;base64,") + 4 * -(-path.stat().st_size // 3)


def test_an_album_embeds_until_its_budget_is_spent_and_lets_smaller_ones_follow(tmp_path):
    large, small = noise(tmp_path / "large.png", 60), noise(tmp_path / "small.png", 10)
    album = Album(tmp_path, (large + small) / 1e6)
    paths = ["large.png", "large.png", "small.png", "small.png"]
    pictures = [album.embed(path, "c", "a") for path in paths]
    assert [bool(picture.source) for picture in pictures] == [True, False, True, False]
    assert album.left_out == 2
    assert pictures[1].problem.startswith("left out: the page's budget of ")


def test_pictures_of_biases_come_before_interventions_heatmaps_masks_and_findings(build_audit, audit, run_dir):
    exemplars = "samples of the finding; relevance for the class"
    counter = "samples of the same class outside the finding, and their relevance"
    first = audit.findings[0]
    evidence = {"embedding": "reveal/e.png", counter: "reveal/outside.png", exemplars: "reveal/inside.png"}
    findings = [first.model_copy(update={"evidence": evidence}), *audit.findings[1:]]
    # Without a caption that says so, the first picture of a finding shows its samples.
    exemplar_of_second, other_of_second = audit.findings[1].evidence.values()
    order = [
        *("reveal/outside.png", "reveal/inside.png", exemplar_of_second),
        *("evaluate/inserted.png", "evaluate/removed.png", "evaluate/heatmaps.png"),
        *("localize/b-8-glyph/overview.png", "reveal/e.png", other_of_second),
        *audit.findings[2].evidence.values(),
    ]
    # Ever smaller, so that none that comes too early fits beside those before it.
    sizes = [noise(run_dir / path, 40 - number) for number, path in enumerate(order)]
    few = build_audit(findings=findings)
    for count in range(1, len(order) + 1):
        page = page_of(few, run_dir, image_budget=sum(sizes[:count]) / 1e6)
        shown = {base64.b64decode(source.partition(",")[2]) for source in sources(page)}
        expected = {(run_dir / path).read_bytes() for path in order[:count]}
        assert expected <= shown, order[count - 1]
        assert not shown & {(run_dir / path).read_bytes() for path in order[count:]}, order[count]


def test_a_spent_budget_is_said_and_the_page_stays_below_ten_megabytes(build_audit, build_finding, tmp_path):
    findings = [build_finding(rank, evidence={f"p{n}": f"reveal/{rank}-{n}.png" for n in range(5)}) for rank in (1, 2)]
    for path in [path for finding in findings for path in finding.evidence.values()]:
        noise(tmp_path / path, 1000)
    page = page_of(build_audit(findings=findings), tmp_path, image_budget=8)
    assert 5e6 < len(page.source.encode()) < 10e6
    assert "left out: the page's budget of 8 MB" in page.text
    assert "Pictures left out" in page.section("reproducibility").text
    assert "Pictures left out" not in page_of(build_audit(findings=findings), tmp_path, image_budget=80).text


def test_captions_say_which_samples_are_examples_and_which_are_counter_examples(build_audit, audit, run_dir):
    captions = {
        "samples of the finding; relevance": "reveal/finding-1-heatmaps.png",
        "samples of the same class outside the finding, and their relevance": "reveal/finding-1-mean.png",
    }
    first = audit.findings[0].model_copy(update={"evidence": captions})
    page = page_of(build_audit(findings=[first, *audit.findings[1:]]), run_dir)
    alts = [image.attributes["alt"] for image in page.all("img")]
    assert any(alt.startswith("Samples of bias b-8-glyph, class 8: samples of the finding") for alt in alts)
    assert any(alt.startswith("Counter-examples of bias b-8-glyph, class 8: samples of the same") for alt in alts)
    assert "Counter-examples: the same class without it" in page.with_id("bias-1").text
    assert "Counter-examples" not in page.with_id("bias-2").text


def test_names_are_shown_literally(build_audit, build_finding, build_metric, audit, tmp_path):
    evil = '<script>alert("1")</script>\'"&'
    finding = build_finding(1, class_name=evil, layer=evil, sample_ids=[evil], evidence={evil: f"{evil}.png"})
    bias = audit.biases[0].model_copy(update={"id": evil, "class_name": evil, "finding": finding.id})
    metrics = [build_metric("original", value=0.5), build_metric("rrr", value=0.6)]
    metrics += [build_metric(evil, name="class_accuracy", subgroup=f"class={evil}")]
    metrics += [build_metric("original", name="class_accuracy", subgroup=f"class={evil}")]
    metrics += [build_metric("original", world="inserted", name="flip_rate", subgroup=evil)]
    changes = dict.fromkeys(["arch", "config_text", "device"], evil) | {"versions": {evil: evil}, "commands": [evil]}
    picture = EvaluationPicture(kind="inserted", bias=evil, path=f"{evil}.png", caption=evil, samples=[evil])
    shown = build_audit(
        name=evil,
        title=evil,
        summary=[evil],
        warnings=[evil],
        findings=[finding],
        biases=[bias],
        metrics=metrics,
        pictures=[picture],
        detector_pictures={evil: evil},
        declared=Declared(**dict.fromkeys(["intended_use", "population", "auditor", "model_version"], evil)),
        gate=[result.model_copy(update={"rule": evil, "detail": evil}) for result in audit.gate],
        baseline=baseline(name=evil),
        provenance=audit.provenance.model_copy(update=changes),
        methods=[method.model_copy(update={"notes": {evil: evil}}) for method in audit.methods],
    )
    (tmp_path / "evil.png").write_bytes(b"")
    page = page_of(shown, tmp_path)
    assert not page.all("script") and "<script" not in page.source
    assert page.text.count('<script>alert("1")') > 25
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert not any(re.search(r"[\s<>\"]", name) for name in ids)


def test_an_audit_without_findings_is_a_proper_page(build_audit, audit, tmp_path):
    empty = build_audit(
        findings=[],
        biases=[],
        verdicts=[],
        methods=[],
        contest=EMPTY_CONTEST,
        metrics=[],
        gate=[],
        health=None,
        best_correction=None,
        verdict="no_gate",
        summary=[],
        pictures=[],
        declared=Declared(),
        data=audit.data.model_copy(update={"classes": [], "subgroups": [], "missing": {}, "leakage": []}),
    )
    page = page_of(empty, tmp_path)
    for words in (
        *("Nothing suspicious was found.", "NO GATE", "No gate was declared", "No model was evaluated."),
        *("No correction was fitted.", "No subgroups were counted", "No bias was accepted."),
        *("The health of the attributions was not checked.", "No correction is preferred."),
    ):
        assert words in page.text, words
    assert [heading.attributes["id"] for heading in page.all("h2")] == FRONT + SECTIONS


def test_the_same_audit_gives_the_same_page(audit, build_audit, run_dir):
    assert page_of(audit, run_dir).source == page_of(build_audit(), run_dir).source


def test_a_deidentified_page_shows_no_picture_even_where_the_run_has_some(build_audit, run_dir):
    page = page_of(build_audit(deidentified=True), run_dir)
    assert page.all("img") == []
    assert "left out: this report is de-identified" in page.text
    assert "No mask overview is shown" in page.text
    assert "de-identified" in page.all("header")[0].text


def test_biases_have_cards_and_other_findings_are_folded_by_rank(build_audit, audit, run_dir):
    page = page_of(build_audit(findings=audit.findings[::-1]), run_dir)
    cards = [
        (element.tag, element.attributes["id"])
        for element in page.all("article", "details")
        if "id" in element.attributes
    ]
    # Finding 3 was judged by a person and stands first; 1 and 2 became biases.
    folded = [("details", f"finding-{rank}") for rank in (3, 4, 5)]
    assert cards == [("article", "bias-1"), ("article", "bias-2"), *folded]
    judged, other = page.source.split("Not suspicious enough, and judged by nobody")
    assert "spray-0-0003" in judged and "spray-1-0004" in other


def test_the_last_verdict_on_a_finding_counts_with_who_when_and_why(audit, run_dir):
    page = page_of(audit, run_dir)
    text = page.section("other-findings").text
    assert "valid by B. Reviewer, 2026-02-03T10:14:00Z: “a slanted stroke”" in text
    assert "unsure" not in text
    bias = page.with_id("bias-1").text
    assert "spurious by A. Auditor, 2026-02-03T10:11:12Z: “a plus sign”" in bias
    assert "no person has given a verdict" in page.with_id("bias-2").text


def test_the_card_of_a_bias_tells_severity_prevalence_detectors_and_stability(build_audit, audit, run_dir):
    first = audit.findings[0].model_copy(update={"stability": 0.81, "also_seen": ["neurons in features.8"]})
    page = page_of(build_audit(findings=[first, *audit.findings[1:]]), run_dir)
    text = page.with_id("bias-1").text
    for words in (
        *("Severity: prevalence 12 %", "harm: high", "0.120 [0.100, 0.140] of the training images of class 8"),
        *("spray at input; also seen by neurons in features.8", "0.810 mean overlap", "held-out AUROC 0.993"),
    ):
        assert words in text, words
    assert "by no other detector" in page.with_id("bias-2").text


def test_the_number_of_pictures_and_samples_is_limited_and_the_rest_is_counted(audit, run_dir):
    page = page_of(audit, run_dir, samples_per_finding=1)
    assert len(page.all("img")) == len(audit.findings) + 1 + len(audit.pictures)
    assert "1 more pictures lie in the run directory" in page.text
    assert "digit-0000 and 39 more" in page.text


def test_the_chosen_concept_vector_is_marked_even_when_its_interval_is_nan(build_audit, audit, run_dir):
    bias = audit.biases[0]
    lost = bias.cav.model_copy(update={"auroc_lower": float("nan")})
    other = bias.cav.model_copy(update={"auroc_lower": float("nan")})
    changed = bias.model_copy(update={"cav": lost, "candidates": [bias.candidates[0], other]})
    rows = page_of(build_audit(biases=[changed]), run_dir).rows(
        "Concept activation vectors that were tried for b-8-glyph"
    )
    # The head and two candidates: the chosen one is not listed twice.
    assert [row[-1] for row in rows] == ["Chosen", "no", "chosen"]


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
    assert "NOT HEALTHY" in texts[0] and "R = 256" in texts[0]
    doubtful = sick.model_copy(update={"healthy": True, "conservation": 1.0, "warning": "No rule for torch.sin"})
    texts_of_doubtful = standing_warnings(build_audit(health=doubtful))
    assert any("No rule for torch.sin" in text and "NOT HEALTHY" not in text for text in texts_of_doubtful)
    assert any("was not checked" in text for text in standing_warnings(build_audit(health=None)))
    assert any("b-1-corner" in text and "unreviewed" in text and "b-8-glyph" not in text for text in texts)
    assert any("NOT PROVIDED" in text for text in texts)
    assert audit.warnings[0] in texts
    provided = build_audit(declared=Declared(intended_use="triage"), biases=audit.biases[:1], warnings=[])
    assert standing_warnings(provided) == []


def test_what_was_not_measured_is_listed(build_audit, build_metric, run_dir):
    rows = [build_metric("original", "clean", value=0.9)]
    text = page_of(build_audit(metrics=rows), run_dir).section("limits").text
    listed = text.split("Not measured in this run")[1].split("When to audit again")[0]
    for words in (
        *("the world attacked", "the world inserted", "TCAV quotient", "known truth", "masks of bias b-1-corner"),
        *("corrected models", "subgroups of the data", "new shortcuts of the preferred correction", "calibration"),
    ):
        assert words in listed, words
    assert "the world clean" not in listed and "masks of bias b-8-glyph" not in listed
    assert "leakage" not in listed


def test_leakage_is_told_in_words_and_a_check_without_result_counts_as_not_run(audit, run_dir):
    rows = page_of(audit, run_dir).rows("Whether the test split knows samples of the other splits")
    assert [row[:2] for row in rows[1:]] == [
        ["✖ LEAK", "identical pixels"],
        ["○ not run", "same group"],
        ["○ not run", "nearly identical pixels"],
    ]
    assert rows[1][2:4] == ["2", "2"] and "digit-0001 and digit-0002" in rows[1][4]


def test_the_comparison_with_an_earlier_audit_shows_what_regressed(build_audit, audit, run_dir):
    page = page_of(build_audit(baseline=baseline(same_data=False)), run_dir)
    text = page.section("regressions").text
    assert "Worse than before: 1" in text and "Better than before: 0" in text and "No clear change: 1" in text
    assert "NO: changes may come from the data" in text and "ab" * 32 in text
    (row,) = page.rows("Worse than before")[1:]
    assert row == ["Accuracy", "original", "asis", "all", "0.990", "0.950", "▼0.040 [−0.060, −0.020]"]
    assert "No earlier audit was given" in page_of(audit, run_dir).section("regressions").text


def test_declared_lines_are_shown_or_loudly_missing(build_audit, run_dir):
    declared = Declared(intended_use="triage", users="dermatologists", model_version="2.3")
    page = page_of(build_audit(declared=declared), run_dir)
    text = page.section("intended-use").text
    assert text.count("NOT PROVIDED") == 6  # population, out of scope, two sources, auditor, reviewer
    assert "triage" in text and "dermatologists" in text
    assert "2.3" in page.all("header")[0].text
    missing = page_of(build_audit(declared=Declared()), run_dir)
    assert "NOT PROVIDED" in missing.section("front-use").text
    assert "NOT PROVIDED" in missing.all("header")[0].text


def test_reproducibility_has_hashes_versions_commands_and_times(audit, run_dir):
    page = page_of(audit, run_dir)
    text = page.section("reproducibility").text
    for words in (
        *(audit.provenance.weights_sha256, audit.provenance.dataset.fingerprint, "zennit 0.5.1"),
        *(audit.provenance.commands[0], "name: demo", "made by planting"),
    ):
        assert words in text, words
    rows = page.rows("What each stage was made from (its key), and how long it took")
    assert rows[1] == ["train", "done", "3f6c1d2a9b8e7f60", "11.2 s"]


def test_traceability_claims_nothing_and_leads_to_sections(audit, run_dir):
    section = page_of(audit, run_dir).section("traceability")
    assert "no claim of compliance" in section.text and "verify the wording in the source" in section.text
    assert "manufacturer to supply" in section.text and "not provided" in section.text


def test_a_large_page_says_so(audit, run_dir, monkeypatch):
    assert "MB large" not in page_of(audit, run_dir).text
    monkeypatch.setattr(report_html, "LARGE", 1000)
    assert "MB large" in page_of(audit, run_dir).with_id("front").text


def test_templates_travel_with_the_package():
    folder = Path(report_html.__file__).parent / "templates"
    included = re.findall(r'include "([^"]+)"', (folder / "report.html.j2").read_text())
    assert len(included) > 10 and all((folder / name).is_file() for name in included)
    assert render.__module__ == "pipeline.report.html"
