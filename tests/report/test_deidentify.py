import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import Config
from pipeline.config.data import DATA_KINDS
from pipeline.config.load import dump_config
from pipeline.report.deidentify import PATH_KEYS, REMOVED, deidentified, made_up_names
from pipeline.workspace.records import Audit, GateResult, SearchedAgain

PLACES = {
    "output_dir": "/mnt/results",
    "root": "/home/anna/patients",
    "table": "lists/labels_anna.csv",
    "path": "pictures/{id}.dcm",
    "roi_masks": "regions/{id}.png",
    "masks": "rulers/{id}.png",
    "checkpoint": "../weights/secret.pt",
    "earlier": "runs/before",
    "folder": "C:\\masks\\ruler",
    "baseline": "~/audits/old/audit.json",
}


def places_config() -> Config:
    return Config(
        name="demo",
        output_dir=PLACES["output_dir"],
        data={
            "kind": "table",
            "root": PLACES["root"],
            "table": PLACES["table"],
            "path": PLACES["path"],
            "roi_masks": PLACES["roi_masks"],
            "artifacts": {"ruler": {"column": "ruler", "masks": PLACES["masks"]}},
        },
        model={"checkpoint": PLACES["checkpoint"]},
        reveal={"earlier": [PLACES["earlier"]], "detectors": [{"kind": "properties", "metadata": ["site"]}]},
        localize={"import_masks": [{"bias": "ruler", "folder": PLACES["folder"]}]},
        report={"baseline": PLACES["baseline"], "auditor": "A. Auditor"},
    )


def make(build_audit, build_finding, ids: list[str], text: str = "about {}") -> Audit:
    """Return an audit in which all samples are called as given, and in which every free text names one of them."""
    audit = build_audit()
    texts = [text.format(ids[number % len(ids)]) for number in range(20)]
    findings = [build_finding(1, sample_ids=ids[::2], note=texts[0]), build_finding(2, sample_ids=ids[::-1])]
    verdict = audit.verdicts[0].model_copy(update={"why": texts[1]})
    biases = [
        each.model_copy(update={"sample_ids": ids[1:], "verdict": verdict, "earlier": PLACES["earlier"]})
        for each in audit.biases
    ]
    checks = [
        check.model_copy(update={"detail": texts[2], "examples": [(ids[0], ids[-1])]}) for check in audit.data.leakage
    ]
    return audit.model_copy(
        update={
            "findings": findings,
            "biases": biases,
            "verdicts": [verdict],
            "summary": [texts[3]],
            "warnings": [texts[4], f"{texts[5]} in {PLACES['root']}/x/{ids[0]}.png"],
            "again": SearchedAgain(
                model="rrr", findings=[build_finding(3, sample_ids=ids, note=texts[6])], accepted=[]
            ),
            "pictures": [each.model_copy(update={"samples": ids[:2], "caption": texts[7]}) for each in audit.pictures],
            "detector_pictures": {texts[8]: "reveal/spectral.png"},
            "gate": [GateResult(rule="r", status="fail", blocking=True, detail=texts[9])],
            "data": audit.data.model_copy(update={"leakage": checks}),
            "methods": [
                each.model_copy(update={"notes": {"donor": texts[10]}, "parameters": {"weights": "/home/anna/w.pt"}})
                for each in audit.methods
            ],
            "contest": audit.contest.model_copy(update={"warnings": [texts[11]]}),
            "health": audit.health.model_copy(update={"warning": texts[12]}),
            "declared": audit.declared.model_copy(update={"data_source": f"{texts[13]}, {PLACES['root']}"}),
            "provenance": audit.provenance.model_copy(
                update={
                    "config_text": dump_config(places_config()),
                    "commands": ["python -m pipeline.run --config '/mnt/results/my demo/config.yaml' --status"],
                    "machine": "Linux anna-laptop",
                }
            ),
        }
    )


def strings(value) -> list[str]:
    """Return every text of a JSON value, keys included."""
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in [key, *strings(inner)]]
    if isinstance(value, list):
        return [text for inner in value for text in strings(inner)]
    return [value] if isinstance(value, str) else []


def assert_clean(found: Audit, ids: list[str]) -> None:
    texts = "\n".join(strings(json.loads(found.model_dump_json())))
    assert [sample for sample in ids if sample in texts] == []
    for name, place in PLACES.items():
        assert place not in texts, name
        assert place.partition("{")[0].rstrip("/") not in texts or name in ("masks", "path", "roi_masks"), name
    for word in ("anna", "secret", "evaluate/", "reveal/", ".png", ".pt", "my demo", "Linux"):
        assert word not in texts, word


