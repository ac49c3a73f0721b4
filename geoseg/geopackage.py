"""GeoPackage files as they are written here: layers that are counted again, with the style in which QGIS shows them."""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from geoseg.errors import DiskError
from geoseg.files import room_beside

_STYLE_TABLE = """
CREATE TABLE IF NOT EXISTS layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256),
 f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT,
 styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
 update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"""

_METADATA_TABLES = (
    """
CREATE TABLE IF NOT EXISTS gpkg_metadata (id INTEGER CONSTRAINT m_pk PRIMARY KEY ASC NOT NULL,
 md_scope TEXT NOT NULL DEFAULT 'dataset', md_standard_uri TEXT NOT NULL, mime_type TEXT NOT NULL DEFAULT 'text/xml',
 metadata TEXT NOT NULL DEFAULT '')""",
    """
CREATE TABLE IF NOT EXISTS gpkg_metadata_reference (reference_scope TEXT NOT NULL, table_name TEXT, column_name TEXT,
 row_id_value INTEGER, timestamp DATETIME NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')),
 md_file_id INTEGER NOT NULL, md_parent_id INTEGER,
 CONSTRAINT crmr_mfi_fk FOREIGN KEY (md_file_id) REFERENCES gpkg_metadata(id),
 CONSTRAINT crmr_mpi_fk FOREIGN KEY (md_parent_id) REFERENCES gpkg_metadata(id))""",
    """
CREATE TABLE IF NOT EXISTS gpkg_extensions (table_name TEXT, column_name TEXT, extension_name TEXT NOT NULL,
 definition TEXT NOT NULL, scope TEXT NOT NULL, CONSTRAINT ge_tce UNIQUE (table_name, column_name, extension_name))""",
)


@contextmanager
def writing_layer(path: Path) -> Iterator[None]:
    """Turn what GDAL and SQLite say while a vector file is written into one line.

    Args:
        path: the file, for the message.

    Raises:
        DiskError: they say anything.
    """
    try:
        yield
    except (DataSourceError, DataLayerError, FeatureError, sqlite3.Error) as error:
        reason = " ".join(str(error).split())
        raise DiskError(f"{path.name}: could not be written ({reason}); {room_beside(path)}") from error


def append_layer(path: Path, layer: str, table: gpd.GeoDataFrame, geometry_type: str, *, begun: bool) -> None:
    """Write rows into a layer.

    Args:
        path: a staged .gpkg.
        layer: its name.
        table: the rows; there may be none, so that the columns are known.
        geometry_type: of all of them, such as `Polygon`.
        begun: the layer is there already.

    Raises:
        DiskError: they could not be written.
    """
    # GDAL before 3.9 warns of version 1.4.
    options = {"append": True} if begun else {"dataset_options": {"VERSION": "1.3"}}
    with writing_layer(path), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)  # a picture has none
        pyogrio.write_dataframe(table, path, layer=layer, driver="GPKG", geometry_type=geometry_type, **options)


def write_layer(
    path: Path, layer: str, table: gpd.GeoDataFrame, geometry_type: str, *, style: str | None = None
) -> None:
    """Write a GeoPackage of one layer, and count what stands in it.

    Args:
        path: a staged .gpkg.
        layer: its name.
        table: its rows.
        geometry_type: of all of them, such as `Polygon`.
        style: QML, in which QGIS opens it.

    Raises:
        DiskError: what stands on the disk is not what was written.
    """
    append_layer(path, layer, table, geometry_type, begun=False)
    check_layer(path, layer, len(table), int(table.geometry.notna().sum()))
    if style is not None:
        embed_style(path, layer, style)


def check_layer(path: Path, layer: str, rows: int, placed: int) -> None:
    """Compare how many rows a layer has, and how many of these its spatial index knows, with how many were written.

    GDAL is silent when the disk fills while it writes the index (GDAL 3.12).

    Args:
        path: of a GeoPackage.
        layer: of it.
        rows: that were written.
        placed: those of them that have a geometry.

    Raises:
        DiskError: there are fewer, or more.
    """
    with writing_layer(path), closing(sqlite3.connect(path)) as database:
        (geometry,) = database.execute(
            "SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (layer,)
        ).fetchone() or ("geom",)
        indexed = (
            f'SELECT count(*) FROM "{layer}" AS rows JOIN "rtree_{layer}_{geometry}" AS places ON rows.fid = places.id'
        )
        found = tuple(database.execute(query).fetchone()[0] for query in (f'SELECT count(*) FROM "{layer}"', indexed))
    if found != (rows, placed):
        raise DiskError(f"{path.name}: {found[0]} of {rows} features can be read back; {room_beside(path)}")


