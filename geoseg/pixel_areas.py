"""How much ground the pixels of a class raster are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window

from geoseg.grid import grid
from geoseg.legend import IGNORE
from geoseg.scenes import Scene

_ROWS, _COLS, _ALIKE_M = 64, 256, 7_000
"""Rows and columns of pixels that are taken to have the area of the one in their middle; fewer of large ones, no more than
span so many metres."""


@dataclass(frozen=True)
class ClassAmounts:
    """How much there is of each class.

    Attributes:
        pixels: (classes,) int64.
        area_m2: (classes,) area on the ground; NaN where it is not known.
    """

    pixels: np.ndarray
    area_m2: np.ndarray

    def __add__(self, other: ClassAmounts) -> ClassAmounts:
        return ClassAmounts(self.pixels + other.pixels, self.area_m2 + other.area_m2)


def no_amounts(classes: int) -> ClassAmounts:
    """Nothing of any class."""
    return ClassAmounts(np.zeros(classes, np.int64), np.zeros(classes))


def class_amounts(scene: Scene, window: Window, indices: np.ndarray, classes: int) -> ClassAmounts:
    """How much there is of each class in a window of a scene.

    Args:
        scene: its grid.
        window: the part of it.
        indices: (rows, cols) class indices, 255 where there is none.
        classes: how many there are.
    """
    blocks = [tile.core for tile in grid(window.height, window.width, _alike(scene))]
    pixels = np.array(
        [np.bincount(indices[block.toslices()].ravel(), minlength=IGNORE + 1)[:classes] for block in blocks]
    )
    cols = [window.col_off + block.col_off + (block.width - 1) / 2 for block in blocks]
    rows = [window.row_off + block.row_off + (block.height - 1) / 2 for block in blocks]
    areas = scene.pixel_areas_m2(np.array(cols), np.array(rows))
    return ClassAmounts(pixels.sum(0), np.where(pixels, pixels * areas[:, None], 0).sum(0))


def _alike(scene: Scene) -> tuple[int, int]:
    span = max(1, int(_ALIKE_M / (scene.map_pixel_size_m or 1)))
    # Along a row less changes: nothing at all in degrees.
    return min(_ROWS, span), min(_COLS, 32 * span)


class PixelAreas:
    """Area on the ground of pixels, taken to be the same over blocks of 64 x 256 of them, or smaller ones where pixels are large.

    Args:
        scene: has them; without a CRS areas are NaN.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def at(self, col: np.ndarray, row: np.ndarray) -> np.ndarray:
        """In m2, of the pixels at columns and rows (n,)."""
        (high, wide), height, width = _alike(self._scene), self._scene.height, self._scene.width
        across = -(-width // wide)
        blocks, which = np.unique(row // high * across + col // wide, return_inverse=True)
        rows = np.minimum(blocks // across * high + (high - 1) / 2, height - 1)
        cols = np.minimum(blocks % across * wide + (wide - 1) / 2, width - 1)
        return self._scene.pixel_areas_m2(cols, rows)[which]
