"""Labels from polygons: read and mended once, laid on the grid of each scene and burnt window by window."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from rasterio.features import rasterize
from rasterio.windows import Window, transform

from geoseg.choices import Other, Unlabelled
from geoseg.errors import DataWarning, GeoreferenceError, LabelError, LegendError, without_controls
from geoseg.field_boundaries import UNKNOWN
from geoseg.labels import refuse_no_overlap
from geoseg.legend import Legend, make_legend
from geoseg.raster import georeference_optional
from geoseg.scenes import Scene
from geoseg.vector import open_layer

_MOST_CLASSES = 30


@dataclass(frozen=True)
class Polygons:
    """The polygons of a file.

    Attributes:
        path: the file.
        shapes: valid ones that have an area, in the file's CRS and order.
        keys: what the class field says of each, a whole number or a name; None where no field was asked for.
    """

    path: Path
    shapes: gpd.GeoSeries
    keys: tuple[int | str, ...] | None

    def near(self, scene: Scene) -> gpd.GeoSeries:
        """Those that may touch a scene, in its CRS; the index tells their place in `shapes`.

        Raises:
            GeoreferenceError: the scene has no CRS.
            LabelError: the scene does not meet the area that the file covers.
        """
        if scene.crs is None:
            raise GeoreferenceError(
                f"{scene.path}: no CRS, so the polygons of {self.path.name} cannot be laid on it; set it with: "
                f"gdal_edit.py -a_srs. Without one, a mask raster of {scene.height} x {scene.width} pixels works"
            )
        left, low, right, high = refuse_no_overlap(self.path, self.shapes.crs, self.shapes.total_bounds, scene)
        # Cut before they are projected: what lies far away may have no place in the scene's CRS.
        around = shapely.box(left, low, right, high).buffer(0.01 * max(right - left, high - low), join_style="mitre")
        found = np.sort(self.shapes.sindex.query(around))
        return self.shapes.iloc[found].intersection(around).to_crs(scene.crs)

    def burn_values(self, legend: Legend, unlabelled: Unlabelled) -> tuple[np.ndarray, int]:
        """Class value of each polygon (int32), and that of the ground outside all of them; -1 means unknown.

        Raises:
            LabelError: several classes, and no field that tells them apart.
            LegendError: ground outside the polygons has no class.
        """
        others = [legend.values[index] for index in legend.ground]
        if self.keys is None and len(others) != 1:
            raise LabelError(
                f"{self.path}: {len(others)} classes ({legend}) but no --class-field to tell them apart; name the field"
            )
        if unlabelled == "background" and legend.background is None:
            raise LegendError(
                f"{self.path}: pixels outside the polygons have no class; add one with --classes 0=background,... or use "
                f"--unlabelled ignore"
            )
        outside = legend.values[legend.background] if unlabelled == "background" else -1  # type: ignore[index]
        if self.keys is None:
            return np.full(len(self.shapes), others[0], np.int32), outside
        values = {key: _class_value(legend, key) for key in set(self.keys)}
        return np.array([values[key] for key in self.keys], np.int32), outside


def _class_value(legend: Legend, key: int | str) -> int:
    try:
        return legend.values[legend.index(key)]
    except LegendError:
        return -1


def read_polygons(
    path: Path, *, class_field: str | None = None, classes: Legend | None = None, other: Other | None = None
) -> Polygons:
    """Read the polygons of a vector file; invalid ones are mended, what is no polygon is left out, both counted.

    Args:
        path: a file with one layer of polygons, or of which the first is meant.
        class_field: the column that tells the class; polygons without a value in it are left out, and counted.
        classes: the legend, where it is known before.
        other: what to do about values of the class field that are not in `classes`; None where nobody is asked, and they are
            an error.

    Raises:
        MissingFileError: no such file.
        GeoreferenceError: it has no CRS.
        LabelError: it cannot be read, holds no polygon, has no such field, or has values outside the legend.
    """
    frame = _read_vector(path, class_field)
    if frame.crs is None:
        raise GeoreferenceError(f"{path}: no CRS, so nobody knows where its polygons lie; set it with: ogr2ogr -a_srs")
    shapes = frame.geometry.to_numpy(copy=True)
    broken = ~shapely.is_valid(shapes) & ~shapely.is_missing(shapes)
    # "structure" keeps the ground that an outline goes round twice, and leaves no lines among the polygons.
    shapes[broken] = shapely.make_valid(shapes[broken], method="structure", keep_collapsed=False)
    usable = (shapely.get_dimensions(shapes) == 2) & ~shapely.is_empty(shapes)
    if broken.any() or not usable.all():
        _warn(
            f"{path}: {(broken & usable).sum()} invalid geometries mended, {(~usable).sum()} without an area left out"
        )
    if not usable.any():
        raise LabelError(f"{path}: no polygon found; labels must be polygons or a mask raster")
    if class_field is None:
        return Polygons(path, gpd.GeoSeries(shapes[usable], crs=frame.crs), None)
    told = usable & frame[class_field].notna().to_numpy()
    if not told.any():
        raise LabelError(f"{path}: no polygon has a value in '{class_field}'; name another --class-field, or none")
    if told.sum() < usable.sum():
        _warn(f"{path}: {usable.sum() - told.sum()} polygons without a value in '{class_field}' are left out")
    keys = _field_values(path, frame[class_field][told])
    if classes is not None:
        _refuse_strays(path, keys, classes, other)
    else:
        _say_letters(path, keys, class_field)
    return Polygons(path, gpd.GeoSeries(shapes[told], crs=frame.crs), keys)


def warn_of_class_columns(path: Path) -> None:
    """Where no class field was named, and a column of names that come again and again could be it, say so."""
    layer = open_layer(path, prefer="Polygon")
    try:
        table = layer.read()
    except LabelError:  # of columns that nobody has asked for
        return
    for name in layer.fields:
        if name in table and name != table.geometry.name and any(isinstance(value, str) for value in table[name]):
            texts = table[name].dropna().astype(str).str.strip()
            found = sorted(set(texts))
            if 1 < len(found) <= _MOST_CLASSES and 2 * len(found) <= len(texts):
                _warn(
                    f"{path}: all polygons are taken for one class, while the column '{without_controls(name)}' tells {len(found)} "
                    f"({without_controls(', '.join(found[:4]))}{', ...' if len(found) > 4 else ''}); name it with --class-field, or "
                    f"the one class with --classes 0=background,1=NAME"
                )
                return


def _read_vector(path: Path, class_field: str | None) -> gpd.GeoDataFrame:
    layer = open_layer(path, prefer="Polygon")
    if layer.others:
        _warn(f"{path}: {layer.others + 1} layers found, '{layer.name}' is read")
    if class_field is not None and class_field not in layer.fields:
        found = without_controls(", ".join(layer.fields)) or "none"
        raise LabelError(f"{path}: no field '{class_field}'; fields found: {found}")
    return layer.read([class_field] if class_field else [])


def _field_values(path: Path, column: Any) -> tuple[int | str, ...]:
    if column.dtype.kind == "f" and (column.abs() < 2**63).all() and (column == column.round()).all():
        column = column.astype(int)  # whole numbers with a null among them are read as floats
    if column.dtype.kind in "iub":
        return tuple(int(value) for value in column)
    if column.dtype.kind == "f":
        raise LabelError(
            f"{path}: field '{column.name}' holds fractions or numbers beyond measure; whole numbers or names are needed"
        )
    texts = [str(value).strip() for value in column]
    return (
        tuple(int(text) for text in texts)
        if all(text.isdecimal() and len(text) < 19 for text in texts)
        else tuple(texts)
    )


def _say_letters(path: Path, keys: Iterable[int | str], class_field: str) -> None:
    spellings: dict[str, set[str]] = {}
    for name in {key for key in keys if isinstance(key, str)}:
        spellings.setdefault(name.casefold(), set()).add(name)
    for same in spellings.values():
        if len(same) > 1:
            _warn(
                f"{path}: {' and '.join(sorted(same))} found in '{class_field}', which are taken for {len(same)} classes"
            )


def _refuse_strays(path: Path, keys: Sequence[int | str], legend: Legend, other: Other | None) -> None:
    strays = Counter({key: count for key, count in Counter(keys).items() if _class_value(legend, key) < 0})
    if not strays:
        return
    listed = ", ".join(f"'{value}' ({count} polygons)" for value, count in strays.most_common(5))
    if other != "ignore":
        ways = "add them to --classes" + (" or use --other ignore" if other else "")
        raise LabelError(f"{path}: {listed} not in the legend ({legend}); {ways}")
    _warn(f"{path}: not in the legend, so what lies there is ignored: {listed}")


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)


def polygon_legend(files: Sequence[Polygons], unlabelled: Unlabelled, background: str | None = None) -> Legend:
    """A legend for polygons: whole numbers are class values, names are numbered in their order.

    Pixels outside every polygon get a class of value 0 called `background`, unless there is a class of value 0, or
    `background` names the one that they shall belong to.
    """
    keyed = [
        file.keys for file in files if file.keys is not None
    ]  # polygons without a class are of the one that others have
    keys = set().union(*keyed) if keyed else {1}
    names: list[str | None]
    if all(isinstance(key, int) for key in keys):
        values, names = sorted(map(int, keys)), [None] * len(keys)
    else:
        texts = sorted(map(str, keys), key=lambda text: (text.lower() != "background", text))
        first = 0 if texts[0].lower() == "background" else 1
        values, names = list(range(first, first + len(texts))), list(texts)
    if unlabelled == "background" and 0 not in values and background not in {*map(str, values), *filter(None, names)}:
        values, names = [0, *values], ["background", *names]
    try:
        legend = make_legend(values, names)
    except LegendError as error:
        raise LegendError(f"{files[0].path}: {error}") from None
    return legend.with_background(background) if background else legend


class PolygonLabels:
    """Polygons burnt into windows of a scene; where polygons overlap, the later one in the file wins.

    Args:
        polygons: of the whole file.
        scene: gives the grid.
        legend: the classes.
        unlabelled: what valid pixels outside every polygon are.
        all_touched: burn every pixel touched rather than those whose centre is inside.

    Raises:
        LabelError: no overlap with the scene, or several classes and no field.
        LegendError: pixels outside the polygons have no class.
        GeoreferenceError: the scene has no CRS.
    """

    tells_fields = True

    def __init__(
        self, polygons: Polygons, scene: Scene, *, legend: Legend, unlabelled: Unlabelled, all_touched: bool = False
    ) -> None:
        values, outside = polygons.burn_values(legend, unlabelled)
        self._shapes, self._scene, self._all_touched = polygons.near(scene), scene, all_touched
        self._values = np.append(np.int32(outside), values[self._shapes.index])

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Class values (rows, cols) int32, and where they are known (rows, cols) bool."""
        _, values, known = self.read_fields(window)
        return values, known

    def read_fields(self, window: Window) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `LabelReader`: each polygon is a field."""
        fields = np.zeros((window.height, window.width), np.int32)
        found = np.sort(self._shapes.sindex.query(shapely.Polygon(self._scene.outline(window))))
        if len(found):
            pairs = zip(self._shapes.iloc[found], (found + 1).tolist(), strict=True)
            place = transform(window, self._scene.transform)
            with georeference_optional():
                rasterize(pairs, out=fields, transform=place, all_touched=self._all_touched)
        values = self._values[fields]
        return np.where(values >= 0, fields, UNKNOWN), values, values >= 0


def inside_of(polygons: Polygons, scene: Scene) -> PolygonLabels:
    """The ground inside polygons: known there, and nowhere else.

    Raises:
        LabelError: they do not meet the scene.
        GeoreferenceError: the scene has no CRS.
    """
    return PolygonLabels(polygons, scene, legend=make_legend([1]), unlabelled="ignore")