IDS = st.lists(
    # Letters that occur in no word of an audit beside digits and what names of files have between them.
    st.from_regex(r"[qxzQXZÄ]{2}[ _./-]?[qxz0-9]{0,4}", fullmatch=True).filter(lambda text: len(text) >= 3),
    min_size=2,
    max_size=8,
    unique=True,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=IDS, place=st.sampled_from(["about {}", "({})", "'{}'", "see images/{}.png now", "{}_mask", "a, {}, b"]))
def test_no_sample_id_and_no_path_is_left(build_audit, build_finding, ids, place):
    found = deidentified(make(build_audit, build_finding, ids, place))
    assert_clean(found, ids)
    assert Audit.model_validate(json.loads(found.model_dump_json())).deidentified


@pytest.mark.parametrize(
    "ids",
    [
        ["ISIC_0000012", "ISIC_0000123", "ISIC_00001234"],
        ["site/b0.png", "site/b1.png", "b1.png"],
        ["1.2.840.113619.2", "1.2.840.113619.21", "1.2.840"],
        ["1234567", "12345678", "0012"],
        ["Müller (left)", "Müller (left) 2", "O'Brien|x"],
    ],
)
def test_ids_of_every_kind_are_left_out_also_where_one_begins_with_another(build_audit, build_finding, ids):
    found = deidentified(make(build_audit, build_finding, ids))
    texts = "\n".join(strings(json.loads(found.model_dump_json())))
    assert [sample for sample in ids if sample in texts] == []


def test_an_id_that_begins_with_another_has_its_own_name_in_texts(build_audit, build_finding):
    ids = ["ISIC_000012", "ISIC_0000123", "ab", "abc", "abc d"]
    texts = [f"about {sample}, too" for sample in ids]
    audit = make(build_audit, build_finding, ids).model_copy(update={"warnings": texts})
    names = made_up_names(audit)
    expected = [f"about {names[sample] if len(sample) > 2 else sample}, too" for sample in ids]
    assert deidentified(audit).warnings == expected


def test_made_up_names_follow_the_order_and_are_the_same_everywhere(build_audit, build_finding):
    ids = ["pat-x1", "pat-x2", "pat-x3"]
    audit = make(build_audit, build_finding, ids)
    names = {"pat-x1": "sample-0001", "pat-x3": "sample-0002", "pat-x2": "sample-0003"}
    assert made_up_names(audit) == names
    found = deidentified(audit)
    assert found.findings[0].sample_ids == ["sample-0001", "sample-0002"]
    assert found.findings[1].sample_ids == ["sample-0002", "sample-0003", "sample-0001"]
    assert found.biases[0].sample_ids == ["sample-0003", "sample-0002"]
    assert found.again.findings[0].sample_ids == ["sample-0001", "sample-0003", "sample-0002"]
    assert found.data.leakage[0].examples == [("sample-0001", "sample-0002")]
    assert found.summary == ["about sample-0001"]
    assert found.findings[0].note == "about sample-0001"


def test_made_up_names_are_no_real_ones(build_audit, build_finding):
    audit = make(build_audit, build_finding, ["sample-0002", "sample-0001"])
    assert not set(made_up_names(audit).values()) & {"sample-0001", "sample-0002"}


def test_counts_are_not_taken_for_ids(build_audit, build_finding):
    audit = make(build_audit, build_finding, ["384", "0.5", "21"]).model_copy(
        update={"warnings": ["384 samples, n = 384, 0.384", "sample 384 and '384' are bad", "21 % of 384"]}
    )
    assert deidentified(audit).warnings == [
        "384 samples, n = 384, 0.384",
        "sample sample-0001 and 'sample-0001' are bad",
        "21 % of 384",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "precision/recall and/or 1/2",
        "Artifact relevance / area",
        "2026/02/03",
        "features.8, network.relu1",
        "e.g. v1.2",
    ],
)
def test_words_and_figures_are_not_taken_for_paths(build_audit, text):
    assert deidentified(build_audit(warnings=[text])).warnings == [text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see /data/x/a b", "see (removed) b"),
        ("in ~/runs, now", "in (removed), now"),
        ("from ../old/run.", "from (removed)."),
        ("scan01.dcm is bad", "(removed) is bad"),
        ("bad: a/b/c.", "bad: (removed)."),
        ("root:/home/x", "root:(removed)"),
        ("\\\\server\\share", "(removed)"),
        ("D:\\scans\\one", "(removed)"),
        ("file:///home/anna/x", "file:(removed)"),
    ],
)
def test_what_looks_like_a_path_is_removed_from_texts(build_audit, text, expected):
    assert deidentified(build_audit(warnings=[text])).warnings == [expected]


