"""The QGIS plugin: it calls the command line as a user would, and says in one line what keeps it from that."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import rasterio
from farm import contents, plough

import geoseg
from geoseg.cli import cli

ROOT = Path(__file__).parents[1] / "qgis_plugin"
PLUGIN = ROOT / "geoseg_processing"
COMMANDS = json.loads((PLUGIN / "commands.json").read_text(encoding="utf-8"))
GEOSEG = Path(sys.executable).with_name("geoseg")
QGIS_PYTHON = "/usr/bin/python3"


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


command_line = load(PLUGIN / "command_line.py")


@pytest.fixture(scope="module")
def farm(tmp_path_factory) -> Path:
    return plough(tmp_path_factory.mktemp("farm"))


def fake(folder: Path, version: str) -> str:
    """A program that says to be some geoseg."""
    path = folder / "geoseg"
    path.write_text(f"#!/bin/sh\necho 'geoseg, version {version}'\n")
    path.chmod(0o755)
    return str(path)


def run(words, *, cancelled=lambda: False):
    stages, lines = [], []
    words = [str(word) for word in words]
    result = command_line.run(words, progress=lambda *told: stages.append(told), say=lines.append, cancelled=cancelled)
    return result, stages, lines


def test_the_commands_are_those_of_the_command_line():
    make = load(ROOT / "make_commands.py")
    assert make.document() == (PLUGIN / "commands.json").read_text(encoding="utf-8"), "run qgis_plugin/make_commands.py"


def test_the_plugin_needs_no_newer_geoseg_than_this():
    metadata = configparser.ConfigParser()
    metadata.read(PLUGIN / "metadata.txt", encoding="utf-8")
    assert metadata["general"]["version"] == geoseg.__version__
    assert [int(part) for part in geoseg.__version__.split(".")] >= [*command_line.NEEDED]
    assert (PLUGIN / metadata["general"]["icon"]).exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_words_are_read_by_the_command_line_as_they_were_meant(name):
    given = {}
    for param in COMMANDS[name]["params"]:
        value = {
            "flag": not param["default"], "int": 7, "float": 0.25, "text": "a b=c", "path": "dir/ä b.tif",
        }.get(param["type"])  # fmt: skip
        given[param["name"]] = param["choices"][-1] if param["type"] == "choice" else value
    given |= {key: "5" for key in ("window", "margin", "batch_size", "block_size") if isinstance(given.get(key), str)}
    given.pop("recipe", None)
    if "scenes" in given:
        given["scenes"] = ["-a.tif", "b.tif"]
    words = command_line.arguments(COMMANDS[name], given)
    # Without its group, a command would keep a help option of another name for all tests after this one.
    context = cli.commands[name].make_context(name, list(words), parent=cli.make_context("geoseg", [name]))
    for key, value in given.items():
        found = context.params[key]
        assert str(found) == str(tuple(value) if isinstance(value, list) else value), key


def test_defaults_and_nothing_are_not_said():
    assert command_line.arguments(COMMANDS["predict"], {}) == ["--"]
    given = {param["name"]: param["default"] for param in COMMANDS["predict"]["params"] if "flag" in param}
    assert command_line.arguments(COMMANDS["predict"], given) == ["--"]
    off = command_line.arguments(COMMANDS["predict"], {"confidence": False, "polygons": True, "resume": True})
    assert off == ["--no-confidence", "--resume", "--"]


def test_it_tells_progress_and_the_result_and_makes_what_the_command_makes(farm, tmp_path):
    words = [GEOSEG, "predict", "--precision=fp32", f"--model={farm / 'model'}"]
    result, stages, lines = run([*words, f"--out={tmp_path / 'a'}", "--", farm / "scene.tif"])
    assert str(tmp_path / "a" / "scene_classes.tif") in result
    assert stages[-1][1] == 100
    assert {stage for stage, _ in stages} >= {"predict scene"}
    assert lines == []
    subprocess.run([*words, f"--out={tmp_path / 'b'}", farm / "scene.tif", "-q"], check=True, capture_output=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_an_error_is_its_own_line(farm, tmp_path):
    with pytest.raises(command_line.GeosegRunError, match=r"^.*none.model\.json: not found; [^\n]*$"):
        run([GEOSEG, "predict", f"--model={tmp_path / 'none'}", "--", farm / "scene.tif"])
    with pytest.raises(
        command_line.GeosegRunError, match=r"3 faults, nothing was done; --window 0: .*; .*model\.json: not found.*"
    ):
        run([GEOSEG, "predict", "--window=0", f"--model={tmp_path / 'none'}", "--", tmp_path / "none.tif"])


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_cancelled_run_cleans_up_after_itself(farm, tmp_path):
    began = time.monotonic()
    words = [
        GEOSEG,
        "tile",
        f"--labels={farm / 'labels.tif'}",
        "--chip-size=16",
        "--stride=1",
        f"--out={tmp_path / 'c'}",
    ]
    _, _, lines = run([*words, "--", farm / "scene.tif"], cancelled=lambda: time.monotonic() - began > 3)
    assert lines[-1].startswith("Stopped.")
    assert list(tmp_path.iterdir()) == []


def test_no_executable_and_one_that_is_something_else(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        command_line.MissingGeosegError, match=r"^geoseg is not on the PATH: install it with 'pip install geoseg'"
    ):
        command_line.find_executable("")
    with pytest.raises(
        command_line.MissingGeosegError, match=r"nowhere does not run \(.*\): name the executable of geoseg"
    ):
        command_line.find_executable(str(tmp_path / "nowhere"))
    with pytest.raises(command_line.MissingGeosegError, match="is not geoseg: name its executable under Settings"):
        command_line.find_executable(sys.executable)


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_an_older_geoseg_is_refused_and_a_newer_one_taken(tmp_path, monkeypatch):
    old = fake(tmp_path, "0.0.9")
    with pytest.raises(
        command_line.MissingGeosegError, match=r"is geoseg 0\.0\.9, this plugin needs 0\.1\.0 or later: pip"
    ):
        command_line.find_executable(old)
    assert command_line.find_executable(f" {fake(tmp_path, '0.10.0')} ") == old
    assert command_line.find_executable(str(GEOSEG)) == str(GEOSEG)


def test_geoseg_does_not_see_the_libraries_of_qgis(monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setenv("PROJ_LIB", "/nowhere")
    monkeypatch.setenv("HTTPS_PROXY", "kept")
    environment = command_line.own_environment()
    assert not {"PYTHONHOME", "PROJ_LIB"} & environment.keys()
    assert environment["HTTPS_PROXY"] == "kept"
    assert command_line.find_executable(str(GEOSEG))  # which would not start with that PYTHONHOME


def test_every_path_of_a_command_is_known_to_the_dialogs():
    text = (PLUGIN / "algorithm.py").read_text(encoding="utf-8")
    kinds = dict(re.findall(r'"(\w+)": "(rasters|raster|layer|polygons|folder|text)"', text))
    paths = {param["name"] for command in COMMANDS.values() for param in command["params"] if param["type"] == "path"}
    assert paths - {"out", "classes"} <= kinds.keys()
    assert all(isinstance(cli.commands[name], click.Command) and f'"{name}": (' in text for name in COMMANDS)


def has_qgis() -> bool:
    code = "import sys, importlib.util as u; sys.exit(u.find_spec('qgis') is None)"
    return os.path.exists(QGIS_PYTHON) and subprocess.run([QGIS_PYTHON, "-c", code], check=False).returncode == 0


@pytest.mark.qgis
@pytest.mark.skipif(not has_qgis(), reason="QGIS is not installed")
def test_every_algorithm_runs_in_qgis(farm, tmp_path):
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home"), "QT_QPA_PLATFORM": "offscreen", "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    script, out = Path(__file__).with_name("plugin_in_qgis.py"), tmp_path / "out"
    for folder in (out, farm / "stack", farm / "stack_labels"):
        folder.mkdir()
    with rasterio.open(farm / "scene.tif") as scene:
        for number in (1, 2):
            with rasterio.open(farm / "stack" / f"B{number}.tif", "w", **scene.profile | {"count": 1}) as band:
                band.write(scene.read([number]))
    shutil.copy(farm / "labels.tif", farm / "stack_labels" / "stack.tif")
    words = [QGIS_PYTHON, script, PLUGIN, farm, out, GEOSEG]
    done = subprocess.run([str(word) for word in words], env=environment, capture_output=True, text=True, check=False)
    assert "JSON" in done.stdout, done.stderr
    found = json.loads(done.stdout.split("JSON", 1)[1])
    loaded = {
        name: {layer: kind for layer, (kind, _) in told.get("loaded", {}).items()} for name, told in found.items()
    }
    assert loaded["predict"] == {
        "scene_classes": "paletted", "scene_confidence": "singlebandpseudocolor", "scene_polygons": "categorizedSymbol",
    }  # fmt: skip
    assert loaded["polygonize"] == {"fields": "categorizedSymbol"}
    assert loaded["sample"] == {"points": "categorizedSymbol"}
    assert set(loaded["suggest"]) == {"suggest"}
    geoseg.predict(farm / "scene.tif", model=farm / "model", out=out / "own", precision="fp32")
    noted = {name: digest for name, digest in contents(out / "map").items() if name != "scene_confidence.tif.aux.xml"}
    assert noted == contents(out / "own")  # but for what QGIS notes beside a raster that it opens
    assert (out / "chips" / "chips.json").exists()
    assert geoseg.info(out / "model").kind == "model"
    assert Path(found["evaluate map"]["results"]["REPORT"]).exists()
    assert Path(found["evaluate chips"]["results"]["REPORT"]).exists()
    assert "exists already" in found["again"]["error"]
    assert "model.json: not found" in found["no model"]["error"]
    assert [band["name"] for band in json.loads((out / "chips2" / "chips.json").read_text())["image"]["bands"]] == [
        "B1",
        "B2",
    ]
    assert (out / "fields.geojson").exists()
    assert found["both"]["error"].startswith("Either a map and a reference, or a chip folder and a model")
    assert found["half a pair"]["error"].startswith("A map and a reference go together")
    assert "does not run" in found["not geoseg"]["error"]
    assert found["cancelled"]["seconds"] < 60
    assert any(line.startswith("Stopped.") for line in found["cancelled"]["lines"])
    assert not (out / "none").exists()
