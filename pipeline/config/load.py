"""From a YAML file and `--set` overrides to a checked `Config`."""

from __future__ import annotations

import re
import types
from itertools import pairwise
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigError, nearest

from .mitigate.grid import expand_grid
from .schema import Config


class _Loader(yaml.SafeLoader):
    """The safe loader with words and numbers as in YAML 1.2, and without keys that stand twice.

    Booleans are only true and false, so that the key `on` stays a word; 1e-3 is a number, not a text.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key.value in seen:
                problem = f"the key '{key.value}' stands twice in one section"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read and check a configuration.

    Args:
        path: a YAML file, or a name below `configs/` of the working directory or of the project.
        overrides: texts `key.sub=value`; the value is read as YAML; list items by number,
            `mitigate.methods.0.weight=5`.

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
        raise ConfigError(_explain(error, file, _with_grids(values))) from None


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
        values = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
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
    if not equals or not all(key.strip().split(".")):
        raise ConfigError(f"--set {override}: expected key.sub=value, e.g. --set model.train.epochs=3.")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not valid YAML.") from None
    parts = key.strip().split(".")
    node: Any = values
    for part, following in pairwise(parts):
        node = _step_into(node, part, following, override)
    if isinstance(node, list):
        node[_list_index(node, parts[-1], override)] = value
    elif isinstance(node, dict):
        node[parts[-1]] = value
    else:
        raise ConfigError(f"--set {override}: '{parts[-2]}' is a single value, not a section.")


def _step_into(node: Any, part: str, following: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_list_index(node, part, override)]
    if not isinstance(node, dict):
        raise ConfigError(f"--set {override}: '{part}' lies below a single value, not below a section.")
    if node.get(part) is None:
        if following.isdigit():
            raise ConfigError(
                f"--set {override}: the file has no list '{part}', so its item {following} cannot be changed. "
                f"Write the list into the file, or set all of it: '{part}=[...]'."
            )
        node[part] = {}
    return node[part]


def _list_index(node: list, part: str, override: str) -> int:
    if part.isdigit() and int(part) < len(node):
        return int(part)
    allowed = f"the items are 0 to {len(node) - 1}" if node else "the list is empty"
    raise ConfigError(f"--set {override}: there is no item '{part}'; {allowed}.")


def _with_grids(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with grids of methods as the methods that they stand for, whose places errors name."""
    section = values.get("mitigate")
    if not isinstance(section, dict) or not isinstance(section.get("methods"), list):
        return values
    try:
        methods = [each for method in section["methods"] for each in expand_grid(method)]
    except ValueError:
        return values  # the grid itself is what is wrong
    return values | {"mitigate": section | {"methods": methods}}


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
        if not isinstance(problem["input"], dict):
            return f"expected a section with `kind:` (got {problem['input']!r})."
        given = problem["input"].get("kind")
        if given is None:
            return "`kind:` is missing."
        allowed = [tag.strip(" '") for tag in str(context.get("expected_tags", "")).split(",")]
        shown = [name if name != "factory" else "my.module:factory" for name in allowed]
        return f"unknown kind {given!r}.{nearest(str(given), allowed)} Allowed: {', '.join(shown)}."
    if kind == "literal_error":
        given, allowed = problem["input"], context["expected"]
        return f"{given!r} is not allowed.{nearest(str(given), _quoted(allowed))} Allowed: {allowed}."
    if kind == "model_type":
        return f"expected a section (got {problem['input']!r}); leave the key out to have the defaults."
    if kind == "value_error":
        return f"{problem['msg'].removeprefix('Value error, ')}."
    return f"{problem['msg']} (got {problem['input']!r})."


def _quoted(text: str) -> list[str]:
    return [part.strip("' ") for part in text.replace(" or ", ",").split(",")]


def _clean_location(location: tuple[str | int, ...], values: dict[str, Any]) -> list[str | int]:
    """Drop the tags that pydantic inserts for the alternatives of a union, keep real keys."""
    cleaned: list[str | int] = []
    node: Any = values
    tag_is_next = False
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if tag_is_next and part == _tag(node):
            # Before keys, because data has a kind `table` with a key `table`.
            tag_is_next = False
            continue
        if isinstance(node, dict) and (part in node or last):
            cleaned.append(part)
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int):
            cleaned.append(part)
            node = node[part] if part < len(node) else None
        else:
            continue
        tag_is_next = _tag(node) is not None
    return cleaned


def _tag(node: Any) -> str | None:
    kind = node.get("kind") if isinstance(node, dict) else None
    return "factory" if ":" in str(kind) else kind


def _allowed_keys(location: list[str | int], values: dict[str, Any]) -> set[str]:
    """Return the keys of the section at a location, following `kind` where sections have alternatives."""
    options: list[Any] = [Config]
    node: Any = values
    for part in location:
        node = node[part] if isinstance(node, list) else (node or {}).get(part)
        if isinstance(part, int):
            inner = [argument for option in options for argument in get_args(option)[:1]]
        else:
            inner = [_field_annotation(option, part) for option in options]
        options = [model for annotation in inner for model in _alternatives(annotation)]
        options = _matching_kind(options, node) or options
    return {name for model in options if _is_model(model) for name in model.model_fields}


def _field_annotation(option: Any, part: str) -> Any:
    """Return the type below a key of a section, or below any key of a dict."""
    if get_origin(option) is dict:
        return get_args(option)[1]
    field = option.model_fields.get(part) if _is_model(option) else None
    return field.annotation if field else None


def _alternatives(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return [model for argument in get_args(annotation) for model in _alternatives(argument)]
    if origin in (dict, list):
        return [annotation]
    if hasattr(annotation, "__metadata__"):
        return _alternatives(annotation.__origin__)
    return [annotation] if _is_model(annotation) else []


def _matching_kind(options: list[Any], node: Any) -> list[Any]:
    """Return the alternatives whose `kind` is the section's; a kind with a colon is the one that takes any text."""
    tag = _tag(node)
    kinds = [(model, model.model_fields["kind"].annotation) for model in options if _is_kind(model)]
    return [model for model, kind in kinds if (kind is str if tag == "factory" else tag in get_args(kind))]


def _is_kind(candidate: Any) -> bool:
    return _is_model(candidate) and "kind" in candidate.model_fields


def _is_model(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, BaseModel)
