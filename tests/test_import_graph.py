"""Who imports whom inside ``dipole_sb3``: folders import downwards only, no file is part of a circle.

Imports inside functions and under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dipole_sb3"

FLOORS = (
    {"common"},
    {"buffers"},
    {"datasets", "networks"},
    {"learning"},
    {"algorithms"},
    {"driving", "recording", "evaluation", "tracking"},
    {"plots"},
    {"cli"},
)
"""Folders from the ground up; what stands on one floor does not know its neighbours."""

FLOOR_OF = {folder: height for height, floor in enumerate(FLOORS) for folder in floor}
KNOW_NO_ALGORITHM = ("common", "buffers", "datasets", "networks", "learning", "evaluation", "plots", "cli")


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports_of(source: str, known: set[str]) -> set[str]:
    """Modules of ``known`` that a file imports, at whatever place in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names}
            # What is no module of its own is a name inside of the module.
            found |= {name if name in known else module for name in inner}
    return found & known


def graph(sources: dict[str, str]) -> dict[str, set[str]]:
    known = set(sources)
    return {name: imports_of(source, known) - {name} for name, source in sources.items()}


def circle_in(edges: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def upwards(edges: dict[str, set[str]]) -> list[str]:
    """Arrows to a folder that does not stand below."""
    wrong = []
    for importer, imported in edges.items():
        for module in imported:
            one, other = (name.split(".")[1] if "." in name else "" for name in (importer, module))
            if one and one != other and (not other or FLOOR_OF[other] >= FLOOR_OF[one]):
                wrong.append(f"{importer} → {module}")
    return sorted(wrong)


SOURCES = {name: file.read_text(encoding="utf-8") for name, file in FILES.items()}


def test_every_folder_has_its_floor() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").is_file()}
    assert folders == set(FLOOR_OF)


def test_folders_import_downwards() -> None:
    assert upwards(graph(SOURCES)) == []


def test_no_file_is_part_of_a_circle() -> None:
    assert circle_in(graph(SOURCES)) == []


def test_algorithms_do_not_know_each_other() -> None:
    edges = graph(SOURCES)
    for importer, imported in edges.items():
        match = re.match(r"dipole_sb3\.algorithms\.(\w+)", importer)
        if match:
            others = {name for name in imported if name.startswith("dipole_sb3.algorithms.")}
            assert all(name.startswith(f"dipole_sb3.algorithms.{match[1]}") for name in others), importer


@pytest.mark.parametrize("folder", [*(PACKAGE / name for name in KNOW_NO_ALGORITHM), ROOT / "export/dipole_export"])
def test_no_algorithm_is_known_by_name(folder: Path) -> None:
    """Neither imported nor named in code; docstrings and comments may give one as an example."""
    names = {path.name for path in (PACKAGE / "algorithms").iterdir() if (path / "__init__.py").is_file()}
    classes = {name.upper() for name in names} | {f"{name.upper()}Policy" for name in names}
    for file in folder.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dipole_sb3"):
                assert not (node.module or "").startswith("dipole_sb3.algorithms"), file
                assert not {alias.name for alias in node.names} & classes, file
            if isinstance(node, ast.Name | ast.Attribute):
                assert (node.id if isinstance(node, ast.Name) else node.attr) not in classes, file


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("dipole_sb3.common.checks", "from dipole_sb3.buffers.offline_buffer import Batch"),
        ("dipole_sb3.learning.knobs", "def late():\n    from dipole_sb3.algorithms.dipole.losses import UPDATE"),
        ("dipole_sb3.networks.flow", "from dipole_sb3.datasets import load_dataset"),
        ("dipole_sb3.plots.curves", "if TYPE_CHECKING:\n    import dipole_sb3.cli.train"),
    ],
)
def test_an_arrow_upwards_is_seen(file: str, line: str) -> None:
    broken = {**SOURCES, file: f"{SOURCES[file]}\n{line}\n"}
    assert upwards(graph(broken)) != []


def test_a_circle_is_seen() -> None:
    line = "def late():\n    from dipole_sb3.buffers import mixed_buffer"
    name = "dipole_sb3.buffers.offline_buffer"
    assert circle_in(graph({**SOURCES, name: f"{SOURCES[name]}\n{line}\n"})) != []
