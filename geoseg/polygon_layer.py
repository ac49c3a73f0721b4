"""A polygon layer: its table, with areas on the ground and confidence, and its file."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import shapely
from pyogrio.raw import open_arrow, write_arrow
from pyproj.exceptions import ProjError
from rasterio.crs import CRS

from geoseg.choices import Connectivity, Format
from geoseg.components import class_of
from geoseg.confidence import Confidence
from geoseg.errors import DiskError, InputError
from geoseg.extras import refuse_missing
from geoseg.files import remove_with_journals, room_beside
from geoseg.geopackage import append_layer, check_layer, embed_provenance, embed_style, writing_layer
from geoseg.legend import CLASS_NAME, Legend
from geoseg.sweep import Finished

LAYER = "polygons"
"""Name of the layer in the files written here."""

_SUFFIXES: dict[str, Format] = {
    ".gpkg": "gpkg", ".fgb": "fgb", ".geojson": "geojson", ".json": "geojson", ".parquet": "parquet",
}  # fmt: skip
_DRIVERS = {"fgb": "FlatGeobuf", "geojson": "GeoJSON"}
_PIECE_DEGREES, _PIECE_M = 0.05, 5_000
"""Longest piece of an edge that is taken for a geodesic."""
_ROWS = 50_000
"""Rows to gather before they are written: opening the file for each strip takes longer than writing it."""


def polygon_table(
    finished: Finished,
    polygons: np.ndarray,
    legend: Legend,
    *,
    first_id: int = 1,
    connectivity: Connectivity,
    crs: CRS | None,
    confidence: Confidence | None = None,
) -> gpd.GeoDataFrame:
    """A row per feature, with the columns of a polygon layer.

    Compactness is the area over that of a circle with the same perimeter, 1 for a circle (Polsby and Popper, Yale Law & Policy
    Review 9(2), 1991).

    Args:
        finished: the features.
        polygons: a shapely polygon per piece, as they shall be written.
        legend: the classes.
        first_id: of the first feature.
        connectivity: 4 for polygons, 8 for a multipolygon per feature.
        crs: of the polygons; None leaves areas and perimeters null.
        confidence: of the features.
    """
    feature, start = finished.features, np.flatnonzero(np.diff(finished.features, prepend=-1))
    area, perimeter = (np.add.reduceat(part, start) for part in measure_ground(polygons, crs))
    classes = class_of(finished.outlines.classes[start])
    columns = {
        "id": np.arange(first_id, first_id + len(start)),
        "class_value": np.array(legend.values)[classes],
        CLASS_NAME: np.array(legend.names, object)[classes],
        "area_m2": area,
        "area_ha": area / 1e4,
        "perimeter_m": perimeter,
        "compactness": 4 * math.pi * area / perimeter**2,
    }
    if confidence is not None:
        columns["confidence"], columns["confidence_p5"] = confidence
    columns["pixels"] = np.add.reduceat(finished.pixels, start)
    geometry = polygons if connectivity == 4 else shapely.multipolygons(polygons, indices=feature)
    return gpd.GeoDataFrame(columns, geometry=geometry, crs=crs)


def to_degrees(crs: CRS | None) -> pyproj.Transformer | None:
    """From a CRS to longitude and latitude; None where it has no place on the Earth."""
    try:
        return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True) if crs else None
    except ProjError:  # an engineering CRS, which has units alone
        return None


def measure_ground(polygons: np.ndarray, crs: CRS | None) -> tuple[np.ndarray, np.ndarray]:
    """Area in m2 and perimeter in m, with that of holes, on the WGS 84 ellipsoid; NaN where no CRS says where that is.

    Edges are straight in the CRS. Pieces of them, of a few kilometres, are taken for geodesics between their ends (Karney,
    Journal of Geodesy 87, 2013): a whole edge along a parallel would be a great circle, which leaves it.
    """
    transformer = to_degrees(crs)
    if crs is None or transformer is None or not len(polygons):
        return np.full(len(polygons), np.nan), np.full(len(polygons), np.nan)
    piece = _PIECE_DEGREES if crs.is_geographic else _PIECE_M / crs.linear_units_factor[1]
    polygons = shapely.segmentize(polygons, piece)
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
    if _SUFFIXES.get(path.suffix.lower(), found) != found:
        raise InputError(
            f"{path}: a name that ends in '{path.suffix}' for format '{named}'; leave --format out, or name it .{named}"
        )
    if found == "parquet":
        refuse_missing("pyarrow", extra="parquet", asked=str(path))
    return found


class LayerWriter:
    """Writes a polygon layer table by table, and counts what stands in the file.

    What comes is gathered in a GeoPackage, which alone can be added to; another format is made of it in the end, row by row.

    Args:
        path: a staged path.
        format: of the file; RFC 7946 wants GeoJSON in WGS 84, split at the antimeridian, so it is.
        style: QML, embedded in a GeoPackage. Beside a file of another format, the caller puts it as `<stem>.qml`.
        multi: whether the geometries are multipolygons.
        provenance: what the layer is made of and with, which a GeoPackage and a Parquet file carry.

    Raises:
        DiskError: what stands on the disk is not what was written.
    """

    def __init__(self, path: Path, *, format: Format, style: str, multi: bool, provenance: Mapping[str, Any]) -> None:
        self._path, self._format, self._style, self._provenance = path, format, style, provenance
        self._kind = "MultiPolygon" if multi else "Polygon"
        # GDAL goes by the suffix, and makes a folder of layers where that of a FlatGeobuf file is another.
        self._gathered, self._made = path.with_suffix(".gpkg"), path.with_suffix(f".{format}")
        self._waiting: list[gpd.GeoDataFrame] = []
        self._rows, self._begun = 0, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for path in {self._gathered, self._made} - {self._path}:
            remove_with_journals(path)

    def write(self, table: gpd.GeoDataFrame) -> None:
        """Add rows; there may be none, so that the columns are known."""
        self._waiting.append(table)
        self._rows += len(table)
        if sum(map(len, self._waiting)) >= _ROWS:
            self._flush()

    def finish(self) -> None:
        """Write what is left, and check what stands in the file."""
        self._flush()
        check_layer(self._gathered, LAYER, self._rows, self._rows)
        if self._format == "gpkg":
            embed_style(self._gathered, LAYER, self._style)
            embed_provenance(self._gathered, LAYER, self._provenance)
        else:
            with writing_layer(self._path):
                self._copy()
        os.replace(self._made, self._path)

    def _flush(self) -> None:
        if self._waiting:
            table = pd.concat([part for part in self._waiting if len(part)] or self._waiting[:1], ignore_index=True)
            append_layer(self._gathered, LAYER, table, self._kind, begun=self._begun)
            self._waiting, self._begun = [], True

    def _copy(self) -> None:
        """Make the file of another format, and count what stands in it."""
        if self._format == "parquet":
            _make_parquet(self._gathered, self._made, self._provenance)
        else:
            _make_with_gdal(self._gathered, self._made, self._format)
        found = _count(self._made, self._format)
        if found != self._rows:
            raise DiskError(
                f"{self._path.name}: {found} of {self._rows} polygons can be read back; {room_beside(self._path)}"
            )


def _make_with_gdal(gathered: Path, target: Path, format: Format) -> None:
    """Copy a layer a few thousand rows at a time."""
    # 9 decimals are 0.1 mm; GDAL's own 7 would merge the vertices of a drone's pixels.
    options = {"RFC7946": "YES", "COORDINATE_PRECISION": "9"} if format == "geojson" else {}
    with (
        open_arrow(gathered, layer=LAYER, use_pyarrow=False, batch_size=8192) as (facts, rows),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
        write_arrow(
            rows, target, layer=LAYER, driver=_DRIVERS[format], geometry_type=facts["geometry_type"],
            geometry_name=facts["geometry_name"], crs=facts["crs"], layer_options=options,
        )  # fmt: skip


def _make_parquet(gathered: Path, target: Path, provenance: Mapping[str, Any]) -> None:
    """Copy a layer likewise, into GeoParquet 1.1 with a box per row, so that a reader can pass over what is elsewhere."""
    import pyarrow  # an extra
    from pyarrow import parquet

    with open_arrow(gathered, layer=LAYER, use_pyarrow=True, batch_size=8192) as (facts, rows):
        name, columns = (
            facts["geometry_name"],
            [field for field in rows.schema.names if field != facts["geometry_name"]],
        )
        corners = ("xmin", "ymin", "xmax", "ymax")
        box = pyarrow.struct([(corner, pyarrow.float64()) for corner in corners])
        told = {
            "encoding": "WKB",
            "geometry_types": [facts["geometry_type"]],
            "crs": pyproj.CRS.from_user_input(facts["crs"]).to_json_dict() if facts["crs"] else None,
            "covering": {"bbox": {corner: ["bbox", corner] for corner in corners}},
        }
        document = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": told}}
        schema = pyarrow.schema(
            [*(rows.schema.field(field) for field in columns), ("geometry", pyarrow.binary()), ("bbox", box)],
            metadata={"geo": json.dumps(document), "geoseg": json.dumps(provenance)},
        )
        with parquet.ParquetWriter(target, schema, compression="zstd") as file:
            for batch in rows:
                geometry = batch.column(name)
                bounds = shapely.bounds(shapely.from_wkb(geometry.to_numpy(zero_copy_only=False))).reshape(-1, 4)
                boxes = pyarrow.StructArray.from_arrays([pyarrow.array(part) for part in bounds.T], fields=list(box))
                arrays = [*(batch.column(field) for field in columns), geometry.cast(pyarrow.binary()), boxes]
                file.write_batch(pyarrow.RecordBatch.from_arrays(arrays, schema=schema))


def _count(path: Path, format: Format) -> int:
    if format == "parquet":
        from pyarrow.parquet import read_metadata  # an extra

        return int(read_metadata(path).num_rows)
    return int(pyogrio.read_info(path, layer=LAYER, force_feature_count=True)["features"])
