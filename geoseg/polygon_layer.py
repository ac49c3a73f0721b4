"""A polygon layer: its table, with areas on the ground and confidence, and its file."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
import warnings
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import pyproj
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError
from pyproj.exceptions import ProjError
from rasterio.crs import CRS

from geoseg.choices import Connectivity, Format
from geoseg.errors import DiskError, InputError
from geoseg.legend import Legend
from geoseg.outlines import Coverage
from geoseg.qgis import embed_style

LAYER = "polygons"
"""Name of the layer in the files written here."""

_SUFFIXES: dict[str, Format] = {
    ".gpkg": "gpkg", ".fgb": "fgb", ".geojson": "geojson", ".json": "geojson", ".parquet": "parquet",
}  # fmt: skip


@dataclass(frozen=True)
class Confidence:
    """A confidence raster.

    Attributes:
        stored: (rows, cols) as in the file, 0 where not valid.
        valid: (rows, cols) bool.
        scale: confidence from 0 to 1 is stored * scale + offset.
        offset: see `scale`.
    """

    stored: np.ndarray
    valid: np.ndarray
    scale: float
    offset: float


def polygon_table(
    traced: Coverage,
    polygons: np.ndarray,
    legend: Legend,
    chosen: Sequence[int],
    *,
    connectivity: Connectivity,
    crs: CRS | None,
    confidence: Confidence | None = None,
) -> gpd.GeoDataFrame:
    """A row per feature, in the order of their first pixels, with the columns of a polygon layer.

    Args:
        traced: the pieces along the pixel edges.
        polygons: a shapely polygon per piece, as they shall be written.
        legend: the classes.
        chosen: class indices to keep.
        connectivity: 4 for a polygon per piece, 8 for a multipolygon per group of pieces that touch at corners.
        crs: of the polygons; None leaves areas and perimeters null.
        confidence: per pixel.
    """
    kept = np.isin(traced.classes, chosen)
    joined = traced.join_diagonals() if connectivity == 8 else np.arange(len(kept))
    first_piece, feature = np.unique(joined[kept], return_inverse=True)

    def total(per_piece: np.ndarray) -> np.ndarray:
        return np.bincount(feature, per_piece, minlength=len(first_piece)).astype(float)  # int where there is none

    area, perimeter = map(total, measure_ground(polygons[kept], crs))
    classes = traced.classes[first_piece]
    columns = {
        "id": np.arange(1, len(classes) + 1),
        "class_value": np.array(legend.values)[classes],
        "class_name": np.array(legend.names, object)[classes],
        "area_m2": area,
        "area_ha": area / 1e4,
        "perimeter_m": perimeter,
    }
    if confidence is not None:
        stored, count = (total(traced.sums(part)[kept]) for part in (confidence.stored, confidence.valid))
        mean = np.divide(stored, count, out=np.full(len(count), np.nan), where=count > 0)
        columns["confidence"] = mean * confidence.scale + confidence.offset
    columns["pixels"] = total(traced.pixels()[kept]).astype(np.int64)
    geometry = polygons[kept]
    if connectivity == 8:
        order = np.argsort(feature, kind="stable")
        geometry = shapely.multipolygons(geometry[order], indices=feature[order])
    return gpd.GeoDataFrame(columns, geometry=geometry, crs=crs)


def to_degrees(crs: CRS | None) -> pyproj.Transformer | None:
    """From a CRS to longitude and latitude; None where it has no place on the Earth."""
    try:
        return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True) if crs else None
    except ProjError:  # an engineering CRS, which has units alone
        return None


def measure_ground(polygons: np.ndarray, crs: CRS | None) -> tuple[np.ndarray, np.ndarray]:
    """Area in m2 and perimeter in m, with that of holes, on the WGS 84 ellipsoid; NaN where no CRS says where that is.

    Edges are taken for geodesics between their ends (Karney, Journal of Geodesy 87, 2013).
    """
    transformer = to_degrees(crs)
    if transformer is None or not len(polygons):
        return np.full(len(polygons), np.nan), np.full(len(polygons), np.nan)
    _, coordinates, (rings, parts) = shapely.to_ragged_array(polygons)
    lon, lat = transformer.transform(*coordinates.T)
    geod = pyproj.Geod(ellps="WGS84")
    measured = [geod.polygon_area_perimeter(lon[a:b], lat[a:b]) for a, b in pairwise(rings.tolist())]
    area, perimeter = np.abs(measured).T
    area[np.isin(np.arange(len(area)), parts, invert=True)] *= -1  # holes: not the first ring of a polygon
    return np.add.reduceat(area, parts[:-1]), np.add.reduceat(perimeter, parts[:-1])


def find_format(path: Path, named: str | None = None) -> Format:
    """The format of a polygon file: the one that is named, else by its suffix.

    Raises:
        InputError: there is no such format, or what writes it is not installed.
    """
    found = _SUFFIXES.get(f".{named}" if named else path.suffix.lower())
    if found is None:
        asked = f"format '{named}'" if named else f"{path}: a name that ends in '{path.suffix}'"
        raise InputError(f"{asked}: no polygons can be written so; possible are .gpkg, .fgb, .geojson and .parquet")
    if found == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InputError(f"{path}: writing Parquet needs pyarrow; install it with: pip install 'geoseg[parquet]'")
    return found


def write_polygons(path: Path, table: gpd.GeoDataFrame, *, format: Format, style: str) -> None:
    """Write a polygon layer and count what stands in the file.

    Args:
        path: a staged path.
        table: may be empty.
        format: of the file; RFC 7946 wants GeoJSON in WGS 84, split at the antimeridian, so it is.
        style: QML, embedded in a GeoPackage. Beside a file of another format, the caller puts it as `<stem>.qml`.

    Raises:
        DiskError: what stands on the disk is not what was written.
    """
    # GDAL makes a folder of layers where a FlatGeobuf file has another suffix.
    named = path.with_name(f"{path.stem}.{format}")
    try:
        if format == "parquet":
            table.to_parquet(named, compression="zstd", schema_version="1.1.0", write_covering_bbox=True)
        else:
            _write_with_gdal(named, table, format)
        if format == "gpkg":
            embed_style(named, LAYER, style)
        found = _count(named, format)
        if found != len(table):
            raise DiskError(f"{path.name}: {found} of {len(table)} polygons can be read back; is the disk full?")
        os.replace(named, path)
    except (DataSourceError, DataLayerError, FeatureError, sqlite3.Error) as error:
        raise DiskError(f"{path.name}: could not be written ({error}); is the disk full?") from error
    finally:
        if named != path:
            named.unlink(missing_ok=True)


def _write_with_gdal(path: Path, table: gpd.GeoDataFrame, format: Format) -> None:
    by_format: dict[str, dict[str, Any]] = {
        "gpkg": {"driver": "GPKG", "dataset_options": {"VERSION": "1.3"}},  # GDAL before 3.9 warns of 1.4
        "fgb": {"driver": "FlatGeobuf"},
        # 9 decimals are 0.1 mm; GDAL's own 7 would merge the vertices of a drone's pixels.
        "geojson": {"driver": "GeoJSON", "layer_options": {"RFC7946": "YES", "COORDINATE_PRECISION": "9"}},
    }
    multi = len(table) > 0 and (table.geom_type == "MultiPolygon").any()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)  # a picture has none
        pyogrio.write_dataframe(
            table, path, layer=LAYER, geometry_type="MultiPolygon" if multi else "Polygon", **by_format[format]
        )


def _count(path: Path, format: Format) -> int:
    if format == "parquet":
        from pyarrow.parquet import read_metadata  # an extra

        return int(read_metadata(path).num_rows)
    if format == "gpkg":  # GDAL is silent when the disk fills while it writes the spatial index (GDAL 3.12)
        with closing(sqlite3.connect(path)) as database:
            found = f"SELECT count(*) FROM {LAYER} JOIN rtree_{LAYER}_geom AS indexed ON {LAYER}.fid = indexed.id"
            return int(database.execute(found).fetchone()[0])
    return int(pyogrio.read_info(path, layer=LAYER, force_feature_count=True)["features"])
