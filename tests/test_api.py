"""The public names, their docstrings, and what importing them costs."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import geoseg

PACKAGE = Path(geoseg.__file__).parent
VERBS = ["card", "check", "evaluate", "export", "info", "polygonize", "predict", "sample", "suggest", "tile", "train"]
FUNCTIONS = [*VERBS, "parse_legend"]
TYPES = ["GeosegError", "GeosegWarning", "ImageSpec", "Legend", "ProgressBar"]
HEAVY = {"torch", "lightning", "geopandas", "rasterio", "numpy", "shapely", "matplotlib", "tqdm"}


def loaded_by(code: str) -> set[str]:
    """Heavy modules that a fresh interpreter holds after some code."""
    told = f"import sys\n{code}\nprint('loaded', *sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


def run_command(*arguments: object) -> str:
    """Code that runs a command to a good end."""
    return f"""
from geoseg.cli import cli
try:
    cli({[str(argument) for argument in arguments]})
except SystemExit as end:
    assert not end.code, end.code
"""


def test_the_public_names():
    assert sorted(geoseg.__all__) == sorted([*FUNCTIONS, *TYPES, "plot"])
    assert set(geoseg.__all__) <= set(dir(geoseg))


@pytest.mark.parametrize("name", [*FUNCTIONS, *TYPES])
def test_a_lazy_name_is_the_thing_itself(name):
    thing = getattr(geoseg, name)
    assert thing.__name__ == name
    assert getattr(sys.modules[thing.__module__], name) is thing
    assert inspect.isfunction(thing) == (name in FUNCTIONS)


def test_type_checkers_see_the_same_names():
    (block,) = [node for node in ast.parse(inspect.getsource(geoseg)).body if isinstance(node, ast.If)]
    seen = {(alias.name, node.module) for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    things = {name: getattr(geoseg, name) for name in geoseg.__all__}
    assert seen == {(name, getattr(thing, "__module__", "geoseg")) for name, thing in things.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'geoseg' has no attribute 'tiles'"):
        geoseg.tiles  # noqa: B018


def test_type_checkers_are_told_that_there_are_types():
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_docstring_names_every_parameter(name):
    function = getattr(geoseg, name)
    doc = inspect.getdoc(function) or ""
    described = re.findall(r"^    (\w+): \S", doc.partition("Args:")[2].partition("\n\n")[0], re.MULTILINE)
    parameters = inspect.signature(function).parameters
    # A function of one parameter may speak of it in a sentence.
    assert described == list(parameters) or (not described and len(parameters) == 1)
    assert "Raises:" in doc


@pytest.mark.parametrize("name", VERBS)
def test_only_the_inputs_of_a_verb_are_positional(name):
    kinds = [parameter.kind for parameter in inspect.signature(getattr(geoseg, name)).parameters.values()]
    positional = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert positional == {"evaluate": 2, "export": 0, "card": 0}.get(name, 1)
    assert set(kinds[positional:]) <= {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_modules_and_their_public_functions_and_classes_have_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [
        thing
        for thing in tree.body
        if isinstance(thing, ast.FunctionDef | ast.ClassDef) and not thing.name.startswith("_")
    ]
    assert ast.get_docstring(tree)
    assert [thing.name for thing in public if not ast.get_docstring(thing)] == []


def test_importing_loads_next_to_nothing():
    assert loaded_by("import geoseg; geoseg.GeosegError; dir(geoseg)") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["tile", "--help"], ["train", "--recipe", "list"]], ids=" ".join)
def test_help_loads_next_to_nothing(arguments):
    assert loaded_by(run_command(*arguments)) == set()


def test_only_what_runs_a_network_loads_torch(write_scene, rng, tmp_path):
    scene = write_scene("scene.tif", rng.integers(0, 99, (3, 64, 64), dtype="uint8"))
    labels = write_scene("labels.tif", rng.integers(0, 2, (64, 64), dtype="uint8"))
    commands = [
        ("tile", scene, "--labels", labels, "--chip-size", 16, "--out", tmp_path / "chips"),
        ("check", scene, "--labels", labels, "--chip-size", 16),
        ("polygonize", labels, "--out", tmp_path / "polygons.gpkg"),
        ("info", tmp_path / "chips"),
        ("info", scene),
    ]
    assert loaded_by("".join(run_command(*command) for command in commands)) & {"torch", "lightning"} == set()
