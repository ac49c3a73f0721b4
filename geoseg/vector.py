"""Vector files: opened by what they are, not by what they are called, and read without reaching for anything else."""

from __future__ import annotations

import json
import mmap
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import pyogrio

from geoseg.errors import GeosegError, LabelError, MissingFileError

VECTOR_SUFFIXES = frozenset({".gpkg", ".shp", ".geojson", ".json", ".fgb", ".parquet"})

_SQLITE = b"SQLite format 3\0"
_GEOPACKAGE_IDS = (b"GPKG", b"GP10", b"GP11")
_MAGIC = {_SQLITE: "gpkg", b"fgb\3": "fgb", b"\0\0\x27\x0a": "shp", b"PAR1": "parquet"}
_GENERATED = (2, 3)  # of `hidden` in PRAGMA table_xinfo (sqlite.org/pragma.html)
_LARGEST_UNPACKED = 2**30
"""Bytes of columns that a small Parquet file may unpack to: one value can stand for a million."""
_ID_AT = 68  # of the application in the header of an SQLite file (sqlite.org/fileformat2.html, 1.3.17)

# What makes GDAL leave a GeoJSON file (GDAL 3.12): it takes one for a VRT that names other files where this stands in it, and
# fetches a CRS that is a link. JSON has more than one way to write a name, and GDAL more than one way to read JSON.
_VRT = re.compile(rb"<OGRVRT", re.IGNORECASE)
_PIPELINE = re.compile(rb"gdal_streamed_alg", re.IGNORECASE)
_GEOJSON = re.compile(
    rb'"type"\s*:\s*"(?:Feature|FeatureCollection|GeometryCollection|(?:Multi)?(?:Point|LineString|Polygon))"'
)
_CRS = re.compile(rb"""(?P<quote>["'])crs(?P=quote)(?=\s*[:/])""", re.IGNORECASE)
_PLAIN = re.compile(rb"\s*:\s*(?:null\b|[^\s{/])")
_OBJECT = re.compile(rb"\s*:\s*(?=\{)")
_LINK = re.compile(rb"""["'](?:link|url|href)["']|\\""", re.IGNORECASE)
_LONGEST_CRS = 10_000
_HIDDEN_LETTER = re.compile(rb"\\u00(?:4[1-9a-f]|5[0-9a]|6[1-9a-f]|7[0-9a])", re.IGNORECASE)


@dataclass(frozen=True)
class VectorLayer:
    """The first layer of a vector file that has geometries.

    Attributes:
        path: the file.
        name: of the layer; empty for a Parquet file.
        others: how many more layers the file has.
        geometry_type: as GDAL calls it; empty where nothing tells before it is read.
        fields: names of its columns.
    """

    path: Path
    name: str
    others: int
    geometry_type: str
    fields: tuple[str, ...]

    def read(self, columns: Sequence[str] | None = None) -> gpd.GeoDataFrame:
        """The features, with some of the columns or all of them; broken geometries are mended as far as they can be read.

        Raises:
            LabelError: the file is damaged.
        """
        with _one_line(self.path):
            wanted = None if columns is None else list(columns)
            if not self.name:
                return _read_parquet(self.path, wanted)
            return pyogrio.read_dataframe(self.path.absolute(), layer=self.name, columns=wanted, on_invalid="fix")


def open_layer(path: Path, prefer: str | None = None) -> VectorLayer:
    """Say what the first layer of a vector file is.

    Args:
        path: a local GeoPackage, FlatGeobuf, GeoJSON, shapefile or GeoParquet file.
        prefer: a kind of geometry, such as `Polygon`: where just one layer has it, that one.

    Raises:
        MissingFileError: no such file.
        LabelError: it is none of these, damaged, without a layer of geometries, or would make its reader open other files
            or addresses.
    """
    kind = refuse_strange(path)
    with _one_line(path):
        if kind == "parquet":
            from pyarrow import parquet  # an extra

            facts = parquet.read_metadata(path)
            if facts.num_rows > path.stat().st_size:  # a row takes more than a byte, however well it is compressed
                raise ValueError(f"{facts.num_rows:,} rows in {path.stat().st_size:,} bytes")
            return VectorLayer(path, "", 0, "", tuple(facts.schema.to_arrow_schema().names))
        # An absolute path is never taken for the address of something else. Links are not followed: what stands beside
        # the name that was given belongs to it.
        layers = {name: kind for name, kind in pyogrio.list_layers(path.absolute()) if kind is not None}
        if not layers:
            raise ValueError("a table without geometry found")
        preferred = [name for name, kind in layers.items() if prefer is not None and prefer in kind]
        name = preferred[0] if len(preferred) == 1 else next(iter(layers))
        info = pyogrio.read_info(path.absolute(), layer=name)
        return VectorLayer(path, name, len(layers) - 1, info["geometry_type"] or "", tuple(info["fields"]))


