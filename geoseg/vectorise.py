"""From class rasters to polygon layers: reading, tracing, simplifying, and a table with areas and confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from geoseg.balance import Balance
from geoseg.choices import Connectivity, Format
from geoseg.class_rasters import ClassRows
from geoseg.confidence import ConfidenceRaster
from geoseg.errors import GeoreferenceError, InputError
from geoseg.legend import Legend
from geoseg.polygon_layer import LayerWriter, find_format, polygon_table, to_degrees
from geoseg.progress import Progress, silent
from geoseg.scenes import describe_scene
from geoseg.simplification import reach_of
from geoseg.simplification import simplify as simplify_outlines
from geoseg.styles import polygon_style
from geoseg.sweep import Finished, sweep

_STRIP = 2**22
"""Pixels of a class raster that are traced at once."""
_LEAST = 64
"""Rows that are traced at once, at least."""


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
    with ExitStack() as stack:
        rows = ClassRows(scene, stack.enter_context(scene.open()), legend)
        scores = ConfidenceRaster(confidence, scene, stack) if confidence else None
        layer = stack.enter_context(
            LayerWriter(out, format=format, style=layer_style(legend, only), multi=connectivity == 8)
        )
        balance = Balance(scene, legend, chosen)

        def tabulate(finished: Finished, polygons: np.ndarray) -> gpd.GeoDataFrame:
            return polygon_table(
                finished, polygons, legend, first_id=balance.polygons + 1, connectivity=connectivity, crs=scene.crs,
                confidence=scores.of(finished) if scores else None,
            )  # fmt: skip

        layer.write(tabulate(Finished.none(), np.empty(0, object)))  # where nothing follows, it tells the columns
        top = 0
        for bottom, finished in sweep(
            rows.read, scene.height, scene.width, chosen, rows=max(_STRIP // scene.width, _LEAST), connectivity=connectivity,
            reach=reach_of(simplify),
        ):  # fmt: skip
            balance.count(rows.read(top, bottom), top)
            if finished is not None:
                outlines = simplify_outlines(finished, simplify)
                polygons = outlines.polygons(scene.transform)
                table = tabulate(finished, polygons)
                balance.add(finished, outlines, polygons, table)
                layer.write(table)
            progress(stage, bottom, scene.height)
            top = bottom
        layer.finish()
    return balance.facts()
