"""Labels from polygons: read, mended, laid on the grid of a scene and burnt window by window."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import shapely
from rasterio.features import rasterize
from rasterio.windows import Window, transform

from geoseg.choices import Other, Unlabelled
from geoseg.errors import DataWarning, GeoreferenceError, LabelError, LegendError, MissingFileError
from geoseg.legend import Legend, make_legend
from geoseg.scenes import Scene, refuse_no_overlap


def read_polygons(path: Path, scene_crs: Any, columns: Sequence[str] | None = None) -> gpd.GeoDataFrame:
    """Polygons of a vector file in the scene's CRS; invalid ones are mended, what is no polygon is left out, both counted.

    Raises:
        MissingFileError: no such file.
        LabelError: it cannot be read, or holds no polygon.
        GeoreferenceError: it has no CRS, or the scene has none.
    """
    frame = read_vector(path, columns)
    if frame.crs is None or scene_crs is None:
        what = path if frame.crs is None else "the scene"
        raise GeoreferenceError(
            f"{what}: no CRS, so the polygons of {path.name} cannot be laid on the scene; set one with: "
            f"gdal_edit.py -a_srs (rasters), ogr2ogr -a_srs (polygons). A mask raster of the scene's size needs no CRS"
        )
    invalid = int((~frame.geometry.is_valid).sum())
    frame.geometry = frame.geometry.make_valid().to_crs(scene_crs)
    polygonal = shapely.get_dimensions(frame.geometry.values) == 2
    polygonal &= ~frame.geometry.is_empty & np.isfinite(frame.geometry.bounds.to_numpy()).all(axis=1)
    if invalid or not polygonal.all():
        warnings.warn(
            f"{path}: {invalid} invalid geometries mended, {int((~polygonal).sum())} without an area left out",
            DataWarning,
            stacklevel=3,
        )
    if not polygonal.any():
        raise LabelError(f"{path}: no polygon found; labels must be polygons or a mask raster")
    return frame[polygonal].reset_index(drop=True)


def read_vector(path: Path, columns: Sequence[str] | None) -> gpd.GeoDataFrame:
    if not path.exists():
        raise MissingFileError(f"{path}: not found; give the path of a polygon file")
    with open(path, "rb") as file:
        if file.read(64).lstrip()[:1] == b"<":  # an OGR VRT under another name opens files of its own choice
            raise LabelError(f"{path}: XML found; a GeoPackage, GeoJSON, FlatGeobuf or Shapefile is needed")
    try:
        if path.suffix.lower() == ".parquet":
            return gpd.read_parquet(path)
        layers = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
        if len(layers) > 1:
            warnings.warn(f"{path}: {len(layers)} layers found, '{layers[0]}' is read", DataWarning, stacklevel=4)
        return pyogrio.read_dataframe(path, layer=layers[0], columns=columns, on_invalid="fix")
    except (
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        IndexError,
        ImportError,
        ValueError,
    ) as error:
        raise LabelError(f"{path}: no polygons could be read ({error}); a GeoPackage or GeoJSON is needed") from None


def class_field_values(path: Path, field: str | None) -> Counter[int | str]:
    """How many polygons there are of each value of the class field; without a field all are of class 1.

    Raises:
        LabelError: the field is not there, or holds neither whole numbers nor text.
    """
    if field is None:
        return Counter({1: 1})
    frame = read_vector(path, None)
    if field not in frame.columns:
        fields = ", ".join(name for name in frame.columns if name != frame.geometry.name) or "none"
        raise LabelError(f"{path}: no field '{field}'; fields found: {fields}")
    return Counter(_field_values(path, frame, field))


def _field_values(path: Path, frame: gpd.GeoDataFrame, field: str) -> list[int | str]:
    column = frame[field].dropna()
    if len(column) < len(frame):
        warnings.warn(
            f"{path}: {len(frame) - len(column)} polygons without a value in '{field}' are left out",
            DataWarning,
            stacklevel=3,
        )
    if column.dtype.kind == "f" and (column == column.round()).all():
        column = column.astype(int)
    if column.dtype.kind in "iub":
        return [int(value) for value in column]
    if column.dtype.kind == "f":
        raise LabelError(f"{path}: field '{field}' holds fractions; whole numbers or names are needed")
    return [str(value).strip() for value in column]


def polygon_legend(field_values: Sequence[int | str], unlabelled: Unlabelled) -> Legend:
    """A legend for the values of a class field: whole numbers are class values, names are numbered in their order."""
    known = sorted(set(field_values), key=lambda value: (isinstance(value, str), value))
    names: list[str | None]
    if all(isinstance(value, int) for value in known):
        values, names = [int(value) for value in known], [None] * len(known)
    else:
        texts = sorted(map(str, known), key=lambda text: (text.lower() != "background", text))
        first = 0 if texts[0].lower() == "background" else 1
        values, names = list(range(first, first + len(texts))), list(texts)
    if unlabelled == "background" and 0 not in values:
        values, names = [0, *values], ["background", *names]
    return make_legend(values, names)


class PolygonLabels:
    """Polygons burnt into windows of a scene; where polygons overlap, the later one in the file wins.

    Args:
        path: a polygon file.
        scene: gives the grid.
        legend: the classes; field values are matched by name or value.
        class_field: the column that tells the class; without one every polygon is of the one class that is not background.
        unlabelled: what valid pixels outside every polygon are.
        all_touched: burn every pixel touched rather than those whose centre is inside.
        other: `ignore` makes pixels of polygons outside the legend unknown.

    Raises:
        LabelError: a field value outside the legend, no overlap with the scene, or several classes and no field.
        GeoreferenceError: a CRS is missing.
    """

    def __init__(
        self,
        path: Path,
        scene: Scene,
        *,
        legend: Legend,
        class_field: str | None,
        unlabelled: Unlabelled,
        all_touched: bool,
        other: Other,
    ) -> None:
        frame = read_polygons(path, scene.crs, [class_field] if class_field else [])
        left, bottom, right, top = frame.total_bounds
        refuse_no_overlap(path, scene, (left, bottom, right, top))
        if class_field is None:
            self._values = np.full(len(frame), _only_class(path, legend))
        else:
            frame = frame[frame[class_field].notna()].reset_index(drop=True)
            self._values = _match_values(path, _field_values(path, frame, class_field), legend, other)
        self._shapes, self._scene, self._all_touched = frame.geometry, scene, all_touched
        self._index = frame.sindex
        if unlabelled == "background" and legend.background is None:
            raise LegendError(
                f"{path}: pixels outside the polygons have no class; add one with --classes 0=background,... or use --unlabelled ignore"
            )
        self._outside = legend.values[legend.background] if unlabelled == "background" else -1  # type: ignore[index]

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        place = transform(window, self._scene.transform)
        shape = (window.height, window.width)
        corners = [place @ corner for corner in ((0, 0), (shape[1], 0), shape[::-1], (0, shape[0]))]
        found = np.sort(self._index.query(shapely.Polygon(corners)))
        values = np.full(shape, self._outside, np.int32)
        if len(found):
            pairs = zip(self._shapes.iloc[found], self._values[found].tolist(), strict=True)
            rasterize(pairs, out=values, transform=place, all_touched=self._all_touched)
        return values, values >= 0


def _only_class(path: Path, legend: Legend) -> int:
    candidates = [value for i, value in enumerate(legend.values) if i != legend.background]
    if len(candidates) != 1:
        raise LabelError(
            f"{path}: {len(candidates)} classes ({legend}) but no --class-field to tell them apart; name the field"
        )
    return candidates[0]


def _match_values(path: Path, found: Sequence[int | str], legend: Legend, other: str) -> np.ndarray:
    lookup: dict[int | str, int] = {}
    strays: Counter[int | str] = Counter()
    for value, count in Counter(found).items():
        try:
            lookup[value] = legend.values[legend.index(value)]
        except LegendError:
            lookup[value] = -1
            strays[value] = count
    if strays and other == "error":
        listed = ", ".join(f"'{value}' ({count} polygons)" for value, count in strays.most_common(5))
        raise LabelError(f"{path}: {listed} not in the legend ({legend}); add them to --classes or use --other ignore")
    return np.array([lookup[value] for value in found], np.int32)


class Area:
    """The part of a scene that lies inside an area of interest."""

    def __init__(self, path: str | Path, scene: Scene) -> None:
        frame = read_polygons(Path(path), scene.crs, [])
        refuse_no_overlap(Path(path), scene, tuple(frame.total_bounds))
        self._shapes, self._scene = list(frame.geometry), scene

    def inside(self, window: Window) -> np.ndarray:
        """Pixels of a window whose centre lies inside, (rows, cols) bool."""
        place = transform(window, self._scene.transform)
        return rasterize(self._shapes, (window.height, window.width), transform=place, dtype="uint8") > 0
