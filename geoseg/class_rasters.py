"""Class rasters, geoseg's own or another's: what they hold, row by row."""

from __future__ import annotations

import numpy as np
from rasterio.windows import Window

from geoseg.errors import LegendError, RasterError
from geoseg.grid import grid
from geoseg.labels import raster_legend, read_legend
from geoseg.legend import IGNORE, MAX_VALUE, Legend
from geoseg.scenes import Scene, SceneReader

_BLOCK = 2048


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
        raise LegendError(
            f"{scene.path}: {found} found; a class raster holds up to 254 different values, each from 0 to {MAX_VALUE}; "
            "change them with gdal_calc.py"
        )
    return raster_legend(scene.paths[0], sorted(values))


def _refuse_other_than_classes(scene: Scene) -> None:
    if len(scene.dtypes) != 1 or scene.dtypes[0].startswith("float"):
        count, kinds = len(scene.dtypes), "/".join(sorted(set(scene.dtypes)))
        found, mend = ("1 band", "-ot Byte") if count == 1 else (f"{count} bands", "-b 1")
        raise RasterError(
            f"{scene.path}: {found} of {kinds} found; a class raster has one band of whole numbers; name the map of "
            f"geoseg predict, {scene.name}_classes.tif, not the scene, or make one with gdal_translate {mend}"
        )


class ClassRows:
    """Reads rows of a class raster as class indices; those that were read last are kept, since strips overlap.

    Raises:
        RasterError: the raster does not hold classes, or cannot be read.
        LegendError: it holds a value that is not in the legend.
    """

    def __init__(self, scene: Scene, reader: SceneReader, legend: Legend) -> None:
        _refuse_other_than_classes(scene)
        self._scene, self._reader, self._legend = scene, reader, legend
        self._first, self._rows = 0, np.zeros((0, scene.width), np.uint8)

    def read(self, first: int, last: int) -> np.ndarray:
        """The class index of every pixel, (rows, cols) uint8, 255 for nodata, from the row `first` to before `last`."""
        end = self._first + len(self._rows)
        if not self._first <= first <= last <= end:
            kept = self._rows[first - self._first :] if self._first <= first < end else self._rows[:0]
            self._rows = np.concatenate((kept, self._read(first + len(kept), last)))
            self._first = first
        return self._rows[first - self._first : last - self._first]

    def _read(self, first: int, last: int) -> np.ndarray:
        (values,), valid = self._reader.read(Window(0, first, self._scene.width, last - first), [1])
        known = valid & (values >= 0) & (values <= MAX_VALUE)
        found = np.where(known, self._legend.to_indices(np.where(known, values, 0)), IGNORE).astype(np.uint8)
        stray = valid & (found == IGNORE)
        if stray.any():
            raise LegendError(
                f"{self._scene.path}: value {values[stray][0]} found, which is not in its legend ({self._legend}); "
                f"mend the raster or its legend"
            )
        return found
