"""Reference points: drawn on a map by chance, labelled by people in QGIS, and read again to correct the map's areas."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from rasterio.windows import Window

from geoseg.area_estimation import Sample, estimate
from geoseg.errors import DataWarning, GeoreferenceError, LabelError, LegendError
from geoseg.grid import grid
from geoseg.labels import LabelReader
from geoseg.legend import Legend
from geoseg.point_style import point_style
from geoseg.progress import Progress
from geoseg.qgis import embed_style
from geoseg.scenes import Scene

LAYER, REFERENCE = "points", "reference"
"""The layer of a points file, and its column for what people see."""

_STRATA = ("stratum", "stratum_area_m2", "stratum_pixels")
_ROWS = 256
_ALIKE = (64, 256)  # rows and columns for which the area of the pixel in their middle is taken
_ELSEWHERE = 0.01  # share of the area by which points and map may differ before that is said


class MapClasses(NamedTuple):
    """How much of each class a map has.

    Attributes:
        pixels: (classes,) int64.
        area_m2: (classes,) area on the ground.
    """

    pixels: np.ndarray
    area_m2: np.ndarray


@dataclass(frozen=True)
class ClassMap:
    """A map of classes, read strip by strip.

    Attributes:
        scene: its grid.
        legend: its classes.
        reader: of its values.
        area: where it knows nothing, nothing is looked at; None looks at all.
    """

    scene: Scene
    legend: Legend
    reader: LabelReader
    area: LabelReader | None = None

    def strips(self) -> Iterator[tuple[Window, np.ndarray]]:
        """Strips across the whole map, with class indices (rows, cols) uint8, 255 where there is none.

        Raises:
            LegendError: a value that is not in the legend.
        """
        for tile in grid(self.scene.height, self.scene.width, (_ROWS, self.scene.width)):
            values, known = self.reader.read(tile.core)
            if self.area is not None:
                known &= self.area.read(tile.core)[1]
            strays = set(np.unique(values[known]).tolist()) - set(self.legend.values)
            if strays:
                raise LegendError(
                    f"{self.scene.path}: value {min(strays)} found, which is not in its legend ({self.legend}); mend the "
                    f"raster or its legend"
                )
            yield tile.core, np.where(known, self.legend.to_indices(np.where(known, values, 0)), 255).astype(np.uint8)

    def count(self, window: Window, indices: np.ndarray) -> MapClasses:
        """What there is in a strip."""
        pixels, area = np.zeros(len(self.legend), np.int64), np.zeros(len(self.legend))
        for square in grid(window.height, window.width, _ALIKE):
            row, col = square.core.row_off, square.core.col_off
            part = indices[row : row + square.core.height, col : col + square.core.width]
            found = np.bincount(part.ravel(), minlength=256)[: len(self.legend)]
            middle = (window.col_off + col + square.core.width // 2, window.row_off + row + square.core.height // 2)
            pixels += found
            area += found * self.pixel_m2(*middle)
        return MapClasses(pixels, area)

    def pixel_m2(self, col: int, row: int) -> float:
        """Area of a pixel.

        Raises:
            GeoreferenceError: it is not known.
        """
        found = self.scene.pixel_area_m2(Window(col, row, 1, 1))
        if found is None:
            raise GeoreferenceError(
                f"{self.scene.path}: no CRS, so no area can be told; set it with: gdal_edit.py -a_srs"
            )
        return found


def draw_points(
    found: ClassMap, classes: MapClasses, points: np.ndarray, rng: np.random.Generator, progress: Progress
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
    pyogrio.write_dataframe(
        table, path, layer=LAYER, driver="GPKG", geometry_type="Point", dataset_options={"VERSION": "1.3"}
    )
    embed_style(path, LAYER, point_style(legend, pixel_size))


def holds_points(path: Path) -> bool:
    """Whether a vector file holds points, and not polygons."""
    if path.suffix.lower() == ".parquet" or not path.exists():
        return False
    try:
        kind = pyogrio.read_info(path, layer=_first_layer(path))["geometry_type"] or ""
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError):
        return False
    return "Point" in kind


def _first_layer(path: Path) -> str:
    return next(name for name, kind in [*pyogrio.list_layers(path), ("", "")] if kind is not None)


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
    try:
        table = pyogrio.read_dataframe(path, layer=_first_layer(path))
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise LabelError(
            f"{path}: no points could be read ({' '.join(str(error).split())}); a GeoPackage is needed"
        ) from None
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
    strata = {}
    if set(_STRATA) <= set(table.columns):
        rows = table[list(_STRATA)].drop_duplicates().itertuples(index=False)
        strata = {int(value): (float(area), int(pixels)) for value, area, pixels in rows}
    return ReferencePoints(path, table[labelled].reset_index(drop=True), reference, strata)


def _class_indices(path: Path, column: pd.Series, legend: Legend) -> np.ndarray:
    if column.dtype.kind == "f" and (column == column.round()).all():
        column = column.astype(int)  # whole numbers with a null among them are read as floats
    try:
        index = {key: legend.index(key) for key in column.unique()}
    except LegendError as error:
        raise LabelError(f"{path}: {error}; mend the label") from None
    return column.map(index).to_numpy(np.int64)


def estimate_areas(found: ClassMap, points: ReferencePoints, progress: Progress) -> dict[str, Any]:
    """What labelled points tell of a map; see `geoseg.area_estimation.estimate`.

    Points of `geoseg sample` are a stratified sample whose strata the file tells. Others are taken for a simple random
    sample, stratified by the map afterwards (Card 1982, "Using known map category marginal frequencies to improve estimates
    of thematic map accuracy", PE&RS 48(3)).

    Returns:
        Also `unsampled_ha`, the ground of strata without a labelled point, of which nothing is told; `strata`, how the
        points came about: `drawn` or `map`.

    Raises:
        LabelError: no point lies on the map.
    """
    x, y = shapely.get_coordinates(shapely.centroid(points.table.geometry.to_crs(found.scene.crs).to_numpy())).T
    cols, rows = (np.floor(part).astype(np.int64) for part in ~found.scene.transform @ (x, y))
    mapped = np.full(len(rows), 255)
    inside = (cols >= 0) & (cols < found.scene.width)
    pixels, area = np.zeros((2, len(found.legend)))
    for window, indices in found.strips():
        here = inside & (rows >= window.row_off) & (rows < window.row_off + window.height)
        mapped[here] = indices[rows[here] - window.row_off, cols[here]]
        counted = found.count(window, indices)
        pixels, area = pixels + counted.pixels, area + counted.area_m2
        progress("evaluate", window.row_off + window.height, found.scene.height)
    used = mapped != 255
    if not used.any():
        raise LabelError(f"{points.path}: no labelled point lies on the map {found.scene.path}; check both CRSs")
    if not used.all():
        _warn(f"{points.path}: {(~used).sum()} labelled points lie outside the map or on nodata and are left out")
    strata = points.strata or {
        value: (area[index], int(pixels[index])) for index, value in enumerate(found.legend.values) if pixels[index]
    }
    values = points.table["stratum"].to_numpy() if points.strata else np.array(found.legend.values)[mapped * used]
    drawn_m2 = sum(m2 for m2, _ in strata.values())
    if abs(drawn_m2 / area.sum() - 1) > _ELSEWHERE:
        _warn(
            f"{points.path}: the points were drawn on {drawn_m2 / 1e4:,.1f} ha, the map has {area.sum() / 1e4:,.1f} ha; areas "
            f"are those of the former (use the --aoi that they were drawn in)"
        )
    kept = {value: facts for value, facts in strata.items() if (values[used] == value).any()}
    unsampled = sum(m2 for value, (m2, _) in strata.items() if value not in kept) / 1e4
    if unsampled:
        _warn(f"{points.path}: {unsampled:,.2f} ha are strata without a labelled point; nothing is told of them")
    order = {value: number for number, value in enumerate(kept)}
    at = np.flatnonzero(used)
    size = [
        found.pixel_m2(col, row) / (kept[value][0] / kept[value][1])
        for row, col, value in zip(rows[at].tolist(), cols[at].tolist(), values[at].tolist(), strict=True)
    ]
    sample = Sample(
        np.array([order[value] for value in values[at].tolist()]), mapped[at], points.reference[at],
        np.array([m2 for m2, _ in kept.values()]), np.array(size),
    )  # fmt: skip
    return {
        **estimate(sample, area, found.legend),
        "unsampled_ha": unsampled,
        "strata": "drawn" if points.strata else "map",
    }


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)
