from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from pipeline.concepts.localization import dilate
from pipeline.data.memory import ArrayDataset, make_table
from pipeline.errors import ConfigError, DataError, StoreError
from pipeline.localize import export
from pipeline.localize.export import export_masks
from pipeline.workspace.masks import MaskEntry, MaskSet

SIZE = (12, 10)
IDS = ["a", "b b", "c%2F..", "d,d", "ünï"]
SPLITS = ["train", "train", "val", "test", "test"]
TAPE = np.zeros(SIZE, dtype=bool)
TAPE[1:4, 1:4] = True
RULER = np.zeros(SIZE, dtype=bool)
RULER[:, 8] = True
ROI = np.zeros(SIZE, dtype=bool)
ROI[3:9, 3:7] = True


def make_dataset(rois: dict[int, np.ndarray] | None = None, size: tuple[int, int] = SIZE) -> ArrayDataset:
    pixels = np.zeros((len(IDS), 1, *size), dtype=np.uint8)
    table = make_table(IDS, [0, 1, 2, 2, 0], SPLITS)
    return ArrayDataset(pixels, table, tiny.CLASSES, roi_masks=(rois or {}).get)


def make_context(root: Path, rois: dict[int, np.ndarray] | None = None, **localize):
    """Return a context over a run in which "tape" was localized in three samples and "ruler" in one of them."""
    context = tiny.make_context(root, make_dataset(rois), localize={"dilate": 0, **localize})
    write_masks(root, "tape", {"a": TAPE, "b b": TAPE, "c%2F..": TAPE}, {"ünï": "no evidence"})
    write_masks(root, "ruler", {"b b": RULER}, {})
    return context


def write_masks(root: Path, bias: str, masks: dict[str, np.ndarray], without: dict[str, str]) -> None:
    stored = MaskSet(root / "localize" / bias)
    sources = {"a": "finding", "b b": "imported", "c%2F..": "retrieved"}
    entries = []
    for name, mask in masks.items():
        stored.write(name, mask.astype(float), mask, ~mask)
        entries.append(MaskEntry(name, "train", sources.get(name, "finding"), 1.0, float(mask.mean()), "ok"))
    entries += [MaskEntry(name, "test", "finding", 1.0, 0.0, status) for name, status in without.items()]
    stored.write_index(entries)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.asarray(image)


