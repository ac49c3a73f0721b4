"""Imports point down: every module stands on a floor, and the table of floors is the docstring of the package."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import geoseg

SOURCES = {path.stem: path for path in Path(geoseg.__file__).parent.glob("*.py") if path.stem != "__init__"}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in SOURCES.items()}
TABLE = [
    (module, int(number))
    for number, modules in re.findall(r"^ +floor (\d) (.*(?:\n {14}.*)*)", str(geoseg.__doc__), re.MULTILINE)
    for module in re.findall(r"\w+", modules)
]
FLOORS = dict(TABLE)
VERBS = 3


def imports(module: str) -> Iterator[str]:
    """Dotted names of all that a module imports, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own(module: str) -> set[str]:
    """Modules of the package that a module imports."""
    return {name.split(".")[1] for name in imports(module) if name.startswith("geoseg.")}


def foreign(module: str) -> set[str]:
    """Third-party modules, two names deep, that a module imports."""
    names = {".".join(name.split(".")[:2]) for name in imports(module)}
    return {name for name in names if name.split(".")[0] not in {"geoseg", *sys.stdlib_module_names}}


def test_every_module_stands_on_one_floor():
    assert sorted(module for module, _ in TABLE) == sorted(SOURCES)
    assert set(FLOORS.values()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down(module):
    # A name of the package itself is a lazy one, and could be anything from any floor.
    assert own(module) <= FLOORS.keys()
    assert {name for name in own(module) if FLOORS[name] > FLOORS[module]} == set()


@pytest.mark.parametrize("module", sorted(SOURCES.keys() - {"cli"}))
def test_none_but_the_command_line_imports_the_package_itself(module):
    """Its names are lazy ones, and could be of any floor."""
    assert [
        node.lineno
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Import) and "geoseg" in {name.name for name in node.names}
    ] == []


def test_verbs_never_import_one_another():
    verbs = {module for module, floor in FLOORS.items() if floor == VERBS}
    assert [(module, other) for module in verbs for other in own(module) & verbs] == []


def test_there_is_no_circle():
    order = TopologicalSorter({module: own(module) for module in SOURCES}).static_order()  # raises CycleError
    assert set(order) == SOURCES.keys()


@pytest.mark.parametrize("module", [module for module, floor in FLOORS.items() if floor == 0])
def test_the_ground_floor_needs_little(module):
    assert foreign(module) <= {"numpy", "rasterio.windows", "filelock.FileLock", "filelock.Timeout", "msgspec"}


@pytest.mark.parametrize("module", [module for module, floor in FLOORS.items() if floor == 1])
def test_the_first_floor_knows_no_network(module):
    roots = {name.split(".")[0] for name in foreign(module)}
    assert roots <= {"numpy", "affine", "rasterio", "pyogrio", "pyproj", "geopandas", "pandas", "pyarrow", "shapely"}


@pytest.mark.parametrize("module", sorted(SOURCES.keys() - {"cli", "progress_bar"}))
def test_the_library_is_silent(module):
    assert {name.split(".")[0] for name in imports(module)}.isdisjoint({"click", "tqdm"})
    names = {node.id for node in ast.walk(TREES[module]) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}
    assert names.isdisjoint({"print", "input"})
    assert attributes.isdisjoint({"stdout", "stderr"})
