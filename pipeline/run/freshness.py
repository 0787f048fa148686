"""Which results still belong to the configuration, the data and the code: keys made of content, and why they differ."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.workspace.hashing import digest_file, digest_json, digest_sources

from .fingerprint import folders_signature
from .stages import READ_VERDICTS, STAGES, required

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.workspace.directory import RunDirectory
    from pipeline.workspace.manifest import Manifest, StageEntry
    from pipeline.workspace.stage import StageSpec

State = Literal["fresh", "stale", "missing", "failed"]
VOLATILE = (
    "data.cache_megabytes",
    "data.root",
    "precompute.workers",
    "precompute.patience_minutes",
    "model.checkpoint",
)
"""Keys without influence on results, or whose content is hashed instead: files of the data, and of the checkpoint."""
LIBRARIES = ("torch", "torchvision")
"""Their versions belong to the key of every stage; timm's too, where the network comes from it."""
SHIPPED_ARCHITECTURES = ("torchvision", "timm", "local")
IN_OUTPUTS = ("annotations", "earlier", "earlier_masks")
"""Parts of a key whose influence on later stages stands in the stage's outputs."""
SHOWN_CHANGES = 3
SHOWN_CHARACTERS = 60
ABSENT = object()


@dataclass(frozen=True)
class Facts:
    """What keys are made from, besides the outputs of other stages.

    Attributes:
        config: the configuration.
        fingerprint: of the data set; "" when it was not read.
        checkpoint: hash of the file `model.checkpoint`, its text if there is no such file, None if not given.
        architecture: hash of the module of `model.arch`, if it is the user's own, else None.
        verdicts: hash of `annotations.json`, None without that file.
        masks: signature of the folders of `localize.import_masks`, None without any.
        earlier: hash of the biases of the runs in `reveal.earlier`, None without any.
        earlier_masks: signature of the masks of these runs, None without any.
        baseline: hash of the file `report.baseline`, None without it.
        code: room -> hash of its sources.
        versions: library -> version.
    """

    config: Config
    fingerprint: str
    checkpoint: str | None
    architecture: str | None
    verdicts: str | None
    masks: str | None
    earlier: str | None
    earlier_masks: str | None
    baseline: str | None
    code: Mapping[str, str]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Freshness:
    """Whether the results of a stage can be reused.

    Attributes:
        stage: name of the stage.
        state: fresh, stale, missing (never ran) or failed (did not end).
        why: the reason in plain words; empty when fresh.
        parts: what its key is made from now. Complete only if all stages that it needs are fresh.
    """

    stage: str
    state: State
    why: str
    parts: dict[str, Any]

    @property
    def key(self) -> str:
        """Hash of everything that the results depend on."""
        return digest_json(self.parts)

    @property
    def unit_key(self) -> str:
        """The same without the stage's own section, for results that it keeps one by one."""
        config = {name: value for name, value in self.parts["config"].items() if name != self.stage}
        return digest_json(self.parts | {"config": config})


def read_facts(config: Config, directory: RunDirectory, fingerprint: str) -> Facts:
    """Collect the facts: hash the checkpoint, the verdicts, earlier biases and the sources, look up versions."""
    checkpoint = config.model.checkpoint
    if checkpoint is not None and Path(checkpoint).is_file():
        checkpoint = digest_file(Path(checkpoint))
    verdicts = directory.annotations_path
    earlier = [Path(each).expanduser() for each in config.reveal.earlier]
    return Facts(
        config=config,
        fingerprint=fingerprint,
        checkpoint=checkpoint,
        architecture=_architecture_digest(config.model.arch),
        verdicts=digest_file(verdicts) if verdicts.is_file() else None,
        masks=folders_signature([Path(each.folder) for each in config.localize.import_masks]),
        earlier=_contents([each / "reveal/biases.json" for each in earlier]),
        earlier_masks=folders_signature([each / "localize" for each in earlier]),
        baseline=_contents([Path(each).expanduser() for each in [config.report.baseline] if each]),
        code={room: digest_sources((room,)) for spec in STAGES for room in spec.rooms},
        # Builds for other devices ("2.4.0+cpu") compute the same.
        versions={name: metadata.version(name).partition("+")[0] for name in _libraries(config.model.arch)},
    )


