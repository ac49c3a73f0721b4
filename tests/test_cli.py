"""The command line: the twin of the functions, with good manners."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
import typing
import warnings
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import geoseg
from geoseg.cli import SHARED, cli
from geoseg.describing import Description
from geoseg.errors import DataWarning, PreflightError, RasterError, SomeScenesError
from geoseg.recipe import describe_recipes

COMMANDS = sorted(cli.commands)
PROCESS = [sys.executable, "-m", "geoseg"]


def geoseg_cli(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(
        cli, [str(argument) for argument in arguments], prog_name="geoseg", catch_exceptions=False
    )


def own_params(name: str) -> list[click.Parameter]:
    """Arguments and options that are not shared by all commands."""
    return [param for param in cli.commands[name].params if param not in SHARED]


def own_parameters(name: str) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(getattr(geoseg, name)).parameters
    return {key: parameter for key, parameter in parameters.items() if key != "progress"}


def kinds(annotation: object) -> set[object]:
    """The types of a union, and the words of a Literal in it."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set().union(*map(kinds, typing.get_args(annotation)))
    if typing.get_origin(annotation) is typing.Literal:
        return {typing.get_args(annotation)}
    return {annotation}


@pytest.fixture
def tiling(write_scene: Callable[..., Path], tmp_path: Path, rng: np.random.Generator) -> list[object]:
    """Arguments that cut a scene into 16 chips under `tmp_path`."""
    scene = write_scene("scene.tif", rng.integers(0, 200, (3, 64, 64), dtype=np.uint8))
    labels = write_scene("labels.tif", rng.integers(0, 2, (64, 64), dtype=np.uint8))
    return ["tile", scene, "--labels", labels, "--chip-size", 16, "--out", tmp_path / "chips"]


@pytest.fixture
def stretched(tiling: list[object], write_scene: Callable[..., Path]) -> list[object]:
    """The same with labels that are worth a warning."""
    pixels = np.eye(64, dtype=np.uint8) * 255
    return [*tiling, "--labels", write_scene("stretched.tif", pixels)]


# --- twins


def test_every_command_is_a_function():
    functions = {name for name in geoseg.__all__ if inspect.isfunction(getattr(geoseg, name))}
    assert functions - {"parse_legend"} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_parameters_are_those_of_the_function(name):
    assert [param.name for param in own_params(name)] == list(own_parameters(name))
    arguments = [param.name for param in own_params(name) if isinstance(param, click.Argument)]
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    assert arguments == [key for key, parameter in own_parameters(name).items() if parameter.kind != keyword_only]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_defaults_are_those_of_the_function(name):
    needed = [param for param in own_params(name) if param.required]
    line = [
        word for param in needed for word in ([] if isinstance(param, click.Argument) else [param.opts[-1]]) + ["x"]
    ]
    given = cli.commands[name].make_context(name, line, parent=click.Context(cli, **cli.context_settings)).params
    parameters = own_parameters(name)
    assert {param.name for param in needed} == {key for key, p in parameters.items() if p.default is p.empty}
    defaults = {
        key: parameter.default for key, parameter in parameters.items() if parameter.default is not parameter.empty
    }
    assert {key: given[key] for key in defaults} == defaults


@pytest.mark.parametrize("name", COMMANDS)
def test_the_choices_are_those_of_the_function(name):
    hints = typing.get_type_hints(getattr(geoseg, name))
    offered = {p.name: tuple(p.type.choices) for p in own_params(name) if isinstance(p.type, click.Choice)}
    words = {key: [kind for kind in kinds(hints[key]) if isinstance(kind, tuple)] for key in own_parameters(name)}
    assert offered == {key: found[0] for key, found in words.items() if found}


@pytest.mark.parametrize("name", COMMANDS)
def test_numbers_and_flags_are_those_of_the_function(name):
    hints = typing.get_type_hints(getattr(geoseg, name))
    for param in own_params(name):
        read = {"integer": int, "float": float, "boolean": bool, "auto|N": int, "m2|ha": float}.get(param.type.name)
        taken = {kind for kind in kinds(hints[param.name]) if kind in (int, float, bool)}
        # Where a text stands for a number, as in `30m`, Python may give the number itself.
        assert taken == ({read} - {None}) or (read is None and taken == {float} and str in kinds(hints[param.name]))


# --- help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name):
    shown = geoseg_cli(name, "--help")
    assert shown.exit_code == 0
    assert cli.commands[name].help
    for param in cli.commands[name].params:
        if isinstance(param, click.Option):
            assert param.help, param.name
            assert all(option in shown.stdout for option in param.opts)


