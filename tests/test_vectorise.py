"""Class rasters to polygon layers: what is read, what is refused, and the balance."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from test_sweep import swept

from geoseg.balance import Balance
from geoseg.choices import Small
from geoseg.class_rasters import ClassRows, find_legend
from geoseg.errors import DataWarning, Faults, GeoreferenceError, LegendError, RasterError
from geoseg.generalisation import NOTHING
from geoseg.legend import LEGEND_TAG, Legend, parse_legend
from geoseg.outlines import Coverage
from geoseg.polygon_layer import LAYER, polygon_table
from geoseg.scenes import Scene, describe_scene
from geoseg.vectorise import (
    PolygonOptions,
    chosen_classes,
    layer_style,
    polygonize_raster,
)

LEGEND = parse_legend("0=background,1=cultivated,7=water")
VALUES = np.array([[0, 1, 1, 7], [0, 1, 0, 7], [1, 0, 0, 255]], np.uint8)
WriteScene = Callable[..., Path]


@pytest.fixture
def classes(write_scene: WriteScene) -> Path:
    path = write_scene("a_classes.tif", VALUES, nodata=255)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(**{LEGEND_TAG: json.dumps(LEGEND.to_list())})
    return path


@pytest.fixture
def confidence(write_scene: WriteScene) -> Path:
    path = write_scene("a_confidence.tif", np.full(VALUES.shape, 200, np.uint8), nodata=255)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales = (1 / 250,)
    return path


@pytest.mark.parametrize(
    ("only", "chosen"),
    [(None, (1, 2)), ("water", (2,)), ("7, background", (0, 2)), (["water", 1], (1, 2)), ("", ())],
)
def test_classes_are_chosen_by_name_or_value(only: str | list[str | int] | None, chosen: tuple[int, ...]) -> None:
    assert chosen_classes(LEGEND, only) == chosen


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(LegendError, match="class 'wood' is not in the legend"):
        chosen_classes(LEGEND, "water,wood")


def test_a_legend_without_background_is_chosen_whole() -> None:
    assert chosen_classes(parse_legend("1=one,2=two"), None) == (0, 1)


def test_the_style_shows_the_chosen_classes_alone() -> None:
    assert "water" in layer_style(LEGEND, "water")
    assert "cultivated" not in layer_style(LEGEND, "water")


def test_legend_is_the_one_the_raster_carries(classes: Path) -> None:
    assert find_legend(describe_scene(classes)) == LEGEND


def test_legend_of_a_foreign_raster_comes_from_its_values_and_colours(write_scene: WriteScene) -> None:
    path = write_scene("foreign.tif", VALUES, nodata=255)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {1: (1, 2, 3, 255), 7: (16, 32, 48, 255)})
    legend = find_legend(describe_scene(path))
    assert legend.values == (0, 1, 7)
    assert legend.names == ("class_0", "class_1", "class_7")
    assert legend.classes[2].colour == "#102030"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.arange(300, dtype=np.uint16).reshape(15, 20),
            "300 values from 0 to 299 found; a class raster holds up to 254",
        ),
        (np.array([[-3, 1]], np.int16), "2 values from -3 to 1 found"),
        (np.array([[70_000, 1]], np.int32), "2 values from 1 to 70000 found"),
        (np.array([[255, 255]], np.uint8), "nodata only found"),
    ],
)
def test_values_that_are_no_classes_are_refused(write_scene: WriteScene, values: np.ndarray, message: str) -> None:
    path = write_scene("a.tif", values, nodata=255 if values.dtype == np.uint8 else None)
    with pytest.raises(LegendError, match=f"a.tif: {message}"):
        find_legend(describe_scene(path))


@pytest.mark.parametrize("pixels", [np.zeros((3, 4), np.float32), np.zeros((2, 3, 4), np.uint8)])
def test_rasters_of_something_else_are_refused(write_scene: WriteScene, pixels: np.ndarray) -> None:
    scene = describe_scene(write_scene("a.tif", pixels))
    for read in (lambda: find_legend(scene), lambda: indices_of(scene)):
        with pytest.raises(
            RasterError,
            match=r"a\.tif: . bands? of .* found; a class raster has one band of whole numbers; name the "
            r"map of geoseg predict, a_classes\.tif, not the scene, or make one with gdal_translate -",
        ):
            read()


def indices_of(scene: Scene, rows: int = 100) -> np.ndarray:
    """All class indices, read some rows at a time, each time a few of the last ones again."""
    with scene.open() as reader:
        found = ClassRows(scene, reader, LEGEND)
        parts = []
        for first in range(0, scene.height, rows):
            last = min(first + rows, scene.height)
            around = found.read(max(first - 3, 0), min(last + 4, scene.height))
            parts.append(found.read(first, last))
            assert np.array_equal(parts[-1], around[first - max(first - 3, 0) :][: last - first])
        return np.concatenate(parts)


@pytest.mark.parametrize("rows", [1, 7, 5000])
def test_indices_follow_the_legend(write_scene: WriteScene, rng: np.random.Generator, rows: int) -> None:
    values = rng.choice(np.array([0, 1, 7, 255], np.uint8), (210, 2060))
    indices = indices_of(describe_scene(write_scene("a.tif", values, nodata=255)), rows)
    assert np.array_equal(indices, np.select([values == 0, values == 1, values == 7], [0, 1, 2], 255))


@pytest.mark.parametrize("value", [3, -1, 300, 70_000])
def test_a_value_outside_the_legend_is_named(write_scene: WriteScene, value: int) -> None:
    scene = describe_scene(write_scene("a.tif", np.array([[0, 1, value]], np.int32)))
    with pytest.raises(LegendError, match=f"a.tif: value {value} found, which is not in its legend"):
        indices_of(scene)


@pytest.mark.parametrize("connectivity", [4, 8])
def test_layer_and_balance_are_those_of_the_pixels(
    classes: Path, confidence: Path, tmp_path: Path, connectivity: int
) -> None:
    out = tmp_path / "a.gpkg"
    balance = polygonize_raster(classes, confidence, LEGEND, out, PolygonOptions(simplify=0, connectivity=connectivity))  # type: ignore[arg-type]
    table = gpd.read_file(out, layer=LAYER)
    assert table["pixels"].tolist() == ([3, 2, 1] if connectivity == 4 else [2, 4])
    assert table["confidence"].to_numpy() == pytest.approx(0.8)
    cultivated, water = balance.pop("classes")
    assert balance == {
        "polygons": len(table),
        "gap_pixels": 0,
        "overlapping_polygons": 0,
        "too_large": {"polygons": 0, "area_m2": 0},
        **NOTHING,
    }
    assert (cultivated["value"], cultivated["name"], cultivated["pixels"]) == (1, "cultivated", 4)
    assert cultivated["polygons"] == (2 if connectivity == 4 else 1)
    assert cultivated["area_by_pixels_m2"] == pytest.approx(400, rel=1e-3)
    assert cultivated["area_by_polygons_m2"] == pytest.approx(table["area_m2"][table["class_value"] == 1].sum())
    assert cultivated["difference_m2"] == pytest.approx(0, abs=1e-4)
    assert (water["polygons"], water["pixels"]) == (1, 2)


def test_balance_tells_what_simplifying_changed(write_scene: WriteScene, tmp_path: Path) -> None:
    values = (np.hypot(*np.indices((40, 40))) < 35).astype(np.uint8)
    values[:, 30:] = 255  # nodata keeps its edges with the classes, and is not written
    path = write_scene("a.tif", values, nodata=255)
    balance = polygonize_raster(path, None, LEGEND, tmp_path / "a.gpkg", PolygonOptions(only="1"))
    (entry,) = balance["classes"]
    table = gpd.read_file(tmp_path / "a.gpkg", layer=LAYER)
    assert entry["pixels"] == (values == 1).sum()
    assert entry["area_by_pixels_m2"] == pytest.approx(100 * entry["pixels"], rel=1e-3)
    assert entry["area_by_polygons_m2"] == pytest.approx(table["area_m2"].sum())
    assert entry["difference_m2"] == pytest.approx(table["area_m2"].sum() - entry["area_by_pixels_m2"])
    assert 1 < abs(entry["difference_m2"]) < 0.1 * entry["area_by_pixels_m2"]
    assert balance["gap_pixels"] == balance["overlapping_polygons"] == 0


def balance_of(classes: Path, wrong: Callable[[Coverage], Coverage], *, lost: bool = False) -> dict[str, object]:
    """The balance where outlines are not as they should be, or a polygon is lost."""
    scene = describe_scene(classes)
    balance = Balance(scene, LEGEND, (0, 1, 2))
    for finished in swept(indices_of(scene), 1, (0, 1, 2)):
        outlines = wrong(finished.outlines)
        polygons = outlines.polygons(scene.transform)
        if lost:
            polygons[0] = shapely.Polygon()
        table = polygon_table(finished, polygons, LEGEND, connectivity=4, crs=scene.crs)
        balance.add(finished, outlines, polygons, table)
    return balance.facts()


def test_balance_finds_gaps_and_overlaps(classes: Path) -> None:
    right = balance_of(classes, lambda outlines: outlines)
    assert (right["gap_pixels"], right["overlapping_polygons"]) == (0, 0)
    assert (
        balance_of(classes, lambda outlines: outlines, lost=True)["gap_pixels"] == 2
    )  # the first of each of 3 batches
    bent = balance_of(classes, bend)
    assert bent["overlapping_polygons"] > 1


def bend(outlines: Coverage) -> Coverage:
    """Every arc gets a spike to the lower right corner."""
    inside = np.setdiff1d(np.arange(1, len(outlines.vertices)), outlines.arcs)
    vertices = outlines.vertices.copy()
    vertices[np.setdiff1d(inside, outlines.arcs - 1)] = (4, 3)
    return replace(outlines, vertices=vertices)


def test_a_picture_has_no_areas_and_no_geojson(write_scene: WriteScene, tmp_path: Path) -> None:
    picture = write_scene("a.png", VALUES, crs=None, transform=rasterio.Affine.identity())
    legend = Legend((*LEGEND.classes, *parse_legend("255=rest").classes))
    balance = polygonize_raster(picture, None, legend, tmp_path / "a.gpkg", PolygonOptions())
    assert {entry["area_by_polygons_m2"] for entry in balance["classes"]} == {None}
    assert gpd.read_file(tmp_path / "a.gpkg", layer=LAYER).total_bounds.tolist() == [0, 0, 4, 3]
    with pytest.raises(
        GeoreferenceError, match=r"a\.png: no CRS.*which GeoJSON needs; choose \.gpkg, \.fgb or \.parquet"
    ):
        polygonize_raster(picture, None, legend, tmp_path / "a.geojson", PolygonOptions())


def test_what_is_left_out_leaves_an_empty_layer(classes: Path, tmp_path: Path) -> None:
    balance = polygonize_raster(classes, None, LEGEND, tmp_path / "a.gpkg", PolygonOptions(only=[]))
    assert {name: balance[name] for name in ("polygons", "gap_pixels", "overlapping_polygons", "classes")} == {
        "polygons": 0, "gap_pixels": 0, "overlapping_polygons": 0, "classes": [],
    }  # fmt: skip
    assert len(gpd.read_file(tmp_path / "a.gpkg", layer=LAYER)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"simplify": -1}, "--simplify -1: a finite number of 0 or more is needed"),
        ({"simplify": float("nan")}, "--simplify nan: a finite number of 0 or more is needed"),
        ({"connectivity": 6}, "--connectivity 6: known are 4, 8"),
        ({"min_area": -3.0}, "--min-area -3.0: a finite number of 0 or more is needed"),
        ({"min_hole": float("inf")}, "--min-hole inf: a finite number of 0 or more is needed"),
        ({"min_area": 50.0, "max_area": 50.0}, "--max-area 50.0: more than 50 is needed, the --min-area"),
        ({"max_area": 0.0}, "--max-area 0.0: more than 0 is needed"),
        ({"small": "keep"}, "--small keep: known are merge, drop"),
        ({"small": "drop"}, "--small drop: a --min-area is needed with it"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    faults = Faults()
    PolygonOptions(**options).refuse_odd(faults)  # type: ignore[arg-type]
    assert [str(error) for error in faults.errors] == [message]


@pytest.mark.parametrize("name", ["min_area", "max_area", "min_hole"])
def test_a_picture_has_no_m2_to_go_by(write_scene: WriteScene, tmp_path: Path, name: str) -> None:
    picture = write_scene("a.png", VALUES, crs=None, transform=rasterio.Affine.identity())
    with pytest.raises(
        GeoreferenceError, match=f"a.png: no CRS with a place on the Earth, so --{name.replace('_', '-')} in m2"
    ):
        polygonize_raster(picture, None, LEGEND, tmp_path / "a.gpkg", PolygonOptions(**{name: 100.0}))


def test_what_was_taken_away_is_counted(classes: Path, tmp_path: Path) -> None:
    def facts(**options: object) -> tuple[dict[str, Any], list[tuple[int, int]]]:
        out = tmp_path / "a.gpkg"
        out.unlink(missing_ok=True)
        balance = polygonize_raster(classes, None, LEGEND, out, PolygonOptions(simplify=0, **options))  # type: ignore[arg-type]
        table = gpd.read_file(out, layer=LAYER)
        assert table["id"].tolist() == list(range(1, len(table) + 1))
        assert balance["polygons"] == len(table)
        taken = {
            name: balance[name] for name in ("merged", "dropped", "filled", "too_large") if any(balance[name].values())
        }
        return taken, list(zip(table["class_value"], table["pixels"], strict=True))

    assert facts() == ({}, [(1, 3), (7, 2), (1, 1)])
    taken, found = facts(min_area=150.0)
    assert found == [(1, 3), (7, 2)]  # a single pixel went to the background, of which it has two edges
    hundred = pytest.approx(100, rel=1e-3)
    assert taken["merged"] == {"polygons": 1, "area_m2": hundred, "out_of_layer_m2": hundred}
    assert "dropped" not in taken
    taken, found = facts(min_area=250.0, small="drop")
    assert found == [(1, 3)]
    assert taken["dropped"] == {"polygons": 2, "area_m2": pytest.approx(300, rel=1e-3)}
    taken, found = facts(max_area=250.0)
    assert found == [(7, 2), (1, 1)]
    assert taken == {"too_large": {"polygons": 1, "area_m2": pytest.approx(300, rel=1e-3)}}


def test_progress_tells_every_strip(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoseg.vectorise._STRIP", 4)
    monkeypatch.setattr("geoseg.vectorise._LEAST", 1)
    steps = []
    polygonize_raster(
        classes, None, LEGEND, tmp_path / "a.gpkg", PolygonOptions(),
        progress=lambda stage, done, total, note="": steps.append((stage, done, total)),
    )  # fmt: skip
    assert steps == [("polygons a_classes", row, 3) for row in (1, 2, 3)]
    assert len(gpd.read_file(tmp_path / "a.gpkg", layer=LAYER)) == 3


def test_strips_of_any_height_give_the_same_layer(
    write_scene: WriteScene, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    row, col = np.indices((1100, 260))
    values = (row + 9 * np.sin(col / 17)) // 40 + (col + 9 * np.sin(row / 23)) // 40
    values = np.where(rng.random(row.shape) < 0.03, rng.integers(0, 4, row.shape), values % 4).astype(np.uint8)
    path = write_scene("a.tif", np.choose(values, [0, 1, 7, 255]).astype(np.uint8), nodata=255)
    scores = write_scene("c.tif", rng.random(row.shape).astype(np.float32))
    options = PolygonOptions(smooth=True, min_area=400.0, min_hole=900.0, max_area=200_000.0)
    found = []
    for rows in (64, 257, 1000, 1100):
        monkeypatch.setattr("geoseg.vectorise._STRIP", rows * 260)
        balance = polygonize_raster(path, scores, LEGEND, tmp_path / f"{rows}.gpkg", options)
        found.append((balance, gpd.read_file(tmp_path / f"{rows}.gpkg", layer=LAYER)))
        assert (balance["gap_pixels"], balance["overlapping_polygons"]) == (0, 0)
        assert all(balance[name]["area_m2"] > 0 for name in ("merged", "filled", "too_large"))
    for balance, table in found[1:]:
        assert table.equals(found[0][1])
        assert balance["polygons"] == found[0][0]["polygons"]


@pytest.mark.parametrize("small", ["merge", "drop"])
def test_nothing_small_is_left_where_corners_join_and_holes_are_filled(
    write_scene: WriteScene, tmp_path: Path, rng: np.random.Generator, small: Small
) -> None:
    path = write_scene("a.tif", rng.choice(np.array([1, 7], np.uint8), (60, 60)))
    options = PolygonOptions(simplify=0, connectivity=8, min_area=700.0, min_hole=700.0, small=small)
    polygonize_raster(path, None, LEGEND, tmp_path / "a.gpkg", options)
    table = gpd.read_file(tmp_path / "a.gpkg", layer=LAYER)
    assert table["pixels"].min() >= 7
    rings = shapely.get_rings(shapely.get_parts(table.geometry.to_numpy()))
    holes = shapely.area(shapely.polygons(rings[shapely.is_ccw(rings) == 0]))
    assert holes.min(initial=700) >= 699


def test_an_empty_layer_is_warned_of_where_limits_have_emptied_it(classes: Path, tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match=r"a_classes\.tif: no polygon is left; a bare number of --min-area"):
        polygonize_raster(classes, None, LEGEND, tmp_path / "a.gpkg", PolygonOptions(min_area=1e9))
