"""Connected components of a map that is read from top to bottom: pixels of one label that are joined by their sides.

A label is a class index or, where fields are told apart, a class index plus `FIELD` times the number of the field. A component
bears the number of its first pixel in reading order, wherever the strips begin in which the map is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from geoseg.chains import least_names
from geoseg.legend import IGNORE

FIELD = IGNORE + 1
"""What the number of a field is multiplied with in a label: a class index, or 255 for nodata, has room below."""


def class_of(labels: np.ndarray) -> np.ndarray:
    """The class indices of labels, uint8."""
    return labels if labels.dtype == np.uint8 else (labels % FIELD).astype(np.uint8)


class Objects(NamedTuple):
    """The objects of a map.

    Attributes:
        names: (n,) int64, ascending.
        classes: (n,) class index of each.
        pixels: (n,) how many.
    """

    names: np.ndarray
    classes: np.ndarray
    pixels: np.ndarray


class _Named(NamedTuple):
    """Runs of equal pixels in some rows.

    Attributes:
        starts: (runs,) where each begins, as the number of a pixel of the map.
        names: (runs,) of the component, as far as is known by now.
        earlier: (n, 2) names given in rows before, and what they turn out to be.
    """

    starts: np.ndarray
    names: np.ndarray
    earlier: np.ndarray


class RunNamer:
    """Names the runs of equal pixels of a map, strip by strip; the same strips give the same names.

    Args:
        width: columns of the map.
    """

    def __init__(self, width: int) -> None:
        self._width, self._rows = width, 0
        self._above = np.full(width, IGNORE)
        self._names_above = np.zeros(width, np.int64)

    def add(self, labels: np.ndarray) -> _Named:
        """Take the next rows of the map, (rows, width)."""
        first = self._rows * self._width
        self._rows += len(labels)
        begins = np.ones(labels.shape, bool)
        begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
        starts = np.flatnonzero(begins)
        run_of = np.cumsum(begins.reshape(-1)) - 1
        touching = labels[1:] == labels[:-1]
        # Where both rows go on as before, the pair was seen one pixel to the left.
        touching[:, 1:] &= begins[1:, 1:] | begins[:-1, 1:] | ~touching[:, :-1]
        upper = np.flatnonzero(touching)
        pairs = np.column_stack((starts[run_of[upper]], starts[run_of[upper + self._width]])) + first
        joined = np.flatnonzero(labels[0] == self._above)
        across = np.column_stack((self._names_above[joined], starts[run_of[joined]] + first))
        across = across[np.append(True, (across[1:] != across[:-1]).any(axis=1))] if len(across) else across
        known, least = least_names(starts + first, np.concatenate((pairs, across)))
        names = least[np.searchsorted(known, starts + first)]
        earlier = known < first
        self._above, self._names_above = labels[-1].copy(), names[run_of[-self._width :]]
        return _Named(starts + first, names, np.column_stack((known[earlier], least[earlier])))


class Labeller:
    """Finds the objects of one map.

    The names that runs of pixels are given in a strip may turn out to be those of one object further down.

    Args:
        width: columns of the map.
    """

    def __init__(self, width: int) -> None:
        self._namer, self._row, self._width = RunNamer(width), 0, width
        self._found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._same: list[np.ndarray] = []

    def add(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take the next rows: where runs of equal pixels begin, as numbers of pixels of the map, and their names."""
        first = self._row * self._width
        self._row += len(labels)
        runs = self._namer.add(labels)
        self._same.append(runs.earlier)
        own = labels.reshape(-1)[runs.starts - first].astype(np.int64)
        pixels = np.diff(runs.starts, append=first + labels.size)
        told = own != IGNORE
        (kept, own), amounts = added_up(np.stack([runs.names[told], own[told]]), pixels[told])
        self._found.append((kept, own, amounts))
        return runs.starts, runs.names

    def finish(self) -> tuple[Objects, Callable[[np.ndarray], np.ndarray]]:
        """The objects, and what tells the place of one by any name that it was given."""
        names, labels, pixels = (np.concatenate(parts) for parts in zip(*self._found, strict=True))
        known, least = least_names(names, np.concatenate(self._same))
        (whole, own), amounts = added_up(np.stack([least[np.searchsorted(known, names)], labels]), pixels)
        objects = Objects(whole, class_of(own), amounts)
        return objects, lambda given: np.searchsorted(whole, least[np.searchsorted(known, given)])


def added_up(keys: np.ndarray, amounts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each column of `keys` (2, n) once, in order, and the sum of its amounts."""
    order = np.lexsort(keys[::-1])
    keys, amounts = keys[:, order], amounts[order]
    if not len(amounts):
        return keys, amounts
    begins = np.flatnonzero(np.append(True, (keys[:, 1:] != keys[:, :-1]).any(axis=0)))
    return keys[:, begins], np.add.reduceat(amounts, begins)
