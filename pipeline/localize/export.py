"""Masks for training elsewhere: one folder that needs nothing else of the run."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.data.open import open_world
from pipeline.data.worlds import WorldView
from pipeline.errors import ConfigError, DataError, StoreError, nearest
from pipeline.workspace.atomic import write_json, write_text
from pipeline.workspace.directory import STAGE_FOLDERS
from pipeline.workspace.hashing import digest_file
from pipeline.workspace.masks import MaskEntry, MaskSet, mask_name, save_mask
from pipeline.workspace.stage import StageContext

from .training_masks import foreground_mask, merge_masks

FORMATS = ("isnet",)
INDEX, MANIFEST, README = "index.csv", "manifest.json", "README.txt"
VERSION = 1
WHAT = "masks for training an image classifier with ISNet"
OK, NO_MASK, NO_FOREGROUND = "ok", "no mask", "no foreground"
RULES = {
    "artifact": "the artifacts, grown by the share 'dilate' of the larger side",
    "roi": "all outside the region of interest",
    "union": "the artifacts, grown by the share 'dilate' of the larger side, and all outside the region of interest",
}

EXPLANATION = """Masks for training an image classifier with ISNet (Bassi et al. 2024)

What is here
  foreground/<id>.png      grey, 8 bits: 255 = foreground, which the classifier may use; 0 = background, whose
                           relevance the heatmap loss makes small
  artifact/<bias>/<id>.png grey, 8 bits: 255 = where this artifact was localized, not grown
  index.csv                one line per sample of the data set, in its order
  manifest.json            what the masks were made from, how many there are, and the SHA-256 of every file

There are no images here. The masks have the size that the images had in the audit ("size" in manifest.json: height and
width; for signals the length, and then every PNG is one line). If your images are larger, enlarge the masks by nearest
neighbor, so that they stay binary.

index.csv
  id          name of the sample in the data set; the file is <id>.png
  split       train, val or test
  label       number of the class; "classes" in manifest.json lists their names, the first is 0
  foreground  the file, or empty
  sources     where the mask comes from, divided by semicolons: <bias>:finding = the sample is a member of the finding;
              <bias>:retrieved = it was recognized afterwards; <bias>:imported = the mask was made elsewhere;
              roi = region of interest of the data set
  area        share of the sample that is background
  status      ok
              no mask = nothing is known about this sample, so leave out the heatmap loss for it, or leave it out
              no foreground = the background would cover all of it, so no mask is given; treat it as no mask

Background is {rule}.

How to train
  Mask M = PNG / 255, one channel. Flips, rotations and crops must be applied to image and mask alike. The masks were
  made by a program that looked where the classifier looked; look at some of them before you trust them.