def test_no_command_is_explained_by_half_a_sentence():
    shown = geoseg_cli("--help").stdout.partition("Commands:")[2]
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert "..." not in shown


def test_version():
    assert geoseg_cli("--version").stdout == f"geoseg, version {geoseg.__version__}\n"


def test_underscores_are_taken_for_dashes(tiling):
    assert geoseg_cli(*[str(word).replace("--chip-size", "--chip_size") for word in tiling], "--dry_run").exit_code == 0


def test_the_recipes_are_listed():
    shown = geoseg_cli("train", "--recipe", "list")
    assert (shown.exit_code, shown.stdout, shown.stderr) == (0, describe_recipes() + "\n", "")


# --- what goes where


def test_results_on_stdout_and_progress_on_stderr(tiling, tmp_path):
    done = geoseg_cli(*tiling)
    assert done.exit_code == 0
    assert done.stdout == f"{geoseg.info(tmp_path / 'chips')}\n"
    assert "survey scene: 100%" in done.stderr
    assert "write chips: 100%" in done.stderr


def test_quiet(tiling):
    done = geoseg_cli(*tiling, "-q")
    assert done.stderr == ""
    assert "16 chips" in done.stdout


def test_json_is_one_document(tiling, tmp_path):
    done = geoseg_cli(*tiling, "--json")
    assert json.loads(done.stdout) == json.loads((tmp_path / "chips" / "chips.json").read_text())
    planned = json.loads(geoseg_cli(*tiling, "--dry-run", "--json").stdout)
    assert planned["splits"] == json.loads(done.stdout)["splits"]


@pytest.mark.parametrize("count", [1, 2])
def test_json_of_a_list_is_one_document(count, monkeypatch, tmp_path):
    results = [Description(tmp_path, "scene", f"text {i}", {"i": i}) for i in range(count)]
    monkeypatch.setattr(geoseg, "predict", lambda scenes, **options: results)
    assert json.loads(geoseg_cli("predict", "x.tif", "--json").stdout) == [result.to_dict() for result in results]
    assert geoseg_cli("predict", "x.tif").stdout == "".join(f"text {i}\n" for i in range(count))


def test_what_was_made_is_told_where_some_scenes_failed(monkeypatch, tmp_path):
    def fail(scenes, **options):
        made = [Description(tmp_path, "scene", "the map of a", {"i": 1})]
        raise SomeScenesError(made, [RasterError("b.tif: damaged")])

    monkeypatch.setattr(geoseg, "predict", fail)
    done = geoseg_cli("predict", "a.tif", "b.tif", "--json")
    assert (done.exit_code, [entry["i"] for entry in json.loads(done.stdout)]) == (1, [1])
    assert "1 of 2 scenes failed, the others are done: b.tif: damaged" in done.stderr
    assert geoseg_cli("predict", "a.tif", "b.tif").stdout == "the map of a\n"


def test_classes_may_be_named_one_by_one(monkeypatch):
    monkeypatch.setattr(geoseg, "predict", lambda scenes, only, **options: [only or "all"])
    for arguments, told in (
        ((), "all"),
        (("--only", "2,water"), "2,water"),
        (("--only", "2", "--only", "water"), "2,water"),
    ):
        assert geoseg_cli("predict", "x.tif", *arguments).stdout == f"{told}\n"


def test_a_warning_is_shown_once(stretched):
    done = geoseg_cli(*stretched, "-q")
    assert done.exit_code == 0
    assert done.stderr == f"Warning: {stretched[-1]}: labels of 0 and 255 are read as 0 and 1\n"


def test_a_warning_from_two_places_is_shown_once(monkeypatch, tmp_path):
    def warn(path):
        warnings.warn(f"{path}: odd", DataWarning, stacklevel=1)
        with warnings.catch_warnings():  # after which Python has forgotten what was said
            warnings.simplefilter("ignore", RuntimeWarning)
        warnings.warn(f"{path}: odd", DataWarning, stacklevel=1)
        warnings.warn("of no interest to a user", DeprecationWarning, stacklevel=1)
        return "done"

    monkeypatch.setattr(geoseg, "info", warn)
    assert geoseg_cli("info", tmp_path).stderr == f"Warning: {tmp_path}: odd\n"
    assert "of no interest" in geoseg_cli("info", "-v", tmp_path).stderr


# --- how it ends


def test_an_error_is_one_line(tmp_path):
    done = geoseg_cli("info", tmp_path / "no.tif")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {tmp_path / 'no.tif'}: not found; ")
    assert done.stderr.count("\n") == 1


