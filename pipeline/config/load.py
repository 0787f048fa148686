"""From a YAML file and `--set` overrides to a checked `Config`."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigError, nearest

from .schema import Config


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read and check a configuration.

    Args:
        path: a YAML file, or a name below `configs/` of the working directory or of the project.
        overrides: texts `key.sub=value`; the value is read as YAML; list items by number, `mitigate.methods.0.weight=5`.

    Raises:
        ConfigError: file, key, value, what is allowed and the nearest right key are named.
    """
    file = find_config(path)
    values = _read_yaml(file)
    for override in overrides:
        _apply_override(values, override)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, file, values)) from None


def find_config(path: str | Path) -> Path:
    """Return the file meant by `--config`: the path itself, or the same name below `configs/`."""
    given = Path(path)
    shipped = Path(__file__).parents[2] / "configs"
    for candidate in (given, Path("configs") / given, shipped / given):
        if candidate.is_file():
            return candidate
    names = sorted(entry.name for folder in {Path("configs").resolve(), shipped} for entry in folder.glob("*.yaml"))
    raise ConfigError(
        f"--config {path}: no such file, neither here nor below configs/.{nearest(given.name, names)} "
        f"Available: {', '.join(dict.fromkeys(names)) or 'none'}."
    )


def dump_config(config: Config) -> str:
    """Return the resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{file}{place}: not valid YAML: {getattr(error, 'problem', error)}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not a UTF-8 text file ({error.reason}).") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected a mapping with the keys {', '.join(Config.model_fields)}.")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override}: expected key.sub=value, e.g. --set model.train.epochs=3.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not valid YAML.") from None
    *parents, last = key.strip().split(".")
    node: Any = values
    for part in parents:
        node = _step_into(node, part, override)
    if isinstance(node, list):
        node[_list_index(node, last, override)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise ConfigError(f"--set {override}: '{parents[-1]}' is a single value, not a section.")


def _step_into(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_list_index(node, part, override)]
    if not isinstance(node, dict):
        raise ConfigError(f"--set {override}: '{part}' lies below a single value, not below a section.")
    if node.get(part) is None:
        node[part] = {}
    return node[part]


def _list_index(node: list, part: str, override: str) -> int:
    if part.isdigit() and int(part) < len(node):
        return int(part)
    raise ConfigError(f"--set {override}: '{part}' is not an item number from 0 to {len(node) - 1}.")


def _explain(error: ValidationError, file: Path, values: dict[str, Any]) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        location = _clean_location(problem["loc"], values)
        key = ".".join(map(str, location)) or "(top level)"
        lines.append(f"  {key}: {_explain_one(problem, location, values)}")
    unique = list(dict.fromkeys(lines))
    return f"{file} is not a valid configuration:\n" + "\n".join(unique)


def _explain_one(problem: dict[str, Any], location: list[str | int], values: dict[str, Any]) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = sorted(_allowed_keys(location[:-1], values))
        return f"unknown key '{location[-1]}'.{nearest(str(location[-1]), allowed)} Allowed here: {', '.join(allowed)}."
    if kind == "missing":
        return "this key is required."
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        allowed = [tag.strip(" '") for tag in str(context.get("expected_tags", "")).split(",") if tag.strip(" '")]
        if not allowed:
            return "`kind:` is missing."
        given = problem["input"].get("kind") if isinstance(problem["input"], dict) else problem["input"]
        shown = [name if name != "factory" else "my.module:factory" for name in allowed]
        return f"unknown kind {given!r}.{nearest(str(given), allowed)} Allowed: {', '.join(shown)}."
    if kind == "literal_error":
        given = problem["input"]
        return f"{given!r} is not allowed.{nearest(str(given), _quoted(context['expected']))} Allowed: {context['expected']}."
    return f"{problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r})."


def _quoted(text: str) -> list[str]:
    return [part.strip("' ") for part in text.replace(" or ", ",").split(",")]


def _clean_location(location: tuple[str | int, ...], values: dict[str, Any]) -> list[str | int]:
    """Drop the tags that pydantic inserts for the alternatives of a union, keep real keys."""
    cleaned: list[str | int] = []
    node: Any = values
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if isinstance(node, dict) and (part in node or last):
            cleaned.append(part)
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int):
            cleaned.append(part)
            node = node[part] if part < len(node) else None
        elif isinstance(part, str) and isinstance(node, dict):
            continue
        elif not isinstance(node, dict | list) and last and isinstance(part, str):
            continue
    return cleaned


def _allowed_keys(location: list[str | int], values: dict[str, Any]) -> set[str]:
    """Return the keys of the section at a location, following `kind` where sections have alternatives."""
    options: list[Any] = [Config]
    node: Any = values
    for part in location:
        node = node[part] if isinstance(node, list) else (node or {}).get(part)
        if isinstance(part, int):
            inner = [argument for option in options for argument in get_args(option)[:1]]
        else:
            inner = [option.model_fields[part].annotation for option in options if part in option.model_fields]
        options = [model for annotation in inner for model in _alternatives(annotation)]
        options = _matching_kind(options, node) or options
    return {name for model in options if _is_model(model) for name in model.model_fields}


def _alternatives(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return [model for argument in get_args(annotation) for model in _alternatives(argument)]
    if origin is dict:
        return [annotation]
    if origin is list:
        return [annotation]
    if hasattr(annotation, "__metadata__"):
        return _alternatives(annotation.__origin__)
    return [annotation] if _is_model(annotation) else []


def _matching_kind(options: list[Any], node: Any) -> list[Any]:
    kind = node.get("kind") if isinstance(node, dict) else None
    if kind is None:
        return []
    return [
        model
        for model in options
        if _is_model(model) and kind in get_args(getattr(model.model_fields.get("kind"), "annotation", None))
    ]


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)
