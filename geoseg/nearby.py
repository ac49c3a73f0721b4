"""Which corners lie in a shape beside an arc: its own, and those of other borders."""

from __future__ import annotations

import numpy as np
import shapely

from geoseg.outlines import distinct
from geoseg.sweep import Finished


class Nearby:
    """The corners of some features and all others near to them, each once.

    Args:
        finished: swept with a reach that covers every shape that is asked about.
    """

    def __init__(self, finished: Finished) -> None:
        every = np.concatenate((finished.outlines.vertices, finished.neighbours))
        self._width = int(every[:, 0].max(initial=0)) + 1
        self._keys = distinct(every[:, 1] * self._width + every[:, 0])
        self.points = np.column_stack((self._keys % self._width, self._keys // self._width))
        self._tree = shapely.STRtree(shapely.points(self.points))
        self._foreign = np.sort(self.pairs(finished.neighbour_of, finished.neighbours))

    def pairs(self, arc: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """A number for each arc with a corner: of whole numbers, (n, 2), and one of `points`."""
        corners = corners.astype(np.int64, copy=False)
        return self._pairs(arc, np.searchsorted(self._keys, corners[:, 1] * self._width + corners[:, 0]))

    def _pairs(self, arc: np.ndarray, point: np.ndarray) -> np.ndarray:
        return arc * len(self._keys) + point

    def inside(self, shapes: np.ndarray, arc: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What lies in shapes (n,) beside arcs (n,), or on their borders.

        Returns:
            The shape, the point, the number of the arc with the point, and whether it is of another border; (hits,) each.
        """
        shapely.prepare(shapes)
        shape, point = self._tree.query(shapes, predicate="intersects")
        pair = self._pairs(arc[shape], point)
        return shape, point, pair, place_in(self._foreign, pair) >= 0


def place_in(ascending: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where wanted numbers stand among others in ascending order, the first of equal ones; -1 for those that do not."""
    if not len(ascending):
        return np.full(len(wanted), -1)
    place = np.searchsorted(ascending, wanted).clip(max=len(ascending) - 1)
    return np.where(ascending[place] == wanted, place, -1)