def test_a_folder_that_is_a_plain_word_is_removed_with_what_lies_below_it(build_audit):
    config = Config(name="demo", output_dir="artifacts", data={"kind": "folder", "root": "scans"})
    provenance = build_audit().provenance.model_copy(update={"config_text": dump_config(config)})
    warnings = ["scans/melanoma is empty; scans are rare", "in artifacts/demo too"]
    found = deidentified(build_audit(provenance=provenance, warnings=warnings))
    assert found.warnings == ["(removed) is empty; scans are rare", "in (removed) too"]


def test_the_configuration_keeps_all_but_places(build_audit, build_finding):
    found = deidentified(make(build_audit, build_finding, ["pat-x1", "pat-x2"])).provenance
    before, after = places_config().model_dump(mode="json"), yaml.safe_load(found.config_text)
    assert after["output_dir"] == after["data"]["root"] == after["data"]["artifacts"]["ruler"]["masks"] == REMOVED
    assert after["reveal"]["earlier"] == [REMOVED]
    assert after["localize"]["import_masks"][0]["folder"] == REMOVED
    assert after["report"]["baseline"] == after["model"]["checkpoint"] == REMOVED
    assert after["reveal"]["detectors"] == before["reveal"]["detectors"]
    assert after["report"]["auditor"] == "A. Auditor"
    assert after["model"]["train"] == before["model"]["train"]
    assert after["data"]["artifacts"]["ruler"]["column"] == "ruler"


def test_parameters_of_a_data_set_of_ones_own_may_be_paths(build_audit):
    config = Config(name="demo", data={"kind": "my.module:load", "params": {"a": {"b": ["ward", 3]}}})
    provenance = build_audit().provenance.model_copy(update={"config_text": dump_config(config)})
    after = yaml.safe_load(deidentified(build_audit(provenance=provenance)).provenance.config_text)
    assert after["data"]["params"] == {"a": {"b": [REMOVED, 3]}}
    assert after["data"]["kind"] == "my.module:load"


def test_who_signed_and_what_was_measured_stay(build_audit, build_finding):
    audit = make(build_audit, build_finding, ["pat-x1", "pat-x2"])
    found = deidentified(audit)
    assert found.verdicts[0].by == audit.verdicts[0].by == "A. Auditor"
    assert found.verdicts[0].why == "about sample-0002"
    assert found.declared.auditor == "A. Auditor"
    assert found.metrics == audit.metrics
    assert found.data.subgroups == audit.data.subgroups
    assert [each.status for each in found.gate] == [each.status for each in audit.gate]
    assert found.provenance.commands == ["python -m pipeline.run --config (removed) --status"]


def test_no_picture_is_left(audit):
    found = deidentified(audit)
    assert found.pictures == [] and found.detector_pictures == {}
    assert all(finding.evidence == {} for finding in found.findings)


def test_an_audit_without_anything_to_hide_only_says_so(build_audit):
    audit = build_audit(findings=[], biases=[], verdicts=[], pictures=[], health=None)
    assert deidentified(audit).deidentified
    assert deidentified(audit).summary == audit.summary


PLAIN = {
    "data": {
        "kind": "table",
        "root": "ward",
        "table": "ward",
        "path": "ward",
        "roi_masks": "ward",
        "artifacts": {"ruler": {"column": "kept", "masks": "ward"}},
    },
    "output_dir": "ward",
    "model": {"checkpoint": "ward"},
    "reveal": {"earlier": ["ward"]},
    "localize": {"import_masks": [{"bias": "kept", "folder": "ward"}]},
    "report": {"baseline": "ward", "reviewer": "kept"},
}
ISIC = {"data": {"kind": "isic", "root": "ward", "images": "ward", "ground_truth": "ward", "metadata": "ward"}}


@pytest.mark.parametrize("sections", [PLAIN, ISIC])
def test_places_are_removed_from_the_configuration_also_where_they_are_plain_words(build_audit, sections):
    config = Config(name="demo", **sections)
    provenance = build_audit().provenance.model_copy(update={"config_text": dump_config(config)})
    text = deidentified(build_audit(provenance=provenance)).provenance.config_text
    count = dump_config(config).count("ward")
    assert count == json.dumps(sections).count("ward")
    assert ("ward" in text, text.count(REMOVED)) == (False, count + ("output_dir" not in sections))
    assert text.count("kept") == json.dumps(sections).count("kept")


HARMLESS = {"kind", "id_column", "label_column", "split_column", "target", "on_bad_sample"}


@pytest.mark.parametrize("kind", [kind for kind in DATA_KINDS.values() if "root" in kind.model_fields])
def test_every_text_of_a_data_set_is_known_as_a_place_or_as_harmless(kind):
    texts = {name for name, field in kind.model_fields.items() if field.annotation in (str, str | None)}
    assert texts - HARMLESS == {key.split(".")[1] for key in PATH_KEYS if key.startswith("data.")} & set(
        kind.model_fields
    ) - {"artifacts", "params"}
