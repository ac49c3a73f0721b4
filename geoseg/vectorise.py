"""From class rasters to polygon layers: reading, tracing, simplifying, and a table with areas and confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from rasterio.windows import Window

from geoseg.choices import Connectivity, Format
from geoseg.errors import GeoreferenceError, InputError, LegendError, RasterError
from geoseg.grid import grid
from geoseg.labels import raster_legend, read_legend
from geoseg.legend import IGNORE, MAX_VALUE, Legend
from geoseg.outlines import Coverage, trace
from geoseg.polygon_layer import Confidence, find_format, measure_ground, polygon_table, to_degrees, write_polygons
from geoseg.progress import Progress, silent
from geoseg.raster import open_raster
from geoseg.scenes import Scene, describe_scene, same_grid
from geoseg.simplification import simplify_coverage
from geoseg.styles import polygon_style

_BLOCK = 2048


def refuse_odd_outlines(simplify: float, connectivity: int) -> None:
    """Raise `InputError` for outlines that cannot be drawn."""
    if not (isinstance(simplify, int | float) and 0 <= simplify < math.inf) or connectivity not in (4, 8):
        raise InputError(
            f"--simplify {simplify} --connectivity {connectivity}: 0 pixels or more, and 4 or 8, are possible"
        )


def chosen_classes(legend: Legend, only: str | Sequence[str | int] | None) -> tuple[int, ...]:
    """Class indices to make polygons of, in the legend's order.

    Args:
        legend: the classes.
        only: names or values, as a list or a text split by commas; None for every class but the background.

    Raises:
        LegendError: a class that is not in the legend.
    """
    if only is None:
        return tuple(index for index in range(len(legend)) if index != legend.background)
    keys = [key for key in only.split(",") if key.strip()] if isinstance(only, str) else only
    return tuple(sorted({legend.index(key) for key in keys}))


def layer_style(legend: Legend, only: str | Sequence[str | int] | None) -> str:
    """QML for a polygon layer, with the chosen classes alone in its legend."""
    chosen = chosen_classes(legend, only)
    return polygon_style(Legend(tuple(legend.classes[index] for index in chosen)) if chosen else legend)


def find_legend(scene: Scene) -> Legend:
    """The legend that a class raster carries, else one made of the values found in it.

    Raises:
        RasterError: the raster does not hold classes.
        LegendError: the legend is damaged, or there are more than 254 values.
    """
    _refuse_other_than_classes(scene)
    legend = read_legend(scene.paths[0])
    if legend:
        return legend
    values: set[int] = set()
    with scene.open() as reader:
        for tile in grid(scene.height, scene.width, _BLOCK):
            pixels, valid = reader.read(tile.core, [1])
            values.update(np.unique(pixels[0][valid]).tolist())
    if not values or not 0 <= min(values) <= max(values) <= MAX_VALUE or len(values) >= IGNORE:
        found = f"{len(values)} values from {min(values)} to {max(values)}" if values else "nodata only"
        raise LegendError(f"{scene.path}: {found} found; a class raster holds 1 to 254 values from 0 to {MAX_VALUE}")
    return raster_legend([scene.paths[0]], sorted(values))


def _refuse_other_than_classes(scene: Scene) -> None:
    if len(scene.dtypes) != 1 or scene.dtypes[0].startswith("float"):
        found = f"{len(scene.dtypes)} bands of {'/'.join(sorted(set(scene.dtypes)))}"
        raise RasterError(f"{scene.path}: {found} found; a class raster has one band of whole numbers")


def read_class_indices(scene: Scene, legend: Legend) -> np.ndarray:
    """The class index of every pixel (rows, cols) uint8, 255 for nodata.

    Raises:
        RasterError: the raster does not hold classes, or cannot be read.
        LegendError: it holds a value that is not in the legend.
    """
    _refuse_other_than_classes(scene)
    indices = np.full((scene.height, scene.width), IGNORE, np.uint8)
    with scene.open() as reader:
        for tile in grid(scene.height, scene.width, _BLOCK):
            (values,), valid = reader.read(tile.core, [1])
            known = valid & (values >= 0) & (values <= MAX_VALUE)
            found = np.where(known, legend.to_indices(np.where(known, values, 0)), IGNORE).astype(np.uint8)
            stray = valid & (found == IGNORE)
            if stray.any():
                raise LegendError(
                    f"{scene.path}: value {values[stray][0]} found, which is not in its legend ({legend}); "
                    f"mend the raster or its legend"
                )
            indices[tile.core.toslices()] = found
    return indices


def read_confidence(path: Path, scene: Scene) -> Confidence:
    """Read a confidence raster, on the grid of a class raster.

    Raises:
        RasterError: it lies on another grid than the class raster, or does not hold values from 0 to 1.
    """
    other = describe_scene(path)
    if len(other.dtypes) != 1 or not same_grid(other, scene):
        found = f"{len(other.dtypes)} bands" if len(other.dtypes) != 1 else "another grid"
        raise RasterError(f"{path}: {found} found; one band on the grid of {scene.path.name} is needed")
    with open_raster(path) as dataset:
        scale, offset = dataset.scales[0], dataset.offsets[0]
    with other.open() as reader:
        (stored,), valid = reader.read(Window(0, 0, scene.width, scene.height), [1])
    stored = np.where(valid, stored, 0)
    limits = [value * scale + offset for value in (stored[valid].min(), stored[valid].max())] if valid.any() else [0]
    if not -1e-6 <= min(limits) <= max(limits) <= 1 + 1e-6:
        raise RasterError(
            f"{path}: values from {min(limits):g} to {max(limits):g} found; confidence goes from 0 to 1 "
            f"(set the band's scale with: gdal_edit.py -scale 0.004)"
        )
    return Confidence(stored, valid, scale, offset)


def polygonize_raster(
    classes: Path,
    confidence: Path | None,
    legend: Legend,
    out: Path,
    *,
    only: str | Sequence[str | int] | None = None,
    simplify: float = 1.5,
    connectivity: Connectivity = 4,
    format: Format | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Make a polygon layer of a class raster.

    Args:
        classes: a class raster.
        confidence: a confidence raster on the same grid.
        legend: of the class raster.
        out: a staged path.
        only: names or values of the classes to make polygons of; None for all but the background.
        simplify: how far, in pixels, a simplified outline may lie from the pixels' edges; 0 keeps these.
        connectivity: 4, or 8 to join pixels of a class that touch at corners; features are multipolygons then.
        format: else by the suffix of `out`.
        progress: called after each step.

    Returns:
        The balance: `polygons`, `gap_pixels`, `overlapping_polygons` and per class, in `classes`, `value`, `name`,
        `polygons`, `pixels`, `area_by_pixels_m2`, `area_by_polygons_m2` and `difference_m2` (None without a CRS).

    Raises:
        GeosegError: the rasters cannot be used together, an option is out of range, or the disk is full.
    """
    chosen = chosen_classes(legend, only)
    stage = f"polygons {Path(classes).stem}"
    scene = describe_scene(classes)
    format = format or find_format(out)
    if format == "geojson" and to_degrees(scene.crs) is None:
        raise GeoreferenceError(
            f"{scene.path}: no CRS with a place on the Earth, which GeoJSON needs; choose .gpkg or .fgb"
        )
    scores = read_confidence(confidence, scene) if confidence else None
    traced = trace(read_class_indices(scene, legend))
    progress(stage, 1, 4, "traced")
    simplified = simplify_coverage(traced, simplify)
    progress(stage, 2, 4, "simplified")
    polygons = simplified.polygons(scene.transform)
    table = polygon_table(traced, polygons, legend, chosen, connectivity=connectivity, crs=scene.crs, confidence=scores)
    balance = find_balance(traced, polygons, table, legend, chosen, scene)
    progress(stage, 3, 4, "checked")
    write_polygons(out, table, format=format, style=layer_style(legend, only))
    progress(stage, 4, 4, "written")
    return balance