def test_an_error_with_a_line_break_is_one_line(monkeypatch):
    def fail(path):
        raise PreflightError([RasterError("a.tif: damaged\nat row 5"), RasterError("b.tif: damaged")])

    monkeypatch.setattr(geoseg, "info", fail)
    assert geoseg_cli("info", "x").stderr.splitlines()[1:] == ["a.tif: damaged at row 5", "b.tif: damaged"]


def test_several_faults_are_listed_at_once(tmp_path):
    names = ["a.tif", "b.tif", "labels.gpkg"]
    done = geoseg_cli("tile", *(tmp_path / name for name in names[:2]), "--labels", tmp_path / names[2])
    assert done.exit_code == 1
    head, *lines = done.stderr.splitlines()
    assert head == "Error: 3 faults, nothing was done"
    assert [line.split(":")[0] for line in lines] == [str(tmp_path / name) for name in names]


def test_an_unforeseen_error_is_one_line_with_a_way_out(monkeypatch):
    def fail(path):
        raise ZeroDivisionError("a thing\nthat nobody thought of")

    monkeypatch.setattr(geoseg, "info", fail)
    done = geoseg_cli("info", "x")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: unforeseen ZeroDivisionError: a thing that nobody thought of; run again with --debug and report it\n"
    )


def test_a_traceback_for_those_who_ask(tmp_path):
    done = geoseg_cli("info", tmp_path / "no.tif", "--debug")
    assert done.exit_code == 1
    assert done.stderr.startswith("Traceback (most recent call last)")
    assert done.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["info"],
        ["tile", "x.tif"],
        ["map", "x.tif"],
        ["info", "x.tif", "--nonsense"],
        ["tile", "x.tif", "--labels", "y.tif", "--other", "perhaps"],
        ["predict", "x.tif", "--window", "large"],
        ["polygonize", "x.tif", "-o", "y.gpkg", "--connectivity", "6"],
    ],
)
def test_wrong_usage_is_2(arguments):
    done = geoseg_cli(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Usage: geoseg" in done.stderr


def test_strict_makes_a_warning_an_error(stretched, tmp_path):
    done = geoseg_cli(*stretched, "--strict", "-q")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"Error: {stretched[-1]}: labels of 0 and 255")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "chips").exists()


