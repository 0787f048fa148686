"""The rooms of the house: who may import whom, who may look at the truth, and what must be documented."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pipeline.run.stages import STAGE_NAMES, STAGES, required

PACKAGE = Path(__file__).parents[1] / "pipeline"
LOWEST = {"workspace", "config", "statistics", "errors"}
MIDDLE = {"data", "models"}
UPPER = {"attribution", "concepts"}
FLOORS = [LOWEST, MIDDLE, UPPER, {*STAGE_NAMES, "explore"}, {"run"}]
TRUTH = {"attacked_flags", "truth_mask", "artifact_flags", "artifact_mask"}
MAY_KNOW_THE_TRUTH = {"evaluate", "data"}
TRUTH_FOR_COMPARISON = PACKAGE / "mitigate/truth.py"
"""What a correction asks that is told the truth by its configuration, and marked so in its record."""
MODULES = sorted(PACKAGE.rglob("*.py"))
WRITTEN_NAME = re.compile(r"pipeline(\.\w+)+(:\w+)?")


def room_of(path: Path) -> str:
    """Return the room of a file: its folder below `pipeline`, or its own name where it lies directly there."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE.parent))


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every import of this package, also of late ones and of modules named in texts."""
    package = ("pipeline", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("pipeline"))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            if module == "pipeline":
                yield from ((node.lineno, f"pipeline.{alias.name}") for alias in node.names)
            elif module.startswith("pipeline."):
                yield node.lineno, module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and WRITTEN_NAME.fullmatch(node.value):
            yield node.lineno, node.value.partition(":")[0]


def rooms_used(path: Path) -> Iterator[tuple[int, str]]:
    for line, module in imports(path):
        room = module.split(".")[1]
        if room != room_of(path) and room not in ("__version__", "errors"):
            yield line, room


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_every_room_has_its_floor():
    rooms = {room_of(path) for path in MODULES} - {"__init__", "__main__"}
    assert rooms <= set().union(*FLOORS)


def test_the_check_sees_imports_of_every_form(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "pipeline")
    file = tmp_path / "pipeline" / "reveal" / "spray.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import pipeline.mitigate.rrr\n"
        "from pipeline.localize import masks\n"
        "from pipeline import evaluate\n"
        "from ..train import stage\n"
        "from . import neurons\n"
        "def late():\n"
        "    from ..run.cli import main\n"
        "NAME = 'pipeline.report.html:render'\n"
    )
    found = [(1, "mitigate"), (2, "localize"), (3, "evaluate"), (4, "train"), (7, "run"), (8, "report")]
    assert sorted(rooms_used(file)) == found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_import_only_from_lower_floors_and_their_own(path):
    room = room_of(path)
    if path.name == "__main__.py" or room == "__init__":
        allowed = {"run"}  # the door is the only file of a stage that looks up
    elif room in (*STAGE_NAMES, "explore"):
        allowed = LOWEST | MIDDLE | UPPER  # no other stage
    else:
        allowed = set().union(*FLOORS[: floor_of(room) + 1])
    # `run` finds stages by name, so that starting it imports none.
    allowed -= {*STAGE_NAMES, "explore"} if room == "run" else set()
    wrong = [f"{name_of(path)}:{line} imports {used}" for line, used in rooms_used(path) if used not in allowed]
    assert not wrong


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_evaluate_looks_at_the_truth_about_artifacts(path):
    if room_of(path) in MAY_KNOW_THE_TRUTH or path == TRUTH_FOR_COMPARISON:
        return
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for node in ast.walk(parse(path))
        if (isinstance(node, ast.Attribute) and node.attr in TRUTH)
        or (isinstance(node, ast.Constant) and node.value in TRUTH)
    ]
    assert not wrong, "what is known to be true must not reach what is scored against it"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_everything_public_has_a_docstring(path):
    missing = [f"{name_of(path)}: {name}" for name, node in public(parse(path)) if not ast.get_docstring(node)]
    assert not missing


def public(module: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    yield "the module", module
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef | ast.ClassDef) and not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_change_of_code_that_a_stage_uses_makes_it_stale(spec):
    """Every room that the stage imports, directly or through others, is among its rooms or those of what it needs."""
    watched = {room for stage in required(spec.name) for room in stage.rooms}
    # The floor's other rooms carry no computations: a changed section or record shows in configuration and outputs.
    carried = {"config", "workspace", "errors", "run"}
    used, waiting = set(), {spec.name}
    while waiting:
        used |= waiting
        files = [path for path in MODULES if room_of(path) in waiting]
        waiting = {room for path in files for _, room in rooms_used(path)} - used - carried
    assert used <= watched


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_every_stage_has_its_door(name):
    door = parse(PACKAGE / name / "__main__.py")
    assert f"main('{name}')" in ast.unparse(door)


def test_light_rooms_import_no_heavy_library():
    light = [path for path in MODULES if room_of(path) in {"config", "workspace", "errors", "run"}]
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in light]
    code = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not {"torch", "sklearn", "umap", "pandas", "scipy", "matplotlib"} & set(result.stdout.split())
