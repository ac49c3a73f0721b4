"""What `info` says of each kind of file, and that `check` finds what `tile` and `predict` would."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from click.testing import CliRunner

import geoseg
from geoseg.bundle import CARD, WEIGHTS, write_bundle
from geoseg.cli import cli
from geoseg.describing import Check, check, info
from geoseg.errors import (
    DataWarning,
    FormatError,
    InputError,
    MismatchWarning,
    MissingFileError,
    PreflightError,
    RasterError,
)
from geoseg.models import Architecture


@pytest.fixture
def scene(write_scene: Callable[..., Path], rng: np.random.Generator) -> Path:
    """80 x 64 pixels of 10 m in three bands."""
    return write_scene("scene.tif", rng.integers(1, 200, (3, 80, 64), dtype=np.uint8), names=["blue", "green", "red"])


@pytest.fixture
def labels(write_scene: Callable[..., Path], rng: np.random.Generator) -> Path:
    return write_scene("labels.tif", rng.integers(0, 2, (80, 64), dtype=np.uint8))


@pytest.fixture
def model(scene: Path, labels: Path, tmp_path: Path) -> Path:
    """A bundle whose network has learnt nothing."""
    chips = geoseg.tile(scene, labels=labels, out=tmp_path / "chips", chip_size=16, classes="0=other,1=crop")
    architecture, folder = Architecture(width=1), tmp_path / "model"
    folder.mkdir()
    write_bundle(
        folder, architecture.build().state_dict(), architecture=architecture, image=chips.image, legend=chips.legend,
        training={"best_epoch": 1, "epochs_run": 2}, metrics={"miou": 0.5},
    )  # fmt: skip
    return folder


def said(error: pytest.ExceptionInfo) -> list[str]:
    """The files that several faults speak of, in order."""
    return [str(fault).partition(": ")[0] for fault in error.value.faults]


# --- info


def test_a_scene(scene):
    found = info(scene)
    assert (found.kind, found.path) == ("scene", scene)
    assert found.to_dict() == {
        "kind": "scene",
        "path": str(scene),
        "name": "scene",
        "height": 80,
        "width": 64,
        "bands": ["blue", "green", "red"],
        "dtypes": ["uint8"] * 3,
        "nodata": [None] * 3,
        "crs": "EPSG:32614",
        "transform": [10.0, 0.0, 500_000.0, 0.0, -10.0, 4_500_000.0],
        "pixel_size_m": pytest.approx(10, rel=1e-3),
        "legend": None,
    }
    head, *bands = str(found).splitlines()
    assert head == "scene: 80 x 64, 3 bands uint8, 10 m, EPSG:32614"
    assert [line.split() for line in bands] == [
        [str(number), name, "uint8", "nodata", "-"] for number, name in enumerate(["blue", "green", "red"], 1)
    ]


@pytest.mark.parametrize(("nodata", "told"), [(-9999.0, -9999.0), (float("nan"), "nan"), (float("-inf"), "-inf")])
def test_every_nodata_value_can_stand_in_json(write_scene, nodata, told):
    found = info(write_scene("a.tif", np.ones((4, 4), np.float32), nodata=nodata))
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["nodata"] == [told]
    assert str(found).endswith(f"nodata {nodata:g}")


def test_chips(scene, labels, tmp_path):
    chips = geoseg.tile(scene, labels=labels, out=tmp_path / "chips", chip_size=16)
    found = info(tmp_path / "chips")
    assert (found.kind, str(found)) == ("chips", str(chips))
    assert found.facts["splits"] == chips.to_dict()["splits"]
    assert "chips" not in found.facts


def test_a_model(model):
    found = info(model)
    assert found.kind == "model"
    assert json.loads(json.dumps(found.facts)) == json.loads((model / CARD).read_text())
    assert "bands      blue, green, red" in str(found)
    assert "classes    0=other, 1=crop" in str(found)


def test_a_prediction_and_its_class_raster(model, scene, tmp_path):
    (made,) = geoseg.predict(scene, model=model, out=tmp_path / "predictions", polygons=False)
    found = info(made.outputs["run"])
    assert (found.kind, found.facts) == ("prediction", made.to_dict())
    assert json.loads(str(found)) == made.to_dict()
    found = info(made.path)
    assert (found.kind, len(found.facts["bands"])) == ("class raster", 1)
    assert [entry["name"] for entry in found.facts["legend"]] == ["other", "crop"]
    assert "classes 0=other, 1=crop" in str(found)


def test_what_is_not_there(tmp_path):
    with pytest.raises(MissingFileError, match="nothing: not found"):
        info(tmp_path / "nothing")


def test_a_folder_of_nothing_known(tmp_path):
    with pytest.raises(MissingFileError, match=r"neither chips\.json nor model\.json"):
        info(tmp_path)


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "notes.txt").write_text("not a raster")
    with pytest.raises(RasterError, match=r"notes\.txt"):
        info(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "no 'format' number"),
        ('{"type": "FeatureCollection"}', "no 'format' number"),
        ('{"format": 1, "miou": 0.5}', "no 'outputs'"),
        ('{"format": 99, "outputs": {}, "geoseg_version": "9.0"}', "install geoseg 9.0"),
        ("{", "cannot be read"),
    ],
)
def test_json_that_is_no_run_file(tmp_path, text, words):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(FormatError, match=words):
        info(tmp_path / "run.json")


# --- check


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_counts_are_those_that_tile_then_writes(scene, labels, write_scene, rng, tmp_path):
    other = write_scene("other.tif", rng.integers(1, 200, (3, 70, 100), dtype=np.uint8))
    paths = tmp_path / "paths"
    paths.mkdir()
    shutil.copy(labels, paths / "scene_mask.tif")
    shutil.copy(write_scene("more.tif", rng.integers(0, 2, (70, 100), dtype=np.uint8)), paths / "other_mask.tif")
    before = contents(tmp_path)
    found = check([scene, other], labels=paths, chip_size=16, split="6:2:2", bands="3,1", classes="0=other,1=crop")
    assert contents(tmp_path) == before  # nothing is written
    chips = geoseg.tile(
        [scene, other], labels=paths, chip_size=16, split="6:2:2", bands="3,1", classes="0=other,1=crop",
        out=tmp_path / "chips",
    )  # fmt: skip
    written = {
        split: len(list((tmp_path / "chips" / split / "images").glob("*.tif"))) for split in ("train", "val", "test")
    }
    assert {name: counts["chips"] for name, counts in found.plan.to_dict()["splits"].items()} == written
    assert sum(written.values()) + sum(found.plan.left_out.values()) == 20 + 5 * 7
    assert found.plan.left_out == chips.facts["left_out"] != {}  # the scenes overlap
    assert found.plan.to_dict()["splits"] == chips.to_dict()["splits"]
    assert found.bytes_needed == sum(written.values()) * 16 * 16 * (2 + 1)
    assert all(f"{split:<8} {count:>5} chips" in str(found) for split, count in written.items())


def test_what_is_well(scene, labels, model):
    found = check(scene, labels=labels, model=model, chip_size=16)
    assert isinstance(found, Check)
    assert [each.path for each in found.scenes] == [scene]
    assert found.bytes_needed == 80 * 64 * 2 + 20 * 16 * 16 * (3 + 1)
    assert str(found).splitlines()[-1] == "no fault found"
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["scenes"][0]["bands"] == ["blue", "green", "red"]
    assert document["bytes_needed"] == found.bytes_needed


def test_without_labels_there_are_no_chips(scene):
    found = check(scene)
    assert found.to_dict()["chips"] is None
    assert "chips" not in str(found)


def test_all_faults_of_the_inputs_at_once(tmp_path):
    inputs = [tmp_path / "a.tif", tmp_path / "b.tif"]
    with pytest.raises(PreflightError) as error:
        check(inputs, labels=tmp_path / "labels.gpkg", model=tmp_path / "model").raise_faults()
    assert said(error) == [*map(str, inputs), str(tmp_path / "labels.gpkg"), str(tmp_path / "model" / CARD)]


def test_all_faults_of_model_labels_and_options_at_once(model, write_scene, rng, tmp_path):
    (model / WEIGHTS).write_bytes(b"damaged")
    short = write_scene("short.tif", rng.integers(1, 9, (2, 80, 64), dtype=np.uint8))
    twin = write_scene("twin.tif", rng.integers(1, 9, (2, 80, 64), dtype=np.uint8))
    stray = write_scene("stray.tif", np.full((80, 64), 7, np.uint8))
    with pytest.raises(PreflightError) as error:
        check([short, twin], labels=stray, model=model, chip_size=16, classes="0=other,1=crop").raise_faults()
    assert said(error) == [str(stray), str(model / WEIGHTS), str(short), str(twin)]
    with pytest.raises(PreflightError) as error:
        check(short, labels=tmp_path / "no.tif", chip_size=0).raise_faults()
    assert said(error) == ["--chip-size 0", str(tmp_path / "no.tif")]


def test_a_scene_is_needed(labels):
    with pytest.raises(InputError, match="no scene given"):
        check([], labels=labels).raise_faults()


def test_what_is_found_is_told_for_programs_and_people(model, write_scene, rng, tmp_path):
    short = write_scene("short.tif", rng.integers(1, 9, (2, 80, 64), dtype=np.uint8))
    picture = write_scene(
        "a.png", rng.integers(1, 200, (3, 80, 64), dtype=np.uint8), crs=None, transform=Affine.identity()
    )
    with pytest.warns(DataWarning, match=r"a\.png: no CRS"):
        found = check([short, picture, tmp_path / "no.tif"], model=model)
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [fault["kind"] for fault in document["faults"]] == ["MissingFileError", "MismatchError"]
    assert document["faults"][1]["message"].startswith(f"{short}: 2 bands found")
    assert [told["kind"] for told in document["warnings"]] == ["DataWarning"]
    assert [scene["name"] for scene in document["scenes"]] == ["short", "a"]
    assert str(found).endswith("2 faults found")


def test_where_warnings_are_errors_all_of_them_are_faults_at_once(model, write_scene, rng, tmp_path):
    pixels = rng.integers(1, 200, (3, 80, 64), dtype=np.uint8)
    picture = write_scene("a.png", pixels, crs=None, transform=Affine.identity())
    coarse = write_scene("b.tif", pixels, transform=Affine(50, 0, 5e5, 0, -50, 4.5e6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = check([picture, coarse], model=model)
    assert [type(fault) for fault in found.faults] == [DataWarning, MismatchWarning]


def test_check_ends_with_1_where_there_are_faults(model, write_scene, rng, tmp_path):
    short = write_scene("short.tif", rng.integers(1, 9, (2, 80, 64), dtype=np.uint8))
    done = CliRunner().invoke(cli, ["check", str(short), str(tmp_path / "no.tif"), "-m", str(model), "--json"])
    assert done.exit_code == 1
    assert len(json.loads(done.stdout)["faults"]) == 2
    assert done.stderr.startswith("Error: 2 faults, nothing was done\n")
