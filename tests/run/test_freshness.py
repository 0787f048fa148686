"""A result is reused exactly as long as everything that it was made from is the same, and the reason is told."""

from __future__ import annotations

import math
import os

import pytest

from pipeline.run import freshness as freshness_module
from pipeline.run.freshness import config_changes, config_slice
from pipeline.run.runner import run_stages, status
from pipeline.run.stages import STAGE_NAMES
from pipeline.workspace.directory import RunDirectory

EXPLICIT = {
    "model": {"train": {"epochs": 8}},
    "precompute": {"batch_size": 64},
    "reveal": {"accept_top": 1},
    "localize": {"blur": 0.04},
    "mitigate": {"methods": [{"kind": "fine_tune"}, {"kind": "rrr", "weight": 10.0}]},
    "evaluate": {"resamples": 1000},
    "report": {"title": "Bias audit"},
}


@pytest.fixture
def finished(fake, make_config):
    """A finished run of EXPLICIT."""
    context = run_stages(make_config(**EXPLICIT), "run")
    assert fake.take() == list(STAGE_NAMES)
    return context


def judge(config) -> dict[str, tuple[str, str]]:
    return {each.stage: (each.state, each.why) for each in status(config)}


def not_fresh(config) -> dict[str, str]:
    return {stage: why for stage, (state, why) in judge(config).items() if state != "fresh"}


def waiting(first: str, stages: tuple[str, ...]) -> dict[str, str]:
    return {stage: f"{first} is stale" for stage in stages}


def test_nothing_has_run_yet(fake, make_config):
    assert judge(make_config()) == {stage: ("missing", "never ran") for stage in STAGE_NAMES}
    assert fake.loads == 0


def test_everything_is_fresh_after_a_run(finished, make_config):
    assert not_fresh(make_config(**EXPLICIT)) == {}


@pytest.mark.parametrize(
    "override",
    ["device=cuda", "data.cache_megabytes=1", "precompute.workers=2"],
)
def test_keys_without_influence_change_nothing(finished, make_config, override):
    assert not_fresh(make_config(override, **EXPLICIT)) == {}


@pytest.mark.parametrize(
    ("override", "first", "why", "dependents"),
    [
        ("model.train.epochs=3", "train", "model.train.epochs changed from 8 to 3", STAGE_NAMES[1:]),
        ("data.limit=5", "train", "data.limit changed from null to 5", STAGE_NAMES[1:]),
        ("precompute.batch_size=7", "precompute", "precompute.batch_size changed from 64 to 7", STAGE_NAMES[2:]),
        ("reveal.accept_top=2", "reveal", "reveal.accept_top changed from 1 to 2", STAGE_NAMES[3:]),
        ("localize.blur=0.1", "localize", "localize.blur changed from 0.04 to 0.1", STAGE_NAMES[4:]),
        (
            "mitigate.methods.1.weight=20",
            "mitigate",
            "mitigate.methods.1.weight changed from 10.0 to 20.0",
            STAGE_NAMES[5:],
        ),
        ("evaluate.resamples=200", "evaluate", "evaluate.resamples changed from 1000 to 200", STAGE_NAMES[6:]),
        ("report.title=Other", "report", 'report.title changed from "Bias audit" to "Other"', ()),
    ],
)
def test_changed_section_makes_exactly_its_stage_and_the_dependents_stale(
    finished, make_config, override, first, why, dependents
):
    assert not_fresh(make_config(override, **EXPLICIT)) == {first: why} | waiting(first, dependents)


def test_changed_seed_is_told_at_every_stage_that_reads_it(finished, make_config):
    reasons = not_fresh(make_config("seed=4", **EXPLICIT))
    told = {stage for stage, why in reasons.items() if why == "seed changed from 0 to 4"}
    assert told == {"train", "reveal", "mitigate", "evaluate"}
    assert set(reasons) == set(STAGE_NAMES)


