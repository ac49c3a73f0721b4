"""Odd names, locales, folders and readers of what is printed: real processes, which say in one line what stands in the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from farm import plough

import geoseg
from geoseg.errors import InputError, LegendError
from geoseg.legend import make_legend
from geoseg.report_tables import _write_csv
from geoseg.scenes import describe_scene

PROCESS = [sys.executable, "-m", "geoseg"]
posix = pytest.mark.skipif(os.name != "posix", reason="of POSIX")


@pytest.fixture(scope="module")
def farm(tmp_path_factory) -> Path:
    return plough(tmp_path_factory.mktemp("farm"))


def said(*arguments: object, **options) -> tuple[int, str]:
    """Exit code of a command, and what it says of its fault."""
    done = subprocess.run(
        [*PROCESS, *map(str, arguments), "-q"], capture_output=True, text=True, check=False, **options
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_names_of_any_script_and_with_spaces(farm, tmp_path):
    folder = tmp_path / "农田 场景"
    (folder / "маски").mkdir(parents=True)
    shutil.copy(farm / "scene.tif", folder / "北京 2024's.tif")
    shutil.copy(farm / "labels.tif", folder / "маски" / "北京 2024's_mask.tif")
    chips = geoseg.tile(folder, labels=folder / "маски", out=tmp_path / "块 %1", chip_size=32, block_size=1)
    assert len(chips.chips) == 24
    (made,) = geoseg.predict(folder, model=farm / "model", out=tmp_path / "结果 #1", window=96, margin=16)
    assert len(gpd.read_file(made.outputs["polygons"], layer="polygons"))
    assert sorted(path.name for path in folder.iterdir()) == ["маски", "北京 2024's.tif"]


@posix
def test_a_locale_that_knows_no_such_letters(farm, tmp_path):
    shutil.copy(farm / "scene.tif", tmp_path / "北京.tif")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    code, line = said("info", tmp_path / "北京.tif", env=plain | ascii_only)
    assert (code, line.count("\n")) == (1, 1)
    assert "cannot be opened in a locale that knows no such letters; set LANG=C.UTF-8" in line
    assert said("info", tmp_path / "北京.tif", env=plain | {"LC_ALL": "C"}) == (0, "")


@pytest.mark.parametrize("length", [243, 249, 251])
def test_names_as_long_as_the_disk_takes(farm, tmp_path, length):
    scene = tmp_path / f"{'n' * (length - 4)}.tif"
    shutil.copy(farm / "scene.tif", scene)
    with pytest.raises(
        InputError, match=rf"_probabilities\.tif\.aux\.xml: a name of {length + 22} bytes, where 255 are possible"
    ):
        geoseg.predict(scene, model=farm / "model", out=tmp_path / "out")
    with pytest.raises(InputError, match=rf"_000000\.tif: a name of {length + 14} bytes"):
        geoseg.tile(scene, labels=farm / "labels.tif", out=tmp_path / "chips", chip_size=32, block_size=1)
    longest = tmp_path / f"{'地' * ((length - 5) // 3)}.gpkg"
    geoseg.polygonize(farm / "map" / "scene_classes.tif", out=longest)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([scene.name, longest.name])


@posix
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be somebody else for a while"
)
@pytest.mark.parametrize(
    "command",
    [
        "tile FARM/scene.tif --labels FARM/labels.tif --chip-size 32 --block-size 1 -o locked/chips",
        "train FARM/chips --epochs 1 --width 2 -o locked/model", "predict FARM/scene.tif -m FARM/model -o locked",
        "polygonize FARM/map/scene_classes.tif -o locked/a.gpkg", "evaluate FARM/chips -m FARM/model -o locked/report",
        "sample FARM/map/scene_classes.tif -o locked/a.gpkg", "suggest FARM/scene.tif -m FARM/model -o locked/a.gpkg --window 32",
        "info secret.tif", "polygonize secret.tif -o open.gpkg", "tile FARM/scene.tif --labels secret.tif -o chips",
    ],
)  # fmt: skip
def test_what_may_not_be_written_or_read(farm, tmp_path, command):
    shutil.copy(farm / "map" / "scene_classes.tif", tmp_path / "secret.tif")
    (tmp_path / "secret.tif").chmod(0o600)
    (tmp_path / "locked").mkdir(mode=0o755)
    for folder in (farm, *farm.parents, tmp_path, *tmp_path.parents):  # pytest's folders are its own
        folder.chmod(folder.stat().st_mode | 0o055)
    tmp_path.chmod(0o777)

    def become_nobody() -> None:
        os.setgid(65534)
        os.setuid(65534)

    elsewhere = os.environ | {
        "HOME": str(tmp_path),
        "MPLCONFIGDIR": str(tmp_path),
        "PYTHONPATH": str(Path(geoseg.__file__).parents[1]),
    }
    try:
        subprocess.run([sys.executable, "-c", ""], env=elsewhere, cwd=tmp_path, preexec_fn=become_nobody, check=True)
    except PermissionError:
        pytest.skip(f"others than root may not run {sys.executable}, where it lies")
    code, line = said(
        *command.replace("FARM", str(farm)).split(), cwd=tmp_path, env=elsewhere, preexec_fn=become_nobody
    )
    assert (code, line.count("\n")) == (1, 1), line
    assert "ermission denied" in line
    assert not any((tmp_path / "locked").iterdir())


@posix
@pytest.mark.parametrize("reader", ["| true", "> /dev/full"])
def test_nobody_reads_what_is_printed(farm, reader):
    command = f"{sys.executable} -m geoseg info {farm / 'scene.tif'} {reader}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: standard output: the result could not be printed (")
    assert done.stderr.count("\n") == 1


# Names that are more than names


def test_letters_that_move_a_cursor_reach_no_terminal(write_scene, tmp_path):
    name = "\x1b]0;owned\x07red\n\u2028"
    path = write_scene("scene.tif", np.ones((2, 8, 8), np.uint8), names=[name, "nir"])
    assert describe_scene(path).band_names == ("]0;ownedred", "nir")
    with pytest.raises(LegendError, match=r"class 1: name 'a\\x1bb' found, with letters that cannot be shown"):
        make_legend([1], ["a\x1bb"])
    code, line = said("info", tmp_path / "\r\x07red.tif")
    assert code == 1
    assert not {"\r", "\x07"} & set(line)


def test_names_that_spreadsheets_would_run(tmp_path):
    _write_csv(tmp_path / "a.csv", [{"name": '=HYPERLINK("http://a")', "-x": -1.5, "note": "@sum"}])
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "name,'-x,note",
        '"\'=HYPERLINK(""http://a"")",-1.5,\'@sum',
    ]


def test_names_that_are_markup_stay_names(farm, tmp_path):
    """In every file that a browser or QGIS reads: a report, styles, a project."""
    names = ["<script>alert(1)</script>", "]]></qgis>&amp;", "[% $now %]\" onload='x'"]
    shutil.copytree(farm / "model", tmp_path / "model")
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    for entry, name in zip(card["legend"], names, strict=True):
        entry["name"] = name
    (tmp_path / "model" / "model.json").write_text(json.dumps(card))
    geoseg.predict(farm / "scene.tif", model=tmp_path / "model", out=tmp_path / "out", window=96, margin=16)
    geoseg.evaluate(tmp_path / "out" / "scene_classes.tif", farm / "labels.tif", out=tmp_path / "report", bootstrap=5)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    for path in (tmp_path / "out").glob("*.qml"):
        text = path.read_text(encoding="utf-8")
        assert "<script>" not in text
        assert ("&lt;script&gt;" in text) == ("classes" in path.name)
    info = geoseg.info(tmp_path / "out" / "scene_classes.tif")
    assert [entry["name"] for entry in info.facts["legend"]] == names
