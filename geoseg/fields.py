"""Single fields from a class raster with a boundary between them: each grows from its interior until it meets its neighbours.

What one class covers without a break is the seed of a field, if it is large enough. Then the boundary is given back: seeds grow
into it side by side, pixel after pixel, until they meet or have gone as far as they may; this is the influence zone of each
seed by the shortest way within the ground that may be taken (Lantuejoul and Maisonneuve, Pattern Recognition 17(2), 1984,
section 2). So what becomes of a pixel follows from the pixels near it and from the seeds' numbers, and is the same wherever the
raster is cut while it is read. A watershed on the probabilities has no such bound, and is no better (docs/fields.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from geoseg.changes import Read
from geoseg.components import FIELD, Labeller, RunNamer
from geoseg.errors import LegendError
from geoseg.field_boundaries import WIDEST
from geoseg.legend import IGNORE, Legend
from geoseg.pixel_areas import PixelAreas
from geoseg.progress import Progress

GROWTH = 4
"""Pixels that a seed grows from side to side, where nothing else is said: what networks predict of a rim of one or two pixels."""


def growth_for(training: Mapping[str, Any]) -> int:
    """Pixels that seeds grow on maps of a network, by what its bundle says of the rims that it has learned."""
    width = training.get("boundary")
    return max(GROWTH, min(width, WIDEST)) if isinstance(width, int) else GROWTH


def refuse_no_boundary(legend: Legend, name: str) -> None:
    """Raise `LegendError` where no class of a map keeps fields apart."""
    if legend.boundary is None or not legend.ground:
        raise LegendError(
            f"{name}: no boundary class among {legend}, so --fields cannot tell fields apart; train on chips made by geoseg tile "
            f"--boundary, or give a class of the raster's legend the role boundary"
        )


class FieldRows:
    """Reads rows of a class raster with its fields told apart, strip by strip from top to bottom.

    Args:
        read: gives rows first to last (exclusive) of class indices, (rows, width) uint8, 255 for nodata.
        height: rows of the raster.
        width: columns.
        legend: its classes, with a boundary.
        areas: of the pixels.
        min_seed: pixels of the smallest seed.
        growth: pixels that seeds grow.
        rows: rows at a time.
        progress: called after each strip while seeds are looked for.
    """

    def __init__(
        self, read: Read, height: int, width: int, legend: Legend, areas: PixelAreas, *, min_seed: int, growth: int,
        rows: int, progress: Progress,
    ) -> None:  # fmt: skip
        self._read, self._height, self._width, self._areas, self._growth, self._rows = (
            read,
            height,
            width,
            areas,
            growth,
            rows,
        )
        self._is_ground, self._is_free = np.zeros((2, IGNORE + 1), bool)
        self._is_ground[list(legend.ground)] = True
        self._is_free[[index for index in (*legend.ground, legend.boundary) if index is not None]] = True
        self._outside = IGNORE if legend.background is None else legend.background
        seeds = Labeller(width)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            seeds.add(self._seeds(read(top, bottom)))
            progress("find fields", bottom, height)
        objects, self._place = seeds.finish()
        large = objects.pixels >= min_seed
        self._labels = np.where(large, objects.classes + FIELD * np.cumsum(large), 0)
        self.seeds, self.specks = int(large.sum()), int((~large).sum())
        self._begin()

    def counts(self) -> dict[str, Any]:
        """For the run file, after the last row was read."""
        missed = {
            "pixels": self._missed,
            "area_m2": round(self._missed_m2, 3) if math.isfinite(self._missed_m2) else None,
        }
        return {"fields": {"seeds": self.seeds, "specks": self.specks, "missed": missed}}

    def _begin(self) -> None:
        self._namer, self._seeded = RunNamer(self._width), 0
        self._ahead = self._grown = np.zeros((0, self._width), np.int64)  # seeds not grown yet, and what has grown
        self._ahead_first = self._grown_first = 0
        self._missed, self._missed_m2 = 0, 0.0

    def read(self, first: int, last: int) -> np.ndarray:
        """Labels of the rows from `first` to before `last`, (rows, width) int64: the class index, plus `FIELD` times the number
        of a field; 255 for nodata. Ground that no seed has reached is background, or nodata where there is none."""
        if first < self._grown_first:
            self._begin()
        while self._grown_first + len(self._grown) < last:
            self._grow_next(first)
        return self._grown[first - self._grown_first : last - self._grown_first]

    def _grow_next(self, needed: int) -> None:
        """Grow the seeds in the next strip, and forget the rows above those that are still needed."""
        top = self._grown_first + len(self._grown)
        bottom = min(top + self._rows, self._height)
        while self._seeded < min(bottom + self._growth, self._height):
            self._ahead = np.concatenate((self._ahead, self._seed_next()))
        above = top - self._ahead_first
        grown = grow(self._ahead[: bottom + self._growth - self._ahead_first], self._growth)[
            above : above + bottom - top
        ]
        rows, cols = (missed := grown < 0).nonzero()
        self._missed += len(rows)
        self._missed_m2 += float(self._areas.at(cols, rows + top).sum())
        grown[missed] = self._outside
        kept = max(needed - self._grown_first, 0)
        self._grown, self._grown_first = np.concatenate((self._grown[kept:], grown)), self._grown_first + kept
        past = max(bottom - self._growth - self._ahead_first, 0)
        self._ahead, self._ahead_first = self._ahead[past:], self._ahead_first + past

    def _seed_next(self) -> np.ndarray:
        """The next rows with the labels of seeds; -1 where one may grow."""
        top, bottom = self._seeded, min(self._seeded + self._rows, self._height)
        self._seeded = bottom
        indices = self._read(top, bottom)
        seeds = self._seeds(indices)
        runs = self._namer.add(seeds)
        told = seeds.reshape(-1)[runs.starts - top * self._width] != IGNORE
        label = np.zeros(len(runs.starts), np.int64)
        label[told] = self._labels[self._place(runs.names[told])]
        found = np.repeat(label, np.diff(runs.starts, append=bottom * self._width)).reshape(indices.shape)
        return np.where(found > 0, found, np.where(self._is_free[indices], -1, indices.astype(np.int64)))

    def _seeds(self, indices: np.ndarray) -> np.ndarray:
        return np.where(self._is_ground[indices], indices, IGNORE).astype(np.uint8)


def grow(labels: np.ndarray, most: int) -> np.ndarray:
    """Let fields grow into the free ground beside them, `most` pixels at most.

    Args:
        labels: (rows, cols) int64; -1 where ground is free, `FIELD` or more for fields, anything between stays.
        most: pixels from side to side.

    Returns:
        Likewise; each free pixel has the label of the field that is nearest by way of free pixels from side to side. Of several
        it is that of the pixel above, else to the left, to the right, below.
    """
    grown = np.pad(labels, 1)
    flat, across = grown.reshape(-1), grown.shape[1]
    free = np.flatnonzero(flat == -1)
    for _ in range(most):
        beside = np.zeros(len(free), np.int64)
        for step in (across, 1, -1, -across):  # what comes later counts more
            near = flat[free + step]
            beside = np.where(near >= FIELD, near, beside)
        reached = beside > 0
        if not reached.any():
            break
        flat[free[reached]] = beside[reached]
        free = free[~reached]
    return grown[1:-1, 1:-1]