def index(folder: Path) -> dict[str, dict[str, str]]:
    with open(folder / "index.csv", newline="", encoding="utf-8") as file:
        return {line["id"]: line for line in csv.DictReader(file)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def context(tmp_path):
    return make_context(tmp_path / "run")


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "elsewhere" / "export"


def test_foreground_masks_are_merged_over_all_biases(context, folder):
    export_masks(context, "isnet", folder)
    assert np.array_equal(read(folder / "foreground/a.png"), np.where(TAPE, 0, 255))
    assert np.array_equal(read(folder / "foreground/b b.png"), np.where(TAPE | RULER, 0, 255))
    assert np.array_equal(read(folder / "foreground/c%2F...png"), np.where(TAPE, 0, 255))


def test_the_folder_holds_what_its_readme_says_and_nothing_else(context, folder):
    export_masks(context, "isnet", folder)
    masks = {"foreground/a.png", "foreground/b b.png", "foreground/c%2F...png"}
    masks |= {"artifact/tape/a.png", "artifact/tape/b b.png", "artifact/tape/c%2F...png", "artifact/ruler/b b.png"}
    assert set(contents(folder)) == masks | {"index.csv", "manifest.json", "README.txt"}
    text = (folder / "README.txt").read_text()
    assert "index.csv" in text and "Background is the artifacts" in text and "{" not in text


def test_artifacts_are_not_grown_and_the_background_is(tmp_path, folder):
    export_masks(make_context(tmp_path / "run", dilate=0.1), "isnet", folder)
    assert np.array_equal(read(folder / "artifact/tape/a.png"), np.where(TAPE, 255, 0))
    grown = dilate(TAPE[None], 0.1)[0]
    assert grown.sum() > TAPE.sum()
    assert np.array_equal(read(folder / "foreground/a.png"), np.where(grown, 0, 255))


def test_the_index_lists_every_sample_in_the_order_of_the_data_set(context, folder):
    export_masks(context, "isnet", folder)
    lines = index(folder)
    assert list(lines) == IDS
    assert [line["split"] for line in lines.values()] == SPLITS
    assert [line["label"] for line in lines.values()] == ["0", "1", "2", "2", "0"]
    assert [line["status"] for line in lines.values()] == ["ok", "ok", "ok", "no mask", "no mask"]
    assert [line["sources"] for line in lines.values()][:3] == [
        "tape:finding",
        "ruler:imported;tape:imported",
        "tape:retrieved",
    ]
    assert [line["foreground"] for line in lines.values()][2:] == ["foreground/c%2F...png", "", ""]
    areas = [float(line["area"]) for line in lines.values()]
    assert areas == pytest.approx([TAPE.mean(), (TAPE | RULER).mean(), TAPE.mean(), 0, 0])


@pytest.mark.parametrize(
    ("background", "expected", "sources"),
    [
        ("artifact", {"a": ~TAPE, "b b": ~(TAPE | RULER), "c%2F..": ~TAPE}, ["tape:finding", ""]),
        ("roi", {"a": ROI, "d,d": ROI}, ["roi", "roi"]),
        (
            "union",
            {"a": ROI & ~TAPE, "b b": ~(TAPE | RULER), "c%2F..": ~TAPE, "d,d": ROI},
            ["tape:finding;roi", "roi"],
        ),
    ],
)
def test_regions_of_interest_count_as_the_configuration_says(tmp_path, folder, background, expected, sources):
    context = make_context(tmp_path / "run", {0: ROI, 3: ROI}, background=background)
    export_masks(context, "isnet", folder)
    lines = index(folder)
    assert {name for name, line in lines.items() if line["status"] == "ok"} == set(expected)
    for name, foreground in expected.items():
        assert np.array_equal(read(folder / lines[name]["foreground"]) > 0, foreground)
    assert [lines[name]["sources"] for name in ("a", "d,d")] == sources


def test_a_sample_without_any_foreground_is_listed_without_mask(tmp_path, folder):
    context = make_context(tmp_path / "run")
    write_masks(tmp_path / "run", "ruler", {"a": np.ones(SIZE, dtype=bool)}, {})
    export_masks(context, "isnet", folder)
    line = index(folder)["a"]
    assert (line["status"], line["foreground"], float(line["area"])) == ("no foreground", "", 1)
    assert not (folder / "foreground/a.png").exists()
    assert json.loads((folder / "manifest.json").read_text())["samples"] == {"ok": 2, "no mask": 2, "no foreground": 1}


def test_the_manifest_says_what_the_masks_are_and_lists_every_file(context, folder):
    export_masks(context, "isnet", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    files = contents(folder)
    del files["manifest.json"]
    assert manifest.pop("sha256") == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert manifest == {
        "what": "masks for training an image classifier with ISNet",
        "format": "isnet",
        "version": 1,
        "complete": True,
        "run": {"name": "tiny", "key": "key"},
        "classes": list(tiny.CLASSES),
        "size": list(SIZE),
        "background": "artifact",
        "dilate": 0.0,
        "samples": {"ok": 3, "no mask": 2, "no foreground": 0},
        "artifacts": {"ruler": 1, "tape": 3},
    }


def test_equal_runs_give_equal_bytes(tmp_path, folder):
    export_masks(make_context(tmp_path / "run"), "isnet", folder)
    export_masks(make_context(tmp_path / "again"), "isnet", tmp_path / "other")
    assert contents(folder) == contents(tmp_path / "other")


def test_masks_of_signals_are_exported_as_lines(tmp_path, folder):
    root = tmp_path / "run"
    dataset = make_dataset()
    dataset.shape = (2, 50)
    context = tiny.make_context(root, dataset, localize={"dilate": 0.02})
    mask = np.arange(50) // 10 == 2
    write_masks(root, "beat", {"a": mask}, {})
    export_masks(context, "isnet", folder)
    (line,) = read(folder / "foreground/a.png")
    assert np.flatnonzero(line == 0).tolist() == list(range(19, 31))
    assert json.loads((folder / "manifest.json").read_text())["size"] == [50]


# Where nothing is written


def test_an_unknown_format_names_the_allowed_ones(context, folder):
    with pytest.raises(ConfigError, match="no format 'isnets'. Did you mean 'isnet'.*Allowed: isnet"):
        export_masks(context, "isnets", folder)
    assert not folder.exists()


@pytest.mark.parametrize("manifest", [None, "no JSON", '{"what": "something else", "sha256": {}}', "[]", '{"what": 1}'])
def test_a_folder_with_other_contents_is_left_alone(context, folder, manifest):
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    if manifest is not None:
        (folder / "manifest.json").write_text(manifest)
    before = contents(folder)
    with pytest.raises(ConfigError, match="neither empty nor an earlier export"):
        export_masks(context, "isnet", folder)
    assert contents(folder) == before


def test_a_file_is_no_folder(context, folder):
    folder.parent.mkdir()
    folder.write_text("kept")
    with pytest.raises(ConfigError, match="neither empty nor an earlier export"):
        export_masks(context, "isnet", folder)
    assert folder.read_text() == "kept"


@pytest.mark.parametrize("place", ["localize", "localize/export", "other/../reveal/x"])
def test_folders_that_stages_clear_are_refused(context, place):
    with pytest.raises(ConfigError, match="clears when it runs again"):
        export_masks(context, "isnet", context.directory.root / place)


@pytest.mark.parametrize(("background", "rois"), [("artifact", {0: ROI}), ("roi", {}), ("union", {})])
def test_without_any_mask_there_is_nothing_to_export(tmp_path, folder, background, rois):
    context = tiny.make_context(tmp_path / "run", make_dataset(rois), localize={"background": background})
    write_masks(tmp_path / "run", "tape", {"a": TAPE} if background == "roi" else {}, {"b b": "no evidence"})
    with pytest.raises(DataError, match=f"nothing to export.*localize.background '{background}'"):
        export_masks(context, "isnet", folder)
    assert not folder.exists()


def test_masks_of_another_data_set_are_refused(context, folder, tmp_path):
    write_masks(tmp_path / "run", "hair", {"stranger": TAPE}, {})
    with pytest.raises(StoreError, match="lists 1 samples that the data set does not have, for example 'stranger'"):
        export_masks(context, "isnet", folder)
    assert not folder.exists()


def test_masks_of_another_size_are_refused(context, folder, tmp_path):
    write_masks(tmp_path / "run", "hair", {"a": TAPE[1:]}, {})
    with pytest.raises(StoreError, match=r"'a' in .*hair is \[11, 10\], but the samples are \[12, 10\]"):
        export_masks(context, "isnet", folder)


def test_regions_of_interest_of_another_size_are_refused(tmp_path, folder):
    with pytest.raises(DataError, match=r"'d,d' is \[12, 9\], but the samples are \[12, 10\]"):
        export_masks(make_context(tmp_path / "run", {3: ROI[:, 1:]}, background="union"), "isnet", folder)


@pytest.mark.parametrize("name", ["../x", "/x", "x/../../y"])
def test_an_id_that_leads_out_of_the_folder_is_refused(tmp_path, folder, name):
    dataset = make_dataset()
    dataset.table.loc[4, "id"] = name
    context = tiny.make_context(tmp_path / "run", dataset)
    write_masks(tmp_path / "run", "tape", {"a": TAPE}, {name: "ok"})
    with pytest.raises(StoreError, match="cannot be the name of a mask"):
        export_masks(context, "isnet", folder)
    assert not folder.parent.exists()


# Again into the same folder


def test_an_earlier_export_is_replaced_and_what_else_lies_there_stays(tmp_path, context, folder):
    export_masks(context, "isnet", folder)
    (folder / "my_training.py").write_text("mine")
    (folder / "foreground/mine.png").write_text("mine")
    later = make_context(tmp_path / "later", {3: ROI}, background="roi")
    (tmp_path / "later/localize/ruler/index.csv").unlink()
    export_masks(later, "isnet", folder)
    assert (folder / "my_training.py").read_text() == (folder / "foreground/mine.png").read_text() == "mine"
    export_masks(later, "isnet", tmp_path / "fresh")
    mine = {"my_training.py": b"mine", "foreground/mine.png": b"mine"}
    assert contents(folder) == contents(tmp_path / "fresh") | mine
    assert not (folder / "artifact/ruler").exists()


@pytest.mark.parametrize("earlier", [False, True])
def test_an_interrupted_export_is_made_again(tmp_path, context, folder, monkeypatch, earlier):
    later = make_context(tmp_path / "later", {3: ROI}, background="roi")
    (tmp_path / "later/localize/ruler/index.csv").unlink()
    if earlier:
        export_masks(context, "isnet", folder)
    save, saved = export.save_mask, []

    def interrupted(path, values):
        save(path, values)
        saved.append(path)
        if len(saved) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(export, "save_mask", interrupted)
        export_masks(later if earlier else context, "isnet", folder)
    assert json.loads((folder / "manifest.json").read_text())["complete"] is False
    export_masks(later, "isnet", folder)
    export_masks(later, "isnet", tmp_path / "fresh")
    assert contents(folder) == contents(tmp_path / "fresh")


def test_a_manifest_cannot_make_the_export_remove_files_of_others(context, folder):
    export_masks(context, "isnet", folder)
    outside = [folder.parent / "outside.png", folder / "notes.png", folder.parent / "artifact.png"]
    for path in outside:
        path.write_text("kept")
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [
        "../outside.png",
        str(outside[0]),
        "notes.png",
        "foreground/../../outside.png",
        "artifact/../notes.png",
        "artifact/../../artifact.png",
    ]
    manifest["sha256"] |= dict.fromkeys(names, "")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    export_masks(context, "isnet", folder)
    assert all(path.read_text() == "kept" for path in outside)
