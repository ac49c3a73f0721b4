"""Reference points: drawn on a map by chance, written for people to label in QGIS, and read again."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd

from geoseg.class_map import ClassMap
from geoseg.errors import DataWarning, GeoreferenceError, GeosegError, LabelError, LegendError
from geoseg.geopackage import write_layer
from geoseg.labels import is_vector
from geoseg.legend import Legend
from geoseg.pixel_areas import ClassAmounts
from geoseg.point_style import point_style
from geoseg.progress import Progress
from geoseg.vector import open_layer

LAYER, REFERENCE = "points", "reference"
"""The layer of a points file, and its column for what people see."""

_STRATA = ("stratum", "stratum_area_m2", "stratum_pixels")


def draw_points(
    found: ClassMap, classes: ClassAmounts, points: np.ndarray, rng: np.random.Generator, progress: Progress
) -> gpd.GeoDataFrame:
    """Draw points from the pixels of each class, each pixel with the same chance and none twice.

    Args:
        found: the map.
        classes: how much of each class it has.
        points: (classes,) how many to draw.
        rng: the source of all chance.
        progress: called after each strip.

    Returns:
        The points in random order, so that the first ones are a sample of their own, with the columns of a points file.
    """
    ranks = [np.sort(rng.choice(n, k, replace=False)) for n, k in zip(classes.pixels, points, strict=True)]
    seen = np.zeros(len(points), np.int64)
    places: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for window, indices in found.strips():
        flat = indices.ravel()
        for index, wanted in enumerate(ranks):
            count = int((flat == index).sum())
            here = wanted[(wanted >= seen[index]) & (wanted < seen[index] + count)] - seen[index]
            if len(here):
                rows, cols = np.divmod(np.flatnonzero(flat == index)[here], window.width)
                places.append((rows + window.row_off, cols + window.col_off, np.full(len(here), index)))
            seen[index] += count
        progress("draw points", window.row_off + window.height, found.scene.height)
    row, col, stratum = (np.concatenate(parts) for parts in zip(*places, strict=True))
    order = np.lexsort((col, row))
    order = order[rng.permutation(len(order))]
    row, col, stratum = row[order], col[order], stratum[order]
    t = found.scene.transform
    x, y = col + 0.5, row + 0.5
    columns = {
        "id": np.arange(1, len(row) + 1),
        "row": row,
        "col": col,
        "stratum": np.array(found.legend.values)[stratum],
        "stratum_area_m2": classes.area_m2[stratum],
        "stratum_pixels": classes.pixels[stratum],
        REFERENCE: pd.array([None] * len(row), dtype="Int64"),
        "note": pd.array([None] * len(row), dtype="string"),
    }
    geometry = gpd.points_from_xy(t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f)
    return gpd.GeoDataFrame(columns, geometry=geometry, crs=found.scene.crs)


def write_points(table: gpd.GeoDataFrame, legend: Legend, pixel_size: float, path: Path) -> None:
    """Write a points file, with a style and a form inside that do not tell what the map says.

    Args:
        table: of `draw_points`.
        legend: of the map.
        pixel_size: side of a pixel in units of the CRS, which the points are drawn as large as.
        path: a staged .gpkg.
    """
    write_layer(path, LAYER, table, "Point", style=point_style(legend, pixel_size))


def holds_points(path: Path) -> bool:
    """Whether a vector file holds points, and not polygons."""
    try:
        return is_vector(path) and "Point" in open_layer(path).geometry_type
    except GeosegError:  # said where it is read
        return False


@dataclass(frozen=True)
class ReferencePoints:
    """Points that somebody has labelled.

    Attributes:
        path: the file.
        table: one row per labelled point, in the file's CRS.
        reference: (n,) class index of each.
        strata: area and pixels of each stratum by its class value, where the file tells: also of those without a labelled
            point. Empty for points that were not drawn by `geoseg sample`.
    """

    path: Path
    table: gpd.GeoDataFrame
    reference: np.ndarray
    strata: dict[int, tuple[float, int]]


def read_points(path: Path, legend: Legend, class_field: str | None = None) -> ReferencePoints:
    """Read a file of labelled points: one of `geoseg sample`, or another with a column of class names or values.

    Raises:
        LabelError: it cannot be read, has no such column, none is labelled, or a label is not in the legend.
        GeoreferenceError: it has no CRS.
    """
    field = class_field or REFERENCE
    table = open_layer(path).read()
    if table.crs is None:
        raise GeoreferenceError(f"{path}: no CRS, so nobody knows where its points lie; set it with: ogr2ogr -a_srs")
    if field not in table.columns:
        others = ", ".join(map(str, table.columns.drop("geometry"))) or "none"
        raise LabelError(
            f"{path}: no field '{field}' that tells the class; fields found: {others}; name it with --class-field"
        )
    labelled = (
        table[field].notna() & table[field].astype(str).str.strip().ne("") & ~table.geometry.is_empty
    ).to_numpy()
    if not labelled.any():
        raise LabelError(f"{path}: no point has a value in '{field}'; open it in QGIS and label some")
    if not labelled.all():
        _warn(
            f"{path}: {(~labelled).sum()} of {len(labelled)} points have no value in '{field}' and are left out; that is right "
            f"where those that have one are the first by their id, or chosen by chance"
        )
    reference = _class_indices(path, table[field][labelled], legend)
    return ReferencePoints(path, table[labelled].reset_index(drop=True), reference, _read_strata(path, table))


def _read_strata(path: Path, table: gpd.GeoDataFrame) -> dict[int, tuple[float, int]]:
    if not set(_STRATA) <= set(table.columns):
        return {}
    try:
        rows = table[list(_STRATA)].drop_duplicates().itertuples(index=False)
        return {int(value): (float(area), int(pixels)) for value, area, pixels in rows}
    except (TypeError, ValueError, OverflowError):
        raise LabelError(
            f"{path}: a point without its stratum found; take the file that geoseg sample wrote, and label its points"
        ) from None


def _class_indices(path: Path, column: pd.Series, legend: Legend) -> np.ndarray:
    if column.dtype.kind == "f" and (column == column.round()).all():
        column = column.astype(int)  # whole numbers with a null among them are read as floats
    try:
        index = {key: legend.index(key) for key in column.unique()}
    except LegendError as error:
        raise LabelError(f"{path}: {error}; mend the label") from None
    return column.map(index).to_numpy(np.int64)


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)
