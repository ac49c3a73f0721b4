"""A layer of places to visit in QGIS, the first one first: squares of scenes, wherever these lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from rasterio.crs import CRS

from geoseg.geopackage import write_layer
from geoseg.styles import place_style

Outline = tuple[Sequence[tuple[float, float]], CRS | None]
"""The corners of a place, in order around it, and the CRS that they are in; None for a picture."""


def write_place_layer(
    path: Path, layer: str, columns: Mapping[str, Sequence[Any]], outlines: Sequence[Outline]
) -> None:
    """Write a GeoPackage of places, with their ranks drawn.

    Args:
        path: a staged .gpkg.
        layer: its name.
        columns: by name, a value per place; `rank` is put before them.
        outlines: of the places, in the CRS of all of them, else in EPSG:4326. A picture without a CRS has no place among
            scenes that have one.
    """
    systems = {crs for _, crs in outlines}
    crs = next(iter(systems)) if len(systems) == 1 else "EPSG:4326"
    shapes = [_outline(*outline, crs) for outline in outlines]
    table = {"rank": range(1, len(outlines) + 1), **columns}
    frame = gpd.GeoDataFrame(table, geometry=np.array(shapes, object), crs=crs)
    write_layer(path, layer, frame, "Polygon", style=place_style())


def _outline(corners: Sequence[tuple[float, float]], own: CRS | None, crs: CRS | str | None) -> shapely.Polygon | None:
    shape = shapely.Polygon(corners)
    if own == crs:
        return shape
    return None if own is None else gpd.GeoSeries([shape], crs=own).to_crs(crs)[0]