def find_balance(
    traced: Coverage, polygons: np.ndarray, table: gpd.GeoDataFrame, legend: Legend, chosen: Sequence[int], scene: Scene
) -> dict[str, Any]:
    """What polygons cover against what the pixels cover; see `polygonize_raster`.

    Args:
        traced: the pieces along the pixel edges.
        polygons: a polygon per piece, as written; background and nodata too, or gaps and overlaps could not be found.
        table: the rows that are written.
        legend: the classes.
        chosen: class indices of the rows.
        scene: the class raster.
    """
    overlapping = 0
    if not shapely.coverage_is_valid(polygons):
        overlapping = int((~shapely.is_empty(shapely.coverage_invalid_edges(polygons))).sum())
    covered = float(shapely.area(polygons).sum()) / abs(scene.transform.determinant)
    outlines = traced.polygons(scene.transform)
    classes = []
    for index in chosen:
        entry, rows = legend.classes[index], table[table["class_value"] == legend.values[index]]
        by_polygons = float(rows["area_m2"].to_numpy().sum())
        by_pixels = float(measure_ground(outlines[traced.classes == index], scene.crs)[0].sum())
        known = scene.crs is not None and math.isfinite(by_pixels + by_polygons)
        areas = (by_pixels, by_polygons, by_polygons - by_pixels) if known else (None, None, None)
        classes.append(
            {"value": entry.value, "name": entry.name, "polygons": len(rows), "pixels": int(rows["pixels"].sum())}
            | dict(zip(("area_by_pixels_m2", "area_by_polygons_m2", "difference_m2"), areas, strict=True))
        )
    return {
        "polygons": len(table),
        "gap_pixels": round(scene.height * scene.width - covered, 3),
        "overlapping_polygons": overlapping,
        "classes": classes,
    }