def test_a_real_process_exits_1_without_a_traceback(tmp_path):
    done = subprocess.run([*PROCESS, "info", tmp_path / "no.tif"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("when", ["survey", "write"])
def test_a_signal_leaves_nothing_behind(number, code, when, write_scene, tmp_path, rng):
    scene = write_scene("scene.tif", rng.integers(0, 200, (1, 2048, 2048), dtype=np.uint8))
    labels = write_scene("labels.tif", rng.integers(0, 2, (2048, 2048), dtype=np.uint8))
    size = {"survey": 8, "write": 64}[when]  # 65,536 chips take a while to survey, 1,024 a while to write
    out = tmp_path / "out" / "chips"
    with subprocess.Popen(
        [*PROCESS, "tile", scene, "--labels", labels, "--chip-size", str(size), "--out", out],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # What starts the tests in the background may have them ignore Ctrl-C, and children with them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        try:
            assert process.stderr.read(7).strip() == "survey"
            while when == "write" and process.poll() is None and not any(out.rglob("*.tif")):
                time.sleep(0.02)
            process.send_signal(number)
            told, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == code
    assert told == ""
    assert "Traceback" not in said
    assert "Stopped." in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.tif", "scene.tif"]


# --- a file of defaults


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    """A function that writes a configuration file."""

    def write(text: str) -> Path:
        path = tmp_path / "geoseg.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def params(*arguments: object) -> dict[str, object]:
    """What a command would be called with."""
    name, *rest = map(str, arguments)
    return cli.commands[name].make_context(name, rest, parent=click.Context(cli, **cli.context_settings)).params


def test_a_config_sets_defaults(config):
    path = config("""
        [tile]
        labels = "labels.gpkg"
        chip-size = 32
        min_label = 0.25
        bands = [4, "red"]
        block-size = "auto"
        all-touched = true
        json = true
        [train]
        recipe = "mine"
        [predict]
        confidence = false
        polygons = true
        connectivity = 8
        window = 512
        only = ["cultivated", 2]
    """)
    given = params("tile", "--config", path, "x.tif")
    expected = {"labels": "labels.gpkg", "chip_size": 32, "min_label": 0.25, "bands": "4,red", "block_size": None,
                "all_touched": True, "json": True, "stack": False, "stride": None}  # fmt: skip
    assert {key: given[key] for key in expected} == expected
    assert params("train", "--config", path)["recipe"] == "mine"
    given = params("predict", "x.tif", "--config", path)
    expected = {"confidence": False, "polygons": True, "connectivity": 8, "window": 512, "margin": None,
                "only": "cultivated,2"}  # fmt: skip
    assert {key: given[key] for key in expected} == expected
    assert params("evaluate", "--config", path) == params("evaluate")


def test_the_command_line_beats_the_config(config):
    path = config('[tile]\nlabels = "a"\nchip_size = 32\nstack = true\n[predict]\nconfidence = false\n')
    given = params("tile", "x.tif", "--chip-size", 64, "--config", path, "--labels", "b")
    assert (given["chip_size"], given["labels"], given["stack"]) == (64, "b", True)
    assert params("predict", "x.tif", "--config", path, "--confidence")["confidence"] is True


def test_a_config_is_used(tiling, config, tmp_path):
    done = geoseg_cli(*tiling, "--config", config("[tile]\nsplit = '1:0:0'\nquiet = true\njson = true\n"))
    assert done.stderr == ""
    assert json.loads(done.stdout)["splits"]["train"]["chips"] == 16


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[tile]\nchip_sise = 32", "chip_sise"),
        ("[tile]\nscenes = 'a.tif'", "scenes"),
        ("[tile]\nconfig = 'b.toml'", "config"),
        ("[tiles]\nchip_size = 32", "tiles"),
        ("chip_size = 32", "chip_size"),
        ("tile = 32", "tile"),
        ("[tile]\nchip_size = 'large'", "--chip-size"),
        ("[tile]\nchip_size = [1, 2]", "--chip-size"),
        ("[tile]\nchip_size = {rows = 1}", "--chip-size"),
        ("[tile]\nother = 'perhaps'", "--other"),
        ("[tile]\nstack = 'perhaps'", "--stack"),
        ("[tile\n", "TOML"),
        ("[tile]\nchip_size = 1\nchip_size = 2", "TOML"),
    ],
)
def test_a_config_that_cannot_be_meant_is_wrong_usage(tiling, config, text, named, tmp_path):
    done = geoseg_cli(*[word for word in tiling if word not in ("--chip-size", 16)], "--config", config(text))
    assert (done.exit_code, done.stdout) == (2, "")
    assert named in done.stderr.splitlines()[-1]
    assert not (tmp_path / "chips").exists()


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_config_that_cannot_be_read_is_wrong_usage(content, tmp_path):
    if content:
        (tmp_path / "geoseg.toml").write_bytes(content)
    done = geoseg_cli("info", "x.tif", "--config", tmp_path / "geoseg.toml")
    assert done.exit_code == 2
    assert "--config" in done.stderr


def test_a_bar_for_scripts_tells_each_stage_to_its_end(tiling, tmp_path, capfd):
    scene, labels = tiling[1], tiling[tiling.index("--labels") + 1]
    bar = geoseg.ProgressBar()
    geoseg.tile(scene, labels=labels, out=tmp_path / "bar", chip_size=16, split="1:0:0", progress=bar)
    told = capfd.readouterr()
    assert told.out == ""
    assert len(re.findall(r"write chips: 100%.*16/16", told.err)) == 1
    bar("write chips", 16, 16)
    assert capfd.readouterr().err == ""
    assert told.err.endswith("\n")
    geoseg.tile(
        scene,
        labels=labels,
        out=tmp_path / "mute",
        chip_size=16,
        split="1:0:0",
        progress=geoseg.ProgressBar(quiet=True),
    )
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "square_metres"), [("5000", 5000), ("0.5ha", 5000), ("1.5 ha", 15_000), ("2e3", 2000)]
)
def test_areas_are_square_metres_or_hectares(text, square_metres):
    assert params("polygonize", "a.tif", "-o", "a.gpkg", "--min-area", text)["min_area"] == square_metres


def test_what_is_no_area_is_wrong_usage():
    done = geoseg_cli("polygonize", "a.tif", "-o", "a.gpkg", "--min-area", "half")
    assert done.exit_code == 2
    assert "'half' is no area; write square metres such as 5000, or hectares such as 0.5ha" in done.stderr


def test_a_tag_that_is_no_utf8_is_not_told_of_by_tracebacks(write_scene):
    path = write_scene("scene.tif", np.ones((3, 16, 16), np.uint8), names=["blue", "green", "red"])
    broken = path.read_bytes().replace(b"</GDALMetadata>", b"<\xffGDALMetadata>")
    assert broken != path.read_bytes()
    path.write_bytes(broken)
    done = subprocess.run([*PROCESS, "info", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("scene: 16 x 16, 3 bands")
    assert done.stderr == ""
