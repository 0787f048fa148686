"""An audit that can be handed out: no sample ids, no pictures, no file names, no paths."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from ..workspace.records import (
    Audit,
    Bias,
    Contest,
    DataSummary,
    Finding,
    GateResult,
    Health,
    MethodRecord,
    Provenance,
    SearchedAgain,
    Verdict,
)

REMOVED = "(removed)"
PREFIXES = ("sample", "item", "case", "made-up-name")
"""What samples are called; the first that no sample id begins with."""
PATH_KEYS = (
    "output_dir",
    "data.root",
    "data.table",
    "data.path",
    "data.roi_masks",
    "data.images",
    "data.ground_truth",
    "data.metadata",
    "data.artifacts.*.masks",
    "data.params.**",
    "model.checkpoint",
    "reveal.earlier.**",
    "localize.import_masks.*.folder",
    "report.baseline",
)
"""Keys of the configuration whose texts are paths, patterns of paths, or may hold some; * is any key, ** all below."""
SUFFIXES = (
    "avif|bmp|csv|dcm|dicom|gif|gz|h5|hdf5|htm|html|jp2|jpeg|jpg|json|md|mha|mhd|nii|npy|npz|nrrd|parquet|pdf|pkl|png|"
    "pt|pth|safetensors|svs|tar|tif|tiff|tsv|txt|webp|xlsx|xml|yaml|yml|zip"
)
END = r"""(?=$|[\s,;:()\[\]{}'"<>|?!]|\.(?:\s|$))"""
PATH_LIKE = re.compile(
    # a place from the root, the home or here; or two slashes; or a known ending
    rf"""(?<![\w/.])(?<!http:)(?<!https:)(?:~|\.{{1,2}})?/[^\s,;:()\[\]{{}}'"<>|]*[^\s,;:.()\[\]{{}}'"<>|/]/?"""
    rf"""|(?<!\w)[A-Za-z]:\\[^\s,;()\[\]{{}}'"<>|]+|\\\\[^\s,;()\[\]{{}}'"<>|]+"""
    rf"""|(?<![\w/.])(?!\d+(?:/\d+)+\b)[\w.@+-]+(?:/[\w.@+-]+)+/[\w.@+-]*[\w@+-]/?"""
    rf"""|(?<![\w/])[\w@+-][\w./@+-]*\.(?:{SUFFIXES}){END}""",
    re.IGNORECASE,
)
SHORTEST = 3
"""Sample ids with fewer characters cannot be told from other words; texts are not searched for them."""
COUNT = re.compile(r"[1-9][0-9]{0,3}")
"""What could be a number of samples. In texts such an id is replaced only after a word for samples, or in quotes."""
DISTINCTIVE = re.compile(r"(?=.*[0-9])(?=.*[^0-9]).{5,}", re.DOTALL)
"""Ids that are replaced also within longer words, such as names of files."""


def deidentified(audit: Audit) -> Audit:
    """Return the audit without what leads back to a sample or a file.

    Sample ids become "sample-0001" and so on, in the order in which they appear, the same everywhere. Pictures and
    their paths are left out. Paths, names of files and commands' places are removed from the configuration and from
    texts, the machine's name from the provenance. Names of auditors stay, since they sign; their reasons stay, without
    sample ids. Values of subgroups stay, since the configuration asks for them: list no column there that identifies
    people. Plain numbers below 10,000 that are sample ids stay in texts where they may be counts.
    """
    names = made_up_names(audit)
    configured = yaml.safe_load(audit.provenance.config_text) or {}
    paths = [
        *_texts_at(configured, PATH_KEYS),
        f"{configured.get('output_dir', '')}/{audit.name}",
        *(bias.earlier for bias in audit.biases if bias.earlier),
        *_pictures(audit),
    ]
    scrub = _Scrubber(names, paths)
    return audit.model_copy(
        update={
            "deidentified": True,
            "title": scrub(audit.title),
            "summary": scrub.all(audit.summary),
            "warnings": scrub.all(audit.warnings),
            "declared": audit.declared.model_copy(update=_scrubbed_fields(audit.declared, scrub)),
            "data": _data(audit.data, scrub),
            "findings": [_finding(each, scrub) for each in audit.findings],
            "detector_pictures": {},
            "biases": [_bias(each, scrub) for each in audit.biases],
            "verdicts": [_verdict(each, scrub) for each in audit.verdicts],
            "methods": [_method(each, scrub) for each in audit.methods],
            "contest": _contest(audit.contest, scrub),
            "again": _again(audit.again, scrub) if audit.again else None,
            "health": _health(audit.health, scrub) if audit.health else None,
            "pictures": [],
            "gate": [_gate(each, scrub) for each in audit.gate],
            "provenance": _provenance(audit.provenance, configured, scrub),
        }
    )


def made_up_names(audit: Audit) -> dict[str, str]:
    """Return sample id -> made-up name, numbered in the order in which the audit names the samples."""
    groups: list[Iterable[str]] = [finding.sample_ids for finding in audit.findings]
    groups += [bias.sample_ids for bias in audit.biases]
    groups += [finding.sample_ids for finding in audit.again.findings] if audit.again else []
    groups += [picture.samples for picture in audit.pictures]
    groups += [pair for check in audit.data.leakage for pair in check.examples]
    ids = dict.fromkeys(sample for group in groups for sample in group)
    digits = max(4, len(str(len(ids))))
    # A made-up name that is another sample's real one would mislead.
    word = next(word for word in PREFIXES if not any(sample.startswith(f"{word}-") for sample in ids))
    return {sample: f"{word}-{number:0{digits}d}" for number, sample in enumerate(ids, start=1)}


class _Scrubber:
    """Replaces sample ids, known paths and what looks like a path in texts."""

    def __init__(self, names: Mapping[str, str], paths: Iterable[str]) -> None:
        self.names = names
        self._ids = [sample for sample in names if len(sample) >= SHORTEST]
        self._paths = _pattern_of_paths([path for path in paths if len(path) >= SHORTEST])

    def __call__(self, text: str) -> str:
        # Ids first, since one may look like a path; a made-up name within a path is removed with it. All ids at once,
        # since one may be part of a made-up name.
        if present := [sample for sample in self._ids if sample in text]:
            text = _pattern_of_ids(present).sub(self._name, text)
        return PATH_LIKE.sub(REMOVED, self._paths.sub(REMOVED, text) if self._paths else text)

    def all(self, texts: Iterable[str]) -> list[str]:
        return [self(text) for text in texts]

    def value(self, value: Any) -> Any:
        """Scrub the texts in a JSON-like value; keys stay."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {key: self.value(inner) for key, inner in value.items()}
        return [self.value(inner) for inner in value] if isinstance(value, list | tuple) else value

    def samples(self, ids: Iterable[str]) -> list[str]:
        return [self.names[sample] for sample in ids]

    def _name(self, match: re.Match[str]) -> str:
        found = match.groupdict()
        return (found.get("before") or "") + self.names[found.get("counted") or match[0]]


def _pattern_of_ids(ids: list[str]) -> re.Pattern[str]:
    """Return what finds ids: some anywhere, some as words of their own, some only where they are no count."""
    anywhere = [sample for sample in ids if DISTINCTIVE.fullmatch(sample)]
    counts = [sample for sample in ids if COUNT.fullmatch(sample)]
    words = [sample for sample in ids if sample not in {*anywhere, *counts}]
    before = r"""(?P<before>\b(?:samples?|images?|ids?|rows?) |['"`])"""
    parts = [
        _any_of(anywhere),
        rf"(?<![^\W_])(?:{_any_of(words)})(?![^\W_])" if words else "",
        rf"{before}(?P<counted>{_any_of(counts)})(?![^\W_])" if counts else "",
    ]
    return re.compile("|".join(filter(None, parts)))


def _pattern_of_paths(paths: list[str]) -> re.Pattern[str] | None:
    """Return what finds known paths; one that is a plain word, such as "data", only with what lies below it."""
    places = [path for path in paths if set(path) & set("/\\.")]
    words = [path for path in paths if path not in places]
    parts = [
        rf"(?<![\w/])(?:{_any_of(places)})(?!\w)" if places else "",
        rf"(?<![\w/])(?:{_any_of(words)})/[^\s,;:()\[\]'\"<>|]*" if words else "",
    ]
    return re.compile("|".join(filter(None, parts))) if paths else None


def _any_of(words: Iterable[str]) -> str:
    # The longest first, so that none hides a longer one that begins with it.
    return "|".join(map(re.escape, sorted(set(words), key=lambda word: (-len(word), word))))


def _scrubbed_fields(record: Any, scrub: _Scrubber) -> dict[str, str]:
    """Return the declared texts without ids and paths; who signs stays."""
    signing = {"auditor", "reviewer"}
    return {
        name: scrub(value)
        for name, value in record.model_dump().items()
        if isinstance(value, str) and name not in signing
    }


def _data(data: DataSummary, scrub: _Scrubber) -> DataSummary:
    leakage = [
        check.model_copy(
            update={
                "detail": scrub(check.detail),
                "examples": [(scrub.names[first], scrub.names[second]) for first, second in check.examples],
            }
        )
        for check in data.leakage
    ]
    return data.model_copy(update={"leakage": leakage})


def _finding(finding: Finding, scrub: _Scrubber) -> Finding:
    changes = {"sample_ids": scrub.samples(finding.sample_ids), "note": scrub(finding.note), "evidence": {}}
    return finding.model_copy(update=changes)


def _bias(bias: Bias, scrub: _Scrubber) -> Bias:
    return bias.model_copy(
        update={
            "sample_ids": scrub.samples(bias.sample_ids),
            "verdict": _verdict(bias.verdict, scrub) if bias.verdict else None,
            "earlier": REMOVED if bias.earlier else None,
        }
    )


def _verdict(verdict: Verdict, scrub: _Scrubber) -> Verdict:
    return verdict.model_copy(update={"why": scrub(verdict.why)})


def _method(method: MethodRecord, scrub: _Scrubber) -> MethodRecord:
    return method.model_copy(update={"parameters": scrub.value(method.parameters), "notes": scrub.value(method.notes)})


def _contest(contest: Contest, scrub: _Scrubber) -> Contest:
    return contest.model_copy(update={"rule": scrub(contest.rule), "warnings": scrub.all(contest.warnings)})


def _again(again: SearchedAgain, scrub: _Scrubber) -> SearchedAgain:
    return again.model_copy(update={"findings": [_finding(each, scrub) for each in again.findings]})


def _health(health: Health, scrub: _Scrubber) -> Health:
    return health.model_copy(update={"warning": scrub(health.warning)})


def _gate(result: GateResult, scrub: _Scrubber) -> GateResult:
    return result.model_copy(update={"rule": scrub(result.rule), "detail": scrub(result.detail)})


def _provenance(provenance: Provenance, configured: dict[str, Any], scrub: _Scrubber) -> Provenance:
    config = scrub.value(_without(configured, [key.split(".") for key in PATH_KEYS]))
    return provenance.model_copy(
        update={
            "config_text": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
            "commands": [_command(command) for command in provenance.commands],
            "machine": REMOVED,
        }
    )


def _command(command: str) -> str:
    """Return a command without the place of its configuration."""
    words = shlex.split(command)
    hidden = [REMOVED if earlier == "--config" else word for earlier, word in zip(["", *words], words, strict=False)]
    return " ".join(hidden)


def _pictures(audit: Audit) -> list[str]:
    findings = [*audit.findings, *(audit.again.findings if audit.again else [])]
    paths = [path for finding in findings for path in finding.evidence.values()]
    return [*paths, *audit.detector_pictures.values(), *(picture.path for picture in audit.pictures)]


def _texts_at(values: Any, keys: Iterable[str]) -> list[str]:
    """Return the texts of a configuration at keys such as PATH_KEYS."""
    return [text for key in keys for text in _texts(values, key.split("."))]


def _texts(value: Any, key: list[str]) -> list[str]:
    if isinstance(value, str):
        return [value] if not key or key == ["**"] else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not key:
        return []
    if key[0] == "**":
        return [text for _, below in inner for text in _texts(below, key)]
    rest = key[1:]
    return [text for name, below in inner if key[0] in ("*", name) for text in _texts(below, rest)]


def _without(value: Any, keys: list[list[str]]) -> Any:
    """Return a configuration with "(removed)" in place of the texts at the keys."""
    if isinstance(value, str):
        return REMOVED if any(key in ([], ["**"]) for key in keys) else value
    if isinstance(value, dict):
        return {name: _without(below, _below(keys, name)) for name, below in value.items()}
    return [_without(below, _below(keys, None)) for below in value] if isinstance(value, list) else value


def _below(keys: list[list[str]], name: str | None) -> list[list[str]]:
    """Return what of the keys is left one step further down, at a name or at an item of a list (None)."""
    left = [key for key in keys if key == ["**"]]
    return left + [key[1:] for key in keys if key and key != ["**"] and key[0] in ("*", name)]