def test_changed_code_names_the_rooms(finished, make_config, monkeypatch):
    monkeypatch.setattr(
        freshness_module, "digest_sources", lambda rooms: f"sources of {rooms}" + "!" * (rooms == ("concepts",))
    )
    reasons = not_fresh(make_config(**EXPLICIT))
    assert set(reasons) == {"reveal", "localize", "mitigate", "evaluate", "report"}
    assert reasons["localize"] == "pipeline code changed (concepts)"
    assert reasons["report"] == "reveal is stale"


def test_changed_library_is_told(finished, make_config, monkeypatch):
    real = freshness_module.metadata.version
    monkeypatch.setattr(
        freshness_module.metadata, "version", lambda name: "99.0+cpu" if name == "torch" else real(name)
    )
    torch_version = real("torch").partition("+")[0]
    why = f"torch changed from version {torch_version} to 99.0"
    assert not_fresh(make_config(**EXPLICIT)) == dict.fromkeys(STAGE_NAMES, why)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda file: file.unlink(), "reveal/result.json is missing"),
        (lambda file: os.truncate(file, 12), "reveal/result.json has 12 bytes instead of"),
        (lambda file: file.write_text("#" * file.stat().st_size), "reveal/result.json was changed"),
    ],
)
def test_damaged_output_is_named(finished, make_config, harm, expected):
    harm(finished.directory.root / "reveal" / "result.json")
    reasons = not_fresh(make_config(**EXPLICIT))
    assert reasons["reveal"].startswith(expected)
    assert reasons["localize"] == "reveal is stale"
    assert set(reasons) == {"reveal", "localize", "mitigate", "evaluate", "report"}


def test_touched_output_is_still_fresh(finished, make_config):
    os.utime(finished.directory.root / "reveal" / "result.json", ns=(0, 0))
    assert not_fresh(make_config(**EXPLICIT)) == {}


def test_verdicts_make_reveal_and_report_stale(finished, make_config):
    finished.directory.annotations_path.write_text("[]")
    reasons = not_fresh(make_config(**EXPLICIT))
    assert reasons["reveal"] == reasons["report"] == "people's verdicts changed (annotations.json)"
    assert reasons["localize"] == "reveal is stale"
    assert set(reasons) == {"reveal", "localize", "mitigate", "evaluate", "report"}


def test_changed_data_are_told_but_touched_files_are_not(fake, make_config, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / "1.png").write_bytes(b"1")
    config = make_config(data={"kind": "folder", "root": str(root)})
    run_stages(config, "precompute")
    assert fake.loads == 1
    os.utime(root / "1.png", ns=(1, 1))
    assert not_fresh(config).keys() == set(STAGE_NAMES[2:])
    assert fake.loads == 2
    (root / "1.png").write_bytes(b"other")
    fake.pixels = "other pixels"
    assert not_fresh(config)["train"] == "the data changed"
    assert not_fresh(config)["precompute"] == "train is stale"


def test_moved_data_are_still_the_same(fake, make_config, tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"1")
    run_stages(make_config(data={"kind": "folder", "root": str(tmp_path / "here")}), "train")
    assert judge(make_config(data={"kind": "folder", "root": str(tmp_path / "there")}))["train"] == ("fresh", "")


