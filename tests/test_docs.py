"""The documentation says what is so: commands, options, links, keys and columns are compared with the code."""

from __future__ import annotations

import ast
import csv
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import geopandas as gpd
import numpy as np
import pyogrio
import pytest

import geoseg
from geoseg.cli import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = Path(geoseg.__file__).parent
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [README, CHINESE, *sorted(DOCS.glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

# Keys of these are the user's own words, or are documented where the mapping itself comes from.
_MAPS = (
    r"^(image|legend|options|metrics|outputs|left_out|provenance|reach|ground|training\.(versions|chips|ground)|.*\bclass_pixels)\b."
    r"|^splits\.(val|test)\.|^sample\..*(users_accuracy|producers_accuracy|overall_accuracy)\."
)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def command_lines(page: Path) -> list[list[str]]:
    """The words of every line of shell code that calls geoseg."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words[:1] == ["geoseg"]]


def python_calls(page: Path) -> list[ast.Call]:
    """Every call of `geoseg.something(...)` in Python code."""
    nodes = (node for code in blocks(page, "python") for node in ast.walk(ast.parse(code)))
    return [
        node for node in nodes if isinstance(node, ast.Call) and re.fullmatch(r"geoseg\.\w+", ast.unparse(node.func))
    ]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def sections(page: Path) -> dict[str, str]:
    """The text under each heading of the second level, by heading without its code marks."""
    parts = re.split(r"^## (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title.replace("`", ""): text for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def documented(section: str) -> set[str]:
    """What stands in code marks in the first cells of a section's tables."""
    cells = re.findall(r"^\| (.*?) \|", sections(DOCS / "formats.md")[section], re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def keys(value: Any, path: str = "") -> Iterator[str]:
    """All keys of a JSON document, as `formats.md` writes them: `chips[].scene`."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield f"{path}{name}"
            yield from keys(entry, f"{path}{name}.")
    elif isinstance(value, list):
        for entry in value:
            yield from keys(entry, f"{path[:-1]}[].")


def described_keys(document: dict[str, Any], section: str) -> set[str]:
    """The keys of a document that its section has to name."""
    named = documented(section)
    found = {key for key in keys(document) if not re.search(_MAPS, key)}
    return {key for key in found if not _repeats(key, named)}


def _repeats(key: str, named: set[str]) -> bool:
    """Whether a key is of means, intervals or differences, which have the keys of the scores themselves."""
    if re.search(r"\.classes(\[\]\.(value|name))?$", key):
        return key not in named
    again = re.match(r"(.*\.)?(chip_mean|intervals|this|other|difference)\.(.*)", key)
    if again is None:
        return False
    if again[1] is None and key in named:
        return False
    same = {again[3], f"{again[1] or ''}{again[3]}", f"intervals.{again[3]}" if again[2] == "intervals" else "classes"}
    return not same.isdisjoint(named)


def test_the_command_page_is_what_help_says():
    spec = importlib.util.spec_from_file_location("make_cli", DOCS / "make_cli.py")
    make_cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_cli)
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert page == make_cli.page(), "run: python docs/make_cli.py"
    assert make_cli.main(["--check"]) == 0
    assert {f"geoseg {name}" for name in cli.commands} <= sections(DOCS / "cli.md").keys()


@each_page
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_the_chinese_readme_has_the_commands_pictures_and_links_of_the_english_one():
    for language in ("sh", "python"):
        english, chinese = (
            [_without_comments(block) for block in blocks(page, language)] for page in (README, CHINESE)
        )
        assert english == chinese
    english, chinese = (re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")) for page in (README, CHINESE))
    assert (english.pop(0), chinese.pop(0)) == (CHINESE.name, README.name)
    assert sorted(english) == sorted(chinese)
    levels = [re.findall(r"^#+(?= )", page.read_text(encoding="utf-8"), re.MULTILINE) for page in (README, CHINESE)]
    assert levels[0] == levels[1]


def _without_comments(code: str) -> str:
    """Code as it is run; none of ours has a `#` but before a comment."""
    return re.sub(r"[ \t]*#.*", "", code)


def test_every_page_is_in_the_index():
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", (DOCS / "README.md").read_text(encoding="utf-8")))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


@each_page
def test_command_lines_parse(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _, name, *arguments in command_lines(page):
        assert name in cli.commands
        with suppress(click.exceptions.Exit):  # of `--recipe list`
            cli.commands[name].make_context(name, arguments, parent=click.Context(cli, **cli.context_settings))


def test_the_configuration_shown_is_read(tmp_path):
    (text,) = blocks(DOCS / "cli.md", "toml")
    (tmp_path / "geoseg.toml").write_text(text, encoding="utf-8")
    arguments = ["--config", str(tmp_path / "geoseg.toml")]
    parent = click.Context(cli, **cli.context_settings)
    tile = cli.commands["tile"].make_context("tile", ["scene.tif", "--labels", "labels.gpkg", *arguments], parent)
    assert (tile.params["class_field"], tile.params["bands"]) == ("class", "4,3,2")
    assert cli.commands["train"].make_context("train", arguments, parent).params["epochs"] == 100


@each_page
def test_every_option_spoken_of_exists(page):
    options = {name for command in cli.commands.values() for option in command.params for name in option.opts}
    options |= {
        name for command in cli.commands.values() for option in command.params for name in option.secondary_opts
    }
    others = r"\b(dask (worker|scheduler) .*|docker run .* geoseg\b)"  # have options of their own
    text = re.sub(others, "", page.read_text(encoding="utf-8"))
    spoken = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
    assert spoken - options <= {"--help", "--version"}


@each_page
def test_python_examples_call_what_is_there(page):
    for call in python_calls(page):
        name = ast.unparse(call.func).removeprefix("geoseg.")
        assert name in geoseg.__all__
        if name in cli.commands:
            options = {parameter.name for parameter in cli.commands[name].params}
            assert {keyword.arg for keyword in call.keywords} <= {*options, "progress"}


def test_every_public_name_and_result_is_in_the_api_page():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    shown = {ast.unparse(call.func).removeprefix("geoseg.") for call in python_calls(DOCS / "api.md")}
    assert {name for name in geoseg.__all__ if name[0].islower()} - {"plot"} <= shown
    assert [name for name in geoseg.__all__ if f"`{name}`" not in text] == []
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    assert rows.keys() == {result.__name__ for result in results()}
    for result in results():
        assert [field.name for field in fields(result) if f"`{field.name}`" not in rows[result.__name__]] == []


def results() -> list[type]:
    """The classes that the functions return."""
    from geoseg.bundle import Bundle
    from geoseg.cataloguing import ModelCard
    from geoseg.checking import Check
    from geoseg.chips import ChipFolder
    from geoseg.describing import Description
    from geoseg.evaluation import Evaluation
    from geoseg.exporting import ExportedModel
    from geoseg.polygons import PolygonLayer
    from geoseg.sampling import PointSample
    from geoseg.scene_maps import ScenePrediction
    from geoseg.suggestion import Suggestion
    from geoseg.survey import Plan

    return [
        ChipFolder,
        Plan,
        Bundle,
        ScenePrediction,
        PolygonLayer,
        ExportedModel,
        ModelCard,
        Evaluation,
        PointSample,
        Suggestion,
        Description,
        Check,
    ]


def test_the_api_page_tells_which_results_are_paths():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    (others,) = re.findall(r"^All but (.*) can be passed wherever a path is taken", text, re.MULTILINE)
    paths = {result.__name__ for result in results() if hasattr(result, "__fspath__")}
    assert {result.__name__ for result in results()} - paths == set(re.findall(r"`(\w+)`", others))


def test_every_module_is_in_the_design_page():
    names = set(re.findall(r"`(\w+)`", sections(DOCS / "design.md")["Floors"]))
    assert names == {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}


def test_networks_and_recipe_are_those_of_the_code():
    from geoseg.models import ARCHITECTURES
    from geoseg.recipe import Recipe

    page = DOCS / "choosing-a-network.md"
    assert blocks(page, "toml") == [(PACKAGE / "recipes" / "default.toml").read_text(encoding="utf-8")]
    text = page.read_text(encoding="utf-8")
    assert [arch for arch in ARCHITECTURES if f"`{arch}`" not in text] == []
    options = [f"`--{field.name.replace('_', '-')}`" for field in fields(Recipe)]
    assert [option for option in options if option not in text] == []


def training_keys() -> set[str]:
    """What `train` notes in a model, read off its source: running it takes too long here."""
    from geoseg.recipe import Recipe

    tree = ast.parse((PACKAGE / "training.py").read_text(encoding="utf-8"))
    (facts,) = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "facts"
    ]
    return {ast.literal_eval(key) for key in facts.keys if key} | {field.name for field in fields(Recipe)}


@pytest.fixture
def made(write_scene, rng, tmp_path) -> Path:
    """A folder with one of every file, but those of training: the network has random weights."""
    import torch

    from geoseg.bundle import write_bundle
    from geoseg.models import Architecture

    labels = np.kron(rng.integers(0, 2, (8, 8)), np.ones((5, 5), int)).astype(np.uint8)
    scene = write_scene("scene.tif", rng.integers(1, 999, (2, 40, 40), dtype=np.uint16), nodata=0)
    reference = write_scene("reference.tif", labels)
    chips = geoseg.tile(
        scene, labels=reference, out=tmp_path / "chips", chip_size=8, classes="0=other,1=crop", boundary=1
    )
    torch.manual_seed(0)
    architecture = Architecture(in_channels=2, classes=3, width=1)
    (tmp_path / "model").mkdir()
    write_bundle(
        tmp_path / "model", architecture.build().state_dict(), architecture=architecture, image=chips.image,
        legend=chips.legend, training=dict.fromkeys(training_keys()), metrics={},
    )  # fmt: skip
    (prediction,) = geoseg.predict(
        scene,
        model=tmp_path / "model",
        out=tmp_path / "predictions",
        only="crop",
        min_area=1,
        max_area=1e9,
        min_hole=1,
        fields=True,
        min_seed=1,
    )
    report = tmp_path / "report"
    geoseg.evaluate(
        chips, model=tmp_path / "model", against=tmp_path / "model", robustness=True, out=report, bootstrap=2
    )
    geoseg.evaluate(prediction, reference, out=report / "map", bootstrap=2)
    geoseg.sample(prediction, out=tmp_path / "points.gpkg", size=20, minimum=2)
    geoseg.suggest(scene, model=tmp_path / "model", out=tmp_path / "suggest.gpkg", count=2)
    table = gpd.read_file(tmp_path / "points.gpkg", layer="points")
    table["reference"] = table["stratum"]
    table.to_file(tmp_path / "labelled.gpkg", layer="points", driver="GPKG")
    geoseg.evaluate(prediction, tmp_path / "labelled.gpkg", out=report / "points")
    return tmp_path


def check_files(folder: Path, stem: str) -> None:
    """Compare every file in a folder with what the format page says of it."""
    documents = {
        "chips.json": folder / "chips" / "chips.json",
        "model.json": folder / "model" / "model.json",
        "<stem>_run.json": folder / "predictions" / f"{stem}_run.json",
        "metrics.json": folder / "report" / "metrics.json",
    }
    loaded = {section: json.loads(path.read_text(encoding="utf-8")) for section, path in documents.items()}
    for section, document in loaded.items():
        named = {re.sub(r"^splits\.(val|test)\..*", "splits.train", name) for name in documented(section)}
        named -= {name for name in named if document.get(name.split(".")[0], "") is None and "." in name}
        if "fields" not in (document.get("polygons") or {}):  # the quickstart does not tell them apart
            named -= {name for name in named if name.startswith("polygons.fields")}
        assert described_keys(document, section) == named, section
        assert document["format"] == 1
    for path in (folder / "report").glob("*/metrics.json"):
        other = json.loads(path.read_text(encoding="utf-8"))
        assert described_keys(other, "metrics.json") <= documented("metrics.json")
        if other["sample"] is not None:
            told = {name for name in documented("metrics.json") if name.startswith("sample.")}
            assert told <= described_keys(other, "metrics.json")
    for section, document in (("ImageSpec", loaded["model.json"]["image"]), ("Legend", loaded["model.json"]["legend"])):
        assert {key.removeprefix("[].") for key in keys(document)} == documented(section), section
    for section, command in (("chips.json", "tile"), ("<stem>_run.json", "predict")):
        assert loaded[section]["options"].keys() <= {option.name for option in cli.commands[command].params}


def check_tables(folder: Path, stem: str) -> None:
    """Compare the columns of the tables."""
    layers = {
        "index.gpkg": ("chips/index.gpkg", "chips"),
        "<stem>_polygons.gpkg": (f"predictions/{stem}_polygons.gpkg", "polygons"),
    }
    own = {"points.gpkg": ("points.gpkg", "points"), "suggest.gpkg": ("suggest.gpkg", "suggest")}
    layers |= {section: entry for section, entry in own.items() if (folder / section).exists()}
    for section, (path, layer) in layers.items():
        columns = pyogrio.read_info(folder / path, layer=layer)["fields"]
        assert {re.sub(r"^.+_\d+_pct$", "<class name>_<value>_pct", name) for name in columns} == documented(section)
    for name in ("per_class.csv", "per_place.csv"):
        with open(folder / "report" / name, encoding="utf-8", newline="") as file:
            assert set(next(csv.reader(file))) == documented(name)
    places = set(pyogrio.read_info(folder / "report" / "errors.gpkg", layer="places")["fields"])
    assert places == documented("per_place.csv") | {"rank"}


def test_the_format_page_names_every_key_and_column(made):
    check_files(made, "scene")
    check_tables(made, "scene")


def test_the_site_is_made_without_a_warning(tmp_path):
    words = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(DOCS), str(tmp_path / "site")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    start = (tmp_path / "site" / "README.html").read_text(encoding="utf-8")
    for page in [*DOCS.glob("*.md"), *DOCS.glob("*.rst")]:
        assert f'href="{page.stem}.html"' in start or page.stem == "README", "not among the contents"
    reference = (tmp_path / "site" / "reference.html").read_text(encoding="utf-8")
    assert all(f'id="geoseg.{name}"' in reference for name in [*cli.commands, "plot.chips"])


@pytest.mark.slow
def test_the_tutorial_runs_block_by_block():
    words = [sys.executable, "-W", "ignore", str(DOCS / "make_tutorial.py"), "--check"]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)}, check=False)
    assert done.returncode == 0


@pytest.mark.slow
def test_the_quickstart_works_line_by_line(tmp_path):
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    (four, map_score, own) = blocks(DOCS / "quickstart.md", "sh")
    assert "scenes/" in own  # the reader's own files, which are not here
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    for line in (four + map_score).splitlines():
        words = [*shlex.split(line), "--quiet"]
        words += ["--epochs", "1"] if words[1] == "train" else []
        words[0] = "-mgeoseg"
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    for name in re.findall(r"`(scene_to_predict[\w.]+)`", (DOCS / "quickstart.md").read_text(encoding="utf-8")):
        assert (tmp_path / "predictions" / name).exists()
    check_files(tmp_path, "scene_to_predict")
    check_tables(tmp_path, "scene_to_predict")
    with open(tmp_path / "model" / "history.csv", encoding="utf-8", newline="") as file:
        columns = {re.sub("val_iou_.*", "val_iou_<class name>", name) for name in next(csv.reader(file))}
    assert columns == documented("history.csv")


def test_every_promise_names_tests_that_are_there():
    text = (DOCS / "promises.md").read_text(encoding="utf-8")
    promises = re.split(r"^## \d+\. ", text, flags=re.MULTILINE)[1:]
    assert len(promises) == 10
    for promise in promises:
        held = promise.partition("Held by ")[2]
        named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", held)
        assert named, promise[:60]
        for file, test in named:
            assert not test or f"\ndef {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, test)
            assert (ROOT / "tests" / file).exists()


_VALUE = "\0"
"""Stands for what differs from run to run in the text of an f-string."""


def spoken_texts(source: str) -> list[str]:
    """The texts of a module: strings and f-strings, `_VALUE` for what is put into these; without docstrings."""
    tree = ast.parse(source)
    skipped = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    skipped |= {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else _VALUE for part in node.values]
            texts.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            texts.append(node.value)
    return texts


def is_said(quote: str, texts: list[str]) -> bool:
    """Whether one of the texts holds a quoted line, whose `...` stand for at least one value each."""
    pattern = f".*{_VALUE}.*".join(re.escape(part) for part in quote.split("..."))
    return any(re.search(pattern, text, re.DOTALL) for text in texts)


def quoted_lines() -> list[str]:
    """The lines that the troubleshooting page explains."""
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^\*\*`(.+)`\*\*$", text, re.MULTILINE)


def test_every_line_of_the_troubleshooting_page_is_said_by_the_code():
    modules = [*PACKAGE.glob("*.py"), *(ROOT / "qgis_plugin" / "geoseg_processing").glob("*.py")]
    texts = [text for path in modules for text in spoken_texts(path.read_text(encoding="utf-8"))]
    quotes = quoted_lines()
    assert len(quotes) >= 60
    assert len(set(quotes)) == len(quotes)
    assert [quote for quote in quotes if not is_said(quote, texts)] == []


def test_a_line_that_no_code_says_is_found_out():
    texts = spoken_texts('''def warn(path, size):
    """Say: gone for good."""
    return f"{path}: {size} bytes found, " "which is too few; fetch it again"
''')
    assert is_said("bytes found, which is too few", texts)
    assert is_said("... bytes found, which is too few; fetch it", texts)
    assert not is_said("bytes found, which is too many", texts)
    assert not is_said("bytes ... which", texts)  # no value stands there
    assert not is_said("gone for good", texts)  # a docstring is said to nobody
