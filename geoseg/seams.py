"""How far windows disagree where they meet: what a seam in a map would be made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from rasterio.windows import Window
from torch import Tensor

from geoseg.grid import Layout, Tile, slices
from geoseg.legend import IGNORE
from geoseg.merging import Merged, Merger
from geoseg.predictor import Predictor

_WIDTH = 8
"""Pixels on each side of a border that are compared, where the margin has as many."""


class SeamCheck:
    """A merger that compares, on its way, what two neighbours say of the pixels along their common border.

    Args:
        merger: does the work.
        layout: of the windows.
        predictor: chooses the classes.
        whole: whether all windows of a scene will come.
    """

    inside = slice(None), slice(None)

    def __init__(self, merger: Merger, layout: Layout, predictor: Predictor, *, whole: bool = True) -> None:
        self._merger, self._predictor, self._whole = merger, predictor, whole
        self.looks_back = merger.looks_back
        self._width = min(_WIDTH, layout.margin)
        # What windows have said along the borders to the neighbours that are still to come, by where it lies.
        self._said: dict[Window, np.ndarray] = {}
        self._row = -1
        self._compared = self._differing = 0

    def extent(self, row: int) -> tuple[int, int]:
        """See `Merger`."""
        return self._merger.extent(row)

    def add(self, tile: Tile, shares: Tensor, valid: np.ndarray) -> Iterator[Merged]:
        """See `Merger`."""
        indices = self._predictor.decide(shares, valid).indices
        core, width = tile.core, self._width
        if core.row_off != self._row:  # only what lies below the last row is still of use
            self._said = {place: said for place, said in self._said.items() if place.row_off == core.row_off - width}
            self._row = core.row_off
        left = Window(core.col_off - width, core.row_off, 2 * width, core.height)
        above = Window(core.col_off, core.row_off - width, core.width, 2 * width)
        for place in (left, above):
            if place in self._said:
                self._compare(self._said.pop(place), indices[slices(place, tile.read)])
        right = Window(core.col_off + core.width - width, core.row_off, 2 * width, core.height)
        below = Window(core.col_off, core.row_off + core.height - width, core.width, 2 * width)
        for place in (right, below):
            self._said[place] = indices[slices(place, tile.read)].copy()
        inside = self._merger.inside
        yield from self._merger.add(tile, shares[:, *inside], valid[inside])

    def _compare(self, one: np.ndarray, other: np.ndarray) -> None:
        told = (one != IGNORE) & (other != IGNORE)
        self._compared += int(told.sum())
        self._differing += int((one != other)[told].sum())

    def facts(self) -> dict[str, Any]:
        """For the run file: pixels within `width` of a border between windows, and how many of them differ in class.

        They are not of the whole scene where a run has gone on with strips that an earlier one had finished.
        """
        share = self._differing / self._compared if self._compared else None
        return {"width": self._width, "compared": self._compared, "differing": self._differing, "share": share,
                "whole": self._whole}  # fmt: skip
