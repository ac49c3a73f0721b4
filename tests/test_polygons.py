"""The verb `polygonize`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.features import shapes

from geoseg.errors import InputError, LegendError, MissingFileError, OutputExistsError, RasterError
from geoseg.polygons import polygonize

VALUES = np.array([[0, 1, 1, 2], [0, 1, 0, 2], [1, 0, 0, 255]], np.uint8)
WriteScene = Callable[..., Path]


@pytest.fixture
def classes(write_scene: WriteScene) -> Path:
    return write_scene("maps/a_classes.tif", VALUES, nodata=255)


def test_a_class_raster_becomes_a_layer(classes: Path, tmp_path: Path) -> None:
    layer = polygonize(classes, out=tmp_path / "new" / "a.gpkg", simplify=0)
    assert os.fspath(layer) == str(tmp_path / "new" / "a.gpkg")
    table = gpd.read_file(layer, layer="polygons")
    assert table["class_value"].tolist() == [1, 2, 1]
    assert table.crs == "EPSG:32614"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.gpkg"]
    assert sorted(path.name for path in classes.parent.iterdir()) == [classes.name]


def test_the_result_is_readable_and_goes_into_json(classes: Path, tmp_path: Path) -> None:
    layer = polygonize(classes, out=str(tmp_path / "a.gpkg"), only="class_1")
    lines = str(layer).splitlines()
    assert lines[0].endswith("a.gpkg: 2 polygons")
    assert lines[1].split()[:5] == ["class_1", "2", "polygons", "4", "pixels"]
    assert "ha" in lines[1]
    assert lines[2] == "  gaps: 0 pixels, overlaps: 0 polygons"
    document = json.loads(json.dumps(layer.to_dict(), allow_nan=False))
    assert document["path"] == str(tmp_path / "a.gpkg")
    assert document["polygons"] == 2
    assert document["classes"][0]["pixels"] == 4


def test_a_picture_has_no_areas_to_tell(write_scene: WriteScene, tmp_path: Path) -> None:
    layer = polygonize(
        write_scene("a.png", VALUES, crs=None, transform=rasterio.Affine.identity()), out=tmp_path / "a.fgb"
    )
    assert " ha" not in str(layer)
    json.dumps(layer.to_dict(), allow_nan=False)


@pytest.mark.parametrize("suffix", [".fgb", ".geojson"])
def test_other_formats_have_their_style_beside(classes: Path, tmp_path: Path, suffix: str) -> None:
    layer = polygonize(classes, out=tmp_path / f"a{suffix}")
    assert len(gpd.read_file(layer)) == 3
    assert "class_1" in (tmp_path / "a.qml").read_text()


def test_confidence_is_written(classes: Path, write_scene: WriteScene, tmp_path: Path) -> None:
    scores = write_scene("c.tif", np.full(VALUES.shape, 0.5, np.float32))
    table = gpd.read_file(polygonize(classes, out=tmp_path / "a.gpkg", confidence=scores), layer="polygons")
    assert table["confidence"].tolist() == [0.5] * 3


def test_nothing_is_overwritten_unasked(classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.fgb"
    (tmp_path / "a.qml").write_text("somebody's style")
    with pytest.raises(OutputExistsError, match=r"a\.qml: exists already"):
        polygonize(classes, out=out)
    assert not out.exists()
    polygonize(classes, out=out, overwrite=True)
    assert "class_1" in (tmp_path / "a.qml").read_text()
    with pytest.raises(OutputExistsError, match=r"a\.fgb and 1 more: exists already"):
        polygonize(classes, out=out)


def test_inputs_are_never_written_to(classes: Path, write_scene: WriteScene) -> None:
    scores = write_scene("c.tif", np.full(VALUES.shape, 0.5, np.float32))
    for out in (classes, scores):
        with pytest.raises(OutputExistsError, match="is an input of this run"):
            polygonize(classes, out=out, confidence=scores, format="gpkg", overwrite=True)


def test_the_style_of_an_input_is_left_alone(classes: Path, write_scene: WriteScene) -> None:
    scores = write_scene("c.tif", np.full(VALUES.shape, 0.5, np.float32))
    classes.with_suffix(".qml").write_text("the raster's style")
    polygonize(classes, out=classes.with_suffix(".fgb"))
    assert classes.with_suffix(".qml").read_text() == "the raster's style"
    polygonize(classes, out=scores.with_suffix(".fgb"), confidence=scores)
    assert not scores.with_suffix(".qml").exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"only": "wood"}, LegendError),
        ({"confidence": "missing.tif"}, MissingFileError),
        ({"simplify": -1}, InputError),
        ({"out": "a.shp"}, InputError),
    ],
)
def test_nothing_is_left_of_a_run_that_fails(
    classes: Path, tmp_path: Path, options: dict[str, str], error: type[Exception]
) -> None:
    folder = tmp_path / "new"
    with pytest.raises(error):
        polygonize(classes, **{"out": folder / "a.fgb", **options})  # type: ignore[arg-type]
    assert not folder.exists()


def test_a_raster_of_shares_is_refused(write_scene: WriteScene, tmp_path: Path) -> None:
    with pytest.raises(RasterError, match="one band of whole numbers"):
        polygonize(write_scene("a.tif", np.zeros((3, 4), np.float32)), out=tmp_path / "a.gpkg")


def test_two_runs_give_the_same_features(write_scene: WriteScene, tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_scene("a.tif", np.kron(rng.integers(0, 4, (20, 20)), np.ones((3, 3))).astype(np.uint8))
    one, other = (
        gpd.read_file(polygonize(path, out=tmp_path / name, connectivity=8), layer="polygons")
        for name in ("one.gpkg", "other.gpkg")
    )
    assert one.equals(other)
    assert shapely.equals_exact(one.geometry, other.geometry).all()


@pytest.mark.real
@pytest.mark.skipif("GEOSEG_REAL_DATA" not in os.environ, reason="GEOSEG_REAL_DATA is not set")
def test_a_real_map_is_covered_without_gap_or_overlap(tmp_path: Path) -> None:
    path = Path(os.environ["GEOSEG_REAL_DATA"], "landsat8_nd_2015", "nd_b_classes.tif")
    with rasterio.open(path) as dataset:
        values = dataset.read(1)
    layer = polygonize(path, out=tmp_path / "a.gpkg")
    table = gpd.read_file(layer, layer="polygons")
    assert len(table) == len(list(shapes(values, mask=values != 0)))
    assert table.is_valid.all()
    assert shapely.coverage_is_valid(table.geometry.to_numpy())
    assert (layer.balance["gap_pixels"], layer.balance["overlapping_polygons"]) == (0, 0)
    assert table.groupby("class_value")["pixels"].sum().to_dict() == {
        value: int((values == value).sum()) for value in range(1, 6)
    }
    for entry in layer.balance["classes"]:
        assert abs(entry["difference_m2"]) < 0.01 * entry["area_by_pixels_m2"]
