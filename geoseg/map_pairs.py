"""A map and a reference, each a class raster or a polygon file on whatever grid, opened on the grid of the map."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS

from geoseg.choices import Unlabelled
from geoseg.class_rasters import find_legend
from geoseg.errors import DataWarning, GeosegError, InputError, LegendError
from geoseg.grid import grid
from geoseg.ground import MapPair
from geoseg.labels import LabelReader, is_vector, open_label_raster, raster_legend, read_legend
from geoseg.legend import CLASS_NAME, MAX_VALUE, Legend, LegendClass, parse_legend
from geoseg.polygon_labels import PolygonLabels, Polygons, inside_of, polygon_legend, read_polygons
from geoseg.predictor import SHARE_STEPS
from geoseg.raster import open_raster
from geoseg.scenes import Scene, describe_scene, same_grid
from geoseg.vector import open_layer
from geoseg.vectorise import chosen_classes

_BLOCK = 2048
_DISTORTED = 0.01
"""How far a metre of a projection may be from one on the ground and still be called one."""


@dataclass(frozen=True)
class PairOptions:
    """The options of `geoseg evaluate` of the same names, as far as a pair of maps depends on them."""

    classes: str | Path | None = None
    only: str | Sequence[str | int] | None = None
    class_field: str | None = None
    unlabelled: Unlabelled = "background"
    aoi: str | Path | None = None
    pixel_size: float | None = None
    label_nodata: int | None = None


def open_pair(
    predicted: Path, reference: Path, options: PairOptions, stack: ExitStack, other: Path | None = None
) -> MapPair:
    """Lay a reference, and perhaps another map, on the grid of a map.

    The grid is that of the map; where that is a polygon file, that of the reference; where both are, one of square
    pixels of `--pixel-size`, as far as the area of interest or else the map goes.

    Args:
        predicted: the map under test.
        reference: what it is held against.
        options: of both.
        stack: keeps the files open.
        other: a map to compare it with.

    Raises:
        GeosegError: what cannot be laid on that grid, or classes that are not in the legend.
    """
    fields = {path: _own_field(path) or options.class_field for path in (predicted, other) if path is not None}
    fields[reference] = options.class_field or _own_field(reference)
    legend = _find_legend(predicted, reference, options, fields)
    for path in (reference, predicted, other):
        if path is not None and not options.classes and not is_vector(path):
            _warn_of_nodata(path, legend, options.label_nodata if path == reference else None)
    named = legend if options.classes else None
    told, others = _merge_others(legend, options.only)
    if others:  # what lies outside polygons is one of the others too
        legend = Legend((*legend.classes, *(entry for entry in told if entry.value not in legend.label_values)))
    polygons = {
        path: read_polygons(path, class_field=field, classes=legend)
        for path, field in fields.items()
        if is_vector(path)
    }
    _warn_of_boundary(legend, polygons, predicted, reference)
    inside = None if options.aoi is None else read_polygons(Path(options.aoi))
    scene = _find_grid(predicted, reference, polygons, options.pixel_size, inside)

    def reader(path: Path) -> LabelReader:
        if path in polygons:
            # What a map does not show is background, whatever the labels leave open, or nothing where there is none.
            of_map: Unlabelled = "ignore" if legend.background is None else "background"
            unlabelled = options.unlabelled if path == reference else of_map
            return PolygonLabels(polygons[path], scene, legend=legend, unlabelled=unlabelled)
        nodata = options.label_nodata if path == reference else None
        return stack.enter_context(open_label_raster(path, scene, named=named, nodata=nodata))

    area = None if inside is None else inside_of(inside, scene)
    # It is of the single classes: how sure the map is of several together, it does not tell.
    confidence = None if is_vector(predicted) or others else _find_confidence(predicted, scene)
    return MapPair(
        scene, told, reader(predicted), reader(reference), [str(path) for path in (predicted, reference, other) if path],
        area, None if other is None else reader(other), None if confidence is None else reader(confidence), others,
    )  # fmt: skip


def _warn_of_boundary(legend: Legend, polygons: Mapping[Path, Polygons], predicted: Path, reference: Path) -> None:
    """Where a boundary is a class of one of the two alone, all of it counts as wrong."""
    if legend.boundary is None:
        return
    entry = legend.classes[legend.boundary]
    for one, other in ((predicted, reference), (reference, predicted)):
        if not is_vector(one) and is_vector(other) and not {entry.name, entry.value} & {*(polygons[other].keys or ())}:
            warnings.warn(
                f"{one}: holds its '{entry.name}' as a class, which {other} does not have, so that it counts as wrong; use the "
                f"polygons that --fields makes of it",
                DataWarning,
                stacklevel=4,
            )


def _warn_of_nodata(path: Path, legend: Legend, unknown: int | None) -> None:
    """Where nodata is the value of a class, none of its pixels counts: a map would not be blamed for what it invents there."""
    nodata = describe_scene(path).nodata[0]
    for entry in legend:
        if entry.value == nodata != unknown:
            warnings.warn(
                f"{path}: nodata {nodata:g} found, which is the value of '{entry.name}'; it is taken for unknown and left out. Where "
                f"it means {entry.name}, name the classes with --classes; where it is right for a reference, say so with "
                f"--label-nodata {nodata:g}",
                DataWarning,
                stacklevel=4,
            )


def _merge_others(legend: Legend, only: str | Sequence[str | int] | None) -> tuple[Legend, dict[int, int]]:
    """The legend of some classes and all others as one, its background; and the value that stands for each of the others."""
    if only is None:
        return legend, {}
    chosen = chosen_classes(legend, only)
    if legend.background is not None and legend.background not in chosen:
        rest = legend.classes[legend.background]
    else:
        free = next(value for value in range(MAX_VALUE) if value not in legend.label_values)
        rest = LegendClass(free, "other", "#d9d9d9", "background")
    others = {value: rest.value for index, value in enumerate(legend.values) if index not in chosen}
    return Legend((rest, *(legend.classes[index] for index in chosen))), others | {rest.value: rest.value}


def _own_field(path: Path) -> str | None:
    """The class column of a polygon file written by geoseg, which needs no naming."""
    try:
        return CLASS_NAME if is_vector(path) and CLASS_NAME in open_layer(path).fields else None
    except GeosegError:
        return None  # read_polygons says what is wrong


def _find_legend(predicted: Path, reference: Path, options: PairOptions, fields: dict[Path, str | None]) -> Legend:
    """As given; else as the map, or the reference, carries it; else made of what stands in both."""
    if options.classes:
        return parse_legend(options.classes)
    pair = (predicted, reference)
    for path in pair:
        if not is_vector(path) and (legend := read_legend(path)):
            return legend
    vectors = [read_polygons(path, class_field=fields[path]) for path in pair if is_vector(path)]
    rasters = [path for path in pair if not is_vector(path)]
    if not rasters:
        _warn_of_strangers(vectors)
        return polygon_legend(vectors, options.unlabelled)
    legend = raster_legend(rasters[0], sorted(set().union(*map(_values_of, rasters))))
    try:
        for file in vectors:
            for key in set(file.keys or ()):
                legend.index(key)
    except LegendError as error:
        raise LegendError(
            f"{vectors[0].path}: {error}, as found in {rasters[0]}; name the classes of its values with "
            f"--classes 0=background,1=..."
        ) from None
    return legend


def _warn_of_strangers(files: Sequence[Polygons]) -> None:
    keys = [set(map(str, file.keys)) for file in files if file.keys]
    if len(keys) == 2 and keys[0].isdisjoint(keys[1]):
        found = " and ".join(
            f"{file.path} has {', '.join(sorted(own)[:5])}" for file, own in zip(files, keys, strict=True)
        )
        warnings.warn(
            f"no class is in both: {found}; where these are the same, name them alike", DataWarning, stacklevel=5
        )


def _values_of(path: Path) -> set[int]:
    """The class values of a raster; labels may be whole numbers in a floating point type."""
    scene = describe_scene(path)
    if len(scene.dtypes) > 1 or not scene.dtypes[0].startswith("float"):
        return set(find_legend(scene).values)
    values: set[int] = set()
    with open_label_raster(path, scene) as reader:
        for tile in grid(scene.height, scene.width, _BLOCK):
            found, known = reader.read(tile.core)
            values.update(np.unique(found[known]).tolist())
    return values


def _find_grid(
    predicted: Path, reference: Path, polygons: dict[Path, Polygons], pixel_size: float | None, inside: Polygons | None
) -> Scene:
    rasters = [path for path in (predicted, reference) if path not in polygons]
    if rasters and pixel_size is not None:
        raise InputError(f"--pixel-size {pixel_size:g}: {rasters[0]} has a grid of its own; leave it out")
    if rasters:
        return describe_scene(rasters[0])
    if pixel_size is None:
        raise InputError(
            f"{predicted}: neither it nor {reference} has pixels; say how large they shall be, in metres, with --pixel-size"
        )
    if not 0 < pixel_size < math.inf:
        raise InputError(f"--pixel-size {pixel_size:g}: metres above 0 are needed")
    shapes = polygons[predicted].shapes
    projected = shapes if shapes.crs.is_projected else shapes.to_crs(shapes.estimate_utm_crs())
    ground = projected if inside is None else inside.shapes.to_crs(projected.crs)
    left, low, right, high = ground.total_bounds
    if inside is None:
        _say_what_lies_outside(polygons[reference], shapely.box(left, low, right, high), projected.crs)
    crs, unit = CRS.from_user_input(projected.crs), projected.crs.axis_info[0].unit_conversion_factor
    side = pixel_size / unit
    # In Web Mercator, for one, a metre of the map is half a metre on the ground at 60 degrees north.
    middle = Scene("", (), 1, 1, (), (), (), crs, Affine(side, 0, (left + right) / 2, 0, -side, (low + high) / 2))
    if middle.pixel_size_m and abs(middle.pixel_size_m / pixel_size - 1) > _DISTORTED:
        side *= pixel_size / middle.pixel_size_m
    width, height = math.ceil((right - left) / side), math.ceil((high - low) / side)
    transform = Affine(side, 0, left, 0, -side, high)
    return Scene(predicted.stem, (predicted,), height, width, (), (), (), crs, transform)


def _say_what_lies_outside(reference: Polygons, extent: shapely.Polygon, crs: Any) -> None:
    outside = int((~reference.shapes.to_crs(crs).intersects(extent)).sum())
    if outside:
        warnings.warn(
            f"{reference.path}: {outside} polygons lie outside the extent of the map and are not counted; where the map should "
            f"have found them, say with --aoi where the two are to be compared",
            DataWarning,
            stacklevel=4,
        )


def _find_confidence(predicted: Path, scene: Scene) -> Path | None:
    """The confidence raster that `geoseg predict` has put beside a class raster."""
    if not predicted.stem.endswith("_classes"):
        return None
    path = predicted.with_name(f"{predicted.stem.removesuffix('_classes')}_confidence.tif")
    if not path.exists() or not same_grid(describe_scene(path), scene):
        return None
    with open_raster(path) as dataset:
        own = dataset.dtypes[0] == "uint8" and math.isclose(dataset.scales[0] * SHARE_STEPS, 1)
        return path if own else None