def _contents(files: list[Path]) -> str | None:
    """Return a hash of the bytes of files, or of their absence; None without any file."""
    return digest_json([digest_file(file) if file.is_file() else None for file in files]) if files else None


def _libraries(arch: str) -> tuple[str, ...]:
    with_timm = arch.startswith("timm:") and importlib.util.find_spec("timm") is not None
    return (*LIBRARIES, "timm") if with_timm else LIBRARIES


def _architecture_digest(arch: str) -> str | None:
    module = arch.partition(":")[0]
    if module in SHIPPED_ARCHITECTURES:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # building the model will say what is wrong with the name
        return None
    source = Path(spec.origin) if spec is not None and spec.origin is not None else None
    return digest_file(source) if source is not None and source.is_file() else None


def key_parts(spec: StageSpec, facts: Facts, manifest: Manifest) -> dict[str, Any]:
    """Return what the key of a stage is made from.

    The outputs of the stages that it needs enter with their bytes, not only with their keys: training again from the
    same key may give other weights on another device.
    """
    parts: dict[str, Any] = {
        "config": config_slice(facts.config, spec.sections),
        "code": {room: facts.code[room] for room in spec.rooms},
        "inputs": {name: _output_digest(manifest.stages[name]) for name in spec.needs if name in manifest.stages},
        "versions": dict(facts.versions),
    }
    if spec.reads_data:
        parts["data"] = facts.fingerprint
    if "model" in spec.sections:
        parts["checkpoint"] = facts.checkpoint
        if facts.architecture is not None:
            parts["architecture"] = facts.architecture
    if spec.name in READ_VERDICTS:
        parts["annotations"] = facts.verdicts
    if "localize" in spec.sections and facts.masks is not None:
        parts["masks"] = facts.masks
    if "reveal" in spec.sections and facts.earlier is not None:
        parts["earlier"] = facts.earlier
    if "localize" in spec.sections and facts.earlier_masks is not None:
        parts["earlier_masks"] = facts.earlier_masks
    if "report" in spec.sections and facts.baseline is not None:
        parts["baseline"] = facts.baseline
    return parts


def config_slice(config: Config, sections: tuple[str, ...]) -> dict[str, Any]:
    """Return sections of the resolved configuration without the volatile keys."""
    values = {name: value for name, value in config.model_dump(mode="json").items() if name in sections}
    for key in VOLATILE:
        section, name = key.split(".")
        if section in values:
            values[section].pop(name, None)
    return values


def assess(
    spec: StageSpec, facts: Facts, manifest: Manifest, directory: RunDirectory, earlier: Mapping[str, Freshness]
) -> Freshness:
    """Judge one stage.

    Args:
        spec: the stage.
        facts: see `read_facts`.
        manifest: what was recorded.
        directory: where outputs are looked for.
        earlier: the judgement of every stage that it needs, directly or through others.
    """
    parts = key_parts(spec, facts, manifest)
    entry = manifest.stages.get(spec.name)
    if entry is None:
        return Freshness(spec.name, "missing", "never ran", parts)
    if entry.status == "started":
        return Freshness(spec.name, "failed", "was started and did not finish", parts)
    if entry.status == "failed":
        return Freshness(spec.name, "failed", f"failed the last time: {entry.error}", parts)
    reasons = list(_reasons(entry.parts, parts)) or list(_upstream_reasons(spec, entry.parts, parts, earlier))
    if damage := directory.damage(entry.outputs):
        reasons.append(damage)
    return Freshness(spec.name, "stale" if reasons else "fresh", "; ".join(reasons), parts)


