"""A vector file is what its bytes say, and makes nobody open another file or ask an address."""

from __future__ import annotations

import http.server
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely
from scenery import one_line_each, write_polygons

from geoseg.errors import LabelError, MissingFileError
from geoseg.reference_points import holds_points
from geoseg.vector import open_layer, refuse_strange

SQUARE = shapely.box(500_000, 4_499_000, 500_500, 4_499_500)
KINDS = ("p.gpkg", "p.geojson", "p.fgb", "p.shp", "p.parquet")


def features(**more: Any) -> dict[str, Any]:
    """A GeoJSON document of one square."""
    ring = [[0, 0], [0, 1], [1, 1], [1, 0], [0, 0]]
    square = {"type": "Feature", "properties": {"crs": "mine"}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    return {"type": "FeatureCollection", **more, "features": [square]}


def refused(path: Path, match: str) -> None:
    with pytest.raises(LabelError, match=match) as caught:
        open_layer(path)
    one_line_each(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_read(tmp_path, name):
    write = gpd.GeoDataFrame.to_parquet if name == "p.parquet" else gpd.GeoDataFrame.to_file
    write(gpd.GeoDataFrame({"class": [3]}, geometry=[SQUARE], crs="EPSG:32614"), tmp_path / name)
    layer = open_layer(tmp_path / name)
    assert "class" in layer.fields
    frame = layer.read(["class"])
    assert list(frame["class"]) == [3]
    assert frame.geometry[0].equals(SQUARE)


@pytest.mark.parametrize("name", ["a#b?c.geojson", "zip:a.gpkg", "农田 地块.gpkg", "GPKG:x.gpkg"])
def test_a_name_is_a_name(tmp_path, monkeypatch, name):
    write_polygons(tmp_path / "p.gpkg", [SQUARE])
    (tmp_path / "p.geojson").write_text(json.dumps(features()))
    (tmp_path / f"p.{name.rpartition('.')[2]}").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(open_layer(Path(name)).read()) == 1


def test_a_name_that_gdal_takes_for_an_archive_is_said(tmp_path):
    (tmp_path / "a;b").mkdir()
    (tmp_path / "a;b" / "p.geojson").write_text(json.dumps(features()))
    refused(tmp_path / "a;b" / "p.geojson", "';' in its path")


# What points elsewhere


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """The address of a server of CRSs on this machine, and the paths that it was asked for."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *args: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()


LINK = '{"type": "link", "properties": {"href": "ADDRESS/crs", "type": "ogcwkt"}}'


@pytest.mark.parametrize(
    "member",
    [
        f'"crs": {LINK}', f'"CRS" : {LINK}', f'"c\\u0072s": {LINK}', f"'crs': {LINK}", f'"crs" /* a note */ : {LINK}',
        '"crs": {"type": "url", "properties": {"url": "ADDRESS/crs"}}',
        '"crs": {"properties": {"href": "ADDRESS/crs"}, "type": "link"}',
        '"crs": {"type": "l\\u0069nk", "properties": {"href": "ADDRESS/crs"}}', f'"crs": /* */ {LINK}',
    ],
)  # fmt: skip
def test_a_crs_that_is_a_link_is_not_followed(tmp_path, asked, member):
    address, paths = asked
    text = json.dumps(features()).replace('"features"', f'{member.replace("ADDRESS", address)}, "features"')
    (tmp_path / "p.geojson").write_text(text)
    refused(tmp_path / "p.geojson", r"p\.geojson: no features could be read \((a CRS|letters)")
    assert not holds_points(tmp_path / "p.geojson")
    assert paths == []


@pytest.mark.parametrize(
    "crs",
    [
        {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32614"}},
        {"properties": {"name": "urn:ogc:def:crs:EPSG::32614"}, "type": "name"},
        {"type": "EPSG", "properties": {"code": 32614}},
        None,
    ],
)
def test_a_crs_that_is_named_is_read(tmp_path, crs):
    (tmp_path / "p.geojson").write_text(json.dumps(features(crs=crs), indent=2))
    frame = open_layer(tmp_path / "p.geojson").read()
    assert (frame.crs.to_epsg() == 32614) == bool(crs)
    assert list(frame["crs"]) == ["mine"]


VRT = (
    '<OGRVRTDataSource><OGRVRTLayer name="secret"><SrcDataSource>PATH</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>'
)


@pytest.mark.parametrize(
    "text", [VRT, f"\n {VRT}", f"{{{VRT}", f'{{"a": "{VRT}"}}', f"{{}}{VRT}".replace("OGRVRTData", "ogrvrtData")]
)
@pytest.mark.parametrize("name", ["p.geojson", "p.gpkg", "p.shp"])
def test_a_vrt_opens_no_other_file(tmp_path, name, text):
    (tmp_path / "secret.geojson").write_text(json.dumps(features()))
    (tmp_path / name).write_text(text.replace("PATH", str(tmp_path / "secret.geojson")))
    refused(tmp_path / name, "no features could be read")
    assert not holds_points(tmp_path / name)


@pytest.mark.parametrize("type_name", ["gdal_streamed_alg", "GDAL_Streamed_Alg"])
@pytest.mark.parametrize("name", ["p.geojson", "p.gdalg.json", "p.gpkg"])
def test_a_pipeline_is_not_run(tmp_path, asked, name, type_name):
    """GDAL 3.11 and later run such a file as soon as they open it, whatever it is called."""
    address, paths = asked
    (tmp_path / "secret.geojson").write_text(json.dumps(features()))
    for source in (tmp_path / "secret.geojson", f"/vsicurl/{address}/a.fgb"):
        command = f"gdal vector pipeline ! read {source} ! limit 1000"
        (tmp_path / name).write_text(json.dumps({"type": type_name, "command_line": command}))
        refused(tmp_path / name, "JSON found that is no GeoJSON")
        (tmp_path / name).write_text(json.dumps({**features(), "x": {"type": type_name, "command_line": command}}))
        refused(tmp_path / name, "JSON found that is no GeoJSON")
    assert paths == []


# What is no table


def test_a_view_without_an_end_is_not_begun(tmp_path):
    write_polygons(tmp_path / "p.gpkg", [SQUARE], **{"class": [1]})
    with closing(sqlite3.connect(tmp_path / "p.gpkg")) as database, database:
        database.execute("ALTER TABLE p RENAME TO q")
        database.execute(
            "CREATE VIEW p AS WITH RECURSIVE many(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many)"
            " SELECT fid, geom, class FROM q, many"
        )
    database.close()
    refused(tmp_path / "p.gpkg", "layer 'p' is a view, not a table")


ENDLESS = "WITH RECURSIVE many(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many)"


@pytest.mark.parametrize("name", ["p.geojson", "p.fgb", "p.shp", "p.json", "p.parquet"])
def test_a_view_is_one_whatever_the_file_is_called(tmp_path, name):
    path = write_polygons(tmp_path / "p.gpkg", [SQUARE], **{"class": [1]})
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("ALTER TABLE p RENAME TO q")
        database.execute(f"CREATE VIEW p AS {ENDLESS} SELECT fid, geom, class FROM q, many WHERE n < 0")
    database.close()
    path.rename(tmp_path / name)
    refused(tmp_path / name, "layer 'p' is a view, not a table")


@pytest.mark.parametrize("table", ["gpkg_contents", "gpkg_geometry_columns", "gpkg_spatial_ref_sys", "layer_styles"])
def test_the_tables_of_a_geopackage_are_no_views(tmp_path, table):
    path = write_polygons(tmp_path / "p.gpkg", [SQUARE])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS layer_styles (id)")
        database.execute(f"ALTER TABLE {table} RENAME TO was")
        database.execute(f"CREATE VIEW {table} AS {ENDLESS} SELECT was.* FROM was, many WHERE n < 0")
    database.close()
    refused(path, f"'{table}' is a view, not a table")


def test_a_column_that_is_made_while_it_is_read_is_refused(tmp_path):
    path = write_polygons(tmp_path / "p.gpkg", [SQUARE])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "ALTER TABLE p ADD COLUMN big TEXT GENERATED ALWAYS AS (printf('%.*c', 300000000, 'x')) VIRTUAL"
        )
    database.close()
    refused(path, "has columns that are made while they are read")


def test_a_layer_may_be_called_virtual(tmp_path):
    frame = gpd.GeoDataFrame({"class": [3]}, geometry=[SQUARE], crs="EPSG:32614")
    frame.to_file(tmp_path / "p.gpkg", layer="virtual_fields")
    assert open_layer(tmp_path / "p.gpkg").name == "virtual_fields"


def test_the_one_layer_of_polygons_is_preferred(tmp_path):
    frame = gpd.GeoDataFrame({"class": [3]}, geometry=[SQUARE], crs="EPSG:32614")
    frame.set_geometry(frame.centroid).to_file(tmp_path / "p.gpkg", layer="points")
    frame.to_file(tmp_path / "p.gpkg", layer="fields")
    assert open_layer(tmp_path / "p.gpkg").name == "points"
    assert open_layer(tmp_path / "p.gpkg", prefer="Polygon").name == "fields"
    frame.to_file(tmp_path / "p.gpkg", layer="more")
    assert open_layer(tmp_path / "p.gpkg", prefer="Polygon").name == "points"


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_parts_of_a_shapefile_may_be_links_to_other_names(tmp_path):
    gpd.GeoDataFrame({"class": [3]}, geometry=[SQUARE], crs="EPSG:32614").to_file(tmp_path / "p.shp")
    (tmp_path / "links").mkdir()
    for number, path in enumerate(sorted(tmp_path.glob("p.*"))):
        path.rename(tmp_path / f"{number}")
        (tmp_path / "links" / path.name).symlink_to(tmp_path / f"{number}")
    assert list(open_layer(tmp_path / "links" / "p.shp").read(["class"])["class"]) == [3]


def test_a_small_parquet_file_cannot_fill_the_memory(tmp_path):
    pytest.importorskip("pyarrow")
    frame = gpd.GeoDataFrame({"class": ["a"] * 3000, "junk": ["x" * 1_000_000] * 3000}, geometry=[SQUARE] * 3000)
    frame.to_parquet(tmp_path / "p.parquet")
    assert (tmp_path / "p.parquet").stat().st_size < 2_000_000
    layer = open_layer(tmp_path / "p.parquet")
    assert len(layer.read(["class"])) == 3000
    with pytest.raises(LabelError, match="bytes found that unpack to more than 1,073,741,824"):
        layer.read(["junk"])


def test_an_sqlite_database_is_no_geopackage(tmp_path):
    with closing(sqlite3.connect(tmp_path / "p.gpkg")) as database, database:
        database.execute("CREATE TABLE p (class)")
    database.close()
    refused(tmp_path / "p.gpkg", "an SQLite database found that is no GeoPackage")


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.geojson")
    with pytest.raises(LabelError, match="no regular file"):
        refuse_strange(tmp_path / "p.geojson")
    with pytest.raises(MissingFileError, match=r"q\.gpkg: not found"):
        refuse_strange(tmp_path / "q.gpkg")


def test_more_rows_than_bytes_are_a_bomb(tmp_path):
    from pyarrow import parquet, table

    parquet.write_table(table({"class": [1] * 1_000_000}), tmp_path / "p.parquet")
    assert (tmp_path / "p.parquet").stat().st_size < 10_000
    refused(tmp_path / "p.parquet", "1,000,000 rows in")


def test_a_geopackage_of_a_running_qgis_is_read_and_left_alone(tmp_path):
    path = write_polygons(tmp_path / "in" / "p.gpkg", [SQUARE])
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode = WAL")
    database.close()
    before = {entry.name: entry.stat().st_mtime_ns for entry in path.parent.iterdir()}
    assert len(open_layer(path).read()) == 1
    assert {entry.name: entry.stat().st_mtime_ns for entry in path.parent.iterdir()} == before
