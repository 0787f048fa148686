"""What is written is true: configurations load, commands and links exist, schemas are those of the code."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import torchvision

from pipeline.attribution import attribute, health
from pipeline.config import Config, load_config
from pipeline.data.load import ADAPTERS
from pipeline.mitigate.registry import MITIGATIONS
from pipeline.run.cli import make_parser
from pipeline.run.stages import ALL, STAGE_NAMES
from pipeline.workspace.journal import read_journal

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "pipeline"
README = PROJECT / "README.md"
DOCUMENTS = [README, PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").glob("*.md"))]
CONFIGS = sorted((PROJECT / "configs").glob("*.yaml"))
SCHEMAS = sorted((PROJECT / "docs/schemas").glob("*.json"))
PATHS = re.compile(r"`((?:[\w-]+/)+[\w-]+\.(?:py|yaml|md))\b")


def name_of(path: Path) -> str:
    return path.name


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced code blocks of a language; "" are those without."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [text for each, text in found if each == language]


def without_blocks(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks(README, "") for line in block.splitlines()]
    return [line for line in lines if line.startswith(("make ", "r2r ", "python", ".venv/bin/"))]


@pytest.fixture
def config_of_the_readme(tmp_path) -> Path:
    (text,) = blocks(README, "yaml")
    path = tmp_path / "my_audit.yaml"
    path.write_text(text)
    return path


# Configurations


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_shipped_configuration_loads(path):
    config = load_config(path.name)
    assert config == load_config(path)
    assert config.name == path.stem, "its results lie in a folder of the same name"


def test_there_are_configurations():
    assert {"demo.yaml", "isic.yaml"} <= {path.name for path in CONFIGS}


def test_the_contest_has_every_correction():
    assert {method.kind for method in load_config("contest.yaml").mitigate.methods} == set(MITIGATIONS)


def overrides_in_comments() -> list[tuple[str, str]]:
    return [
        (path.name, override)
        for path in CONFIGS
        for line in path.read_text().splitlines()
        if line.startswith("#")
        for override in re.findall(r"[a-z_]+(?:\.\w+)+=\S+", line)
    ]


@pytest.mark.parametrize("name", sorted({name for name, _ in overrides_in_comments()}))
def test_overrides_in_comments_of_configurations_are_valid(name):
    overrides = [override for each, override in overrides_in_comments() if each == name]
    load_config(name, overrides)


def test_configuration_in_the_readme_loads(config_of_the_readme):
    config = load_config(config_of_the_readme)
    assert config.name == config_of_the_readme.stem, "the commands below it use this name"
    assert config.report.gate[0].on == "upper"


# Commands


def test_commands_of_the_readme_are_understood(config_of_the_readme):
    """Stages exist, options are known, and what `--set` names is in the configuration."""
    seen = set()
    for line in commands():
        words = shlex.split(line)
        if words[0] == "r2r":
            stage, arguments = words[1], words[2:]
        elif "-m" in words and words[words.index("-m") + 1].startswith("pipeline."):
            module, *arguments = words[words.index("-m") + 1 :]
            stage = module.removeprefix("pipeline.")
        else:
            continue
        assert stage in (*STAGE_NAMES, ALL), line
        parsed = make_parser(stage).parse_args(arguments)
        path = config_of_the_readme if parsed.config == config_of_the_readme.name else parsed.config
        load_config(path, parsed.overrides)
        seen.add(stage)
    assert {ALL, "reveal"} <= seen


def test_make_targets_of_the_documents_exist():
    targets = set(re.findall(r"^([\w-]+):(?!=)", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    texts = [path.read_text() for path in DOCUMENTS]
    named = {target for text in texts for target in re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE)}
    assert {"demo", "test"} <= named <= targets


def test_modules_that_documents_start_exist():
    texts = [path.read_text() for path in DOCUMENTS]
    named = {each for text in texts for each in re.findall(r"python -m ((?:pipeline|docs|benchmarks)[\w.]*)", text)}
    assert len(named) > 1
    for module in named:
        folder = PROJECT / module.replace(".", "/")
        assert (folder / "__main__.py").is_file() or folder.with_suffix(".py").is_file(), module


# Python


def imports() -> list[tuple[str, str]]:
    found = []
    for path in DOCUMENTS:
        for module, names in re.findall(r"from (pipeline[\w.]*) import ([\w, ]+)", path.read_text()):
            found += [(module, name.strip()) for name in names.split(",")]
    return sorted(set(found))


@pytest.mark.parametrize(("module", "name"), imports(), ids=".".join)
def test_import_in_the_documents_works(module, name):
    assert callable(getattr(importlib.import_module(module), name))


def test_python_of_the_readme_is_true():
    (code,) = blocks(README, "python")
    compile(code, "README.md", "exec")
    from pipeline.run import run_audit

    assert 'run_audit(load_config("demo.yaml"))' in code
    inspect.signature(run_audit).bind(load_config("demo.yaml"))
    (line,) = [line for line in code.splitlines() if line.startswith("explained = ")]
    call, _, comment = line.partition("#")
    model, x = torchvision.models.resnet18(num_classes=5).eval(), torch.rand(2, 3, 32, 32)
    explained = eval(call.removeprefix("explained = "), {"attribute": attribute, "model": model, "x": x})
    for attribute_name in comment.split(","):
        assert hasattr(explained, attribute_name.strip())
    assert set(explained.relevances) == {"layer4"}
    assert "health(model, x).warning" in code
    assert isinstance(health(model, x).warning, str)


# Schemas and journals


@pytest.fixture(scope="module")
def make_schemas():
    # By path, because the folder is no installed package.
    spec = importlib.util.spec_from_file_location("make_schemas", PROJECT / "docs/make_schemas.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_schemas_are_those_of_the_code(make_schemas):
    assert {path.stem for path in SCHEMAS} == set(make_schemas.SCHEMAS)
    stale = [path.name for path in SCHEMAS if path.read_text() != make_schemas.text(make_schemas.SCHEMAS[path.stem])]
    assert not stale, "run `make schemas`"


def test_schema_describes_every_key_of_the_configuration():
    schema = json.loads((PROJECT / "docs/schemas/config.json").read_text())
    assert set(schema["properties"]) == set(Config.model_fields)
    assert schema["required"] == ["name", "data"]


def test_journal_in_the_readme_is_one(tmp_path):
    (text,) = blocks(README, "json")
    (tmp_path / "annotations.json").write_text(text)
    (verdict,) = read_journal(tmp_path / "annotations.json").verdicts
    assert verdict.verdict == "spurious"


# Names


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_relative_links_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)\s]+)\)", without_blocks(path))
    relative = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert [target for target in relative if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_files_that_documents_name_exist(path):
    """As seen from the project, or from its package, as `architecture.md` writes."""
    named = PATHS.findall(without_blocks(path))
    assert [each for each in named if not any((base / each).is_file() for base in (PROJECT, PACKAGE))] == []


def test_architecture_names_every_room_and_the_registries():
    text = (PROJECT / "docs/architecture.md").read_text()
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {room for room in rooms if f"`{room}`" not in text} == set()
    named = re.findall(r"`([\w/]+)\.py: (\w+)`", text)
    assert named
    for place, name in named:
        assert hasattr(importlib.import_module(f"pipeline.{place.replace('/', '.')}"), name), f"{place}.py: {name}"


def test_readme_names_every_kind_of_data():
    text = README.read_text()
    assert {kind for kind in ADAPTERS if f"`{kind}`" not in text and f"kind: {kind}" not in text} == set()


def test_readme_names_the_exit_codes():
    codes = "0 done, 1 the run failed, 2 usage or configuration, 3 the "
    assert codes + "report's gate failed" in " ".join(README.read_text().split())
    assert codes + "gate failed" in " ".join(make_parser(ALL).format_help().split())


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_no_placeholder_is_left(path):
    assert re.findall(r"\b(?:TODO|FIXME|XXX|TBD|DEMO_OUTPUT|PLACEHOLDER)\b", path.read_text()) == []