def embed_style(path: Path, layer: str, qml: str) -> None:
    """Make `qml` the default style of a layer of a GeoPackage, in the table that QGIS itself keeps styles in.

    Raises:
        DiskError: the layer is not in the file, or the style could not be written.
    """
    with writing_layer(path), closing(sqlite3.connect(path)) as database, database:
        found = database.execute(
            "SELECT column_name, last_change FROM gpkg_geometry_columns JOIN gpkg_contents USING (table_name)"
            " WHERE table_name = ?", (layer,),
        ).fetchone()  # fmt: skip
        if found is None:
            raise DiskError(f"{path.name}: no layer '{layer}' in it; write the layer before its style")
        geometry_column, last_change = found
        database.execute(_STYLE_TABLE)
        database.execute("DELETE FROM layer_styles WHERE f_table_name = ?", (layer,))
        database.execute(
            "INSERT OR IGNORE INTO gpkg_contents (table_name, data_type, identifier, description, last_change, srs_id)"
            " VALUES ('layer_styles', 'attributes', 'layer_styles', 'QGIS styles', ?, 0)", (last_change,),
        )  # fmt: skip
        # Catalog and schema must be empty texts: with NULL, QGIS does not find the style.
        database.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName,"
            " styleQML, styleSLD, useAsDefault, description, owner, update_time)"
            " VALUES ('', '', ?, ?, ?, ?, '', 1, 'geoseg', '', ?)", (layer, geometry_column, layer, qml, last_change),
        )  # fmt: skip
    with writing_layer(path), closing(sqlite3.connect(path)) as database:
        kept = database.execute("SELECT styleQML FROM layer_styles WHERE f_table_name = ?", (layer,)).fetchone()
    if kept != (qml,):
        raise DiskError(f"{path.name}: its style cannot be read back; {room_beside(path)}")


def embed_provenance(path: Path, layer: str, provenance: Mapping[str, Any]) -> None:
    """Say in a GeoPackage what a layer was made of and with, as JSON in its metadata.

    OGC 12-128r19, "GeoPackage Encoding Standard", annex F.8; `ogrinfo` and QGIS show it among the layer's metadata.

    Raises:
        DiskError: it could not be written.
    """
    text = json.dumps(provenance, ensure_ascii=False)
    with writing_layer(path), closing(sqlite3.connect(path)) as database, database:
        (last_change,) = database.execute(
            "SELECT last_change FROM gpkg_contents WHERE table_name = ?", (layer,)
        ).fetchone()
        for statement in _METADATA_TABLES:
            database.execute(statement)
        database.execute(
            "INSERT INTO gpkg_metadata (md_scope, md_standard_uri, mime_type, metadata)"
            " VALUES ('dataset', 'https://www.w3.org/TR/prov-overview/', 'application/json', ?)", (text,),
        )  # fmt: skip
        database.execute(
            "INSERT INTO gpkg_metadata_reference (reference_scope, table_name, timestamp, md_file_id)"
            " VALUES ('table', ?, ?, last_insert_rowid())", (layer, last_change),
        )  # fmt: skip
        for table in ("gpkg_metadata", "gpkg_metadata_reference"):
            database.execute(
                "INSERT OR IGNORE INTO gpkg_extensions (table_name, extension_name, definition, scope) VALUES (?,"
                " 'gpkg_metadata', 'http://www.geopackage.org/spec131/#extension_metadata', 'read-write')", (table,),
            )  # fmt: skip
    with writing_layer(path), closing(sqlite3.connect(path)) as database:
        kept = database.execute("SELECT metadata FROM gpkg_metadata").fetchone()
    if kept != (text,):
        raise DiskError(f"{path.name}: its metadata cannot be read back; {room_beside(path)}")