"""


@dataclass(frozen=True)
class ExportedSample:
    """One line of the index.

    Attributes:
        id, split, label: as in the data set.
        foreground: file of the mask relative to the folder; empty where there is none.
        sources: `<bias>:<source>` and `roi`, divided by semicolons.
        area: share of the sample that is background, 0 without mask.
        status: "ok", "no mask" or "no foreground".
    """

    id: str
    split: str
    label: int
    foreground: str
    sources: str
    area: float
    status: str


@dataclass
class _Artifact:
    """The masks of one bias, and where the export puts them."""

    bias: str
    masks: MaskSet
    entries: dict[str, MaskEntry] = field(default_factory=dict)

    def path(self, sample_id: str) -> str:
        return f"artifact/{self.bias}/{mask_name(sample_id)}"


def export_masks(context: StageContext, fmt: str, folder: Path) -> None:
    """Write the masks of a run, merged over all biases, in a form that a training elsewhere reads without this program.

    "isnet": `foreground/<id>.png` (255 = foreground, 0 = background by `localize.background`),
    `artifact/<bias>/<id>.png`, `index.csv` with every sample, `manifest.json` and `README.txt`. Equal runs give equal
    bytes. An earlier export in the same folder is replaced: its own files go, whatever else lies there stays. An
    interrupted export is made again by the same call; until then "complete" in its manifest is false.

    Args:
        context: of the stage localize, after it has run.
        fmt: "isnet".
        folder: new, empty, or an earlier export.

    Raises:
        ConfigError: unknown format, or the folder is in use for something else.
        DataError: no sample has a mask, or a region of interest has another size than the samples.
        StoreError: the masks of the run are missing or damaged, or the folder cannot be written.
    """
    if fmt not in FORMATS:
        raise ConfigError(
            f"--export knows no format '{fmt}'.{nearest(fmt, list(FORMATS))} Allowed: {', '.join(FORMATS)}."
        )
    folder = folder.expanduser()
    _refuse_stage_folders(context, folder)
    earlier = _files_of_earlier_export(folder)
    dataset = open_world(context)
    artifacts = _artifacts(context, [str(each) for each in dataset.table["id"]])
    possible = {INDEX, README, *(each.path(name) for each in artifacts for name in each.entries)}
    possible |= {f"foreground/{mask_name(str(name))}" for name in dataset.table["id"]}
    _refuse_emptiness(context, dataset, artifacts)
    _write_manifest(context, folder, dataset, files=dict.fromkeys(sorted(earlier | possible), ""), complete=False)
    samples = list(context.reporter.track(_write_masks(context, dataset, artifacts, folder), "export", len(dataset)))
    counts = Counter(sample.status for sample in samples)
    write_text(folder / INDEX, _index_text(samples))
    write_text(folder / README, EXPLANATION.replace("{rule}", RULES[context.config.localize.background]))
    written = [INDEX, README, *(sample.foreground for sample in samples if sample.foreground)]
    written += [each.path(name) for each in artifacts for name in each.entries]
    _remove(folder, earlier - set(written))
    _write_manifest(
        context,
        folder,
        dataset,
        files={name: digest_file(folder / name, "sha256") for name in sorted(written)},
        complete=True,
        samples={status: counts[status] for status in (OK, NO_MASK, NO_FOREGROUND)},
        artifacts={each.bias: len(each.entries) for each in artifacts},
    )
    context.reporter.say(
        f"    {counts[OK]} foreground masks in {folder}"
        + (f", {counts[NO_MASK]} samples without mask" if counts[NO_MASK] else "")
        + (f", {counts[NO_FOREGROUND]} without any foreground" if counts[NO_FOREGROUND] else "")
    )


def _artifacts(context: StageContext, ids: list[str]) -> list[_Artifact]:
    found = []
    for index in sorted(context.directory.folder("localize").glob("*/index.csv")):
        masks = MaskSet(index.parent)
        entries = {entry.id: entry for entry in masks.index() if entry.status == "ok"}
        foreign = sorted(set(entries) - set(ids))
        if foreign:
            raise StoreError(
                f"{index} lists {len(foreign)} samples that the data set does not have, for example '{foreign[0]}'. "
                "Start localize again, with --force."
            )
        found.append(_Artifact(index.parent.name, masks, entries))
    return found


def _refuse_emptiness(context: StageContext, dataset: WorldView, artifacts: list[_Artifact]) -> None:
    background = context.config.localize.background
    if background != "roi" and any(each.entries for each in artifacts):
        return
    if background != "artifact" and any(dataset.roi_mask(row) is not None for row in range(len(dataset))):
        return
    raise DataError(
        f"There is nothing to export: none of {len(dataset)} samples has a mask by localize.background '{background}'. "
        "Accept a finding as a bias, import masks with localize.import_masks, or give regions of interest with "
        "data.roi_masks."
    )


def _write_masks(
    context: StageContext, dataset: WorldView, artifacts: list[_Artifact], folder: Path
) -> Iterator[ExportedSample]:
    """Write the masks of one sample after the other, and yield its line of the index."""
    config = context.config.localize
    size = tuple(dataset.shape[1:])
    columns = [dataset.table[name].tolist() for name in ("id", "split", "label")]
    for row, (sample_id, split, label) in enumerate(zip(*columns, strict=True)):
        sources, masks = [], []
        for artifact in artifacts:
            if sample_id not in artifact.entries:
                continue
            masks.append(_checked(artifact.masks.read(sample_id), size, artifact.masks.folder, sample_id))
            save_mask(folder / artifact.path(sample_id), masks[-1] * 255)
            sources.append(f"{artifact.bias}:{artifact.entries[sample_id].source}")
        roi = _roi(dataset, row, sample_id, size)
        foreground = foreground_mask(merge_masks(masks) if masks else None, roi, config.background, config.dilate)
        used = [] if config.background == "roi" else sources
        used = used if roi is None or config.background == "artifact" else [*used, "roi"]
        place, area, status = "", 0.0, NO_MASK
        if foreground is not None:
            area, status = float(1 - foreground.mean()), NO_FOREGROUND
            if foreground.any():
                place, status = f"foreground/{mask_name(sample_id)}", OK
                save_mask(folder / place, foreground * 255)
        yield ExportedSample(str(sample_id), str(split), int(label), place, ";".join(used), area, status)


def _checked(mask: np.ndarray, size: tuple[int, ...], place: Path, sample_id: str) -> np.ndarray:
    if mask.shape != size:
        raise StoreError(
            f"The mask of sample '{sample_id}' in {place} is {list(mask.shape)}, but the samples are {list(size)}. "
            "Start localize again, with --force."
        )
    return mask


def _roi(dataset: WorldView, row: int, sample_id: str, size: tuple[int, ...]) -> np.ndarray | None:
    roi = dataset.roi_mask(row)
    if roi is not None and roi.shape != size:
        raise DataError(
            f"The region of interest of sample '{sample_id}' is {list(roi.shape)}, but the samples are {list(size)}. "
            "Resize it in the data set (data.roi_masks)."
        )
    return roi


def _index_text(samples: list[ExportedSample]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ExportedSample.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(sample) for sample in samples)
    return text.getvalue()


def _write_manifest(
    context: StageContext, folder: Path, dataset: WorldView, *, files: dict[str, str], complete: bool, **counts
) -> None:
    config = context.config
    manifest = {
        "what": WHAT,
        "format": "isnet",
        "version": VERSION,
        "complete": complete,
        "run": {"name": config.name, "key": context.key},
        "classes": list(dataset.classes),
        "size": list(dataset.shape[1:]),
        "background": config.localize.background,
        "dilate": config.localize.dilate,
        "sha256": files,
    }
    write_json(folder / MANIFEST, manifest | counts)


def _refuse_stage_folders(context: StageContext, folder: Path) -> None:
    for name in STAGE_FOLDERS:
        stage_folder = context.directory.folder(name).resolve()
        if folder.resolve().is_relative_to(stage_folder):
            raise ConfigError(
                f"--export: {folder} lies in {stage_folder}, which the stage {name} clears when it runs again. "
                "Choose a folder elsewhere."
            )


def _files_of_earlier_export(folder: Path) -> set[str]:
    """Return the files that an earlier export has written; raise a ConfigError for any other folder with contents."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return set()
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["what"] != WHAT:
            raise ValueError
        # a manifest is only a file: what it lists must not lead to files of others
        return {name for name in manifest["sha256"] if _is_ours(name)}
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"--export: {folder} is neither empty nor an earlier export, so nothing is written there. "
            "Choose a new folder, or empty this one."
        ) from None


def _is_ours(name: str) -> bool:
    parts = PurePosixPath(name).parts
    if ".." in parts:
        return False
    shape = (parts[0] if len(parts) > 1 else name, len(parts))
    return name in (INDEX, README) or (shape in (("foreground", 2), ("artifact", 3)) and name.endswith(".png"))


def _remove(folder: Path, names: set[str]) -> None:
    """Remove files of the export, and the folders that are empty then."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    places = [each for each in (folder / "artifact", folder / "foreground") if each.is_dir()]
    for place in [*(each for top in places for each in top.iterdir() if each.is_dir()), *places]:
        if not any(place.iterdir()):
            place.rmdir()