def test_network_of_the_users_own_counts_by_its_source(fake, make_config, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "own_network.py"
    module.write_text("def make(classes, channels): ...")
    config = make_config(model={"arch": "own_network:make"})
    run_stages(config, "precompute")
    assert judge(config)["train"] == ("fresh", "")
    module.write_text("def make(classes, channels, width=8): ...")
    assert judge(config)["train"] == ("stale", "the module of model.arch changed")
    assert judge(config)["precompute"] == ("stale", "train is stale")
    module.unlink()
    assert judge(config)["train"][0] == "stale"
    assert judge(make_config(model={"arch": "..:make"}))["train"][0] == "stale", "a wrong name is no crash here"


def test_checkpoint_counts_by_content_not_by_path(fake, make_config, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"weights")
    (tmp_path / "b.pt").write_bytes(b"weights")
    run_stages(make_config(model={"checkpoint": str(tmp_path / "a.pt")}), "train")
    assert judge(make_config(model={"checkpoint": str(tmp_path / "b.pt")}))["train"] == ("fresh", "")
    (tmp_path / "b.pt").write_bytes(b"other weights")
    state, why = judge(make_config(model={"checkpoint": str(tmp_path / "b.pt")}))["train"]
    assert (state, why) == ("stale", "the content of model.checkpoint changed")
    assert judge(make_config())["train"][0] == "stale"


def test_own_reasons_come_before_those_of_earlier_stages(finished, make_config):
    reasons = not_fresh(make_config("model.train.epochs=3", "evaluate.resamples=200", **EXPLICIT))
    assert reasons["evaluate"] == "evaluate.resamples changed from 1000 to 200"


def test_earliest_stage_that_has_to_run_is_named(fake, make_config):
    run_stages(make_config(), "precompute")
    reasons = not_fresh(make_config("model.train.epochs=3"))
    assert reasons["precompute"] == "train is stale"
    assert reasons["reveal"] == "never ran"


def test_unit_key_ignores_only_the_own_section(finished, make_config):
    def keys(*overrides):
        return {each.stage: (each.key, each.unit_key) for each in status(make_config(*overrides, **EXPLICIT))}

    before = keys()
    after = keys("mitigate.methods=[{kind: rrr}]")
    assert after["mitigate"][0] != before["mitigate"][0]
    assert after["mitigate"][1] == before["mitigate"][1]
    assert keys("seed=4")["mitigate"][1] != before["mitigate"][1]


def test_many_changes_are_counted():
    old = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "e": None}
    new = {"a": 2, "b": {"c": [1, 3], "d": "y"}, "f": True}
    assert config_changes(old, new) == [
        "a changed from 1 to 2",
        "b.c changed from [1, 2] to [1, 3]",
        'b.d changed from "x" to "y"',
        "e null was removed",
        "f true was added",
    ]


def test_items_of_lists_are_named_by_number():
    old = {"methods": [{"kind": "rrr", "weight": 1.0}]}
    new = {"methods": [{"kind": "rrr", "weight": 2.0}, {"kind": "isnet"}]}
    assert config_changes(old, new) == [
        "methods.0.weight changed from 1.0 to 2.0",
        'methods.1 {"kind": "isnet"} was added',
    ]


def test_equal_configurations_do_not_differ_also_with_nan():
    assert config_changes({"a": math.nan, "b": [{"c": 1}]}, {"a": math.nan, "b": [{"c": 1}]}) == []


def test_first_three_changes_are_shown(finished, make_config):
    overrides = [f"evaluate.{key}" for key in ("resamples=200", "confidence=0.9", "batch_size=8", "subgroups=[site]")]
    why = not_fresh(make_config(*overrides, **EXPLICIT))["evaluate"]
    assert why.count("changed from") == 3
    assert why.endswith("; 1 more keys changed")


def test_slice_has_no_volatile_keys(make_config):
    config = make_config(data={"kind": "folder", "root": "x"}, model={"checkpoint": "a.pt"})
    values = config_slice(config, ("seed", "data", "model", "precompute"))
    assert set(values) == {"seed", "data", "model", "precompute"}
    assert not {"root", "cache_megabytes"} & set(values["data"])
    assert "checkpoint" not in values["model"]
    assert "workers" not in values["precompute"]


@pytest.mark.parametrize(("arch", "counts"), [("timm:resnet18", True), ("torchvision:resnet18", False)])
def test_the_version_of_timm_counts_where_the_network_comes_from_it(arch, counts, make_config, tmp_path):
    pytest.importorskip("timm")
    facts = freshness_module.read_facts(make_config(model={"arch": arch}), RunDirectory(tmp_path), "")
    assert ("timm" in facts.versions) is counts
    assert {"torch", "torchvision"} <= set(facts.versions)


