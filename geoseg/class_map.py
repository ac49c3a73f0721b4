"""A class raster as a map: its classes strip by strip, and how much ground each has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.windows import Window

from geoseg.class_rasters import find_legend
from geoseg.errors import GeoreferenceError, LegendError
from geoseg.grid import grid
from geoseg.labels import LabelReader, open_label_raster
from geoseg.legend import IGNORE, Legend, parse_legend
from geoseg.pixel_areas import ClassAmounts, class_amounts, no_amounts
from geoseg.polygon_labels import inside_of, read_polygons
from geoseg.progress import Progress
from geoseg.scenes import Scene, describe_scene

_ROWS = 256


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
            indices = self.legend.to_indices(np.where(known, values, 0))
            yield tile.core, np.where(known, indices, IGNORE).astype(np.uint8)

    def count(self, window: Window, indices: np.ndarray) -> ClassAmounts:
        """What there is in a strip.

        Raises:
            GeoreferenceError: the area of its pixels is not known.
        """
        amounts = class_amounts(self.scene, window, indices, len(self.legend))
        if not np.isfinite(amounts.area_m2).all():
            raise self._unmeasured()
        return amounts

    def measure(self, progress: Progress) -> ClassAmounts:
        """What there is on the whole map."""
        amounts = no_amounts(len(self.legend))
        for window, indices in self.strips():
            amounts += self.count(window, indices)
            progress("count classes", window.row_off + window.height, self.scene.height)
        return amounts

    def pixel_m2(self, col: int, row: int) -> float:
        """Area of a pixel.

        Raises:
            GeoreferenceError: it is not known.
        """
        found = self.scene.pixel_area_m2(col, row)
        if found is None:
            raise self._unmeasured()
        return found

    def _unmeasured(self) -> GeoreferenceError:
        lack = "no CRS" if self.scene.crs is None else "pixels off the ground of its CRS"
        return GeoreferenceError(
            f"{self.scene.path}: {lack}, so no area can be told; set the right CRS with: gdal_edit.py -a_srs"
        )


def open_class_map(
    path: Path, stack: ExitStack, *, classes: str | Path | None = None, aoi: str | Path | None = None
) -> ClassMap:
    """Open a class raster.

    Args:
        path: the raster.
        stack: keeps it open.
        classes: its legend, where it carries none and the values found are not enough.
        aoi: polygon file; only what lies inside is looked at.

    Raises:
        RasterError, LegendError, LabelError: it holds no classes, or does not meet the area.
    """
    scene = describe_scene(path)
    legend = parse_legend(classes) if classes else find_legend(scene)
    reader = stack.enter_context(open_label_raster(path, scene, named=legend if classes else None))
    return ClassMap(scene, legend, reader, None if aoi is None else inside_of(read_polygons(Path(aoi)), scene))
