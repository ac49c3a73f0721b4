"""Vector files: opened by what they are, not by what they are called, and read without reaching for anything else."""

from __future__ import annotations

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
_MAGIC = (_SQLITE, b"fgb\3", b"\0\0\x27\x0a", b"PAR1")
_ID_AT = 68  # of the application in the header of an SQLite file (sqlite.org/fileformat2.html, 1.3.17)

# What makes GDAL leave a GeoJSON file (GDAL 3.12): it takes one for a VRT that names other files where this stands in it, and
# fetches a CRS that is a link. JSON has more than one way to write a name, and GDAL more than one way to read JSON.
_VRT = re.compile(rb"<OGRVRT", re.IGNORECASE)
_CRS = re.compile(rb"""(?P<quote>["'])crs(?P=quote)(?=\s*[:/])""", re.IGNORECASE)
_NAMED_CRS = re.compile(
    rb"""\s*:\s*(?:null\b|[^\s{/]|\{\s*"type"\s*:\s*"name"\s*,\s*"properties"\s*:\s*\{\s*"name"\s*:\s*"[^"\\]*"\s*\}\s*\})"""
)
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
            if not self.name:
                return gpd.read_parquet(self.path)
            wanted = None if columns is None else list(columns)
            return pyogrio.read_dataframe(self.path.resolve(), layer=self.name, columns=wanted, on_invalid="fix")


def open_layer(path: Path) -> VectorLayer:
    """Say what the first layer of a vector file is.

    Args:
        path: a local GeoPackage, FlatGeobuf, GeoJSON, shapefile or GeoParquet file.

    Raises:
        MissingFileError: no such file.
        LabelError: it is none of these, damaged, without a layer of geometries, or would make its reader open other files
            or addresses.
    """
    refuse_strange(path)
    with _one_line(path):
        if path.suffix.lower() == ".parquet":
            from pyarrow import parquet  # an extra

            facts = parquet.read_metadata(path)
            if facts.num_rows > path.stat().st_size:  # a row takes more than a byte, however well it is compressed
                raise ValueError(f"{facts.num_rows:,} rows in {path.stat().st_size:,} bytes")
            return VectorLayer(path, "", 0, "", tuple(facts.schema.to_arrow_schema().names))
        # An absolute path is never taken for the address of something else.
        layers = [name for name, kind in pyogrio.list_layers(path.resolve()) if kind is not None]
        if not layers:
            raise ValueError("a table without geometry found")
        if path.suffix.lower() == ".gpkg":
            _refuse_view(path, layers[0])
        facts = pyogrio.read_info(path.resolve(), layer=layers[0])
        return VectorLayer(path, layers[0], len(layers) - 1, facts["geometry_type"] or "", tuple(facts["fields"]))


def refuse_strange(path: Path) -> None:
    """Raise unless a file is, by its bytes, of a kind that is read, and names nothing outside itself.

    Raises:
        MissingFileError, LabelError: see `open_layer`.
    """
    if not path.is_file():
        if path.exists():
            raise LabelError(f"{path}: no regular file; give the path of a polygon file")
        raise MissingFileError(f"{path}: not found; give the path of a polygon file")
    if odd := set("!;") & set(str(path.resolve())):
        raise LabelError(
            f"{path}: '{odd.pop()}' in its path, which is taken for that of an archive; rename the file or folder"
        )
    with _one_line(path), open(path, "rb") as file:
        start = file.read(100)
        if start.startswith(_MAGIC):
            if start.startswith(_SQLITE) and start[_ID_AT : _ID_AT + 4] not in _GEOPACKAGE_IDS:
                raise ValueError("an SQLite database found that is no GeoPackage")
            return
        if start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] != b"{":
            raise ValueError("none of these found, by its first bytes")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            _refuse_links(text)


def _refuse_links(text: mmap.mmap) -> None:
    if _VRT.search(text):
        raise ValueError("a VRT found, which may point anywhere")
    if any(_NAMED_CRS.match(text, found.end()) is None for found in _CRS.finditer(text)):
        raise ValueError("a CRS found that is not told by its name, and may be a link")
    if _HIDDEN_LETTER.search(text):
        raise ValueError("letters written as numbers found, which may hide a link")


def _refuse_view(path: Path, layer: str) -> None:
    """A view or virtual table is a program, which need not end."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        query = "SELECT type, sql FROM sqlite_master WHERE name = ? COLLATE NOCASE AND type IN ('table', 'view')"
        found = database.execute(query, (layer,)).fetchone()
    if found is None or found[0] != "table" or "virtual" in str(found[1])[:40].lower():
        raise ValueError(f"layer '{layer}' is a view, not a table")


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
