"""Polygon tables and files: areas that can be computed, and every format read back."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pyproj
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS
from test_sweep import swept

from geoseg.confidence import Confidence
from geoseg.errors import InputError, MissingPackageError
from geoseg.legend import parse_legend
from geoseg.polygon_layer import (
    LAYER,
    Format,
    LayerWriter,
    find_format,
    measure_ground,
    polygon_table,
    to_degrees,
)
from geoseg.sweep import Finished

LEGEND = parse_legend("0=background,1=cultivated,7=water")
STYLE = "<qgis/>"
DEGREES, UTM = CRS.from_epsg(4326), CRS.from_epsg(32614)
TRANSFORM = Affine(10, 0, 500_000, 0, -10, 4_500_000)
LABELS = np.array([[0, 1, 1, 2], [0, 1, 0, 2], [1, 0, 0, 255]], np.uint8)
FORMATS: list[Format] = ["gpkg", "fgb", "geojson", "parquet"]


def table_of(
    labels: np.ndarray = LABELS, chosen: tuple[int, ...] = (1, 2), transform: Affine = TRANSFORM, **options: object
) -> gpd.GeoDataFrame:
    settings = {"connectivity": 4, "crs": UTM, **options}
    found = swept(labels, classes=chosen, connectivity=settings["connectivity"])  # type: ignore[arg-type]
    (finished,) = found or [Finished.none()]
    return polygon_table(finished, finished.outlines.polygons(transform), LEGEND, **settings)  # type: ignore[arg-type]


def write(path: Path, *tables: gpd.GeoDataFrame, format: Format) -> None:
    """Write tables into a layer."""
    multi = len(tables[0]) > 0 and tables[0].geom_type[0] == "MultiPolygon"
    with LayerWriter(path, format=format, style=STYLE, multi=multi, provenance={"software": "geoseg"}) as layer:
        for table in tables:
            layer.write(table)
        layer.finish()


def read(path: Path) -> gpd.GeoDataFrame:
    return gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path, layer=LAYER)


def cell_area(lon_width: float, south: float, north: float) -> float:
    """Area in m2 between two meridians and two parallels of WGS 84, in closed form."""
    a, f = 6378137.0, 1 / 298.257223563
    e = math.sqrt(f * (2 - f))

    def below(lat: float) -> float:
        s = math.sin(math.radians(lat))
        return s / (1 - (e * s) ** 2) + math.log((1 + e * s) / (1 - e * s)) / (2 * e)

    return math.radians(lon_width) * (a * (1 - f)) ** 2 / 2 * (below(north) - below(south))


def test_area_and_perimeter_are_those_on_the_ellipsoid() -> None:
    cell, hole = shapely.box(10, 40, 10.01, 40.01), shapely.box(10.004, 40.004, 10.005, 40.005)
    (area, holed), (perimeter, longer) = measure_ground(np.array([cell, cell.difference(hole)]), DEGREES)
    assert area == pytest.approx(cell_area(0.01, 40, 40.01), rel=1e-6)
    assert area - holed == pytest.approx(cell_area(0.001, 40.004, 40.005), rel=1e-6)
    assert perimeter == pytest.approx(2 * 1110.37 + 853.94 + 853.81, rel=1e-4)
    assert longer - perimeter == pytest.approx(perimeter / 10, rel=1e-3)  # the edge of the hole counts


@pytest.mark.parametrize(
    ("epsg", "west", "south"),
    [(3857, -99.001, 40), (2264, -79, 35.5), (3413, -45, 80), (3031, 100, -75), (32660, 179.9995, 51), (4326, 12, -30)],
    ids=["Web Mercator", "feet", "north polar", "south polar", "across the antimeridian", "degrees"],
)
def test_area_does_not_depend_on_the_crs_nor_on_the_direction_of_rings(epsg: int, west: float, south: float) -> None:
    corners = np.array([(west, south), (west + 0.001, south), (west + 0.001, south + 0.001), (west, south + 0.001)])
    project = pyproj.Transformer.from_crs(4326, epsg, always_xy=True).transform
    cell = np.array([shapely.Polygon(np.column_stack(project(*corners.T)))])
    for polygons in (cell, shapely.reverse(cell)):
        area, _ = measure_ground(polygons, CRS.from_epsg(epsg))
        assert area[0] == pytest.approx(cell_area(0.001, south, south + 0.001), rel=1e-5)


def test_a_belt_along_a_parallel_keeps_to_it() -> None:
    belt = np.array([shapely.box(0, 58, 20, 59), shapely.box(-180, 58, 180, 59)])
    area, perimeter = measure_ground(belt, DEGREES)
    assert area.tolist() == pytest.approx([cell_area(20, 58, 59), cell_area(360, 58, 59)], rel=1e-5)
    assert perimeter[0] == pytest.approx(2 * 111_400 + 20 * (59_140 + 57_480), rel=2e-3)


@pytest.mark.parametrize("crs", [None, CRS.from_wkt('LOCAL_CS["unnamed",UNIT["metre",1]]')])
def test_area_is_unknown_where_the_place_is(crs: CRS | None) -> None:
    assert to_degrees(crs) is None
    area, perimeter = measure_ground(np.array([shapely.box(0, 0, 1, 1)]), crs)
    assert np.isnan([area, perimeter]).all()
    assert table_of(crs=crs)["area_ha"].isna().all()


def test_table_has_a_row_per_piece_in_the_order_of_last_rows() -> None:
    table = table_of()
    names = [
        "id",
        "class_value",
        "class_name",
        "area_m2",
        "area_ha",
        "perimeter_m",
        "compactness",
        "pixels",
        "geometry",
    ]
    assert list(table.columns) == names
    assert table["id"].tolist() == [1, 2, 3]
    assert table["class_value"].tolist() == [1, 7, 1]
    assert table["class_name"].tolist() == ["cultivated", "water", "cultivated"]
    assert table["pixels"].tolist() == [3, 2, 1]
    assert table["area_m2"].to_numpy() == pytest.approx([300, 200, 100], rel=1e-3)
    assert table["perimeter_m"].to_numpy() == pytest.approx([80, 60, 40], rel=1e-3)
    assert table["compactness"].iloc[2] == pytest.approx(math.pi / 4, rel=1e-3)  # a square
    assert table["area_ha"].to_numpy() == pytest.approx(table["area_m2"].to_numpy() / 1e4)
    assert table.crs == UTM


def test_with_connectivity_8_pieces_that_touch_at_corners_are_one_feature() -> None:
    table = table_of(connectivity=8)
    assert table["pixels"].tolist() == [2, 4]
    assert table["area_m2"].to_numpy() == pytest.approx([200, 400], rel=1e-3)
    assert table.geom_type.unique().tolist() == ["MultiPolygon"]
    assert table.is_valid.all()
    assert [len(geometry.geoms) for geometry in table.geometry] == [1, 2]


def test_confidence_stands_before_the_pixels() -> None:
    table = table_of(confidence=Confidence(np.array([0.5, 0.25, np.nan]), np.array([0.4, 0.2, np.nan])))
    assert list(table.columns)[-4:] == ["confidence", "confidence_p5", "pixels", "geometry"]
    assert table["confidence"].tolist()[:2] == [0.5, 0.25]
    assert table["confidence_p5"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("connectivity", [4, 8])
def test_every_format_is_read_back(tmp_path: Path, format: Format, connectivity: int) -> None:
    table = table_of(connectivity=connectivity)
    path = tmp_path / f"a.{format}"
    write(path, table, format=format)
    found = read(path).sort_values("id", ignore_index=True)
    assert found.drop(columns="geometry").to_dict("list") == table.drop(columns="geometry").to_dict("list")
    assert found.is_valid.all()
    if format == "geojson":
        assert found.crs == DEGREES
        assert shapely.is_ccw(shapely.get_exterior_ring(shapely.get_parts(found.geometry))).all()
        assert found.to_crs(UTM).geom_equals_exact(table.geometry, 0.001).all()
    else:
        assert found.crs == UTM
        assert found.geom_equals(table.geometry).all()
        assert found.geom_type.unique().tolist() == ["Polygon" if connectivity == 4 else "MultiPolygon"]


@pytest.mark.parametrize("format", FORMATS)
def test_tables_are_gathered_into_one_layer(tmp_path: Path, format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoseg.polygon_layer._ROWS", 4)
    table = table_of()
    tables = [table.iloc[:0], *(table.assign(id=table["id"] + 3 * number) for number in range(5))]
    write(tmp_path / f"a.{format}", *tables, format=format)
    found = read(tmp_path / f"a.{format}")
    assert sorted(found["id"]) == list(range(1, 16))
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{format}"]


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_layer_is_written(tmp_path: Path, format: Format) -> None:
    table = table_of(chosen=(), confidence=Confidence(np.zeros(0), np.zeros(0)))
    write(tmp_path / f"a.{format}", table, format=format)
    if format == "parquet":
        found = read(tmp_path / "a.parquet")
        assert (len(found), list(found.columns), found.crs) == (0, list(table.columns), UTM)
        return
    information = pyogrio.read_info(tmp_path / f"a.{format}", layer=LAYER, force_feature_count=True)
    assert information["features"] == 0
    if format != "geojson":  # which has no columns where it has no features
        assert information["crs"] == "EPSG:32614"
        assert dict(zip(information["fields"], information["ogr_types"], strict=True)) == {
            "id": "OFTInteger64", "class_value": "OFTInteger64", "class_name": "OFTString", "area_m2": "OFTReal",
            "area_ha": "OFTReal", "perimeter_m": "OFTReal", "compactness": "OFTReal", "confidence": "OFTReal",
            "confidence_p5": "OFTReal", "pixels": "OFTInteger64",
        }  # fmt: skip


def test_geopackage_carries_its_style_and_a_version_that_older_gdal_reads(tmp_path: Path) -> None:
    write(tmp_path / "a.gpkg", table_of(), format="gpkg")
    with closing(sqlite3.connect(tmp_path / "a.gpkg")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (10300,)
        found = database.execute("SELECT f_table_name, styleQML, useAsDefault FROM layer_styles").fetchall()
    assert found == [(LAYER, STYLE, 1)]


def test_geojson_is_split_at_the_antimeridian(tmp_path: Path) -> None:
    place = Affine(60_000, 0, 730_000, 0, -60_000, 4_500_000)
    table = table_of(np.ones((1, 1), np.uint8), transform=place, crs=CRS.from_epsg(32660))
    write(tmp_path / "a.geojson", table, format="geojson")
    (feature,) = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    east, west = sorted(shapely.geometry.shape(feature["geometry"]).geoms, key=lambda part: part.bounds, reverse=True)
    assert east.bounds[2] == 180
    assert west.bounds[0] == -180


def test_a_picture_is_written_without_a_crs(tmp_path: Path) -> None:
    for format in ("gpkg", "fgb"):
        write(tmp_path / f"a.{format}", table_of(crs=None), format=format)  # type: ignore[arg-type]
        found = gpd.read_file(tmp_path / f"a.{format}", layer=LAYER)
        assert found.crs is None
        assert found["area_m2"].isna().all()


def test_the_suffix_need_not_be_that_of_the_format(tmp_path: Path) -> None:
    write(tmp_path / "a.bin", table_of(), format="fgb")
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes()[:3] == b"fgb"


@pytest.mark.parametrize(
    ("name", "named", "format"),
    [("a.gpkg", None, "gpkg"), ("a.FGB", None, "fgb"), ("a.json", None, "geojson"), ("a.bin", "gpkg", "gpkg")],
)
def test_format_goes_by_name_or_suffix(name: str, named: str | None, format: Format) -> None:
    assert find_format(Path(name), named) == format


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(InputError, match=r"a\.shp: a name that ends in '\.shp'.*possible are \.gpkg"):
        find_format(Path("a.shp"))
    with pytest.raises(InputError, match="format 'kml'"):
        find_format(Path("a.gpkg"), "kml")
    with pytest.raises(InputError, match=r"a name that ends in '\.gpkg' for format 'fgb'; leave --format out"):
        find_format(Path("a.gpkg"), "fgb")


def test_parquet_without_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoseg.extras.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"geoseg\[parquet\]"):
        find_format(Path("a.parquet"))


@pytest.mark.parametrize("crs", [UTM, None])
def test_parquet_can_be_searched_by_place(tmp_path: Path, crs: CRS | None) -> None:
    table = table_of(crs=crs)
    write(tmp_path / "a.parquet", table, format="parquet")
    found = gpd.read_parquet(tmp_path / "a.parquet")
    assert found.crs == table.crs
    assert found.geom_equals(table.geometry).all()
    assert list(found.columns) == list(table.columns)
    east = gpd.read_parquet(tmp_path / "a.parquet", bbox=(500_031, 4_499_985, 500_039, 4_499_999))
    assert east["id"].tolist() == [2]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on file sizes")
@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_noticed(tmp_path: Path, format: Format) -> None:
    code = f"""
import resource, signal, sys
sys.path[:0] = {sys.path!r}
import numpy as np
from pathlib import Path
from geoseg.errors import DiskError
from test_polygon_layer import table_of, write
path = Path({str(tmp_path / format)!r} + ".{format}")
table = table_of(np.indices((60, 60)).sum(axis=0).astype(np.uint8) % 3)
write(path, table, format="{format}")
size = path.stat().st_size
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in np.linspace(0.05, 0.95, 19) * size:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), -1))
    path.unlink()
    try:
        write(path, table, format="{format}")
        raise SystemExit(f"not noticed at {{limit:.0f}} of {{size}}")
    except DiskError:
        left = sorted(found.name for found in path.parent.iterdir())
        if set(left) - {{path.name, path.name + "-journal"}}:  # whoever has staged the path takes these away
            raise SystemExit(f"left at {{limit:.0f}} of {{size}}: {{left}}")
        path.touch()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
