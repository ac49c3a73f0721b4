"""What is not to be shown: small features given to their neighbours, or taken out, small holes filled, large features left out.

All but the last is a sweep of its own over the class raster, which finds the pixels that change; the next one sees them changed.
So outlines are traced once the map is as it shall be, and neighbours keep one edge.
"""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np

from geoseg.changes import Change, Generalised, Swept, feature_areas_m2, join_changes
from geoseg.pixel_areas import PixelAreas
from geoseg.sweep import Finished

NOTHING: dict[str, Any] = {
    "merged": {"polygons": 0, "area_m2": 0.0, "out_of_layer_m2": 0.0},
    "dropped": {"polygons": 0, "area_m2": 0.0},
    "filled": {"holes": 0, "area_m2": 0.0},
}  # fmt: skip
"""What is counted where nothing is changed."""


def fill_holes(swept: Swept, least_m2: float, areas: PixelAreas) -> Generalised:
    """Give holes that are smaller than so much to what is around them, with all that lies in them, nodata too."""
    parts, holes = [], 0
    for finished in swept(4):
        outlines = finished.outlines
        enclosed = -outlines.ring_areas()
        of_piece = np.repeat(np.arange(len(outlines.classes)), np.diff(outlines.pieces))
        filled = (enclosed > 0) & (enclosed * areas.at(*outlines.middles().T) < least_m2)
        name, row, begin, end = outlines.runs(np.where(filled, np.arange(len(filled)), -1))
        holes += int(filled.sum())
        parts.append((enclosed[name], Change(row, begin, end, outlines.classes[of_piece[name]])))
    # What lies in a hole of a hole goes with the outer one.
    size = np.concatenate([sizes for sizes, _ in parts]) if parts else np.zeros(0)
    change = join_changes([part for _, part in parts], size)
    return Generalised(change, {"filled": {"holes": holes, "area_m2": round(change.area_m2(areas), 3)}})


def added(counts: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Counts of two steps together."""
    return counts | {
        name: {key: round(value + entry[key], 3) for key, value in counts[name].items()} for name, entry in more.items()
    }


class Large:
    """Features that are larger than is asked for, measured by their pixels: left out, and counted.

    Args:
        most_m2: area of the largest feature that stays; None for any.
        areas: of the pixels.
    """

    def __init__(self, most_m2: float | None, areas: PixelAreas) -> None:
        self._most, self._areas = most_m2, areas
        self._polygons, self._area = 0, 0.0

    def leave_out(self, table: gpd.GeoDataFrame, finished: Finished) -> gpd.GeoDataFrame:
        """The rows that stay, numbered from the `id` of the first on."""
        if self._most is None or table.empty:
            return table
        area = feature_areas_m2(finished, self._areas)
        stays = area <= self._most
        self._polygons += int((~stays).sum())
        self._area += float(area[~stays].sum())
        return table[stays].assign(id=table["id"].iloc[0] + np.arange(int(stays.sum())))

    def counts(self) -> dict[str, Any]:
        """For the run file."""
        return {"too_large": {"polygons": self._polygons, "area_m2": round(self._area, 3)}}
