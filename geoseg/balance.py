"""What polygons cover against what the pixels cover: areas, gaps and overlaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from rasterio.windows import Window

from geoseg.legend import Legend
from geoseg.outlines import Coverage, meeting
from geoseg.pixel_areas import class_amounts
from geoseg.scenes import Scene
from geoseg.sweep import Finished


class Balance:
    """What polygons cover against what the pixels cover; see `polygonize_raster`.

    Args:
        scene: the class raster.
        legend: its classes.
        chosen: class indices of the polygons.
    """

    def __init__(self, scene: Scene, legend: Legend, chosen: Sequence[int]) -> None:
        self._scene, self._legend, self._chosen = scene, legend, chosen
        self.polygons, self._gap = 0, 0.0
        self._overlapping, self._border = 0, np.zeros((0, 4), np.int64)
        self._features, self._pixels = np.zeros((2, len(legend)), np.int64)
        self._by_pixels, self._by_polygons = np.zeros((2, len(legend)))

    def count(self, indices: np.ndarray, top: int) -> None:
        """Measure the pixels of some rows.

        Args:
            indices: (rows, width) class indices.
            top: the first of these rows.
        """
        height, width = indices.shape
        rows = Window(0, top, width, height)
        self._by_pixels += class_amounts(self._scene, rows, indices, len(self._legend)).area_m2

    def add(self, finished: Finished, outlines: Coverage, polygons: np.ndarray, table: gpd.GeoDataFrame) -> None:
        """Measure some features.

        Args:
            finished: as swept.
            outlines: their outlines, simplified.
            polygons: a polygon per piece, made of these.
            table: the rows that are written.
        """
        self.polygons += len(table)
        enclosed = outlines.areas().sum() - shapely.area(polygons).sum() / abs(self._scene.transform.determinant)
        self._gap += float(enclosed)
        lines, arc = outlines.lines()
        self._overlapping += int(outlines.with_arcs(arc[meeting(lines, self._border)]).sum())
        still = np.concatenate((self._border, lines[finished.bordering[arc]]))
        _, first, times = np.unique(
            np.concatenate((still, lines[~finished.bordering[arc]])), axis=0, return_index=True, return_counts=True
        )
        self._border = still[first[(times == 1) & (first < len(still))]]
        classes = self._legend.to_indices(table["class_value"].to_numpy())
        for total, part in ((self._features, None), (self._pixels, "pixels"), (self._by_polygons, "area_m2")):
            np.add.at(total, classes, 1 if part is None else table[part].to_numpy())

    def facts(self) -> dict[str, Any]:
        """As it stands in the run file."""
        classes: list[dict[str, Any]] = []
        for index in self._chosen:
            entry, by_pixels, by_polygons = (
                self._legend.classes[index],
                self._by_pixels[index],
                self._by_polygons[index],
            )
            known = self._scene.crs is not None and math.isfinite(by_pixels + by_polygons)
            areas = (float(by_pixels), float(by_polygons), float(by_polygons - by_pixels)) if known else (None,) * 3
            classes.append(
                {"value": entry.value, "name": entry.name, "polygons": int(self._features[index]),
                 "pixels": int(self._pixels[index])}
                | dict(zip(("area_by_pixels_m2", "area_by_polygons_m2", "difference_m2"), areas, strict=True))
            )  # fmt: skip
        return {
            "polygons": self.polygons,
            "gap_pixels": round(self._gap, 3) + 0.0,
            "overlapping_polygons": self._overlapping,
            "classes": classes,
        }