def test_masks_made_elsewhere_that_change_make_localize_stale(fake, make_config, tmp_path):
    folder = tmp_path / "rulers"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"first")
    with_masks = EXPLICIT | {"localize": {"import_masks": [{"bias": "ruler", "folder": str(folder)}]}}
    run_stages(make_config(**with_masks), "run")
    assert not_fresh(make_config(**with_masks)) == {}
    (folder / "b.png").write_bytes(b"second")
    reasons = not_fresh(make_config(**with_masks))
    assert reasons["localize"] == "imported masks changed (localize.import_masks)"
    assert set(reasons) == {"localize", "mitigate", "evaluate", "report"}


@pytest.fixture
def earlier(tmp_path):
    """The directory of an earlier run with biases and a mask, and a configuration that names it."""
    run = tmp_path / "artifacts/before"
    for name in ("reveal/biases.json", "localize/ruler/masks/a.png"):
        (run / name).parent.mkdir(parents=True)
        (run / name).write_text("first")
    return run


def test_other_biases_of_an_earlier_run_make_reveal_stale(fake, make_config, earlier):
    config = make_config(**EXPLICIT | {"reveal": {"earlier": [str(earlier)]}})
    run_stages(config, "run")
    assert not_fresh(config) == {}
    biases = earlier / "reveal/biases.json"
    os.utime(biases, ns=(0, 0))
    assert not_fresh(config) == {}, "contents count"
    biases.write_text("other")
    why = "the biases of an earlier run changed (reveal.earlier)"
    assert not_fresh(config) == {"reveal": why} | waiting("reveal", STAGE_NAMES[3:])
    biases.unlink()
    assert not_fresh(config)["reveal"] == why


def test_other_masks_of_an_earlier_run_make_localize_stale(fake, make_config, earlier):
    config = make_config(**EXPLICIT | {"reveal": {"earlier": [str(earlier)]}})
    run_stages(config, "run")
    (earlier / "localize/ruler/masks/b.png").write_text("second")
    why = "the masks of an earlier run changed (reveal.earlier)"
    assert not_fresh(config) == {"localize": why} | waiting("localize", STAGE_NAMES[4:])


def test_an_earlier_run_that_changes_no_output_costs_nothing_later(fake, make_config, earlier):
    config = make_config(**EXPLICIT | {"reveal": {"earlier": [str(earlier)]}})
    # the fake stages leave their key beside their results, which would be another output
    fake.within = {name: lambda context, name=name: forget_key(context, name) for name in ("reveal", "localize")}
    run_stages(config, "run")
    fake.take()
    (earlier / "reveal/biases.json").write_text("other")
    (earlier / "localize/ruler/masks/a.png").write_text("other")
    run_stages(config, "run")
    assert fake.take() == ["reveal", "localize"]


def forget_key(context, stage: str) -> None:
    (context.directory.folder(stage) / "first.txt").write_text("")


def test_without_an_earlier_run_keys_are_as_if_there_were_no_such_setting(fake, make_config):
    parts = {each.stage: each.parts for each in status(make_config())}
    assert not {"earlier", "earlier_masks"} & {name for each in parts.values() for name in each}


def test_another_earlier_audit_makes_only_the_report_stale(fake, make_config, tmp_path):
    file = tmp_path / "audit.json"
    file.write_text("first")
    config = make_config(**EXPLICIT | {"report": {"baseline": str(file)}})
    run_stages(config, "run")
    assert not_fresh(config) == {}
    os.utime(file, ns=(0, 0))
    assert not_fresh(config) == {}, "contents count"
    file.write_text("other")
    assert not_fresh(config) == {"report": "the earlier audit changed (report.baseline)"}
    file.unlink()
    assert not_fresh(config) == {"report": "the earlier audit changed (report.baseline)"}


def test_without_an_earlier_audit_the_key_is_as_if_there_were_no_such_setting(fake, make_config):
    assert not any("baseline" in each.parts for each in status(make_config()))