def assess_all(
    specs: tuple[StageSpec, ...], facts: Facts, manifest: Manifest, directory: RunDirectory
) -> list[Freshness]:
    """Judge stages in their order, as `--status` shows them."""
    judged: dict[str, Freshness] = {}
    for spec in specs:
        judged[spec.name] = assess(spec, facts, manifest, directory, judged)
    return list(judged.values())


def config_changes(old: Any, new: Any, key: str = "") -> list[str]:
    """Return how two resolved configurations differ, such as "model.train.epochs changed from 8 to 3"."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(name, old.get(name, ABSENT), new.get(name, ABSENT)) for name in dict.fromkeys([*old, *new])]
    elif isinstance(old, list) and isinstance(new, list) and any(isinstance(item, dict) for item in [*old, *new]):
        longest = range(max(len(old), len(new)))
        pairs = [(at, _item(old, at), _item(new, at)) for at in longest]
    elif old is ABSENT:
        return [f"{key} {_shown(new)} was added"]
    elif new is ABSENT:
        return [f"{key} {_shown(old)} was removed"]
    else:
        # As texts, because NaN differs from itself.
        return [] if _text(old) == _text(new) else [f"{key} changed from {_shown(old)} to {_shown(new)}"]
    return [
        change for name, before, after in pairs for change in config_changes(before, after, f"{key}.{name}".lstrip("."))
    ]


def _item(items: list, at: int) -> Any:
    return items[at] if at < len(items) else ABSENT


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _shown(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def _reasons(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Yield what changed in the stage's own parts."""
    if changes := config_changes(old.get("config", {}), new["config"]):
        yield from changes[:SHOWN_CHANGES]
        if len(changes) > SHOWN_CHANGES:
            yield f"{len(changes) - SHOWN_CHANGES} more keys changed"
    if old.get("data") != new.get("data"):
        yield "the data changed"
    if old.get("checkpoint") != new.get("checkpoint"):
        yield "the content of model.checkpoint changed"
    if old.get("architecture") != new.get("architecture"):
        yield "the module of model.arch changed"
    if old.get("annotations") != new.get("annotations"):
        yield "people's verdicts changed (annotations.json)"
    if old.get("masks") != new.get("masks"):
        yield "imported masks changed (localize.import_masks)"
    if old.get("earlier") != new.get("earlier"):
        yield "the biases of an earlier run changed (reveal.earlier)"
    if old.get("earlier_masks") != new.get("earlier_masks"):
        yield "the masks of an earlier run changed (reveal.earlier)"
    if old.get("baseline") != new.get("baseline"):
        yield "the earlier audit changed (report.baseline)"
    if rooms := _changed(old.get("code", {}), new["code"]):
        yield f"pipeline code changed ({', '.join(rooms)})"
    before = old.get("versions", {})
    for name in _changed(before, new["versions"]):
        yield f"{name} changed from version {before.get(name)} to {new['versions'].get(name)}"


def _upstream_reasons(
    spec: StageSpec, old: dict[str, Any], new: dict[str, Any], earlier: Mapping[str, Freshness]
) -> Iterator[str]:
    """Yield the first stage that has to run before, or else those that ran again meanwhile."""
    words = {"stale": "is stale", "missing": "never ran", "failed": "failed"}
    waiting = [each for each in required(spec.name)[:-1] if earlier[each.name].state != "fresh"]
    if waiting:
        yield f"{waiting[0].name} {words[earlier[waiting[0].name].state]}"
    elif again := _changed(old.get("inputs", {}), new["inputs"]):
        yield f"{', '.join(again)} ran again"


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [name for name in dict.fromkeys([*new, *old]) if old.get(name) != new.get(name)]


def _output_digest(entry: StageEntry) -> str:
    # What a stage carries over into its outputs reaches later stages only there: a verdict, or an earlier run that was
    # started again, which changes nothing in the outputs costs nothing later.
    made_from = {name: part for name, part in entry.parts.items() if name not in IN_OUTPUTS}
    return digest_json([made_from, {name: file.digest for name, file in entry.outputs.items()}])
