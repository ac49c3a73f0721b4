"""A GeoPackage is counted again after it was written: GDAL is silent when the disk fills while it writes the index."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import pyogrio
import pytest
import shapely

from geoseg.errors import DiskError
from geoseg.geopackage import check_layer, embed_style, write_layer

SQUARES = gpd.GeoDataFrame(
    {"a": [1, 2, 3]}, geometry=[shapely.box(i, i, i + 1, i + 1) for i in range(3)], crs="EPSG:4326"
)


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


def test_what_is_written_is_counted_and_shown_in_its_style(tmp_path):
    write_layer(tmp_path / "a.gpkg", "fields", SQUARES, "Polygon", style="<qgis/>")
    assert pyogrio.list_layers(tmp_path / "a.gpkg")[0].tolist() == ["fields", "Polygon"]
    assert pyogrio.read_dataframe(tmp_path / "a.gpkg", layer="fields")["a"].tolist() == [1, 2, 3]
    check_layer(tmp_path / "a.gpkg", "fields", 3, 3)


def test_rows_without_a_place_are_not_in_the_index(tmp_path):
    table = SQUARES.copy()
    table.loc[1, "geometry"] = None
    write_layer(tmp_path / "a.gpkg", "fields", table, "Polygon")


@pytest.mark.parametrize("damage", ["DELETE FROM rtree_fields_geom WHERE id = 2", "DROP TABLE rtree_fields_geom"])
def test_an_index_that_is_not_whole_is_said(tmp_path, damage):
    write_layer(tmp_path / "a.gpkg", "fields", SQUARES, "Polygon")
    change(tmp_path / "a.gpkg", damage)
    with pytest.raises(DiskError, match=r"a\.gpkg: .* MiB are free in "):
        check_layer(tmp_path / "a.gpkg", "fields", 3, 3)


def test_a_layer_that_is_not_registered_has_no_style(tmp_path):
    write_layer(tmp_path / "a.gpkg", "fields", SQUARES, "Polygon")
    change(tmp_path / "a.gpkg", "DELETE FROM gpkg_geometry_columns")
    with pytest.raises(DiskError, match=r"a\.gpkg: no layer 'fields'"):
        embed_style(tmp_path / "a.gpkg", "fields", "<qgis/>")


def test_a_file_that_is_none_is_said(tmp_path):
    (tmp_path / "a.gpkg").write_bytes(b"full")
    with pytest.raises(DiskError, match=r"a\.gpkg: could not be written \(file is not a database\)"):
        check_layer(tmp_path / "a.gpkg", "fields", 3, 3)
