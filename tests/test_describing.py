"""What `info` says of each kind of file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from scenery import box, write_polygons

import geoseg
from geoseg.bundle import CARD, write_bundle
from geoseg.describing import info
from geoseg.errors import (
    FormatError,
    MissingFileError,
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


def test_labels(tmp_path):
    path = write_polygons(
        tmp_path / "a.gpkg", [box(i, 0, 1, 1) for i in range(8)], kind=["wheat", "grass"] * 4, number=range(8)
    )
    found = info(path)
    assert found.kind == "vector"
    assert found.facts == {
        "layer": "a", "crs": "EPSG:32614", "features": 8, "geometries": ["Polygon"], "distinct_values": {"kind": 2, "number": 8},
    }  # fmt: skip
    first, kind, number = str(found).splitlines()
    assert first == f"{path}: 8 features (Polygon), EPSG:32614"
    assert kind.split(maxsplit=1) == ["kind", "grass, wheat"]
    assert number.split(maxsplit=1) == ["number", "0, 1, 2, 3, 4, 5 and 2 more"]
    json.dumps(found.to_dict(), allow_nan=False)
    gpd.read_file(path).to_file(tmp_path / "a.json", driver="GeoJSON")
    assert info(tmp_path / "a.json").facts["features"] == 8