def refuse_strange(path: Path) -> str:
    """Raise unless a file is, by its bytes, of a kind that is read, and names nothing outside itself.

    Returns:
        `gpkg`, `fgb`, `shp`, `parquet` or `geojson`.

    Raises:
        MissingFileError, LabelError: see `open_layer`.
    """
    if not path.is_file():
        if path.exists():
            raise LabelError(f"{path}: no regular file; give the path of a polygon file")
        raise MissingFileError(f"{path}: not found; give the path of a polygon file")
    if odd := set("!;") & set(f"{path.absolute()}{path.resolve()}"):
        raise LabelError(
            f"{path}: '{odd.pop()}' in its path, which is taken for that of an archive; rename the file or folder"
        )
    with _one_line(path), open(path, "rb") as file:
        start = file.read(100)
        kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
        if kind == "gpkg":
            if start[_ID_AT : _ID_AT + 4] not in _GEOPACKAGE_IDS:
                raise ValueError("an SQLite database found that is no GeoPackage")
            _refuse_programs(path)
        if kind is not None:
            return kind
        if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] != b"{":
            raise ValueError("none of these found, by its first bytes")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            _refuse_links(text)
    return "geojson"


def _refuse_links(text: mmap.mmap) -> None:
    if _VRT.search(text):
        raise ValueError("a VRT found, which may point anywhere")
    if _PIPELINE.search(text) or not _GEOJSON.search(text):
        raise ValueError("JSON found that is no GeoJSON")
    if any(_is_link(text, found.end()) for found in _CRS.finditer(text)):
        raise ValueError("a CRS found that is not told by its name, and may be a link")
    if _HIDDEN_LETTER.search(text):
        raise ValueError("letters written as numbers found, which may hide a link")


def _is_link(text: mmap.mmap, at: int) -> bool:
    """Whether what follows a "crs" may be a link: all that is neither plain nor an object that certainly is none."""
    if _PLAIN.match(text, at):
        return False
    found = _OBJECT.match(text, at)
    if found is None:
        return True
    try:
        told = text[found.end() : found.end() + _LONGEST_CRS].decode("utf-8", "replace")
        _, length = json.JSONDecoder().raw_decode(told)
    except (ValueError, RecursionError):
        return True
    return _LINK.search(told[:length].encode()) is not None


def _refuse_programs(path: Path) -> None:
    """Refuse a GeoPackage whose tables are views, virtual or made while they are read: programs, which need not end.

    GDAL runs them as soon as it lists the layers.
    """
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        tables = {
            str(name).lower(): kind == "table" and re.match(r"\s*CREATE\s+VIRTUAL\b", str(sql), re.IGNORECASE) is None
            for kind, name, sql in database.execute(
                "SELECT type, name, sql FROM sqlite_master WHERE type IN ('table', 'view')"
            )
        }
        system = [name for name in tables if name.startswith("gpkg_") or name == "layer_styles"]
        if odd := [name for name in system if not tables[name]]:
            raise ValueError(f"'{odd[0]}' is a view, not a table")
        layers = {
            name
            for table in ("gpkg_contents", "gpkg_geometry_columns")
            if table in tables
            for (name,) in database.execute(f"SELECT table_name FROM {table}")
        }
        for layer in sorted(str(name) for name in layers):
            quoted = layer.replace('"', '""')
            columns = database.execute(f'PRAGMA table_xinfo("{quoted}")').fetchall()
            if not tables.get(layer.lower(), True) or any(hidden in _GENERATED for *_, hidden in columns):
                raise ValueError(
                    f"layer '{layer}' is a view, not a table, or has columns that are made while they are read; save it as a file of "
                    "its own"
                )
        if odd := [name for name, plain in tables.items() if not plain and not name.startswith("rtree_")]:
            raise ValueError(f"'{odd[0]}' is a view, not a table; save the layer as a file of its own")


def _read_parquet(path: Path, columns: list[str] | None) -> gpd.GeoDataFrame:
    from pyarrow import parquet  # an extra

    with parquet.ParquetFile(path) as file:
        told = file.schema_arrow.metadata or {}
        geometry = json.loads(told[b"geo"])["primary_column"] if columns is not None and b"geo" in told else None
        wanted = None if geometry is None or columns is None else list(dict.fromkeys([*columns, geometry]))
        unpacked, most = 0, max(_LARGEST_UNPACKED, 100 * path.stat().st_size)
        for batch in file.iter_batches(batch_size=64, columns=wanted):
            unpacked += batch.nbytes
            if unpacked > most:
                raise ValueError(f"{path.stat().st_size:,} bytes found that unpack to more than {most:,}")
    return gpd.read_parquet(path, columns=wanted)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn what the libraries say of a damaged file into one line."""
    try:
        yield
    except GeosegError:
        raise
    except Exception as error:  # damaged files make pyogrio, pyarrow and GEOS raise almost anything
        reason = " ".join(str(error).split())
        raise LabelError(
            f"{path}: no features could be read ({reason}); a GeoPackage, FlatGeobuf, GeoJSON or shapefile is needed"
        ) from None
