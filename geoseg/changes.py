"""Changes of a class raster, pixel by pixel, and how much ground they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from geoseg.choices import Connectivity
from geoseg.outlines import ragged
from geoseg.pixel_areas import PixelAreas
from geoseg.sweep import Finished

Read = Callable[[int, int], np.ndarray]
"""Gives rows first to last (exclusive) of class indices, (rows, width) uint8, 255 for nodata; or of labels that tell fields
apart, int64 (see `geoseg.components`)."""
Swept = Callable[[Connectivity], Iterator[Finished]]
"""Sweeps the map as it is, and gives what is finished."""


def feature_areas_m2(finished: Finished, areas: PixelAreas) -> np.ndarray:
    """Of features, by their pixels."""
    outlines = finished.outlines
    middle = outlines.middles()[outlines.pieces[:-1]]
    return np.bincount(finished.features, finished.pixels * areas.at(*middle.T))


class Change(NamedTuple):
    """Pixels of a class raster that get another class, in runs; where several hold a pixel, the last one counts.

    Attributes:
        row: (runs,) ascending.
        begin: first column of each.
        end: the column after the last.
        value: (runs,) class index, 255 for nodata, or label of a field.
    """

    row: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    value: np.ndarray

    def apply(self, rows: np.ndarray, first: int) -> np.ndarray:
        """Rows of the raster from `first` on, (rows, width), with what of them changes."""
        some = slice(*np.searchsorted(self.row, (first, first + len(rows))))
        row, begin, length = self.row[some] - first, self.begin[some], (self.end - self.begin)[some]
        changed = rows.copy()
        changed.reshape(-1)[ragged(row * rows.shape[1] + begin, length)] = np.repeat(self.value[some], length)
        return changed

    def area_m2(self, areas: PixelAreas) -> float:
        """Of the ground that changes."""
        order = np.lexsort((self.begin, self.row))
        row, begin, end = self.row[order], self.begin[order], self.end[order]
        width = int(end.max(initial=0)) + 1
        so_far = np.maximum.accumulate(np.append(0, row * width + end))[:-1]
        length = np.maximum(row * width + end - np.maximum(row * width + begin, so_far), 0)
        return float((length * areas.at(begin, row)).sum())


def join_changes(parts: Sequence[Change], rank: np.ndarray | None = None) -> Change:
    """All of them as one; of runs in a row, those of a higher rank (all runs,) come later, and so count."""
    if not parts:
        nothing = np.zeros(0, np.int64)
        return Change(nothing, nothing, nothing, np.zeros(0, np.uint8))
    change = Change(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    order = np.lexsort((np.zeros(len(change.row)) if rank is None else rank, change.row))
    return Change(*(values[order] for values in change))


@dataclass(frozen=True)
class Generalised:
    """What one step has found.

    Attributes:
        change: of the class raster.
        counts: for the run file.
    """

    change: Change
    counts: dict[str, Any]
