"""Points drawn on a map, labelled, and read again: every pixel has its chance, and areas come out as they are."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from scenery import box, one_line_each, write_polygons

import geoseg
from geoseg.errors import DataWarning, GeosegError, InputError, LabelError, OutputExistsError
from geoseg.reference_points import holds_points


@pytest.fixture
def world(rng, write_scene, tmp_path):
    """A map of 300 x 400 pixels with nodata, and the truth, which differs in a tenth of the pixels."""
    truth = np.repeat(np.repeat(rng.integers(1, 4, (30, 40)), 10, axis=0), 10, axis=1).astype(np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.1, rng.integers(1, 4, truth.shape), truth).astype(np.uint8)
    predicted[:40, :50] = 0
    return write_scene("map.tif", predicted, nodata=0), predicted, truth


def label(path, truth, count=None):
    """Fill in the truth for the first points of a file."""
    table = gpd.read_file(path, layer="points", engine="pyogrio")
    labels = truth[table["row"], table["col"]].astype(float)
    if count is not None:
        labels[count:] = np.nan
    table["reference"] = labels
    table.to_file(path, layer="points", driver="GPKG")


def test_points_lie_on_pixels_of_their_class_and_none_twice(world, tmp_path):
    path, predicted, _ = world
    before = path.read_bytes(), path.stat().st_mtime_ns
    made = geoseg.sample(path, out=tmp_path / "points.gpkg", size=300, minimum=60)
    table = gpd.read_file(made, layer="points")
    assert len(table) == sum(entry["points"] for entry in made.classes) == 300
    assert not table[["row", "col"]].duplicated().any()
    assert (predicted[table["row"], table["col"]] == table["stratum"]).all()
    with rasterio.open(path) as dataset:
        assert table.crs == dataset.crs
        for point in table.itertuples():
            assert dataset.xy(point.row, point.col) == (point.geometry.x, point.geometry.y)
    for entry in made.classes:
        own = table[table["stratum"] == entry["value"]]
        assert set(own["stratum_pixels"]) == {(predicted == entry["value"]).sum()}
        assert len(own) == entry["points"] >= 60
    assert table["id"].tolist() == list(range(1, 301))
    assert abs(np.corrcoef(table["id"], table["row"])[0, 1]) < 0.2  # the first half is a sample too
    assert table["reference"].isna().all()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_every_pixel_of_a_class_has_the_same_chance(write_scene, tmp_path):
    array = np.array([[1, 1, 2, 1], [2, 1, 1, 1]], np.uint8)
    path, hits = write_scene("tiny.tif", array), np.zeros(array.shape)
    for seed in range(300):
        made = geoseg.sample(path, out=tmp_path / "p.gpkg", size=4, minimum=2, seed=seed, overwrite=True)
        table = gpd.read_file(made, layer="points")
        hits[table["row"], table["col"]] += 1
    assert (hits[array == 2] == 300).all()  # there are but two
    assert hits[array == 1].sum() == 300 * (len(table) - 2)
    assert np.ptp(hits[array == 1]) < 80


def test_the_seed_decides(world, tmp_path):
    path, *_ = world
    one, same, other = (
        gpd.read_file(geoseg.sample(path, out=tmp_path / f"{n}.gpkg", size=60, minimum=5, seed=seed), layer="points")
        for n, seed in enumerate((1, 1, 2))
    )
    assert one.equals(same)
    assert not one[["row", "col"]].equals(other[["row", "col"]])


def test_labelled_points_give_the_areas(world, tmp_path):
    path, predicted, truth = world
    points = geoseg.sample(path, out=tmp_path / "points.gpkg", size=3000)
    label(points.path, truth)
    found = geoseg.evaluate(path, points, out=tmp_path / "report")
    known, pixel_ha = predicted > 0, 0.01 / 0.9996**2
    sample = found.metrics["sample"]
    for entry in sample["classes"]:
        true, mapped = ((array[known] == entry["value"]).sum() * pixel_ha for array in (truth, predicted))
        assert entry["mapped_ha"] == pytest.approx(mapped, rel=1e-3)
        assert abs(entry["area_ha"]["value"] - true) < 3 * entry["area_ha"]["error"]
        both = ((truth == entry["value"]) & (predicted == entry["value"]) & known).sum() * pixel_ha
        assert abs(entry["users_accuracy"]["value"] - both / mapped) < 3 * entry["users_accuracy"]["error"]
    agreed = (truth == predicted)[known].mean()
    assert abs(sample["overall_accuracy"]["value"] - agreed) < 3 * sample["overall_accuracy"]["error"]
    assert found.metrics["pixel_accuracy"] == pytest.approx(sample["overall_accuracy"]["value"], abs=1e-3)
    assert sample["strata"] == "drawn"
    json.dumps(found.metrics, allow_nan=False)
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert f"{sample['classes'][0]['users_accuracy']['value']:.2f} ±" in text
    assert "estimated ha" in str(found)
    assert {file.name for file in (tmp_path / "report").iterdir()} == {"metrics.json", "per_class.csv", "report.html"}


def test_the_first_points_are_enough_and_the_others_are_said(world, tmp_path):
    path, _, truth = world
    points = geoseg.sample(path, out=tmp_path / "points.gpkg", size=400, minimum=50)
    label(points.path, truth, count=150)
    with pytest.warns(DataWarning, match="250 of 400 points"):
        found = geoseg.evaluate(path, points, out=tmp_path / "report")
    assert found.metrics["sample"]["points"] == 150


def test_points_of_ones_own_are_stratified_by_the_map_afterwards(world, rng, tmp_path):
    path, predicted, truth = world
    rows, cols = np.divmod(rng.choice(300 * 400, 800, replace=False), 400)
    shapes = [shapely.Point(TRANSFORM @ (col + 0.3, row + 0.7)) for row, col in zip(rows, cols, strict=True)]
    own = write_polygons(
        tmp_path / "own.geojson", shapes, to="EPSG:4326", crop=[f"class_{v}" for v in truth[rows, cols]]
    )
    with pytest.warns(DataWarning, match="outside the map or on nodata"):
        found = geoseg.evaluate(path, own, class_field="crop", out=tmp_path / "report")
    sample = found.metrics["sample"]
    assert sample["strata"] == "map"
    assert sample["points"] == (predicted[rows, cols] > 0).sum()
    assert sum(entry["area_ha"]["value"] for entry in sample["classes"]) == pytest.approx(
        sum(entry["mapped_ha"] for entry in sample["classes"])
    )
    assert "taken for a random sample" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_500_000)


def test_pixels_of_a_geographic_crs_differ_in_area(rng, write_scene, tmp_path):
    # 20 degrees from top to bottom; the class of the north is wrong where it is mapped in the south.
    truth = np.repeat([1, 2], 100).astype(np.uint8)[:, None] * np.ones((1, 50), np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.3, 3 - truth, truth).astype(np.uint8)
    path = write_scene("degrees.tif", predicted, crs="EPSG:4326", transform=Affine(0.1, 0, 10, 0, -0.1, 65))
    points = geoseg.sample(path, out=tmp_path / "points.gpkg", size=3000)
    label(points.path, truth)
    sample = geoseg.evaluate(path, points, out=tmp_path / "report").metrics["sample"]
    # The band from 65 to 55 degrees north is as many pixels as that to 45, and less ground.
    for entry, north in zip(sample["classes"], (65, 55), strict=True):
        along = np.linspace(10, 15, 200)
        lons, lats = np.append(along, along[::-1]), np.repeat([north - 10, north], 200)
        ground = abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(lons, lats)[0]) / 1e4
        assert abs(entry["area_ha"]["value"] - ground) < 3 * entry["area_ha"]["error"] < 0.1 * ground
    total = sum(entry["area_ha"]["value"] for entry in sample["classes"])
    assert sum(entry["mapped_ha"] for entry in sample["classes"]) == pytest.approx(total, rel=0.01)


def test_points_of_one_place_are_said(world, tmp_path):
    path, _, truth = world
    points = geoseg.sample(path, out=tmp_path / "points.gpkg", size=150, minimum=40)
    label(points.path, truth)
    table = gpd.read_file(points.path, layer="points", engine="pyogrio")
    again = gpd.GeoDataFrame(pd.concat([table, table[:7]]), crs=table.crs)[["reference", "geometry"]]
    again.to_file(tmp_path / "again.gpkg")
    with pytest.warns(DataWarning, match=r"again\.gpkg: 7 points lie where another point does"):
        geoseg.evaluate(path, tmp_path / "again.gpkg", class_field="reference", out=tmp_path / "report")


def test_of_ground_that_nobody_has_looked_at_no_area_is_told(world, tmp_path):
    path, *_ = world
    points = geoseg.sample(path, out=tmp_path / "points.gpkg", size=150, minimum=40)
    table = gpd.read_file(points.path, layer="points", engine="pyogrio")
    table["reference"] = np.where(table["stratum"] == 3, np.nan, table["stratum"])
    table.to_file(points.path, layer="points", driver="GPKG")
    with pytest.warns(DataWarning):
        found = geoseg.evaluate(path, points.path, out=tmp_path / "report")
    *_, unseen = found.metrics["sample"]["classes"]
    assert unseen["area_ha"] == {"value": None, "error": None, "half_width": None}
    assert found.metrics["sample"]["unsampled_ha"] == pytest.approx(unseen["mapped_ha"])
    assert re.search(r"class_3 +[\d,.]+ +- ", str(found))


def test_points_are_not_written_over_their_area(world, tmp_path):
    area = write_polygons(tmp_path / "points.gpkg", [box(0, 0, 100, 100)])
    before = area.read_bytes()
    with pytest.raises(OutputExistsError, match=r"points\.gpkg: is an input of this run"):
        geoseg.sample(world[0], aoi=area, out=area, overwrite=True)
    assert area.read_bytes() == before


def test_only_inside_the_area(world, tmp_path):
    path, _, truth = world
    aoi = write_polygons(tmp_path / "aoi.gpkg", [box(100, 100, 60, 80)])
    points = geoseg.sample(path, aoi=aoi, out=tmp_path / "points.gpkg", size=200)
    table = gpd.read_file(points, layer="points")
    assert table["row"].between(100, 159).all()
    assert table["col"].between(100, 179).all()
    assert sum(entry["pixels"] for entry in points.classes) == 60 * 80
    label(points.path, truth)
    found = geoseg.evaluate(path, points, aoi=aoi, out=tmp_path / "report").metrics["sample"]
    assert sum(entry["mapped_ha"] for entry in found["classes"]) == pytest.approx(48, rel=0.01)
    with pytest.warns(DataWarning, match="--aoi"):
        geoseg.evaluate(path, points, out=tmp_path / "other")


def test_a_stratum_without_a_labelled_point_is_said(world, tmp_path):
    path, _, truth = world
    points = geoseg.sample(path, out=tmp_path / "points.gpkg", size=90, minimum=20)
    table = gpd.read_file(points, layer="points")
    table["reference"] = np.where(table["stratum"] == 2, np.nan, truth[table["row"], table["col"]].astype(float))
    table.to_file(points.path, layer="points", driver="GPKG")
    with (
        pytest.warns(DataWarning, match="strata without a labelled point"),
        pytest.warns(DataWarning, match="have no value"),
    ):
        found = geoseg.evaluate(path, points, out=tmp_path / "report").metrics["sample"]
    assert found["unsampled_ha"] == pytest.approx(next(c["area_ha"] for c in points.classes if c["value"] == 2))


def test_the_form_lists_the_classes_and_hides_the_map(world, tmp_path):
    path, *_ = world
    points = geoseg.sample(path, out=tmp_path / "points.gpkg", size=30, minimum=5)
    with closing(sqlite3.connect(points.path)) as database:
        (qml,) = database.execute("SELECT styleQML FROM layer_styles").fetchone()
    root = ElementTree.fromstring(qml)
    widgets = {field.get("name"): field.find("editWidget") for field in root.find("fieldConfiguration")}
    options = [option for option in widgets["reference"].iter("Option") if option.get("type") == "QString"]
    assert [(option.get("name"), option.get("value")) for option in options] == [
        ("class_1", "1"), ("class_2", "2"), ("class_3", "3")
    ]  # fmt: skip
    assert {name for name, widget in widgets.items() if widget.get("type") == "Hidden"} >= {
        "stratum", "stratum_area_m2", "stratum_pixels",
    }  # fmt: skip
    assert root.find("renderer-v2").get("attr") == "reference"


def test_points_are_told_from_polygons(world, tmp_path):
    path, *_ = world
    points = geoseg.sample(path, out=tmp_path / "points.gpkg", size=30, minimum=5)
    assert holds_points(points.path)
    assert not holds_points(write_polygons(tmp_path / "fields.gpkg", [box(0, 0, 5, 5)]))
    assert not holds_points(path)
    assert not holds_points(tmp_path / "nowhere.gpkg")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"size": 0}, "--size 0"),
        ({"standard_error": 0}, "--standard-error 0"),
        ({"minimum": 1}, "--minimum 1"),
        ({"expected_accuracy": "1.5"}, "--expected-accuracy 1.5"),
        ({"expected_accuracy": "0.8,forest=0.9"}, "forest"),
        ({"out": "points.shp"}, "ends in .gpkg"),
        ({"aoi": "nowhere.gpkg"}, "nowhere.gpkg"),
    ],
)
def test_one_line_for_what_cannot_be(world, tmp_path, options, match):
    path, *_ = world
    with pytest.raises(GeosegError, match=match) as caught:
        geoseg.sample(path, **({"out": tmp_path / "points.gpkg"} | options))
    one_line_each(caught.value)
    assert not (tmp_path / "points.gpkg").exists()


def test_more_that_cannot_be(world, write_scene, tmp_path):
    path, _, truth = world
    points = geoseg.sample(path, out=tmp_path / "points.gpkg", size=30, minimum=5)
    with pytest.raises(OutputExistsError):
        geoseg.sample(path, out=tmp_path / "points.gpkg")
    with pytest.raises(LabelError, match="label some"):
        geoseg.evaluate(path, points, out=tmp_path / "r")
    with pytest.raises(LabelError, match="no field 'crop'"):
        geoseg.evaluate(path, points, class_field="crop", out=tmp_path / "r")
    for name, value in (("only", "class_1"), ("pixel_size", 10)):
        with pytest.raises(InputError, match="not with points"):
            geoseg.evaluate(path, points, **{name: value}, out=tmp_path / "r")
    with pytest.raises(InputError, match="--against"):
        geoseg.evaluate(path, points, against=path, out=tmp_path / "r")
    label(points.path, truth + 6)
    with pytest.raises(LabelError, match="not in the legend"):
        geoseg.evaluate(path, points, out=tmp_path / "r")
    picture = write_scene("picture.tif", np.ones((9, 9), np.uint8), crs=None, transform=Affine.identity())
    with pytest.raises(GeosegError, match="no CRS"):
        geoseg.sample(picture, out=tmp_path / "p.gpkg")
    with pytest.raises(InputError, match="nothing can be drawn"):
        geoseg.sample(path, out=tmp_path / "p.gpkg", aoi=write_polygons(tmp_path / "aoi.gpkg", [box(0, 0, 20, 20)]))


def test_more_accurate_maps_need_fewer_points(world, tmp_path):
    path, *_ = world
    counts = [
        sum(entry["points"] for entry in geoseg.sample(path, out=tmp_path / f"{n}.gpkg", **options).classes)
        for n, options in enumerate(({}, {"expected_accuracy": 0.95}, {"standard_error": 0.02}))
    ]
    assert counts == [1600, 475, 400]
